"""What a classifier returns: probabilities or logits."""

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.ensembles.member_losses import loss_facts
from keras_freetickets.ensembles.members import gives_logits
from keras_freetickets.ensembles.members import revived
from keras_freetickets.ensembles.members import several_labels
from keras_freetickets.ensembles.members import uncompiled
from keras_freetickets.metrics import validation

# How far from one float32 leaves the sum of a softmax.
_ROUNDING = 1e-5
_REMOVABLE = (keras.activations.softmax, keras.activations.linear)


def probabilities(outputs, from_logits):
    """What a model returns as float32 probabilities, in the same form.

    Args:
        outputs: Tensor `(batch, ..., classes)`, or `(batch, ..., 1)` of
            class 1.
        from_logits: Whether they are logits.
    """
    outputs = ops.cast(outputs, "float32")
    if not from_logits:
        return outputs
    one_column = outputs.shape[-1] == 1
    return ops.sigmoid(outputs) if one_column else ops.softmax(outputs)


def settings_of(members, from_logits=None):
    """How the outputs of an ensemble's members are read.

    Args:
        members: List of Keras models that agree in their architecture.
        from_logits: Whether they return logits; `None` to tell by the last
            layer and the loss.

    Returns:
        Tuple of `from_logits` and of `ignore_class`, that of the members'
        loss or `None`.

    Raises:
        ValueError: If they were trained as regressors, or to give several
            labels at once, or nothing says what they return.
    """
    facts = [loss_facts(member) for member in members]
    known = [one for one in facts if one.name is not None]
    ignored = {one.ignore_class for one in known}
    ignore_class = ignored.pop() if len(ignored) == 1 else None
    columns = members[0].outputs[0].shape[-1]
    if columns > 1 and any(one.is_of_columns for one in known):
        raise ValueError(several_labels(columns))
    if from_logits is not None:
        return from_logits, ignore_class
    logits = gives_logits(members[0])
    if not logits and columns > 1:
        return False, ignore_class  # a softmax, whatever the loss
    _check_classifiers(known)
    said = {one.from_logits for one in known if one.is_classification}
    if logits and said != {True}:
        raise ValueError(
            "`from_logits` must be given where the last layer is linear and no "
            "loss says that it gives logits: the numbers may be a regressor's "
            "as well. Pass True for a classifier's logits. Received: "
            f"from_logits=None, members {_trained_with(known)}"
        )
    return logits, ignore_class


def _check_classifiers(known):
    for facts in known:
        if facts.is_regression:
            raise ValueError(
                "`members` must be classifiers: an ensemble averages the "
                "probabilities of classes. Of regressors average the outputs, "
                "np.mean([m.predict(x) for m in members], axis=0); pass "
                "`from_logits` if these are classifiers nevertheless. "
                f"Received: members {_trained_with(known)}"
            )


def _trained_with(known):
    names = sorted({facts.name for facts in known})
    if not names:
        return "without a loss (not compiled)"
    said = {facts.from_logits for facts in known} - {None}
    note = f" with from_logits={said.pop()}" if len(said) == 1 else ""
    return f"with the loss {', '.join(names)}{note}"


def check_one_output(model):
    """Raises for a model that returns several arrays, or a dict.

    Args:
        model: A Keras model; what one without a graph returns is not known.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return
    _, structure = keras_adapter.ends_of_graph(model)
    if len(outputs) > 1 or isinstance(structure, dict):
        raise ValueError(
            "`model` must return one array. Take each output by itself, "
            "`keras.Model(model.inputs, model.outputs[k])`. Received: a model "
            f"with {len(outputs)} outputs, in a {type(structure).__name__}"
        )


def returns_logits(model, predictions):
    """Whether a model returns logits, by its last layer or what it returned.

    Args:
        model: A Keras model with one output `(batch, ..., classes)`, or
            `(batch, ..., 1)` of class 1.
        predictions: Array of what it returned.

    Returns:
        Boolean.

    Raises:
        ValueError: If they are neither logits nor distributions, or the model
            was trained as a regressor.
    """
    if getattr(model, "returns_probabilities", False):
        return False
    facts = loss_facts(model)
    if facts.is_regression and not validation.is_distribution(predictions):
        raise ValueError(
            "`model` must be a classifier; pass `from_logits` if it is one "
            "nevertheless. "
            f"Received: a model trained with the loss {facts.name}"
        )
    if getattr(model, "outputs", None):
        try:
            return gives_logits(model)
        except ValueError:
            pass  # an activation that says nothing
    if validation.is_distribution(renormalized(predictions)):
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
    if values.shape[-1] == 1:
        return values
    # What was once of half precision may be off by that much.
    if not validation.is_distribution(values.astype("float16")):
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
        A model that returns logits, one for each class, or `None` where what
        comes last is not a softmax that can be left out.
    """
    if not getattr(model, "outputs", None) or model.outputs[0].shape[-1] == 1:
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
