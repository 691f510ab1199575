#!/usr/bin/env bash
# Keras 3.15.1, jax 0.10.2 (the same on TensorFlow 2.21).
#
# A frozen MultiHeadAttention is trained again in a copy of the model and in
# the model that is loaded from its file.
#
# One would have guessed: `trainable` is in the config of a layer, so what is
# frozen stays frozen; a frozen Dense does.
# What happens: the flag is that of the layer alone. Its sublayers are made in
# `build`, after the flag was read, and their variables are trainable. So it is
# for each layer that holds others (but those that serialize them).
#
# Output seen:
#   trainable variables: 2, loaded: 10, cloned: 10
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2
cd "$folder"
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras

inputs = keras.Input((3, 4))
attention = keras.layers.MultiHeadAttention(2, 4)
outputs = keras.layers.Dense(2)(attention(inputs, inputs))
model = keras.Model(inputs, outputs)
attention.trainable = False
model.save("model.keras")
copies = [
    keras.saving.load_model("model.keras"),
    keras.models.clone_model(model),
]
found = [len(one.trainable_variables) for one in (model, *copies)]
print("trainable variables: {}, loaded: {}, cloned: {}".format(*found))
sys.exit(found != [2, 10, 10])
PYTHON
