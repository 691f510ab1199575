"""Loops of the kernels' vectors, without what a kernel has around them."""

import functools

import numpy as np

from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.vectors import dot
from keras_freetickets.kernels.vectors import filled
from keras_freetickets.kernels.vectors import load
from keras_freetickets.kernels.vectors import multiply_add
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import store

float32 = numba.float32
_VECTORS = 8  # in the first cache


@compiled
def multiply(x, values):
    """Products and sums in registers."""
    vector = load(x, 0, 128)
    total = filled(float32(0.0), 128)
    for k in range(len(values)):
        total = multiply_add(values[k], vector, total)
    store(x, 0, total)


@compiled
def stream(x, values, floats):
    """Reads an array for each value."""
    total = filled(float32(0.0), 128)
    for k in range(len(values)):
        for at in range(0, floats, 128):
            total = multiply_add(values[k], load(x, at, 128), total)
    return dot(total, filled(float32(1.0), 128))


@functools.cache
def _loop(way, lanes):
    backward = way == "backward"

    def loop(x, values, places, gradients):
        vector = load(x, 0, lanes)
        total = filled(float32(0.0), lanes)
        for k in range(len(values)):
            read = load(x, int(places[k]) * lanes, lanes)
            total = multiply_add(values[k], read, total)
            if backward:
                gradients[k] += dot(read, vector)
        store(x, 0, total)

    return compiled(loop)


@functools.cache
def seconds_of(way, lanes, least):
    """Of a weight: the loop of a kernel, its vectors in the first cache.

    Args:
        way: String, `"forward"` or `"backward"`.
        lanes: Integer, floats of a vector.
        least: Callable that measures another.
    """
    count = 2048
    x = np.zeros(_VECTORS * lanes, "float32")
    values, gradients = np.ones(count, "float32"), np.zeros(count, "float32")
    places = np.arange(count).astype("uint16") % _VECTORS
    loop = _loop(way, lanes)

    def run():
        for _ in range(16):
            loop(x, values, places, gradients)

    return least(run) / (16 * count)
