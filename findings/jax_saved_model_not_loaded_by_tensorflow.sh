#!/bin/bash
# Keras 3.15.1, JAX 0.12.0.1, TensorFlow 2.21.0, no other package. Needs Python
# 3.12 or newer, as this JAX does: PYTHON=python3.13 (the default).
#
# One would have guessed: what Keras exports on JAX as a SavedModel, TensorFlow
# loads; both are the newest that install together, and `export` says that it
# has saved the model.
#
# What happens: the export ends well, with TensorFlow installed beside. Loading
# the folder, in a process of its own, works too; the first call of the
# signature fails: the module in it is of a newer StableHLO than TensorFlow
# knows (an operation `vhlo.custom_call_v2`). With JAX 0.10.2 it predicts.
#
# Output seen:
#   exported
#   InvalidArgumentError at the first call: True
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.13}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.12.0.1 \
    tensorflow==2.21.0
cat > "$folder/write.py" <<'PYTHON'
import sys

import keras

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
model.export(sys.argv[1], verbose=False)
print("exported")
PYTHON
cat > "$folder/read.py" <<'PYTHON'
import sys

import tensorflow as tf

try:
    loaded = tf.saved_model.load(sys.argv[1])
    loaded.signatures["serving_default"](tf.ones((1, 4)))
except Exception as error:
    text = str(error)
    known = "Cannot deserialize computation" in text and "vhlo" in text
    print(type(error).__name__, "at the first call:", "vhlo.custom_call_v2" in text)
    sys.exit(not known)
print("predicted")
sys.exit(1)
PYTHON
export TF_CPP_MIN_LOG_LEVEL=3
KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/write.py" "$folder/saved"
"$folder/venv/bin/python" "$folder/read.py" "$folder/saved"
