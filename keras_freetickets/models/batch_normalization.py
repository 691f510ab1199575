"""Estimates the batch-normalization statistics of a model again."""

import typing

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_model
from keras_freetickets.types import Model


def reestimate_batch_normalization(
    model: Model, data: typing.Any, batch_size: int = 128
) -> int:
    """Sets moving means and variances to those of a pass over data.

    Use it after weights were averaged or edited, because they no longer match
    the statistics collected in training. Batches are weighted by their size.
    Nothing else in the model changes. Frozen layers keep their statistics.

    Args:
        model: A built `keras.Model`.
        data: A `tf.data.Dataset` or list of batches, each an input or a tuple
            that starts with one, or an array of inputs.
        batch_size: Positive integer, the batch size for an array.

    Returns:
        Integer, the number of layers with new statistics.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `data` has no batches.

    Example:

    ```python
    keras_freetickets.reestimate_batch_normalization(model, train)
    ```

    Reference:
        Izmailov et al., 2018, arXiv:1803.05407 (SWA); cumulative weights
        `b / (n + b)` as in StevenBoys/CigL.
    """
    check_model("model", model)
    layers = [
        layer
        for layer in keras_adapter.sublayers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]
    if not layers:
        return 0
    moving = [v for la in layers for v in (la.moving_mean, la.moving_variance)]
    with keras_adapter.momentum(layers, 0.0):
        # With a momentum of 0, the statistics are those of the batch.
        seen = 0
        sums: list = []
        for x in _batches(data, batch_size):
            size = len(keras.tree.flatten(x)[0])
            found = keras_adapter.updated_by_call(model, x, moving)
            parts = [ops.convert_to_numpy(f) * size for f in found]
            sums = (
                [a + b for a, b in zip(sums, parts, strict=True)]
                if seen
                else parts
            )
            seen += size
    if not seen:
        raise ValueError("`data` must have a batch. Received: no batches")
    for variable, total in zip(moving, sums, strict=True):
        variable.assign(total / seen)
    return len(layers)


def _batches(data, batch_size):
    if hasattr(data, "shape"):
        data = [
            data[i : i + batch_size] for i in range(0, len(data), batch_size)
        ]
    for batch in data:
        yield batch[0] if isinstance(batch, tuple) else batch
