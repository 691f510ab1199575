"""What models return: probabilities, logits, or numbers of a regression."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.ensembles.member_losses import LossFacts
from keras_freetickets.ensembles.member_losses import loss_facts
from keras_freetickets.ensembles.members import gives_logits
from keras_freetickets.ensembles.members import revived
from keras_freetickets.ensembles.members import several_labels
from keras_freetickets.ensembles.members import uncompiled
from keras_freetickets.ensembles.pooling import CLASSIFICATION
from keras_freetickets.ensembles.pooling import Pooling
from keras_freetickets.ensembles.pooling import check_columns
from keras_freetickets.metrics import validation
from keras_freetickets.types import Tensor

# How far the sum of a softmax in float32 may be from one.
_ROUNDING = 1e-5
_REMOVABLE = (keras.activations.softmax, keras.activations.linear)


def probabilities(outputs: Tensor, from_logits: bool | None) -> Tensor:
    """Outputs of a model as float32 probabilities, in the same shape.

    Args:
        outputs: Tensor `(batch, ..., classes)`, or `(batch, ..., 1)` of
            class 1.
        from_logits: Whether they are logits.

    Returns:
        Tensor of the same shape.
    """
    outputs = ops.cast(outputs, "float32")
    if not from_logits:
        return outputs
    one_column = outputs.shape[-1] == 1
    return ops.sigmoid(outputs) if one_column else ops.softmax(outputs)


@dataclasses.dataclass
class OutputSettings:
    """How the outputs of the members of an ensemble are read.

    Attributes:
        pooling: As for `EnsembleModel`.
        from_logits: Whether classifiers return logits; `None` for others.
        ignore_class: Integer, or `None`.
    """

    pooling: Pooling
    from_logits: bool | None
    ignore_class: int | None = None


def settings_of(
    members: Sequence[keras.Model],
    from_logits: bool | None = None,
    pooling: Pooling | None = None,
) -> OutputSettings:
    """How the outputs of an ensemble's members are read.

    Args:
        members: List of Keras models that agree in their architecture.
        from_logits: Whether they return logits; `None` to tell by the last
            layer and the loss.
        pooling: As for `EnsembleModel`; `None` to tell by the loss.

    Returns:
        `OutputSettings`; `ignore_class` is that of the members' loss.

    Raises:
        ValueError: If the members were trained to give several labels at
            once, some as classifiers and some as regressors, or nothing says
            what they return.
    """
    facts = [loss_facts(member) for member in members]
    known = [one for one in facts if one.name is not None]
    columns = members[0].outputs[0].shape[-1]
    if pooling is None and from_logits is None:
        pooling = _regression_pooling(members[0], known)
    if pooling is not None and pooling not in CLASSIFICATION:
        check_columns(pooling, columns)
        return OutputSettings(pooling, None)
    pooling = pooling or "mean_probability"
    if columns > 1 and any(one.is_of_columns for one in known):
        raise ValueError(several_labels(columns))
    ignored = {one.ignore_class for one in known}
    ignore_class = ignored.pop() if len(ignored) == 1 else None
    if from_logits is None:
        from_logits = _tell_logits(members[0], known)
    return OutputSettings(pooling, from_logits, ignore_class)


def _regression_pooling(
    member: keras.Model, known: list[LossFacts]
) -> str | None:
    """How outputs of regressors are pooled; `None` if they are not known."""
    if not any(one.is_regression for one in known):
        return None
    if member.outputs[0].shape[-1] > 1 and _ends_in_softmax(member):
        return None  # a classifier, whatever the loss
    if not all(one.is_regression for one in known):
        raise ValueError(
            "`members` must be all classifiers or all regressors; pass "
            "`from_logits` or `pooling` to say which. "
            f"Received: members {_trained_with(known)}"
        )
    variances = {one.gives_variances for one in known}
    if len(variances) > 1:
        raise ValueError(
            "`members` must all return variances, or none; pass `pooling` to "
            f"say which. Received: members {_trained_with(known)}"
        )
    return "mean_and_variance" if variances.pop() else "mean"


def _ends_in_softmax(member: keras.Model) -> bool:
    try:
        return not gives_logits(member)
    except ValueError:  # another activation
        return False


def _tell_logits(member: keras.Model, known: list[LossFacts]) -> bool:
    """Whether classifiers return logits, by the last layer and the losses."""
    logits = gives_logits(member)
    if not logits:
        return False  # a softmax or a sigmoid, whatever the loss
    said = {one.from_logits for one in known if one.is_classification}
    if said != {True}:
        raise ValueError(
            "`from_logits` must be given where the last layer is linear and no "
            "loss says that it gives logits. Pass True for the logits of "
            'classifiers, or pooling="mean" for regressors. Received: '
            f"from_logits=None, members {_trained_with(known)}"
        )
    return logits


def _trained_with(known: list[LossFacts]) -> str:
    names = sorted({str(facts.name) for facts in known})
    if not names:
        return "without a loss (not compiled)"
    said = {facts.from_logits for facts in known} - {None}
    note = f" with from_logits={said.pop()}" if len(said) == 1 else ""
    return f"with the loss {', '.join(names)}{note}"


def check_one_output(model: keras.Model) -> None:
    """Raises for a model that returns several arrays, or a dict.

    Args:
        model: A Keras model. One without a graph is accepted: what it returns
            is not known.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return
    _, structure = keras_adapter.ends_of_graph(model)
    if len(outputs) > 1 or isinstance(structure, dict):
        raise ValueError(
            "`model` must return one array. Make a model of each output, "
            "`keras.Model(model.inputs, model.outputs[k])`. Received: a model "
            f"with {len(outputs)} outputs, in a {type(structure).__name__}"
        )


def returns_logits(model: keras.Model, predictions: np.ndarray) -> bool:
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

    Example:

    ```python
    returns_logits(model, model.predict(x))
    ```
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
    if low >= 0 and high <= 1:
        raise ValueError(
            "`model` must return logits or probabilities that sum to one over "
            "the classes; pass `from_logits` to say which. Received: a model "
            f"that returns values in [{low:.4g}, {high:.4g}] that do not sum "
            "to one (a sigmoid?)"
        )
    return True


def renormalized(probabilities: Tensor) -> np.ndarray:
    """Rows divided by their sums, where half precision rounded them.

    Args:
        probabilities: Array whose last axis are classes.

    Returns:
        The array, float32 or wider, each row divided by its sum if all are
        within 1 % of one.

    Example:

    >>> renormalized(np.array([[0.5, 0.25, 0.245]], "float32")).sum()
    np.float32(1.0)
    """
    values = np.asarray(probabilities)
    half = values.dtype.itemsize <= 2
    values = values.astype("float32") if half else values
    if values.shape[-1] == 1:
        return values
    # Values that were once rounded to half precision are off by up to 1 %.
    if not validation.is_distribution(values.astype("float16")):
        return values
    totals = values.sum(axis=-1, keepdims=True)
    if np.abs(totals - 1).max(initial=0) <= _ROUNDING:
        return values
    return values / totals


def logits_model(model: keras.Model) -> keras.Model | None:
    """A copy of a model without its final softmax.

    Args:
        model: A Functional or Sequential model.

    Returns:
        A model that returns logits, one for each class, or `None` where the
        last layer is not a softmax that can be left out.

    Example:

    ```python
    logits = logits_model(classifier).predict(x)
    ```
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
