"""A script for a process in which Keras is `tf_keras` (Keras 2).

Trains a model for 8 bits by tensorflow-model-optimization (tfmot), which keeps
zeros, and writes it for LiteRT. It imports nothing of this package, whose Keras
is Keras 3: the two do not mix. `quantization_aware.py` starts it.
"""

import inspect
import json
import os
import sys
import typing

import numpy as np

REFUSED = "refused.txt"
# What a layer starts with or is held to is not part of how it predicts.
_LEFT_OUT = ("_initializer", "_regularizer", "_constraint")


def _layer(tf_keras: typing.Any, part: dict[str, typing.Any]) -> typing.Any:
    """The layer of Keras 2 that a layer of Keras 3 describes."""
    kind = getattr(tf_keras.layers, part["class_name"], None)
    if kind is None:
        raise ValueError(
            f"`model` must be made of layers that tf_keras has. Received: "
            f"layer {part['name']!r} of class {part['class_name']}"
        )
    known = inspect.signature(kind.__init__).parameters
    settings = {
        key: value
        for key, value in part["config"].items()
        if key in known and not key.endswith(_LEFT_OUT) and key != "dtype"
    }
    return kind(name=part["name"], **settings)


def build(
    tf_keras: typing.Any,
    parts: list[dict[str, typing.Any]],
    weights: typing.Any,
) -> typing.Any:
    """Builds a Functional model of Keras 2.

    Args:
        tf_keras: The module.
        parts: List of dicts, one for each tensor, as `blueprint` makes them.
        weights: Dict from "layer/number" to arrays.

    Returns:
        A `tf_keras.Model`.
    """
    layers: dict[str, typing.Any] = {}
    tensors: list[typing.Any] = []
    for part in parts:
        if part["class_name"] == "InputLayer":
            shape = part["config"]["batch_shape"][1:]
            tensors.append(tf_keras.Input(shape, name=part["name"]))
            continue
        if part["name"] not in layers:
            layers[part["name"]] = _layer(tf_keras, part)
        given = [tensors[i] for i in part["inputs"]]
        layer = layers[part["name"]]
        tensors.append(layer(given[0] if len(given) == 1 else given))
    inputs = [
        tensor
        for tensor, part in zip(tensors, parts, strict=True)
        if part["class_name"] == "InputLayer"
    ]
    outputs = [tensors[i] for i, p in enumerate(parts) if p["is_output"]]
    model = tf_keras.Model(inputs, outputs)
    for name, layer in layers.items():
        count = len(layer.weights)
        layer.set_weights([weights[f"{name}/{i}"] for i in range(count)])
    return model


def main(folder: str) -> None:
    """Does what `quantization_aware.py` has written into a folder.

    Args:
        folder: Directory with `order.json` and `arrays.npz`; `model.tflite`
            is written there, or `refused.txt`, why a model cannot be built.
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    with open(os.path.join(folder, "order.json")) as file:
        order = json.load(file)
    with np.load(os.path.join(folder, "arrays.npz")) as archive:
        arrays = {name: archive[name] for name in archive.files}
    tf_keras.utils.set_random_seed(order["seed"])
    x, y = arrays.pop("x"), arrays.pop("y")
    try:
        model = build(tf_keras, order["parts"], arrays)
    except ValueError as error:
        with open(os.path.join(folder, REFUSED), "w") as file:
            file.write(str(error))
        return
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    try:
        aware = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    except RuntimeError as error:
        # Such as batch normalization that does not follow a convolution.
        with open(os.path.join(folder, REFUSED), "w") as file:
            file.write(
                "`model` must consist of layers that tfmot trains for 8 bits, "
                "with batch normalization only right behind a convolution "
                "without activation. "
                f"Received: model, of which it says: {error}"
            )
        return
    optimizer = tf_keras.optimizers.Adam(order["learning_rate"])
    aware.compile(optimizer, order["loss"])
    aware.fit(x, y, order["batch_size"], order["epochs"], verbose=0)
    converter = tf.lite.TFLiteConverter.from_keras_model(aware)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with open(os.path.join(folder, "model.tflite"), "wb") as file:
        file.write(converter.convert())


if __name__ == "__main__":
    main(sys.argv[1])
