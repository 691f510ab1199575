#!/bin/bash
# Keras 3.15.1, TensorFlow 2.21.0, no other package.
#
# One would have guessed: a saved model computes, once loaded, in the dtypes
# that it was saved with.
#
# What happens: a DTypePolicyMap finds policies by the paths of layers, and
# those of layers in a Sequential change when it is loaded, from "net/first"
# to "first". The map is saved with the old paths, so that every layer falls
# back to the default policy, without a word: this one computed in bfloat16
# and computes in float32 once loaded. (`clone_model` keeps the paths.)
#
# Output seen:
#   built  [('net/first', 'bfloat16'), ('net/second', 'float32')]
#   loaded [('first', 'float32'), ('second', 'float32')]
#   same predictions: False
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0
cat > "$folder/reload.py" <<'PYTHON'
import sys

import keras
import numpy as np
from keras import layers

keras.utils.set_random_seed(0)
policies = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
policies["net/first"] = "mixed_bfloat16"
model = keras.Sequential(
    [
        keras.Input((10,)),
        layers.Dense(16, dtype=policies, name="first"),
        layers.Dense(4, dtype=policies, name="second"),
    ],
    name="net",
)
model.save(sys.argv[1])
loaded = keras.saving.load_model(sys.argv[1])
x = np.random.default_rng(0).normal(size=(8, 10)).astype("float32")
for name, one in (("built ", model), ("loaded", loaded)):
    print(name, [(layer.path, layer.compute_dtype) for layer in one.layers])
same = model.predict(x, verbose=0) == loaded.predict(x, verbose=0)
print("same predictions:", bool(same.all()))
PYTHON
cat > "$folder/expected" <<'TEXT'
built  [('net/first', 'bfloat16'), ('net/second', 'float32')]
loaded [('first', 'float32'), ('second', 'float32')]
same predictions: False
TEXT
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/reload.py" \
    "$folder/model.keras" 2> /dev/null | tee "$folder/found"
diff "$folder/expected" "$folder/found"
