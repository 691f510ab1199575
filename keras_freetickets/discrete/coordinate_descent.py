"""CoNNTrA: weights of a finite set, found by coordinate descent."""

import dataclasses
import importlib
import time
import typing
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np

from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_model
from keras_freetickets.arguments import check_number
from keras_freetickets.arguments import is_real
from keras_freetickets.discrete import storage
from keras_freetickets.discrete.layers import DiscreteConv2D
from keras_freetickets.discrete.layers import DiscreteDense
from keras_freetickets.discrete.network import Network
from keras_freetickets.discrete.network import Stage
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.models.conversion import strip
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Array
from keras_freetickets.types import Model

_STARTS = ("uniform", "nearest")
_BIASES = ("search", "zero", "keep")
# A smaller decrease of a loss in float64 is rounding.
_LEAST = 1e-12
_UNLIMITED = 2**62
Row = dict[str, typing.Any]


def _compiled() -> typing.Any:
    """The compiled trials; numba is imported when a search begins."""
    return importlib.import_module("keras_freetickets.discrete.compiled")


@dataclasses.dataclass
class DiscreteSearch:
    """What `CoordinateDescent.fit` returns.

    The arguments are the attributes.

    Args:
        model: A Sequential model, whose dense and convolutional layers are
            `DiscreteDense` and `DiscreteConv2D`; not compiled.
        history: List of dicts, one for each sweep, with `sweep`, `loss` (mean
            cross-entropy of the last batch), `trials` (evaluations), `visits`
            (coordinates), `moves` (accepted changes), `swaps`, `nonzero`
            (weights that are not zero, without biases), `seconds`.
        losses: Array of floats, the loss after each accepted move, with the
            penalty's changes since the last batch began. With the full batch
            it never rises.
        converged: Whether a sweep over all coordinates changed nothing.

    Example:

    ```python
    search = CoordinateDescent(sweeps=4).fit(model, x, y)
    search.model.predict(x_test)
    ```
    """

    model: Model
    history: list[Row]
    losses: np.ndarray
    converged: bool


@dataclasses.dataclass(kw_only=True)
class CoordinateDescent:
    """Trains weights of a finite set, one weight after another (CoNNTrA).

    Each weight is visited in a random order, and gets the value of `values`
    with the lowest loss. There are no real-valued weights beside them, and no
    gradient decides. A trial changes what the changed weight reaches and no
    more: activations of the whole batch are kept, and compiled loops follow
    the change along weights that are not zero. numba compiles them
    (`pip install 'keras_freetickets[compressed]'`).

    A layer computes `scale * (x @ weights + biases)` with a fixed scale. The
    outputs are therefore not calibrated: fit a temperature on held-out
    examples (`keras_freetickets.calibration`).

    The paper's method section could not be read. Where the source of a default
    is not given, it is a choice of this package.

    Args:
        values: Sequence of 2 to 256 different numbers, the finite set. Inside
            a mask it must have 0. Default (-1, 0, 1), as in the paper.
        start: `"uniform"`, random values; or `"nearest"`, the values nearest to
            the weights of the model divided by the scale of their layer, which
            is the one of the smallest squared error.
        biases: `"search"`, in the finite set too; `"zero"`; or `"keep"`, those
            of the model, as floats that do not change.
        sweeps: Positive integer, the most visits of each coordinate. A search
            ends earlier if a sweep changes nothing. Small networks took 4 to
            8.
        penalty: Non-negative float, added to the loss for each weight and bias
            that is not zero. 2e-4 removed a third of a small network's
            weights without loss of accuracy.
        screen: Whether the gradient of each chunk decides which changes are
            tried, and in which order: only those that lower the loss to first
            order, the largest first. When a sweep changes nothing, the next
            one is not screened.
        batch_size: Positive integer, the number of random examples on which a
            chunk of coordinates is scored, or `None` for all examples.
        chunk_size: Positive integer, coordinates scored on the same batch, or
            with the same gradient.
        keep_count: Whether the number of non-zero weights stays the same: the
            visits then change signs (or other values), and only swaps move
            zeros.
        swaps: Non-negative integer, pairs tried after each sweep: one weight
            becomes zero, and the zero of the same layer with the largest
            gradient gets a value.
        max_trials: Positive integer, the most evaluations, or `None`.
        target_loss: Float, the mean cross-entropy at which the search ends, or
            `None`. With batches it is that of the last batch.
        scales: Sequence of positive floats, one for each layer with weights, or
            `None`. By default 1 / sqrt(n) in hidden layers and 3 / sqrt(n) in
            the last, where a unit has n weights inside the mask on average,
            because sums of weights of 1 saturate.
        seed: Non-negative integer, of values, order and batches.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    ticket = ensemble.member(0)  # sparse: the search stays inside its mask
    last_step = kft.discrete.CoordinateDescent(
        start="nearest", biases="keep", screen=True, sweeps=3
    )
    search = last_step.fit(ticket, x_train, y_train)
    kft.discrete.save(search.model, "ternary.keras")
    ```

    Reference:
        Date et al., "Training Deep Neural Networks with Constrained Learning
        Parameters", https://arxiv.org/abs/2009.00540
    """

    values: Sequence[float] = (-1.0, 0.0, 1.0)
    start: str = "uniform"
    biases: str = "search"
    sweeps: int = 10
    penalty: float = 0.0
    screen: bool = False
    batch_size: int | None = None
    chunk_size: int = 1024
    keep_count: bool = False
    swaps: int = 0
    max_trials: int | None = None
    target_loss: float | None = None
    scales: Sequence[float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.values = storage.check_values(self.values)
        check_choice("start", self.start, _STARTS)
        check_choice("biases", self.biases, _BIASES)
        check_count("sweeps", self.sweeps)
        check_number("penalty", self.penalty, "[0, inf)")
        check_boolean("screen", self.screen)
        check_boolean("keep_count", self.keep_count)
        check_count("chunk_size", self.chunk_size)
        check_count("swaps", self.swaps, 0)
        check_count("seed", self.seed, 0)
        for name in ("batch_size", "max_trials"):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value)
        if self.target_loss is not None:
            check_number("target_loss", self.target_loss, "[0, inf)")
        if 0.0 not in self.values and (self.swaps or self.keep_count):
            raise ValueError(
                "`values` must have 0 where zeros are counted or moved "
                "(`keep_count`, `swaps`). "
                f"Received: values={self.values}"
            )
        if self.biases == "zero" and 0.0 not in self.values:
            raise ValueError(
                "`values` must have 0 for biases='zero'. "
                f"Received: values={self.values}"
            )

    def fit(
        self,
        model: Model,
        x: Array,
        y: Array,
        masks: Sequence[Array | None] | None = None,
        callback: Callable[[Row], typing.Any] | None = None,
    ) -> DiscreteSearch:
        """Searches the weights of a classifier.

        Args:
            model: A built classifier of softmax or logits: a Sequential model,
                or a Functional one that is a chain, of layers that
                `Network` names. A `SparseModel` is searched inside its masks.
                It is not changed; its weights matter for `start="nearest"`
                and `biases="keep"`.
            x: Array `(examples, ...)` of the shape that the model takes.
            y: Integer array `(examples,)`, the classes.
            masks: List of boolean arrays in the shapes of the kernels, one for
                each layer with weights, or `None` for a whole layer. Weights
                outside a mask are zero and are never visited.
            callback: Function of a dict, called after each chunk with `sweep`,
                `visits` and `coordinates` (of this sweep), `loss`, `trials`
                and `moves` (of the search), `seconds`.

        Returns:
            A `DiscreteSearch`.

        Raises:
            ImportError: If numba is not installed.
            TypeError: If `model` is not a model of Keras 3.
            ValueError: If the model, the data or the masks do not fit.
        """
        return _Search(self, model, x, y, masks).run(callback)


class _Search:
    """One run of `CoordinateDescent`."""

    def __init__(self, settings, model, x, y, masks):
        check_model("model", model)
        self.settings = settings
        self.random = np.random.default_rng(settings.seed)
        plain = model
        if isinstance(model, SparseModel):
            plain = strip(model)
            masks = _masks_of(model) if masks is None else masks
        self.network = Network(plain)
        self.name = model.name
        self.stages = self.network.stages
        _set_masks(self.stages, masks, settings.values)
        self.inputs = self.network.inputs(x)
        self.labels = _labels(y, self.inputs.shape[-1], self.stages[-1].units)
        self._start()
        self.compiled = _compiled()
        self.coordinates = self._coordinates()
        if not len(self.coordinates):
            raise ValueError(
                "`masks` must leave a weight to search. Received: masks that "
                "are all False"
            )
        self.trials = self.moves = self.swapped = self.visits = 0
        self.losses: list[np.ndarray] = []

    def _start(self):
        """Scales, and the first weights and biases."""
        settings = self.settings
        last = self.stages[-1]
        if settings.scales is not None:
            _check_scales(settings.scales, len(self.stages))
        for i, stage in enumerate(self.stages):
            gain = 3.0 if stage is last else 1.0
            stage.scale = gain / stage.fan_in**0.5
            if settings.start == "nearest":
                stage.scale = _fitted_scale(stage, settings.values)
            if settings.scales is not None:
                stage.scale = float(settings.scales[i])
            self._start_weights(stage)
            if settings.biases == "zero":
                stage.biases[:] = 0.0
            elif settings.biases == "keep":
                stage.biases /= stage.scale
            elif settings.start == "nearest":
                stage.biases[:] = _nearest(
                    stage.biases / stage.scale, settings.values
                )
            else:
                stage.biases[:] = self.random.choice(
                    settings.values, stage.units
                )

    def _start_weights(self, stage):
        values = np.asarray(self.settings.values)
        if self.settings.start == "nearest":
            found = _nearest(stage.weights / stage.scale, values)
        else:
            if self.settings.keep_count:
                values = values[values != 0.0]
            found = self.random.choice(values, stage.weights.shape)
        stage.weights[:] = np.where(stage.allowed, found, 0.0)

    def _coordinates(self):
        """All coordinates inside the masks: layer, tap, channel, unit."""
        found = []
        for layer, stage in enumerate(self.stages):
            places = np.argwhere(stage.allowed)
            found.append(np.insert(places, 0, layer, axis=1))
            if self.settings.biases == "search":
                units = np.arange(stage.units)
                rows = np.zeros((stage.units, 4), "int64")
                rows[:, 0], rows[:, 2], rows[:, 3] = layer, -1, units
                found.append(rows)
        return np.concatenate(found).astype("int64")

    def _batch(self):
        """Inputs and labels, sorted by label."""
        size, count = self.settings.batch_size, len(self.labels)
        if size is None or size >= count:
            chosen = np.arange(count)
        else:
            chosen = self.random.choice(count, size, replace=False)
        order = chosen[np.argsort(self.labels[chosen], kind="stable")]
        inputs = np.ascontiguousarray(self.inputs[..., order])
        return inputs, self.labels[order]

    def _anchor(self):
        """A new batch, with all activations computed again."""
        self.inputs_now, self.labels_now = self._batch()
        self.state = state_of(
            self.network, self.inputs_now, self.labels_now, self.compiled
        )
        self.loss = self.compiled.refresh(self.state)

    def _store(self):
        """Copies the values of the compiled state into the stages."""
        for stage, weights, biases in _parts(self.stages, self.state):
            stage.weights[:] = weights
            stage.biases[:] = biases

    def run(self, callback):
        history: list[Row] = []
        converged, screen = False, self.settings.screen
        stochastic = self._is_stochastic()
        self._anchor()
        self._descend(self.coordinates[:0], screen=False)  # compiles
        begun = time.perf_counter()
        for sweep in range(self.settings.sweeps):
            before, trials = self.moves, self.trials
            swapped, visits = self.swapped, self.visits
            self._sweep(sweep, screen, callback, begun)
            self._swap()
            if not stochastic:
                self._anchor()
            history.append(
                {
                    "sweep": sweep,
                    "loss": float(self.loss),
                    "trials": self.trials - trials,
                    "visits": self.visits - visits,
                    "moves": self.moves - before,
                    "swaps": self.swapped - swapped,
                    "nonzero": self._nonzero(),
                    "seconds": time.perf_counter() - begun,
                }
            )
            if self._is_over():
                break
            unchanged = (self.moves, self.swapped) == (before, swapped)
            if unchanged and not stochastic:
                converged = not screen
                if converged:
                    break
            # A screened sweep leaves out coordinates.
            screen = self.settings.screen and not unchanged
        losses = np.concatenate([*self.losses, np.empty(0)])
        model = _built(self.network, self.settings, self.name)
        return DiscreteSearch(model, history, losses, converged)

    def _is_stochastic(self):
        size = self.settings.batch_size
        return size is not None and size < len(self.labels)

    def _is_over(self):
        target = self.settings.target_loss
        reached = target is not None and self.loss <= target
        return reached or self._left() <= 0

    def _left(self):
        most = self.settings.max_trials
        return _UNLIMITED if most is None else most - self.trials

    def _nonzero(self):
        return int(sum(np.count_nonzero(one.weights) for one in self.stages))

    def _sweep(self, sweep, screen, callback, begun):
        order = self.random.permutation(self.coordinates)
        size = self.settings.chunk_size
        stochastic = self._is_stochastic()
        for at in range(0, len(order), size):
            if self._is_over():
                break
            if stochastic and (at or sweep):
                self._anchor()
            self._descend(order[at : at + size], screen)
            if callback is not None:
                callback(
                    {
                        "sweep": sweep,
                        "visits": min(at + size, len(order)),
                        "coordinates": len(order),
                        "loss": float(self.loss),
                        "trials": self.trials,
                        "moves": self.moves,
                        "seconds": time.perf_counter() - begun,
                    }
                )

    def _at(self, coordinates, weights, biases):
        """Entries of coordinates in flat arrays of weights and biases."""
        columns = self.compiled
        info = self.state.layers[coordinates[:, 0]]
        _, tap, channel, unit = coordinates.T
        place = (tap * info[:, columns.CHANNELS_IN] + channel) * info[
            :, columns.UNITS
        ]
        place = info[:, columns.WEIGHTS_AT] + place + unit
        is_bias = channel < 0
        found = weights[np.where(is_bias, 0, place)]
        of_bias = biases[info[:, columns.BIASES_AT] + unit]
        return np.where(is_bias, of_bias, found)

    def _values_at(self, coordinates):
        return self._at(coordinates, self.state.weights, self.state.biases)

    def _descend(self, coordinates, screen):
        settings = self.settings
        values = np.asarray(settings.values)
        if settings.keep_count:
            fixed = self._values_at(coordinates) == 0.0
            coordinates = coordinates[~fixed | (coordinates[:, 2] < 0)]
        targets = np.full(len(coordinates), -1, "int64")
        if screen:
            coordinates, targets = self._screened(coordinates, values)
        self.loss, trials, visits, losses = self.compiled.descend(
            self.state,
            coordinates,
            targets,
            values,
            settings.keep_count,
            float(settings.penalty),
            _LEAST,
            self._left(),
            self.loss,
        )
        self._count(trials, visits, losses)
        self.moves += len(losses)

    def _count(self, trials, visits, losses):
        self._store()
        self.trials += int(trials)
        self.visits += int(visits)
        self.losses.append(losses)

    def _screened(self, coordinates, values):
        """Changes that lower the loss to first order, the largest first."""
        gradients = self.network.gradients(self.inputs_now, self.labels_now)
        by_weights, by_biases = zip(*gradients, strict=True)
        slopes = self._at(coordinates, _flat(by_weights), _flat(by_biases))
        present = self._values_at(coordinates)
        more = (values != 0.0).astype(int) - (present != 0.0)[:, None]
        gain = slopes[:, None] * (values - present[:, None])
        gain = gain + self.settings.penalty * more
        rows, targets = np.nonzero(gain < 0)
        order = np.argsort(gain[rows, targets], kind="stable")
        return (
            np.ascontiguousarray(coordinates[rows[order]]),
            targets[order].astype("int64"),
        )

    def _swap(self):
        settings = self.settings
        if not settings.swaps or self._left() <= 0:
            return
        gradients = self.network.gradients(self.inputs_now, self.labels_now)
        pairs = []
        weights = np.concatenate([one.weights.ravel() for one in self.stages])
        share = settings.swaps / max(np.count_nonzero(weights), 1)
        for layer, stage in enumerate(self.stages):
            losers = np.argwhere(stage.weights != 0)
            free = stage.allowed & (stage.weights == 0)
            winners = np.argwhere(free)
            slopes = np.abs(gradients[layer][0][free])
            count = int(np.ceil(share * len(losers)))
            count = min(count, len(losers), len(winners))
            best = winners[np.argsort(-slopes, kind="stable")[:count]]
            lost = self.random.choice(len(losers), count, replace=False)
            pair = np.stack([losers[lost], best], axis=1)
            pairs.append(np.insert(pair, 0, layer, axis=2))
        both = np.concatenate(pairs).astype("int64")
        self.loss, trials, _, losses = self.compiled.swap(
            self.state,
            np.ascontiguousarray(both[:, 0]),
            np.ascontiguousarray(both[:, 1]),
            np.asarray(settings.values),
            _LEAST,
            self._left(),
            self.loss,
        )
        self._count(trials, 0, losses)
        self.swapped += len(losses)


def _masks_of(model):
    """The masks of a sparse model, one for each layer with weights."""
    masks = []
    for layer in model.layers:
        if isinstance(layer, Sparse):
            found = layer.masked_kernels
            mask = keras.ops.convert_to_numpy(found[0].mask.value)
            masks.append(mask.astype(bool))
        elif hasattr(layer, "kernel"):
            masks.append(None)
    return masks


def _set_masks(stages, masks, values):
    if masks is None:
        return
    shapes = [tuple(stage.layer.kernel.shape) for stage in stages]
    fits = isinstance(masks, (list, tuple)) and len(masks) == len(shapes)
    if fits:
        fits = all(
            mask is None
            or (np.shape(mask) == shape and np.asarray(mask).dtype == bool)
            for mask, shape in zip(masks, shapes, strict=True)
        )
    if not fits:
        found = masks
        if isinstance(masks, (list, tuple)):
            found = [None if m is None else np.shape(m) for m in masks]
        raise ValueError(
            f"`masks` must be a list of boolean arrays of the shapes {shapes}, "
            f"or None for a whole layer. Received: masks={found}"
        )
    for stage, mask in zip(stages, masks, strict=True):
        if mask is not None:
            stage.allowed = np.asarray(mask).reshape(stage.weights.shape)
    absent = any(not stage.allowed.all() for stage in stages)
    if absent and 0.0 not in values:
        raise ValueError(
            "`values` must have 0 inside a mask, because the weights outside "
            "it are zero. To search signs alone give (-1, 0, 1) with "
            f"keep_count=True. Received: values={values}"
        )


def _labels(y, examples, classes):
    labels = np.asarray(y)
    fits = labels.shape == (examples,) and labels.dtype.kind in "iu"
    if not fits or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`y` must be an integer array of shape ({examples},), of classes "
            f"from 0 to {classes - 1}. Received: y of shape {labels.shape} "
            f"and dtype {labels.dtype}"
        )
    return labels.astype("int64")


def _check_scales(scales, count):
    if not isinstance(scales, (list, tuple)) or len(scales) != count:
        raise ValueError(
            f"`scales` must be a list of {count} numbers, one for each layer "
            f"with weights. Received: scales={scales!r}"
        )
    for scale in scales:
        if not is_real(scale) or not 0 < scale < np.inf:
            raise ValueError(
                f"`scales` must be positive. Received: scales={scales!r}"
            )


def _nearest(weights, values):
    """The nearest member of the set; of two, the one nearer to zero."""
    known = np.asarray(sorted(values, key=abs))
    distances = np.abs(weights[..., None] - known)
    return known[distances.argmin(axis=-1)]


def _fitted_scale(stage: Stage, values: tuple[float, ...]) -> float:
    """The scale of the smallest squared error, by alternating minimization.

    Several starts, because the error has local minima.
    """
    weights = stage.weights[stage.allowed]
    largest = np.abs(weights).max() if weights.size else 0.0
    if largest == 0.0:
        return 1.0 / stage.fan_in**0.5
    top = max(abs(value) for value in values)
    best, best_error = largest / top, np.inf
    for start in np.geomspace(0.1, 1.0, 8) * largest / top:
        scale = start
        for _ in range(20):
            found = _nearest(weights / scale, values)
            squares = float(np.square(found).sum())
            if squares == 0.0:
                break
            scale = float((weights * found).sum()) / squares
        if not scale > 0:
            continue
        error = np.square(
            weights - scale * _nearest(weights / scale, values)
        ).sum()
        if error < best_error:
            best, best_error = scale, error
    return float(best)


def state_of(
    network: Network,
    inputs: np.ndarray,
    labels: np.ndarray,
    compiled: typing.Any,
) -> typing.Any:
    """The arrays that the compiled trials read and write.

    Args:
        network: `Network`, whose weights and biases are copied.
        inputs: Array, as `Network.inputs` returns it.
        labels: Sorted integer array, the class of each example.
        compiled: The module of that name.
    """
    stages, examples = network.stages, inputs.shape[-1]
    all_inputs, all_sums = network.forward(inputs)
    columns = np.zeros((len(stages), len(compiled.COLUMNS)), "int64")
    names = ("inputs", "sums", "weights", "biases", "taps", "pools")
    at = dict.fromkeys(names, 0)
    for row, stage in zip(columns, stages, strict=True):
        pools = np.empty((0, 0)) if stage.pools is None else stage.pools
        row[:] = (
            stage.channels_in,
            stage.positions_in,
            stage.units,
            stage.taps.shape[1],
            len(stage.taps),
            stage.rectified,
            pools.shape[1],
            stage.pool_mean,
            stage.positions_out,
            *at.values(),
        )
        at["inputs"] += stage.channels_in * stage.positions_in * examples
        at["sums"] += stage.units * stage.taps.shape[1] * examples
        at["weights"] += stage.weights.size
        at["biases"] += stage.units
        at["taps"] += stage.taps.size
        at["pools"] += pools.size
    units = max(stage.units for stage in stages)
    channels = max(stage.channels_in for stage in stages)
    classes = stages[-1].units
    sums = _flat(all_sums)
    flat_inputs = _flat(all_inputs)
    return compiled.State(
        layers=columns,
        scales=np.array([stage.scale for stage in stages]),
        weights=_flat([stage.weights for stage in stages]),
        biases=_flat([stage.biases for stage in stages]),
        taps=_flat([stage.taps for stage in stages]),
        pools=_flat(
            [one.pools for one in stages if one.pools is not None]
            or [np.empty(0, "int64")]
        ).astype("int64"),
        inputs=flat_inputs,
        sums=sums,
        new_sums=np.zeros_like(sums),
        changes=np.zeros_like(flat_inputs),
        exps=np.zeros(classes * examples),
        shifts=np.zeros(examples),
        starts=np.searchsorted(labels, np.arange(classes + 1)).astype("int64"),
        touched=np.zeros((len(stages), units + 1), "int64"),
        moved=np.zeros((len(stages), channels + 1), "int64"),
        marks=np.zeros((len(stages), units), "uint8"),
        row=np.zeros(examples),
    )


def _flat(arrays):
    return np.concatenate([np.ascontiguousarray(one).ravel() for one in arrays])


def _parts(stages, state):
    """Weights and biases of each stage, as views of a state."""
    weights_at = biases_at = 0
    for stage in stages:
        size, units = stage.weights.size, stage.units
        weights = state.weights[weights_at : weights_at + size]
        yield (
            stage,
            weights.reshape(stage.weights.shape),
            state.biases[biases_at : biases_at + units],
        )
        weights_at += size
        biases_at += units


def _built(network, settings, name):
    """A Sequential model with the layers of the search."""
    model = keras.Sequential(name=name)
    model.add(keras.Input(network.input_shape))
    stages = {id(stage.layer): stage for stage in network.stages}
    for layer in network.layers:
        stage = stages.get(id(layer))
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if stage is None:
            model.add(type(layer).from_config(layer.get_config()))
        else:
            model.add(_discrete(layer, stage, settings))
            kernel = stage.weights.reshape(layer.kernel.shape)
            bias = {
                "discrete": stage.biases,
                "float": stage.biases * stage.scale,
                "none": None,
            }[model.layers[-1].bias]
            model.layers[-1].set_codes(kernel, bias)
    return model


def _discrete(layer, stage, settings):
    kinds = {"search": "discrete", "zero": "none", "keep": "float"}
    bias = kinds[settings.biases]
    if bias == "float" and not layer.use_bias:
        bias = "none"
    shared = {
        "values": settings.values,
        "scale": stage.scale,
        "bias": bias,
        "activation": layer.activation,
        "name": layer.name,
    }
    if isinstance(layer, keras.layers.Dense):
        return DiscreteDense(layer.units, **shared)
    return DiscreteConv2D(
        layer.filters,
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        **shared,
    )
