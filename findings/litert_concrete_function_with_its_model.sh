#!/bin/bash
# TensorFlow 2.21.0 (with Keras 3.15.1), no other package.
#
# One would have guessed: `TFLiteConverter.from_concrete_functions([function],
# model)`, whose second argument is to be the object that owns the variables,
# converts a Keras 3 model as `from_keras_model` does.
#
# What happens: the file converts and runs without a word, and predicts NaN,
# infinities or other numbers, as if weights had no values. Without the second
# argument, which the documentation asks for, and by `from_keras_model` the
# predictions are those of Keras.
#
# Output seen:
#   from_keras_model    off by less than 1e-4: True
#   function alone      off by less than 1e-4: True
#   function and model  off by less than 1e-4: False
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0
cat > "$folder/convert.py" <<'PYTHON'
import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(0)
layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(4)]
model = keras.Sequential([keras.Input((20,)), *layers])
x = np.random.default_rng(0).normal(size=(5, 20)).astype("float32")
spec = tf.TensorSpec((5, 20), name="x")
function = tf.function(model.call).get_concrete_function(spec)
converter = tf.lite.TFLiteConverter


def is_right(made):
    runner = tf.lite.Interpreter(model_content=made.convert())
    place = runner.get_input_details()[0]["index"]
    runner.resize_tensor_input(place, x.shape)
    runner.allocate_tensors()
    runner.set_tensor(place, x)
    runner.invoke()
    found = runner.get_tensor(runner.get_output_details()[0]["index"])
    # NaN is not less than anything.
    return bool(np.abs(found - model.predict(x, verbose=0)).max() < 1e-4)


for name, made in (
    ("from_keras_model", converter.from_keras_model(model)),
    ("function alone", converter.from_concrete_functions([function])),
    (
        "function and model",
        converter.from_concrete_functions([function], model),
    ),
):
    print(f"{name:18}  off by less than 1e-4: {is_right(made)}")
PYTHON
cat > "$folder/expected" <<'TEXT'
from_keras_model    off by less than 1e-4: True
function alone      off by less than 1e-4: True
function and model  off by less than 1e-4: False
TEXT
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/convert.py" \
    2> /dev/null | grep -a '^f' | tee "$folder/found"
diff "$folder/expected" "$folder/found"
