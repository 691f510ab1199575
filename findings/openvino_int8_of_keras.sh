#!/bin/bash
# Keras 3.15.1, TensorFlow 2.21.0, OpenVINO 2026.4.1 (CPU), no other package.
#
# One would have guessed: a model quantized to int8 and exported to OpenVINO
# predicts what the Keras model predicts, as its SavedModel does.
#
# What happens: its predictions have nothing to do with it, though the export
# and the compilation end without an error or a warning. The same model not
# quantized, or quantized to int4, is right to a rounding error, and so is the
# int8 model as a SavedModel. (float32 is asked for; at its default OpenVINO
# computes in bfloat16 where the processor can, off by about 0.01 here.)
#
# Output seen (outputs are of size 1; int8 is off by 3.2):
#   float  OpenVINO off by less than 1e-4: True
#   int4   OpenVINO off by less than 1e-4: True
#   int8   OpenVINO off by less than 1e-4: False
#   int8   SavedModel off by less than 1e-4: True
#   int8   OpenVINO off by more than 0.5: True
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    keras==3.15.1 tensorflow==2.21.0 openvino==2026.4.1 scipy==1.17.1
cat > "$folder/export.py" <<'PYTHON'
import sys

import keras
import numpy as np
import openvino
import tensorflow as tf
from keras import layers

folder = sys.argv[1]
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")


def by_openvino(model, name):
    path = f"{folder}/{name}.xml"
    model.export(path, format="openvino", verbose=False)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return next(iter(compiled(x).values()))


def by_saved_model(model):
    model.export(f"{folder}/saved", verbose=False)
    loaded = tf.saved_model.load(f"{folder}/saved")
    return loaded.serve(x).numpy()


def off(found, model):
    return np.abs(found - model.predict(x, verbose=0)).max()


for mode in ("float", "int4", "int8"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(4),
        ]
    )
    if mode != "float":
        model.quantize(mode)
    error = off(by_openvino(model, mode), model)
    print(f"{mode:6} OpenVINO off by less than 1e-4: {error < 1e-4}")
saved = off(by_saved_model(model), model)
print(f"int8   SavedModel off by less than 1e-4: {saved < 1e-4}")
print(f"int8   OpenVINO off by more than 0.5: {error > 0.5}")
PYTHON
cat > "$folder/expected" <<'TEXT'
float  OpenVINO off by less than 1e-4: True
int4   OpenVINO off by less than 1e-4: True
int8   OpenVINO off by less than 1e-4: False
int8   SavedModel off by less than 1e-4: True
int8   OpenVINO off by more than 0.5: True
TEXT
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/export.py" \
    "$folder" 2> /dev/null | tee "$folder/found"
diff "$folder/expected" "$folder/found"
