#!/bin/bash
# Keras 3.15.1, TensorFlow 2.21.0, no other package.
#
# One would have guessed: `model.quantize` with a GPTQConfig chooses integers
# by the inputs that layers get for the calibration data, so that other data
# give other integers, and fewer errors on data like these than rounding does.
#
# What happens: the calibration data change nothing. Inputs are to be gathered
# by hooks on `layer.call`, but the layers were switched to the mode "gptq"
# before, and so run `quantized_call`: no hook is ever called, the Hessian stays
# 0, and the result is that of rounding each weight to the nearest step. There
# is no warning; the progress bar runs through the data.
#
# Output seen:
#   calls seen by a hook on layer.call: 0
#   same integers for two kinds of data: True
#   same integers as by rounding: True
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0
cat > "$folder/calibrate.py" <<'PYTHON'
import keras
import numpy as np
from keras import layers
from keras.quantizers import GPTQConfig

WORDS, LENGTH, UNITS = 50, 8, 16
calls = []


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(2 * UNITS, activation="relu")
        self.second = layers.Dense(UNITS)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 2 * UNITS))

    def call(self, inputs):
        return self.second(self.first(inputs))


def watch(layer):
    """Puts a hook on `layer.call`, as Keras does to gather inputs."""
    call = layer.call

    def hook(*args, **kwargs):
        calls.append(args)
        return call(*args, **kwargs)

    layer.call = hook


def quantized(tokens):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((LENGTH,), dtype="int32")
    embedding, block = layers.Embedding(WORDS, UNITS), Block()
    model = keras.Model(inputs, block(embedding(inputs)))
    kernel = np.array(block.first.kernel)
    config = GPTQConfig(
        dataset=tokens,
        tokenizer=lambda text: text,
        num_samples=len(tokens),
        sequence_length=LENGTH,
        weight_bits=8,
        group_size=-1,
        quantization_layer_structure={
            "pre_block_layers": [embedding],
            "sequential_blocks": [block],
        },
    )
    watch(block.first)
    model.quantize("gptq", config=config)
    layer = block.first
    assert layer.is_gptq_calibrated
    steps = np.array(layer.kernel_scale), np.array(layer.kernel_zero)
    return kernel, np.array(layer.quantized_kernel), steps


generator = np.random.default_rng(0)
many = generator.integers(0, WORDS, (64, LENGTH)).astype("int32")
two = generator.integers(3, 5, (64, LENGTH)).astype("int32")
kernel, by_many, (scale, zero) = quantized(many)
_, by_two, _ = quantized(two)
nearest = np.clip(np.round(kernel.T / scale) + zero, 0, 255)
print("calls seen by a hook on layer.call:", len(calls))
print("same integers for two kinds of data:", (by_many == by_two).all())
print("same integers as by rounding:", (by_many == nearest).all())
PYTHON
cat > "$folder/expected" <<'TEXT'
calls seen by a hook on layer.call: 0
same integers for two kinds of data: True
same integers as by rounding: True
TEXT
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/calibrate.py" \
    2> /dev/null | grep -a same\\\|calls | tee "$folder/found"
diff "$folder/expected" "$folder/found"
