#!/usr/bin/env bash
# Keras 3.15.1, torch 2.13.0, jax 0.10.2: a model that was compiled on PyTorch
# is saved in a file that can only be loaded where PyTorch is installed.
#
# Guess: a `.keras` file knows no backend, so that a model is trained on one and
# loaded on another, optimizer included, as it is between JAX and TensorFlow.
# What happens: on PyTorch optimizers are of classes of their own, and the file
# names their private module. With JAX alone loading raises a TypeError, though
# the class and its settings are in the file. `compile=False` loads.
#
# Output seen:
#   jax to torch: loaded
#   torch to jax: TypeError, names keras.src.backend.torch.optimizers.torch_sgd
#   torch to jax, compile=False: loaded
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for backend in jax==0.10.2 torch==2.13.0; do
  python3 -m venv "$folder/venv-${backend%%=*}"
  "$folder/venv-${backend%%=*}/bin/pip" install --quiet keras==3.15.1 "$backend"
done
cat > "$folder/save.py" <<'PYTHON'
import sys

import keras

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")
model.save(sys.argv[1])
PYTHON
cat > "$folder/load.py" <<'PYTHON'
import sys

import keras

try:
    keras.saving.load_model(sys.argv[1], compile=sys.argv[2] == "compile")
    print("loaded")
except TypeError as error:
    name = "keras.src.backend.torch.optimizers.torch_sgd"
    print("TypeError, names", name if name in str(error) else "another")
PYTHON
run() { KERAS_BACKEND=$1 "$folder/venv-$1/bin/python" "${@:2}" 2> /dev/null; }
run jax "$folder/save.py" "$folder/jax.keras"
run torch "$folder/save.py" "$folder/torch.keras"
{
  echo "jax to torch: $(run torch "$folder/load.py" "$folder/jax.keras" compile)"
  echo "torch to jax: $(run jax "$folder/load.py" "$folder/torch.keras" compile)"
  echo "torch to jax, compile=False:" \
    "$(run jax "$folder/load.py" "$folder/torch.keras" bare)"
} | tee "$folder/found"
diff "$folder/found" - <<'TEXT'
jax to torch: loaded
torch to jax: TypeError, names keras.src.backend.torch.optimizers.torch_sgd
torch to jax, compile=False: loaded
TEXT
