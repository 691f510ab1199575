"""Base classes of the metrics of classifiers."""

from typing import Any

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_boolean
from keras_freetickets.metrics import validation
from keras_freetickets.metrics.validation import Rows
from keras_freetickets.types import Tensor


class ClassificationMetric(keras.metrics.Metric):
    """Reads predictions and labels of any form; a subclass counts the rows.

    Args:
        from_logits: Whether predictions are logits.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).
        name: Name of the metric; `None` (default) for `default_name`.
        dtype: Unused; sums are kept in float32.
    """

    # The name of a metric that is given none; `None` for Keras' choice.
    default_name: str | None = None
    # Which way is better, "up" or "down", for callbacks that monitor it.
    direction: str | None = None
    # The axis of the members, in metrics of ensembles.
    members_axis: int | None = None
    # Whether the metric needs only the most probable class of each row.
    only_chosen = False
    # Whether labels have to be classes of the predictions.
    needs_labels = True

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name or self.default_name, dtype=dtype)
        check_boolean("from_logits", from_logits)
        validation.check_ignore_class(ignore_class)
        self.from_logits = from_logits
        self.ignore_class = ignore_class
        if self.direction is not None:
            keras_adapter.set_direction(self, self.direction)
        self.make_state()

    def make_state(self) -> None:
        """Adds the variables of the state.

        A subclass overrides it, or adds them at the end of its `__init__`
        where their shapes depend on its arguments.
        """

    def update_state(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> None:
        self.update_rows(self.read(y_true, y_pred, sample_weight))

    def read(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None
    ) -> Any:
        """What `update_rows` is handed.

        Args:
            y_true, y_pred, sample_weight: As for `update_state`.

        Returns:
            `validation.Rows`.
        """
        return validation.read_rows(
            y_true,
            y_pred,
            sample_weight,
            from_logits=self.from_logits,
            ignore_class=self.ignore_class,
            members_axis=self.members_axis,
            only_chosen=self.only_chosen,
            needs_labels=self.needs_labels,
        )

    def update_rows(self, rows: Any) -> None:
        """Adds rows to the state.

        Args:
            rows: What `read` returns.
        """
        raise NotImplementedError  # abstract

    def _zeros(self, name, shape=()):
        return self.add_variable(
            shape=shape, initializer="zeros", dtype="float32", name=name
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
            "name": self.name,
            "dtype": self.dtype,
        }


class MeanOfRows(ClassificationMetric):
    """Mean over rows, by their weights, of what a subclass makes of them.

    Args:
        from_logits, ignore_class, name, dtype: As for `ClassificationMetric`.
    """

    def make_state(self) -> None:
        self.total = self._zeros("total")
        self.weight = self._zeros("weight")

    def values(self, rows: Rows) -> Tensor:
        """One number for each row.

        Args:
            rows: `validation.Rows`.

        Returns:
            Tensor `(rows,)`.
        """
        raise NotImplementedError  # abstract

    def update_rows(self, rows: Rows) -> None:
        self.total.assign_add(ops.sum(self.values(rows) * rows.weights))
        self.weight.assign_add(ops.sum(rows.weights))

    def result(self) -> Tensor:
        return ops.divide_no_nan(self.total.value, self.weight.value)
