#!/bin/bash
# Keras 3.15.1 (on JAX 0.10.2), no other package.
#
# One would have guessed: GPTQ with group_size=-1, which Keras documents as one
# scale for the whole column (and AWQ takes so), works for a layer of any size.
#
# What happens: up to 128 inputs it does. From 129 on `quantize` raises a
# ValueError: values of more scales are assigned to a variable that holds one
# for each unit. A group size of 128 works, whether it divides the inputs or not.
#
# Output seen:
#   128 inputs, group_size=-1: works
#   129 inputs, group_size=-1: ValueError, variable.shape=(8, 1)
#   256 inputs, group_size=-1: ValueError, variable.shape=(8, 1)
#   256 inputs, group_size=128: works
#   200 inputs, group_size=128: works
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2
cat > "$folder/quantize.py" <<'PYTHON'
import re

import keras
import numpy as np


def outcome(inputs, group_size):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(8)
    model = keras.Sequential([keras.Input((inputs,)), dense])
    rows = np.random.default_rng(0).random((8, inputs)).astype("float32")
    config = keras.quantizers.GPTQConfig(
        dataset=[rows],
        tokenizer=lambda text: text,
        num_samples=4,
        sequence_length=inputs,
        group_size=group_size,
        quantization_layer_structure={
            "pre_block_layers": [],
            "sequential_blocks": [dense],
        },
    )
    try:
        model.quantize("gptq", config=config)
    except ValueError as error:
        shape = re.search(r"variable\.shape=\(.*?\)", str(error)).group()
        return f"ValueError, {shape}"
    return "works"


for inputs, size in [(128, -1), (129, -1), (256, -1), (256, 128), (200, 128)]:
    found = outcome(inputs, size)
    print(f"found: {inputs} inputs, group_size={size}: {found}")
PYTHON
found=$(KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/quantize.py" \
    2>/dev/null | sed -n 's/.*found: //p')
echo "$found"
expected="128 inputs, group_size=-1: works
129 inputs, group_size=-1: ValueError, variable.shape=(8, 1)
256 inputs, group_size=-1: ValueError, variable.shape=(8, 1)
256 inputs, group_size=128: works
200 inputs, group_size=128: works"
[ "$found" = "$expected" ]
