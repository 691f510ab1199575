#!/bin/bash
# Keras 3.15.1, TensorFlow 2.21.0, OpenVINO 2026.4.1 (CPU), no other package.
#
# One would have guessed: a model with one output, exported to OpenVINO, has
# one output there.
#
# What happens: tensors that nothing reads become outputs too, in a model with
# a recurrent layer that is unrolled: some of its last state. (Keras converts
# the function that TensorFlow traced. The same model as a SavedModel, which
# OpenVINO converts, has one output.) The wanted output is the first here; code
# that takes all outputs, or the last, gets others.
#
# Output seen:
#   outputs in Keras: 1
#   outputs in OpenVINO: 3, shapes ['[?,3]', '[?,4]', '[?,1,5]']
#   outputs in OpenVINO by a SavedModel: 1
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
import openvino

folder = sys.argv[1]
inputs = keras.Input((6, 4))
x = keras.layers.LSTM(5, unroll=True)(inputs)
model = keras.Model(inputs, keras.layers.Dense(3)(x))
print("outputs in Keras:", len(model.outputs))
path = f"{folder}/model.xml"
model.export(path, format="openvino", verbose=False)
found = openvino.Core().read_model(path).outputs
shapes = [str(one.partial_shape) for one in found]
print(f"outputs in OpenVINO: {len(found)}, shapes {shapes}")
model.export(f"{folder}/saved", verbose=False)
converted = openvino.convert_model(f"{folder}/saved")
print("outputs in OpenVINO by a SavedModel:", len(converted.outputs))
PYTHON
cat > "$folder/expected" <<'TEXT'
outputs in Keras: 1
outputs in OpenVINO: 3, shapes ['[?,3]', '[?,4]', '[?,1,5]']
outputs in OpenVINO by a SavedModel: 1
TEXT
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/export.py" \
    "$folder" 2> /dev/null | grep -a '^outputs' | tee "$folder/found"
diff "$folder/expected" "$folder/found"
