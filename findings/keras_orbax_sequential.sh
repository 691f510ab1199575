#!/usr/bin/env bash
# Keras 3.15.1, jax 0.10.2, orbax-checkpoint 0.12.8 (the same on TensorFlow).
#
# OrbaxCheckpoint writes a checkpoint of a Sequential model, load_model reads it
# without an error, and no weight is restored.
#
# One would have guessed: load_model returns the model that was saved, or says
# that it cannot.
# What happens: Keras matches by the path of each variable. In a new model it
# is `sequential/dense/kernel`, in one rebuilt from its config `dense/kernel`;
# values of paths that the model does not have are passed over. So it is for
# layers nested in a Sequential, Bidirectional or TimeDistributed.
#
# Output seen:
#   saved sequential/dense/kernel, loaded dense/kernel: restored False
#   saved sequential/dense/bias, loaded dense/bias: restored False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
  keras==3.15.1 jax==0.10.2 orbax-checkpoint==0.12.8
cd "$folder"
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import os
import sys

import keras
import numpy as np

model = keras.Sequential(
    [keras.Input((4,)), keras.layers.Dense(2, bias_initializer="ones")]
)
model.compile("sgd", "mse")
x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
folder = os.path.abspath("orbax")
callback = keras.callbacks.OrbaxCheckpoint(folder, save_on_background=False)
model.fit(x, x[:, :2], verbose=0, callbacks=[callback])
loaded = keras.saving.load_model(folder)
restored = []
for mine, its in zip(model.weights, loaded.weights):
    restored.append(np.allclose(mine, its))
    print(f"saved {mine.path}, loaded {its.path}: restored {restored[-1]}")
sys.exit(any(restored))
PYTHON
