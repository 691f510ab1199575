"""The base class of losses that keep a state."""

import typing
from collections.abc import Callable

from keras import ops

from keras_freetickets.types import Config
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


class Objective:
    """Base class of losses with a state; subclasses override `__call__`.

    A `keras.losses.Loss` has no variables, and Keras compiles none of its
    Python attributes into a step. An objective keeps its numbers as variables
    of the model (`scalar_state`, `tensor_state`): they change inside the
    compiled step, are part of a backup, and are restarted when another training
    begins.

    `model.set_objective(objective)` puts it in place of the compiled loss in
    training; `evaluate` keeps the compiled one. Register a subclass with
    `keras.saving.register_keras_serializable` if it is to be saved in a
    config.

    Args:
        from_logits: Whether `y_pred` are logits. An objective of
            probabilities needs a model that ends in a softmax; in training
            it is called with the logits beneath it and `from_logits=True`.
            Defaults to False, as in Keras' losses.

    Attributes:
        scalar_state: Dict from names to initial values of the floats that it
            keeps. Names are shared with those of methods, so begin them with
            a name of the objective.
        tensor_state: Dict from names to shapes of the float tensors that it
            keeps, which begin with zeros, such as examples of earlier batches.
            Names as in `scalar_state`.
        companion: Name of the callback in `keras_freetickets.callbacks`
            without which it cannot be trained in `fit`; `None` for none.

    Example:

    ```python
    class Normalized(keras_freetickets.losses.Objective):
        # Cross-entropy divided by its running mean.
        scalar_state = {"normalized_mean": 1.0}

        def __call__(self, y_true, y_pred, state, sample_weight=None,
                     of_replicas=keras.ops.ravel, from_logits=None):
            from_logits = self.is_from_logits(from_logits)
            loss = keras.ops.mean(
                keras.losses.sparse_categorical_crossentropy(
                    y_true, y_pred, from_logits=from_logits
                )
            )
            mean = state["normalized_mean"]
            now = keras.ops.mean(of_replicas(keras.ops.stop_gradient(loss)))
            mean.assign(0.9 * mean.value + 0.1 * now)
            return loss / mean.value

    model.set_objective(Normalized())
    ```
    """

    scalar_state: typing.ClassVar[dict[str, float]] = {}
    # An instance may have its own, as shapes depend on arguments.
    tensor_state: dict[str, tuple[int, ...]] = {}
    companion: typing.ClassVar[str | None] = None

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = bool(from_logits)

    def is_from_logits(self, from_logits: bool | None) -> bool:
        """Whether outputs are logits in this call.

        Args:
            from_logits: The argument of `__call__`, `None` for what the
                objective was made with.
        """
        return self.from_logits if from_logits is None else from_logits

    def __call__(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        state: dict[str, Variable],
        sample_weight: Tensor | None = None,
        of_replicas: Callable[[Tensor], Tensor] = ops.ravel,
        from_logits: bool | None = None,
    ) -> Tensor:
        """Returns the loss of a batch in training, and updates the state.

        Args:
            y_true: Targets of the batch.
            y_pred: Outputs of the model.
            state: Dict from the names of `scalar_state` and `tensor_state` to
                variables; it may hold others.
            sample_weight: Tensor of shape `(batch,)`, or `None`.
            of_replicas: Callable that takes a scalar of this replica's part
                of the batch and returns the vector of those of all replicas.
                The state describes the whole batch.
            from_logits: Whether `y_pred` are logits. `None` for what the
                objective was made with.

        Returns:
            Float scalar.
        """
        raise NotImplementedError  # abstract

    def get_config(self) -> Config:
        """The arguments of the objective."""
        return {"from_logits": self.from_logits}

    @classmethod
    def from_config(cls, config: Config) -> "Objective":
        """An objective of the arguments of `get_config`.

        Args:
            config: Dict of arguments.
        """
        return cls(**config)
