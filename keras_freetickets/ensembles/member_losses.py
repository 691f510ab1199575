"""What the loss that a model was trained with says of its outputs."""

import dataclasses
import functools
import re
import typing

import keras

_CLASSIFICATION = {
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "negative_log_likelihood",
    "sparse_categorical_crossentropy",
}
# A yes or no for each column.
_OF_COLUMNS = {"binary_crossentropy", "binary_focal_crossentropy"}
_REGRESSION = {
    "cosine_similarity",
    "huber",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
}


@dataclasses.dataclass
class LossFacts:
    """What is known of the loss of a model.

    Attributes:
        name: String in the manner of `"mean_squared_error"`, or `None` if
            there is no loss, or more than one.
        from_logits: Boolean, or `None` where the loss does not say.
        ignore_class: Integer or `None`.
    """

    name: typing.Any = None
    from_logits: typing.Any = None
    ignore_class: typing.Any = None

    @property
    def is_classification(self):
        """Whether it is for a classifier, for all that is known."""
        return self.name in _CLASSIFICATION

    @property
    def is_regression(self):
        """Whether it is for numbers rather than classes."""
        return self.name in _REGRESSION

    @property
    def is_of_columns(self):
        """Whether it takes each column of the outputs by itself."""
        return self.name in _OF_COLUMNS


def loss_facts(model):
    """What the loss of a compiled model says, or that of a loaded ticket.

    Args:
        model: A Keras model.

    Returns:
        `LossFacts`, empty where nothing is known.
    """
    losses = [one for one in _flat(getattr(model, "loss", None)) if one]
    if len(losses) != 1:
        return LossFacts()
    (loss,) = losses
    if loss in ("crossentropy", "ce"):  # Keras chooses by the labels
        return LossFacts("categorical_crossentropy", from_logits=False)
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return LossFacts(loss)
    settings = {}
    while isinstance(loss, functools.partial):
        settings = {**loss.keywords, **settings}
        loss = loss.func
    if isinstance(loss, keras.losses.Loss):
        name = _snake_case(type(loss).__name__)
        settings = _config_of(loss)
    else:
        name = getattr(loss, "__name__", type(loss).__name__)
        settings = {"from_logits": False, **settings}
    facts = LossFacts(name)
    if facts.is_classification:
        facts.from_logits = settings.get("from_logits")
        facts.ignore_class = settings.get("ignore_class")
    return facts


def _flat(losses):
    """The losses of the outputs, which may be given by name or in order."""
    if isinstance(losses, dict):
        losses = list(losses.values())
    if isinstance(losses, (list, tuple)):
        return [part for one in losses for part in _flat(one)]
    return [losses]


def _config_of(loss):
    try:
        return loss.get_config()
    except Exception:  # a loss of one's own, without a config
        return {}


def _snake_case(name):
    """`MeanSquaredError` -> `mean_squared_error`, without a last "loss"."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return name.removesuffix("_loss")
