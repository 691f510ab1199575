"""What the loss of a model tells about its outputs."""

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
    "gaussian_negative_log_likelihood",
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
        name: String such as `"mean_squared_error"`, or `None` if there is no
            loss, or more than one.
        from_logits: Boolean, or `None` where the loss does not say.
        ignore_class: Integer or `None`.
    """

    name: str | None = None
    from_logits: bool | None = None
    ignore_class: int | None = None

    @property
    def is_classification(self) -> bool:
        """Whether it is known to be for classifiers."""
        return self.name in _CLASSIFICATION

    @property
    def is_regression(self) -> bool:
        """Whether it is known to be for regressors."""
        return self.name in _REGRESSION

    @property
    def gives_variances(self) -> bool:
        """Whether the outputs are means and then as many variances."""
        return self.name == "gaussian_negative_log_likelihood"

    @property
    def is_of_columns(self) -> bool:
        """Whether it treats each column of the outputs as a binary label."""
        return self.name in _OF_COLUMNS


def loss_facts(model: keras.Model) -> LossFacts:
    """What is known of the loss of a compiled model or a loaded ticket.

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
    settings: dict[str, typing.Any] = {}
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


def _flat(losses: typing.Any) -> list[typing.Any]:
    """The losses of all outputs, which Keras takes as a dict or a list."""
    if isinstance(losses, dict):
        losses = list(losses.values())
    if isinstance(losses, (list, tuple)):
        return [part for one in losses for part in _flat(one)]
    return [losses]


def _config_of(loss: keras.losses.Loss) -> dict[str, typing.Any]:
    try:
        return loss.get_config()
    except Exception:  # a custom loss without a config
        return {}


def _snake_case(name: str) -> str:
    """`MeanSquaredError` -> `mean_squared_error`, without a last "loss"."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return name.removesuffix("_loss")
