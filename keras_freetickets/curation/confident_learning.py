"""A training whose own models decide which examples it goes on with."""

import typing
from collections.abc import Callable
from collections.abc import Iterable

import keras
import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import is_integer
from keras_freetickets.curation.mixed_batches import EpochOrder
from keras_freetickets.curation.mixed_batches import places_of
from keras_freetickets.curation.nested_filter import NestedFilter
from keras_freetickets.types import Array
from keras_freetickets.types import Logs


class FilteredBatches(keras.utils.PyDataset):
    """Batches of the examples that a `NestedFilter` has left.

    Examples come in shuffled rounds, one after another; the number of steps of
    an epoch stays the same when examples are dropped. The order follows from
    the seed and the epoch: pass `epoch_order()` among the callbacks, and
    `shuffle=False`, as Keras else shuffles the batches by Python's `random`.

    Args:
        x: Array `(examples, ...)`, or a dict of such arrays.
        y: Array `(examples, ...)`, or `None` for training without labels.
        nested: The `NestedFilter`, of as many examples.
        batch_size: Positive integer. Defaults to 128.
        steps_per_epoch: Positive integer. `None` (default) for as many batches
            as all examples fill.
        documents: Dict of one array, unpaired examples of their own number,
            which join each batch under that name; or `None`.
        documents_per_batch: Positive integer. Defaults to 40 (released code of
            EfficientCLIP).
        seed: Non-negative integer. Defaults to 0.

    Raises:
        ValueError: If arrays do not fit together, there are fewer examples
            than a batch, or an argument is out of range.

    Example:

    ```python
    nested = NestedFilter(len(y))
    batches = FilteredBatches(x, y, nested, batch_size=64)
    callbacks = [batches.epoch_order()]
    model.fit(batches, epochs=20, shuffle=False, callbacks=callbacks)
    ```
    """

    def __init__(
        self,
        x: typing.Any,
        y: Array | None,
        nested: NestedFilter,
        batch_size: int = 128,
        steps_per_epoch: int | None = None,
        documents: dict[str, Array] | None = None,
        documents_per_batch: int = 40,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("batch_size", batch_size)
        check_count("documents_per_batch", documents_per_batch)
        check_count("seed", seed, least=0)
        self._x = keras.tree.map_structure(np.asarray, x)
        self._y = None if y is None else np.asarray(y)
        self._documents = {
            name: np.asarray(one) for name, one in (documents or {}).items()
        }
        self.nested = nested
        self._check_lengths()
        for name, size, count in (
            ("batch_size", batch_size, nested.num_examples),
            (
                "documents_per_batch",
                documents_per_batch if self._documents else 0,
                min((len(d) for d in self._documents.values()), default=0),
            ),
        ):
            if size > count:
                raise ValueError(
                    f"`{name}` must be at most the number of examples, {count}"
                    f". Received: {name}={size}"
                )
        if steps_per_epoch is None:
            steps_per_epoch = -(-nested.num_examples // batch_size)
        check_count("steps_per_epoch", steps_per_epoch)
        self.batch_size = batch_size
        self.documents_per_batch = documents_per_batch
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.epoch = 0

    def _check_lengths(self) -> None:
        arrays = keras.tree.flatten([self._x, self._y])
        lengths = [len(one) for one in arrays if one is not None]
        if any(length != self.nested.num_examples for length in lengths):
            raise ValueError(
                f"`x` and `y` must hold {self.nested.num_examples} examples, "
                "the number of `nested`. Received: arrays of lengths "
                f"{lengths}"
            )
        if len(self._documents) > 1:
            raise ValueError(
                "`documents` must be a dict of one array. Received: "
                f"documents={sorted(self._documents)}"
            )

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return self.steps_per_epoch

    def __getitem__(self, index: int) -> tuple:
        """A batch: inputs, and labels if there are any."""
        active = self.nested.active
        size = self.batch_size
        key = (self.seed, self.epoch)
        own = active[places_of(index * size, size, len(active), (*key, 0))]
        x = keras.tree.map_structure(lambda one: one[own], self._x)
        for name, one in self._documents.items():
            many = self.documents_per_batch
            places = places_of(index * many, many, len(one), (*key, 1))
            x = {**x, name: one[places]}
        return (x,) if self._y is None else (x, self._y[own])

    def epoch_order(self) -> keras.callbacks.Callback:
        """A callback that gives each epoch its own order.

        Returns:
            A callback for `fit`; a new one for each call.
        """
        return EpochOrder(self)


class ConfidentLearning(keras.callbacks.Callback):
    """Drops examples that the models of a training do not trust.

    At the end of given epochs the model scores all examples that are left, a
    `NestedFilter` adds the scores up and drops the worst, and the training
    goes on with the others. With `EDST` the models are the tickets, each
    scored as it is finished: pass the last epochs of the refinements, after
    the callback `EDST` itself. No further model is trained.

    The epoch logs get `examples`, how many are left. To resume a killed
    training, pass this callback in the `callbacks` of
    `keras_freetickets.callbacks.Backup`, which then holds the filter too, and
    `shuffle=False` to `fit`: Keras (3.15) else shuffles batches that have
    their order already, by Python's `random`, whose state no backup holds.

    Args:
        nested: A `NestedFilter`, that of the `FilteredBatches`.
        score: Callable `(model, indices) -> scores`: an array with a number
            for each of the examples `indices`, the larger the more trusted.
        epochs: Iterable of non-negative integers, counted from 0, at the end
            of which examples are scored.

    Attributes:
        parts: Tuple of `nested`, whose state a backup holds.

    Raises:
        ValueError: If an argument is wrong.

    Example:

    ```python
    def score(model, indices):
        return label_scores(model.predict(x[indices]), y[indices])

    ends = [phase.stop_epoch - 1 for phase in edst.phases[1:]]
    confident = ConfidentLearning(nested, score, ends)
    model.fit(
        batches,
        epochs=edst.epochs,
        callbacks=[batches.epoch_order(), edst, confident],
    )
    ```

    Reference:
        Wang et al., 2021, arXiv:2109.04699; tickets as scorers are ours.
    """

    def __init__(
        self,
        nested: NestedFilter,
        score: Callable[[typing.Any, Array], Array],
        epochs: Iterable[int],
    ) -> None:
        super().__init__()
        if not isinstance(nested, NestedFilter):
            raise ValueError(
                f"`nested` must be a NestedFilter. Received: nested={nested!r}"
            )
        if not callable(score):
            raise ValueError(
                "`score` must be a callable of a model and indices. "
                f"Received: score={score!r}"
            )
        self.epochs = list(epochs)
        if not all(is_integer(e) and e >= 0 for e in self.epochs):
            raise ValueError(
                "`epochs` must hold non-negative integers. Received: "
                f"epochs={self.epochs}"
            )
        self.nested = nested
        self.parts = (nested,)
        self.score = score

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if epoch in self.epochs:
            scores = self.score(self.model, self.nested.active)
            self.nested.update(scores)
        if logs is not None:
            logs["examples"] = len(self.nested.active)
