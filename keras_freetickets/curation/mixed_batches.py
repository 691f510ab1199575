"""Batches that mix labelled and pseudo-labelled examples in a fixed share."""

import typing
from collections.abc import Callable

import keras
import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.types import Array

Augmentation = Callable[[Array, np.random.Generator], Array]


class MixedBatches(keras.utils.PyDataset):
    """Training data of a student: few labels and many pseudo-labels.

    Each batch has the same share of labelled examples, so that they are not
    lost among the others, and weights by which its loss is the mean loss of
    its labelled examples plus `pseudo_weight` times that of the others.
    Pseudo-labelled examples pass once an epoch; labelled ones pass as often as
    it takes. Without pseudo-labels it is plain supervised training.

    The order follows from the seed and the epoch, so that a resumed run equals
    an uninterrupted one: pass `epoch_order()` among the callbacks, and
    `shuffle=False`, as Keras else shuffles the batches by Python's `random`.

    Args:
        x: Array of labelled inputs `(examples, ...)`.
        targets: Array `(examples, classes)`, their one-hot labels, for a
            `categorical_crossentropy`.
        pseudo_x: Array of further inputs `(examples, ...)`, or `None`.
        pseudo_targets: Array `(examples, classes)`, as in `PseudoLabels`, or
            `None`.
        batch_size: Integer of at least 2. Defaults to 128.
        labelled_share: Float in (0, 1), the share of a batch that is labelled.
            Defaults to 1/4.
        pseudo_weight: Non-negative float, the weight of the pseudo-labelled
            examples' loss. Defaults to 1.
        steps_per_epoch: Positive integer. `None` (default) for as many as it
            takes for the pseudo-labelled examples to pass once, or the labelled
            ones if there are no others.
        augment: Function from inputs and a `numpy.random.Generator` to inputs,
            applied to each batch. `None` (default) for inputs as they are.
        seed: Non-negative integer. Defaults to 0.

    Raises:
        ValueError: If arrays do not fit together, or an argument is out of
            range.

    Example:

    ```python
    batches = MixedBatches(x, y, x_unlabelled[chosen.indices], chosen.targets)
    model.compile("adam", "categorical_crossentropy")
    callbacks = [batches.epoch_order()]
    model.fit(batches, epochs=20, shuffle=False, callbacks=callbacks)
    ```

    Reference:
        The shares and the loss are those of common self-training; of
        arXiv:2107.08211 the abstract alone was read.
    """

    def __init__(
        self,
        x: Array,
        targets: Array,
        pseudo_x: Array | None = None,
        pseudo_targets: Array | None = None,
        batch_size: int = 128,
        labelled_share: float = 0.25,
        pseudo_weight: float = 1.0,
        steps_per_epoch: int | None = None,
        augment: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._x, self._targets = _pair("x", x, "targets", targets)
        if not len(self._x):
            raise ValueError(
                "`x` must hold one labelled example or more. Received: x of "
                f"shape {self._x.shape}"
            )
        if pseudo_x is None:
            pseudo_x, pseudo_targets = self._x[:0], self._targets[:0]
        self._pseudo_x, self._pseudo_targets = _pair(
            "pseudo_x", pseudo_x, "pseudo_targets", pseudo_targets
        )
        for name, one, other in (
            ("pseudo_x", self._pseudo_x, self._x),
            ("pseudo_targets", self._pseudo_targets, self._targets),
        ):
            if one.shape[1:] != other.shape[1:]:
                raise ValueError(
                    f"`{name}` must have examples of the shape "
                    f"{other.shape[1:]}, as the labelled ones. Received: "
                    f"{name} of shape {one.shape}"
                )
        check_count("batch_size", batch_size, least=2)
        check_number("labelled_share", labelled_share, "(0, 1)")
        check_number("pseudo_weight", pseudo_weight, "[0, inf)")
        check_count("seed", seed, least=0)
        if steps_per_epoch is not None:
            check_count("steps_per_epoch", steps_per_epoch)
        if augment is not None and not callable(augment):
            raise ValueError(
                "`augment` must be a function of inputs and a generator. "
                f"Received: augment={augment!r}"
            )
        self.batch_size = batch_size
        self.pseudo_weight = pseudo_weight
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        self._num_labelled = batch_size
        if len(self._pseudo_x):
            share = round(batch_size * labelled_share)
            self._num_labelled = min(max(share, 1), batch_size - 1)
        if steps_per_epoch is None:
            many = len(self._pseudo_x) or len(self._x)
            each = batch_size - self._num_labelled or batch_size
            steps_per_epoch = -(-many // each)
        self.steps_per_epoch = steps_per_epoch

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return self.steps_per_epoch

    def __getitem__(self, index: int) -> tuple[Array, Array, Array]:
        """A batch: inputs, targets and weights."""
        n, batch = self._num_labelled, self.batch_size
        own = places_of(index * n, n, len(self._x), self._keys(0))
        others = places_of(
            index * (batch - n), batch - n, len(self._pseudo_x), self._keys(1)
        )
        x = np.concatenate([self._x[own], self._pseudo_x[others]])
        targets = np.concatenate(
            [self._targets[own], self._pseudo_targets[others]]
        )
        weights = np.full(batch, batch / n, "float32")
        if n < batch:
            weights[n:] = self.pseudo_weight * batch / (batch - n)
        if self.augment is not None:
            key = (self.seed, self.epoch, 2, index)
            x = self.augment(x, np.random.default_rng(key))
        return x, targets, weights

    def _keys(self, which: int) -> tuple[int, ...]:
        return (self.seed, self.epoch, which)

    def epoch_order(self) -> keras.callbacks.Callback:
        """A callback that gives each epoch its own order.

        Returns:
            A callback for `fit`; a new one for each call.
        """
        return EpochOrder(self)


class EpochOrder(keras.callbacks.Callback):
    """Tells batches which epoch it is.

    Args:
        batches: Batches whose order follows from an attribute `epoch`.
    """

    def __init__(self, batches: typing.Any) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, typing.Any] | None = None
    ) -> None:
        self._batches.epoch = epoch


def _pair(
    name: str, x: typing.Any, name_of_targets: str, targets: typing.Any
) -> tuple[Array, Array]:
    """Inputs and as many rows of targets, as arrays."""
    x, targets = np.asarray(x), np.asarray(targets, "float32")
    if x.ndim < 2 or targets.ndim != 2 or len(x) != len(targets):
        raise ValueError(
            f"`{name_of_targets}` must hold a row (classes,) for each example "
            f"of `{name}`, (examples, ...). Received: {name} of shape "
            f"{x.shape} and {name_of_targets} of shape {targets.shape}"
        )
    return x, targets


def places_of(first: int, count: int, size: int, key: tuple[int, ...]) -> Array:
    """Places in shuffled rounds of all examples, one round after another.

    Args:
        first: Integer, how many places to leave out.
        count: Integer, how many to return.
        size: Integer, the number of examples.
        key: Tuple of integers, the seed.

    Returns:
        Array of integers `(count,)`.
    """
    if not size:
        return np.zeros(0, int)
    rounds = range(first // size, (first + count - 1) // size + 1)
    orders = [
        np.random.default_rng((*key, one)).permutation(size) for one in rounds
    ]
    start = first - rounds[0] * size
    return np.concatenate(orders)[start : start + count]
