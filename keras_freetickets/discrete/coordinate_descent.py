"""CoNNTrA: weights of a finite set, found by coordinate descent."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.discrete import storage
from keras_freetickets.discrete.search import DiscreteSearch
from keras_freetickets.discrete.search import Row
from keras_freetickets.discrete.search import Search
from keras_freetickets.types import Array
from keras_freetickets.types import Model

_STARTS = ("uniform", "nearest")
_BIASES = ("search", "zero", "keep")


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
        callback: Callable[[Row], Any] | None = None,
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
        return Search(self, model, x, y, masks).run(callback)
