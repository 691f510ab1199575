"""Predictions by sampling: means, intervals, and where variance comes from."""

import dataclasses
import weakref
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_model
from keras_freetickets.arguments import check_number
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.multimodal.network import outcome_model
from keras_freetickets.types import Array

# Rows in a call of the model: more samples of few subjects at a time.
_ROWS = 2048
# Quantiles near the ends need many draws: each sample gets several of the
# noise, so that there are at least this many. 100 draws would make intervals of
# 95 % too short by about 1 %.
_DRAWS = 400
# Numbers whose quantiles are computed at a time.
_NUMBERS = 4_000_000
# Models whose outcome is predicted, and that part of them, traced once.
_outcomes: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclasses.dataclass
class ImagePrediction:
    """Predicted images with intervals and the parts of their variance.

    The variance of a pixel is the sum of three parts (law of total variance).

    Args:
        mean: Mean of all samples `(subjects, ...)`.
        lower: Lower end of the interval of each pixel.
        upper: Upper end.
        within: Variance within tickets, by the noise of the latents.
        between: Variance between the tickets' means: what the network does
            not know. 0 for one ticket.
        residual: Float or array, variance of the pixels' noise.

    Example:

    ```python
    found = predict_images(tickets, [x1, x2], residual=noise)
    kft.plots.figures.save(picture_of(found.between), "between.png")
    ```
    """

    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    within: np.ndarray
    between: np.ndarray
    residual: float | np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Total variance of each pixel."""
        return self.within + self.between + self.residual


def check_subjects(images: Sequence[Array], ids: Sequence | None = None) -> int:
    """Checks that several modalities are of the same subjects, in order.

    Args:
        images: List of arrays `(subjects, ...)`.
        ids: List with the subjects' names or numbers of each array, or `None`
            (default) to compare the numbers of subjects alone.

    Returns:
        Integer, the number of subjects.

    Raises:
        ValueError: If there are no arrays, or they differ in their number of
            subjects or in the subjects' ids.

    Example:

    >>> check_subjects([np.zeros((3, 4)), np.zeros((3, 2))], [[7, 8, 9]] * 2)
    3
    """
    counts = [len(one) for one in images]
    if not counts or len(set(counts)) > 1:
        raise ValueError(
            "Modalities must be of the same subjects, in the same order. "
            f"Received: modalities of {counts} subjects"
        )
    if ids is None:
        return counts[0]
    lengths = [len(one) for one in ids]
    if lengths != counts:
        raise ValueError(
            "`ids` must have one entry for each subject of each modality. "
            f"Received: {lengths} ids for modalities of {counts} subjects"
        )
    first = list(ids[0])
    for k, other in enumerate(ids):
        pairs = enumerate(zip(first, other, strict=True))
        wrong = next((i for i, (a, b) in pairs if a != b), None)
        if wrong is not None:
            raise ValueError(
                "Modalities must be of the same subjects, in the same order. "
                f"Received: row {wrong} is subject {first[wrong]!r} in "
                f"modality 0 and {list(other)[wrong]!r} in modality {k}"
            )
    return counts[0]


class PixelScaler:
    """Standardizes each pixel by its mean and deviation in training.

    Args:
        images: Training images `(subjects, ...)`, at least 2.
        smallest: Positive float: deviations below it count as 1, so that a
            pixel that is always the same stays 0. Defaults to 1e-6.

    Raises:
        ValueError: If there are fewer than 2 images, a pixel is not finite, or
            an argument is out of range.

    Example:

    >>> scaler = PixelScaler([[0.0], [2.0]])
    >>> scaler([[4.0]]).tolist(), scaler.back([[3.0]]).tolist()
    ([[3.0]], [[4.0]])
    """

    def __init__(self, images: Array, smallest: float = 1e-6) -> None:
        check_number("smallest", smallest, "(0, inf)")
        images = np.asarray(images, "float64")
        if len(images) < 2 or not np.isfinite(images).all():
            raise ValueError(
                "`images` must be at least 2 training images of finite "
                f"numbers. Received: {len(images)} images, "
                f"{np.count_nonzero(~np.isfinite(images))} pixels not finite"
            )
        self.mean = images.mean(axis=0)
        deviation = images.std(axis=0)
        self.deviation = np.where(deviation < smallest, 1.0, deviation)

    def __call__(self, images: Array) -> np.ndarray:
        """Standardized images, float32.

        Args:
            images: Array `(subjects, ...)`.
        """
        scaled = (np.asarray(images) - self.mean) / self.deviation
        return scaled.astype("float32")

    def back(self, images: Array) -> np.ndarray:
        """Images in their own units.

        Args:
            images: Array `(..., height, width, ...)` of standardized images.
        """
        return np.asarray(images) * self.deviation + self.mean


def sample_images(
    model: keras.Model, inputs: Sequence[Array], num_samples: int = 100
) -> np.ndarray:
    """Draws outcomes of a model that samples latents in each call.

    Args:
        model: Keras model whose first output is the outcome, such as one of
            `inva`.
        inputs: List of its inputs, arrays of as many subjects each.
        num_samples: Positive integer. Defaults to 100.

    Returns:
        Float32 array `(num_samples, subjects, ...)`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If inputs are of different subjects.

    Example:

    ```python
    samples = sample_images(model, [x1, x2], num_samples=100)
    ```
    """
    check_model("model", model)
    check_count("num_samples", num_samples)
    subjects = check_subjects(inputs)
    outcome = _outcomes.get(model)
    if outcome is None:
        outcome = outcome_model(model)
        _outcomes[model] = outcome
    parts = list(_samples(outcome, inputs, subjects, num_samples))
    return np.concatenate(parts)


def _samples(
    outcome: keras.Model,
    inputs: Sequence[Array],
    subjects: int,
    num_samples: int,
) -> Iterator[np.ndarray]:
    """Blocks of samples; each is one prediction of repeated subjects."""
    block = max(1, min(num_samples, _ROWS // max(subjects, 1)))
    for start in range(0, num_samples, block):
        count = min(block, num_samples - start)
        repeated = [np.concatenate([one] * count) for one in inputs]
        found = outcome.predict(repeated, batch_size=_ROWS, verbose=0)
        yield found.reshape(count, subjects, *found.shape[1:])


def residual_variance(
    models: keras.Model | EnsembleModel | Sequence[keras.Model],
    inputs: Sequence[Array],
    y: Array,
    num_samples: int = 100,
    of_pixels: bool = False,
) -> float | np.ndarray:
    """Variance of the outcome around its predicted mean, on held-out data.

    Residuals of training data would make intervals far too short.

    Args:
        models: Keras model, list of tickets, or `EnsembleModel`.
        inputs: List of inputs that the models were not trained on.
        y: Outcomes `(subjects, ...)`.
        num_samples: Positive integer. Defaults to 100.
        of_pixels: Whether each pixel has its own variance; False by default:
            one number, which few subjects estimate well.

    Returns:
        Float, or array of the shape of an outcome.

    Raises:
        TypeError: If a model is not a Keras model.
        ValueError: If subjects differ.

    Example:

    ```python
    noise = residual_variance(tickets, validation_images, validation_y)
    ```
    """
    members = _listed(models)
    check_subjects([*inputs, y])
    means = [
        sample_images(m, inputs, num_samples).mean(axis=0) for m in members
    ]
    errors = np.square(np.asarray(y) - np.mean(means, axis=0))
    return errors.mean(axis=0) if of_pixels else float(errors.mean())


def predict_images(
    models: keras.Model | EnsembleModel | Sequence[keras.Model],
    inputs: Sequence[Array],
    residual: float | np.ndarray = 0.0,
    num_samples: int = 100,
    coverage: float = 0.95,
    seed: int = 0,
) -> ImagePrediction:
    """Predicts outcomes with intervals, by one model or pooled tickets.

    The samples of all tickets are pooled. An interval is that of the quantiles
    of the samples plus normal noise of the residual variance.

    Args:
        models: Keras model, list of tickets, or `EnsembleModel` of models
            that `outcome_model` returned.
        inputs: List of inputs.
        residual: Non-negative variance of the noise, of `residual_variance`:
            a float, or an array of the shape of an outcome.
        num_samples: Positive integer, samples of each ticket. Defaults to 100.
        coverage: Float in (0, 1). Defaults to 0.95.
        seed: Non-negative integer, for the noise.

    Returns:
        `ImagePrediction`.

    Raises:
        TypeError: If a model is not a Keras model.
        ValueError: If an argument is out of range or subjects differ.

    Example:

    ```python
    found = predict_images(tickets, [x1, x2], residual=noise)
    inside = (y >= found.lower) & (y <= found.upper)
    ```
    """
    members = _listed(models)
    check_number("coverage", coverage, "(0, 1)")
    check_count("seed", seed, least=0)
    _check_residual(residual, members[0].outputs[0].shape[1:])
    drawn = [sample_images(one, inputs, num_samples) for one in members]
    samples = np.stack(drawn)  # (tickets, samples, subjects, ...)
    means = samples.mean(axis=1)
    within = samples.var(axis=1).mean(axis=0)
    pooled = samples.reshape(-1, *samples.shape[2:])
    random = np.random.default_rng(seed)
    lower, upper = _quantiles(pooled, residual, (1 - coverage) / 2, random)
    return ImagePrediction(
        means.mean(axis=0), lower, upper, within, means.var(axis=0), residual
    )


def _check_residual(residual, shape):
    given = np.asarray(residual)
    if given.shape not in ((), shape) or not np.all(given >= 0):
        raise ValueError(
            "`residual` must be a non-negative variance, or an array of them "
            f"of the shape of an outcome, {shape}. Received: residual="
            f"{residual} of shape {given.shape}"
        )


def _quantiles(samples, residual, tail, random):
    """Both ends for samples `(samples, subjects, ...)` plus noise."""
    repeats = -(-_DRAWS // len(samples))
    size = max(1, samples[:, :1].size * repeats)
    block = max(1, _NUMBERS // size)
    deviation = np.sqrt(residual).astype("float32")
    ends = []
    for start in range(0, samples.shape[1], block):
        some = np.concatenate([samples[:, start : start + block]] * repeats)
        noise = random.standard_normal(some.shape, "float32")
        ends.append(
            np.quantile(some + noise * deviation, [tail, 1 - tail], axis=0)
        )
    return np.concatenate(ends, axis=1)


def _listed(models):
    if isinstance(models, EnsembleModel):
        members = [models.member(i) for i in range(models.num_members)]
    else:
        members = [models] if isinstance(models, keras.Model) else list(models)
    for member in members:
        check_model("models", member)
    if not members:
        raise ValueError(
            "`models` must be a model or a list of tickets. Received: models=[]"
        )
    return members


def input_saliency(model: keras.Model, modality: int = 0) -> np.ndarray:
    """How strongly the first layer of an encoder reads each pixel.

    The sum over units of |weight|. In a sparse model trained with a changing
    topology, the connections that were kept or grown say which pixels matter.

    Args:
        model: Model of `inva` with dense encoders, or a sparse copy of one.
        modality: Non-negative integer, number of the image.

    Returns:
        Float array of the shape of the image.

    Raises:
        ValueError: If the model has no dense first layer for that image.

    Example:

    ```python
    picture = input_saliency(ticket, modality=0)[..., 0]
    ```
    """
    name = f"encoder_{modality}_hidden_0"
    layers = {layer.name: layer for layer in model.layers}
    kernel = getattr(layers.get(name), "kernel", None)
    shapes = {one.name.split(":")[0]: one.shape[1:] for one in model.inputs}
    shape = shapes.get(f"modality_{modality}")
    if kernel is None or shape is None or kernel.shape[0] != np.prod(shape):
        raise ValueError(
            "`model` must be one of `multimodal.inva` with a dense encoder of "
            f"the image. Received: a model without '{name}' on all pixels, "
            f"modality={modality}"
        )
    weights = np.abs(ops.convert_to_numpy(kernel))
    return weights.sum(axis=1).reshape(shape)
