"""A run of coordinate descent: sweeps, batches, screening and swaps."""

import dataclasses
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_freetickets.arguments import check_model
from keras_freetickets.discrete.discrete_model import discrete_model
from keras_freetickets.discrete.network import Network
from keras_freetickets.discrete.start import checked_labels
from keras_freetickets.discrete.start import masks_of
from keras_freetickets.discrete.start import set_masks
from keras_freetickets.discrete.start import set_start
from keras_freetickets.discrete.state import BIASES_AT
from keras_freetickets.discrete.state import CHANNELS_IN
from keras_freetickets.discrete.state import UNITS
from keras_freetickets.discrete.state import WEIGHTS_AT
from keras_freetickets.discrete.state import flat
from keras_freetickets.discrete.state import parts_of
from keras_freetickets.discrete.state import state_of
from keras_freetickets.models.conversion import strip
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Array
from keras_freetickets.types import Model

# A smaller decrease of a loss in float64 is rounding.
_LEAST = 1e-12
_UNLIMITED = 2**62
Row = dict[str, Any]


def _compiled() -> Any:
    """The compiled trials; numba is imported when a search begins."""
    return importlib.import_module("keras_freetickets.discrete.compiled_moves")


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


class Search:
    """One run of `CoordinateDescent`.

    Args:
        settings: `CoordinateDescent`.
        model: As for `CoordinateDescent.fit`, and so are the others.
        x: Array of examples.
        y: Integer array of labels.
        masks: List of masks, or `None`.

    Raises:
        ImportError: If numba is not installed.
        TypeError: If `model` is not a model of Keras 3.
        ValueError: If the model, the data or the masks do not fit.
    """

    def __init__(
        self, settings: Any, model: Model, x: Array, y: Array, masks: Any
    ) -> None:
        check_model("model", model)
        self.settings = settings
        self.random = np.random.default_rng(settings.seed)
        plain = model
        if isinstance(model, SparseModel):
            plain = strip(model)
            masks = masks_of(model) if masks is None else masks
        self.network = Network(plain)
        self.name = model.name
        self.stages = self.network.stages
        set_masks(self.stages, masks, settings.values)
        self.inputs = self.network.inputs(x)
        self.labels = checked_labels(
            y, self.inputs.shape[-1], self.stages[-1].units
        )
        set_start(self.stages, settings, self.random)
        self.compiled = _compiled()
        self.coordinates = self._coordinates()
        if not len(self.coordinates):
            raise ValueError(
                "`masks` must leave a weight to search. Received: masks that "
                "are all False"
            )
        self.trials = self.moves = self.swapped = self.visits = 0
        self.losses: list[np.ndarray] = []

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
        self.state = state_of(self.network, self.inputs_now, self.labels_now)
        self.loss = self.compiled.refresh(self.state)

    def _store(self):
        """Copies the values of the compiled state into the stages."""
        for stage, weights, biases in parts_of(self.state, self.stages):
            stage.weights[:] = weights
            stage.biases[:] = biases

    def run(
        self, callback: Callable[[Row], Any] | None = None
    ) -> DiscreteSearch:
        """Searches until nothing changes or a limit is reached.

        Args:
            callback: As for `CoordinateDescent.fit`.
        """
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
        model = discrete_model(self.network, self.settings, self.name)
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
        info = self.state.layers[coordinates[:, 0]]
        _, tap, channel, unit = coordinates.T
        place = (tap * info[:, CHANNELS_IN] + channel) * info[:, UNITS]
        place = info[:, WEIGHTS_AT] + place + unit
        is_bias = channel < 0
        found = weights[np.where(is_bias, 0, place)]
        of_bias = biases[info[:, BIASES_AT] + unit]
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
        slopes = self._at(coordinates, flat(by_weights), flat(by_biases))
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
