"""Small networks and random examples for searches of discrete weights."""

import keras
import numpy as np


def dense(inputs=5, hidden=(6, 4), classes=3):
    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    return keras.Sequential(
        [keras.Input((inputs,)), *layers, keras.layers.Dense(classes)]
    )


def examples(model, count=40, seed=0):
    random = np.random.default_rng(seed)
    shape = (count, *model.input_shape[1:])
    x = random.normal(size=shape).astype("float32")
    return x, random.integers(0, model.output_shape[-1], count)
