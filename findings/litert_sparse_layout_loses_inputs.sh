#!/bin/bash
# TensorFlow 2.21.0 (with Keras 3.15.1), no other package. ai-edge-litert 2.3.0
# runs the files alike.
#
# One would have guessed: a model converted with `EXPERIMENTAL_SPARSITY`
# predicts what it predicts without, or the conversion is an error.
#
# What happens: a kernel that is zero in many blocks of 4 inputs is stored in
# such blocks, without a word. If its inputs are not a multiple of 4, those
# beyond the last whole block are lost, in float32. In float16 the blocks are
# read as if they were float32, and give NaN. In 8 bits, blocks of 16 give other
# numbers (dynamic ranges). Kernels without blocks are right in float32 and
# float16, and in 8 bits the interpreter does not prepare them.
#
# Output seen (outputs are of size 1):
#   float32 7 inputs   off by more than 0.5: True, on the last inputs only: True
#   float16 64 inputs  finite: False
#   int8    64 inputs  off by more than 0.5: True
#   int8    no blocks  RuntimeError: True
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0
cat > "$folder/convert.py" <<'PYTHON'
import sys

import keras
import numpy as np
import tensorflow as tf

folder = sys.argv[1]
generator = np.random.default_rng(0)


def predicted(kernel, x, dtype):
    """What the file and Keras predict for a layer of a kernel."""
    inputs, units = kernel.shape
    layer = keras.layers.Dense(units, use_bias=False)
    model = keras.Sequential([keras.Input((inputs,)), layer])
    layer.kernel.assign(kernel)
    model.export(f"{folder}/model", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(f"{folder}/model")
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    if dtype != "float32":
        converter.optimizations.append(tf.lite.Optimize.DEFAULT)
    if dtype == "float16":
        converter.target_spec.supported_types = [tf.float16]
    runner = tf.lite.Interpreter(model_content=converter.convert())
    place = runner.get_input_details()[0]["index"]
    runner.resize_tensor_input(place, x.shape)
    runner.allocate_tensors()
    runner.set_tensor(place, x)
    runner.invoke()
    found = runner.get_tensor(runner.get_output_details()[0]["index"])
    return found, model.predict(x, verbose=0)


def blocks(length):
    """A kernel of 64 inputs that is zero in blocks of them."""
    kept = generator.random((64 // length, 32)) < 0.2
    values = generator.normal(size=(64, 32)) / 4
    return (values * np.repeat(kept, length, axis=0)).astype("float32")


kernel = np.zeros((7, 5), "float32")
kernel[:4, :2] = kernel[4, 4] = 1.0
found, expected = predicted(kernel, np.eye(7, dtype="float32"), "float32")
off = np.abs(found - expected)
print(
    "float32 7 inputs   off by more than 0.5:",
    bool(off.max() > 0.5),
    end=", on the last inputs only: ",
)
print(bool(off[:4].max() == 0))
x = generator.normal(size=(16, 64)).astype("float32")
found, _ = predicted(blocks(4), x, "float16")
print("float16 64 inputs  finite:", bool(np.isfinite(found).all()))
found, expected = predicted(blocks(16), x, "int8")
off = np.abs(found - expected).max()
print("int8    64 inputs  off by more than 0.5:", bool(off > 0.5))
try:
    predicted(blocks(1), x, "int8")
    print("int8    no blocks  RuntimeError: False")
except RuntimeError:
    print("int8    no blocks  RuntimeError: True")
PYTHON
cat > "$folder/expected" <<'TEXT'
float32 7 inputs   off by more than 0.5: True, on the last inputs only: True
float16 64 inputs  finite: False
int8    64 inputs  off by more than 0.5: True
int8    no blocks  RuntimeError: True
TEXT
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/convert.py" \
    "$folder" 2> /dev/null | grep -a '^float\|^int' | tee "$folder/found"
diff "$folder/expected" "$folder/found"
