#!/bin/bash
# Keras 3.15.1, JAX 0.10.2, no other package.
#
# One would have guessed: `floatx` is the type of floats. Integers and booleans
# keep theirs, as they do with floatx float32 and float16.
#
# What happens: with `keras.config.set_floatx("bfloat16")` on JAX,
# `keras.ops.convert_to_tensor` makes float32 of every integer and boolean that
# is no tensor yet and whose type is not named, and so does every operation
# that is given one. A boolean mask becomes numbers; a shift or a bitwise
# operation with a constant of NumPy fails.
#
# Output seen:
#   float32 int32 bool uint32
#   float16 int32 bool uint32
#   bfloat16 float32 float32 float32
#   bfloat16 shift: TypeError
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2
cat > "$folder/integers.py" <<'PYTHON'
import sys

import keras
import numpy as np
from keras import ops


def dtypes():
    """Of an integer array, a boolean one and a number of NumPy."""
    values = np.array([1, 2]), np.array([True]), np.uint32(3)
    return [str(ops.convert_to_tensor(value).dtype) for value in values]


found = {}
for name in ("float32", "float16", "bfloat16"):
    keras.config.set_floatx(name)
    found[name] = dtypes()
    print(name, *found[name])
try:
    ops.right_shift(ops.arange(3, dtype="uint32"), np.uint32(1))
    shift = "works"
except TypeError as error:
    shift = type(error).__name__
print("bfloat16 shift:", shift)
whole = ["int32", "bool", "uint32"]
same = found["float32"] == whole == found["float16"]
sys.exit(not (same and found["bfloat16"] == ["float32"] * 3
              and shift == "TypeError"))
PYTHON
KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/integers.py"
