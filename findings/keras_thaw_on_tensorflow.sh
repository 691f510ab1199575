#!/usr/bin/env bash
# Keras 3.15.1 with TensorFlow 2.21.0 and with jax 0.10.2.
#
# `model.trainable = True` thaws all layers of a model on JAX, and none on
# TensorFlow, if only some of its layers had been frozen: transfer learning
# goes on with frozen layers, without a word.
#
# One would have guessed: the setter says of itself that it sets the flag of
# the layer and its sublayers; it does so on every backend.
# What happens: on TensorFlow a layer passes over assignments that change no
# attribute (`getattr(self, name) is value`), before the setter is reached; the
# model's own flag is True already. (Set it to False first, then to True.)
#
# Output seen:
#   tensorflow: 2 variables trained, after trainable = True: 2
#   jax: 2 variables trained, after trainable = True: 4
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
  keras==3.15.1 tensorflow==2.21.0 jax==0.10.2
cd "$folder"
cat > thaw.py <<'PYTHON'
import keras

model = keras.Sequential(
    [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)]
)
model.layers[0].trainable = False
before = len(model.trainable_variables)
model.trainable = True
after = len(model.trainable_variables)
print(
    f"{keras.backend.backend()}: {before} variables trained, "
    f"after trainable = True: {after}"
)
raise SystemExit((before, after) != (2, int(__import__("sys").argv[1])))
PYTHON
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 \
  "$folder/venv/bin/python" thaw.py 2
KERAS_BACKEND=jax "$folder/venv/bin/python" thaw.py 4
