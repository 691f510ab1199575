"""What a classifier returns: probabilities or logits."""

import keras
import numpy as np

from keras_freetickets import keras_adapter
from keras_freetickets.metrics import inputs as checks
from keras_freetickets.models.members import gives_logits
from keras_freetickets.models.members import revived
from keras_freetickets.models.members import uncompiled

# How far from one float32 leaves the sum of a softmax.
_ROUNDING = 1e-5
_REMOVABLE = (keras.activations.softmax, keras.activations.linear)


def returns_logits(model, predictions):
    """Whether a model returns logits, by its last layer or what it returned.

    Args:
        model: A Keras model with one output `(batch, classes)`.
        predictions: Array of what it returned.

    Returns:
        Boolean.

    Raises:
        ValueError: If they are neither logits nor distributions.
    """
    if getattr(model, "returns_probabilities", False):
        return False
    if getattr(model, "outputs", None):
        try:
            return gives_logits(model)
        except ValueError:
            pass  # an activation that says nothing
    if checks.is_distribution(renormalized(predictions)):
        return False
    low, high = predictions.min(), predictions.max()
    if 0 <= low and high <= 1:
        raise ValueError(
            "`model` must return logits or probabilities that sum to one over "
            "the classes; pass `from_logits` to say which. Received: a model "
            f"that returns values in [{low:.4g}, {high:.4g}] that do not sum "
            "to one (a sigmoid?)"
        )
    return True


def renormalized(probabilities):
    """Distributions that sum to one, also where half precision rounded them.

    Args:
        probabilities: Array whose last axis are classes.

    Returns:
        The array, float32 or wider, each row divided by its sum if all are
        within 1 % of one.
    """
    values = np.asarray(probabilities)
    half = values.dtype.itemsize <= 2
    values = values.astype("float32") if half else values
    # What was once of half precision may be off by that much.
    if not checks.is_distribution(values.astype("float16")):
        return values
    totals = values.sum(axis=-1, keepdims=True)
    if np.abs(totals - 1).max(initial=0) <= _ROUNDING:
        return values
    return values / totals


def logits_model(model):
    """A copy of a model without the softmax at its end.

    Args:
        model: A Functional or Sequential model.

    Returns:
        A model that returns logits, or `None` where what comes last is no
        softmax that can be left out.
    """
    if not getattr(model, "outputs", None):
        return None
    copy = revived(uncompiled(model))
    for mine, theirs in keras_adapter.paired_variables(copy, model):
        mine.assign(theirs.value)
    layer, inputs = keras_adapter.origin(copy.outputs[0])
    layer = getattr(layer, "layer", layer)
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Softmax):
        return keras.Model(copy.inputs, inputs[0])
    if activation is keras.activations.softmax:
        layer.activation = keras.activations.linear
    return copy if activation in _REMOVABLE else None
