"""Small models of every kind that `export` takes, and inputs for them."""

import functools

import keras
import numpy as np
from keras import layers

import keras_freetickets as kft

FORMATS = {
    "keras": "model.keras",
    "saved_model": "served",
    "litert": "model.tflite",
    "onnx": "model.onnx",
    "openvino": "model.xml",
}
DTYPES = ("float32", "float16", "int8_dynamic", "int8")
NOT_WRITTEN = {("keras", "int8"), ("saved_model", "int8")}
CELLS = [
    (name, dtype)
    for name in FORMATS
    for dtype in DTYPES
    if (name, dtype) not in NOT_WRITTEN
]


def dense(seed=0, classes=3):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((24,)),
            layers.Dense(48, activation="relu", bias_initializer="normal"),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def sparse(seed=0):
    return kft.sparsify(dense(seed), 0.9, "uniform", seed=seed)


def ensemble():
    return kft.EnsembleModel([sparse(seed) for seed in range(3)])


def examples(count=128):
    generator = np.random.default_rng(1)
    return generator.normal(size=(count, 24)).astype("float32")


def calibrated():
    labels = np.arange(128) % 3
    return kft.calibration.calibrate(ensemble(), examples(), labels)


KINDS = {
    "sparse": sparse,
    "stripped": lambda: kft.strip(sparse()),
    "ensemble": ensemble,
    "calibrated": calibrated,
    "compressed": lambda: kft.compress(sparse()),
    "compressed ensemble": lambda: kft.compress(ensemble()),
}


@functools.cache
def shared(kind):
    """A model of a kind, for tests that do not change it."""
    return KINDS[kind]()


def several(as_dict=False):
    """Two inputs and two outputs, none in the order of the alphabet."""
    keras.utils.set_random_seed(0)
    z, a = keras.Input((4,), name="z"), keras.Input((3,), name="a")
    x = layers.Concatenate()([z, a])
    outputs = [layers.Dense(2)(x), layers.Dense(5)(x)]
    inputs = {"k": z, "b": a} if as_dict else [z, a]
    return kft.sparsify(keras.Model(inputs, outputs), 0.5)


def images():
    """A network with convolutions of several kinds, and examples."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    y = layers.Conv2D(8, 1, activation="relu")(x)
    x = layers.MaxPooling2D(2)(layers.Add()([x, y]))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    outputs = layers.Dense(3, activation="softmax")(x)
    model = kft.sparsify(keras.Model(inputs, outputs), 0.8)
    x = np.random.default_rng(0).normal(size=(128, 8, 8, 3))
    return model, x.astype("float32")


def words():
    """A network for integers, with an embedding and a recurrent layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs)
    x = layers.LSTM(12)(x)
    outputs = layers.Dense(3, activation="softmax")(x)
    model = kft.sparsify(keras.Model(inputs, outputs), 0.8)
    x = np.random.default_rng(0).integers(0, 20, (128, 6))
    return model, x.astype("int32")
