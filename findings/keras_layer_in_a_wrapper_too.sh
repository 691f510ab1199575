#!/usr/bin/env bash
# Keras 3.15.1, jax 0.10.2 (the same on TensorFlow 2.21).
#
# A model that uses a layer both within TimeDistributed and by itself trains,
# and is saved without an error; the file cannot be loaded.
#
# One would have guessed: a layer may be called several times, so the two calls
# share their weights in the file too, or `save` refuses.
# What happens: the configs of the wrapper and of the layer make two layers,
# but the weights are written once. (`clone_model` makes two sets of weights.)
#
# Output seen:
#   24 weights; cloned: 48
#   loaded: A total of 1 objects could not be loaded. Example error message ...
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2
cd "$folder"
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras

shared = keras.layers.Dense(4)
steps, one = keras.Input((3, 5)), keras.Input((5,))
outputs = [keras.layers.TimeDistributed(shared)(steps), shared(one)]
model = keras.Model([steps, one], outputs)
cloned = keras.models.clone_model(model).count_params()
print(f"{model.count_params()} weights; cloned: {cloned}")
model.save("model.keras")
try:
    keras.saving.load_model("model.keras")
except ValueError as error:
    print("loaded:", str(error)[:70], "...")
else:
    sys.exit("the model was loaded")
sys.exit(cloned != 2 * model.count_params())
PYTHON
