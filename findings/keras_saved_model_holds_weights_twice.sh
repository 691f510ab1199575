#!/bin/bash
# Keras 3.15.1, TensorFlow 2.21.0, no other package.
#
# One would have guessed: a SavedModel of `model.export` holds each weight once,
# and is about as large as the `.keras` file.
#
# What happens: each weight is in its checkpoint twice. `export` hands the model
# to `ExportArchive.track`, which lists its `keras.Variable`s, and the archive
# lists the TensorFlow variables that its endpoints use once more, in
# `_all_variables`. The two lists hold different objects, so TensorFlow saves
# both. An archive whose endpoint is added without `track` holds each once, and
# serves the same.
#
# Output seen:
#   variables of shape (500, 400) by export: 2
#   bytes more than twice those of the .keras file: True
#   variables of shape (500, 400) without track: 1
#   same predictions: True
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0
cat > "$folder/export.py" <<'PYTHON'
import functools
import os
import sys

import keras
import numpy as np
import tensorflow as tf

folder = sys.argv[1]
model = keras.Sequential([keras.Input((500,)), keras.layers.Dense(400)])
spec = keras.InputSpec(shape=(None, 500), dtype="float32", name="x")


def copies(path):
    found = tf.train.list_variables(f"{path}/variables/variables")
    return sum(tuple(shape) == (500, 400) for _, shape in found)


def size(path):
    return sum(
        os.path.getsize(os.path.join(root, name))
        for root, _, names in os.walk(path)
        for name in names
    )


model.export(f"{folder}/exported", verbose=False)
model.save(f"{folder}/model.keras")
print("variables of shape (500, 400) by export:", copies(f"{folder}/exported"))
large = size(f"{folder}/exported") > 2 * os.path.getsize(f"{folder}/model.keras")
print("bytes more than twice those of the .keras file:", large)
archive = keras.export.ExportArchive()
call = functools.partial(model.__call__, training=False)
archive.add_endpoint("serve", call, [spec])
archive.write_out(f"{folder}/once", verbose=False)
print("variables of shape (500, 400) without track:", copies(f"{folder}/once"))
x = np.ones((3, 500), "float32")
loaded = [tf.saved_model.load(f"{folder}/{n}") for n in ("exported", "once")]
one, other = (each.serve(x) for each in loaded)
print("same predictions:", np.array_equal(one, other))
PYTHON
cat > "$folder/expected" <<'TEXT'
variables of shape (500, 400) by export: 2
bytes more than twice those of the .keras file: True
variables of shape (500, 400) without track: 1
same predictions: True
TEXT
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/export.py" \
    "$folder" 2> /dev/null | tee "$folder/found"
diff "$folder/expected" "$folder/found"
