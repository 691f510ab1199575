"""Base classes of the metrics of classifiers."""

from typing import Any

import keras
from keras import ops

from keras_freetickets.arguments import check_boolean
from keras_freetickets.metrics import validation
from keras_freetickets.metrics.validation import Rows
from keras_freetickets.types import Tensor


class ClassificationMetric(keras.metrics.Metric):
    """Reads predictions and labels of any form; a subclass counts the rows.

    Args:
        from_logits: Whether predictions are logits.
        ignore_class: Integer, the label that is not counted, or `None`.
        name: Name of the metric.
        dtype: Unused; sums are kept in float32.
    """

    # The axis of the members, of metrics of several.
    members_axis: int | None = None
    # Whether only the largest class of each row is asked for.
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
        super().__init__(name=name, dtype=dtype)
        check_boolean("from_logits", from_logits)
        validation.check_ignore_class(ignore_class)
        self.from_logits = from_logits
        self.ignore_class = ignore_class

    def update_state(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> None:
        self.update_rows(
            validation.read_rows(
                y_true,
                y_pred,
                sample_weight,
                from_logits=self.from_logits,
                ignore_class=self.ignore_class,
                members_axis=self.members_axis,
                only_chosen=self.only_chosen,
                needs_labels=self.needs_labels,
            )
        )

    def update_rows(self, rows: Rows) -> None:
        """Adds rows to the state.

        Args:
            rows: `validation.Rows`.
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
        from_logits: Whether predictions are logits.
        ignore_class: Integer, the label that is not counted, or `None`.
        name: Name of the metric.
        dtype: Unused; sums are kept in float32.
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, ignore_class, name, dtype)
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
