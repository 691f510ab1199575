"""MOON: a loss with a class for unknown inputs, and averaged late weights."""

import typing

import keras
from keras import ops

from keras_freetickets import losses
from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.drop_and_grow import method_of_kind
from keras_freetickets.callbacks.weight_averaging import WeightAveraging
from keras_freetickets.ensembles.members import gives_logits
from keras_freetickets.topology import methods
from keras_freetickets.types import Logs


class MOON(DropAndGrow):
    """MOON: a loss with a class for unknown inputs, and weight averaging.

    The model needs one output more than there are classes; the last output is
    for unknown inputs. `evaluate` and metrics treat it as a class without
    examples.

    Args:
        epochs: Positive integer, the epochs that `fit` runs.
        data: Training data for the statistics of batch normalization, as for
            `keras_freetickets.reestimate_batch_normalization`.
        method: A `keras_freetickets.topology.Method`. `None` for RigL with
            `**kwargs`.
        voting_epochs: Non-negative integer, how many of the last epochs are
            averaged, in addition to the one before them. Defaults to 20 (the
            released code, of 100 epochs).
        votes_per_epoch: Positive integer, how often per epoch the weights are
            added to the average, at equal distances. Defaults to 1 (paper).
            The released code uses the steps of the first tenth of each epoch,
            but seems to intend 10.
        learn_epochs: As for `keras_freetickets.losses.MOON`.
        alpha: As for `keras_freetickets.losses.MOON`.
        alpha_factor: As for `keras_freetickets.losses.MOON`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.RigL`, except for the
            defaults `rounding="ceil"` and `regrown="reset"` (the released
            code).

    Raises:
        ValueError: If an argument is out of range; `fit` runs a different
            number of epochs; the method needs a callback that MOON does not
            have (`AGENT`); the model is not functional or has several
            outputs, or these are neither logits nor a softmax; or a label in
            an epoch was the unknown class.

    Example:

    ```python
    moon = MOON(epochs=100, data=train, update_interval=80, stop_step=27_000)
    model.fit(train, epochs=100, callbacks=[moon])
    ```

    Reference:
        Lei et al., 2024, arXiv:2403.20047.
    """

    forwards_to = methods.RigL
    # How the released code counts and treats regrown connections.
    defaults = {"rounding": "ceil", "regrown": "reset"}

    def __init__(
        self,
        epochs: int,
        data: typing.Any = None,
        method: methods.Method | None = None,
        voting_epochs: int = 20,
        votes_per_epoch: int = 1,
        learn_epochs: int = 5,
        alpha: float = 1.0,
        alpha_factor: float = 64.0,
        track_ever_active: bool = False,
        **kwargs: typing.Any,
    ) -> None:
        self.objective = losses.MOON(epochs, learn_epochs, alpha, alpha_factor)
        method = method_of_kind(methods.Method, method, kwargs, self._rigl)
        _check_companions(method)
        check_count("voting_epochs", voting_epochs, least=0)
        if voting_epochs >= epochs:
            raise ValueError(
                f"`voting_epochs` must be less than `epochs`, which is {epochs}"
                f". Received: voting_epochs={voting_epochs}"
            )
        start_epoch = epochs - voting_epochs - 1
        self.averaging = WeightAveraging(start_epoch, data, votes_per_epoch)
        super().__init__(
            method,
            track_ever_active,
            companions=[self.averaging, _Objective(self.objective)],
        )

    def _rigl(self, **kwargs: typing.Any) -> methods.RigL:
        return methods.RigL(**{**self.defaults, **kwargs})


def _check_companions(method: methods.Method) -> None:
    others = [one for one in method.companions if one != "WeightAveraging"]
    if others:
        raise ValueError(
            "`method` must be one that MOON can train with: it does not make "
            f"the callbacks {others}, which {type(method).__name__} needs. "
            f"Received: method={type(method).__name__}"
        )


class _Objective(keras.callbacks.Callback):
    """Sets MOON's loss, and passes it the epoch."""

    def __init__(self, objective: losses.MOON) -> None:
        super().__init__()
        self.objective = objective

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if len(getattr(model, "outputs", None) or []) != 1:
            raise ValueError(
                "MOON trains a functional model with one output. Received: "
                f"a {type(model).__name__} with the outputs "
                f"{getattr(model, 'output_names', None)}"
            )
        self.objective.from_logits = _from_logits(model)
        model.run.defer(self._restore_loss)
        model.set_objective(self.objective)

    def _restore_loss(self) -> None:
        self.model.set_objective(None)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        epochs = self.params.get("epochs", self.objective.epochs)
        if epochs != self.objective.epochs:
            raise ValueError(
                "`epochs` must be the number of epochs of `fit`. Received: "
                f"MOON(epochs={self.objective.epochs}) and "
                f"fit(epochs={epochs})"
            )

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.model.update_state.state["moon_epoch"].assign(float(epoch + 1))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        state = self.model.update_state.state
        self.objective.check_labels(state, self.model.outputs[0].shape[-1])
        if logs is not None:
            alpha = state["moon_alpha"].value
            logs["alpha"] = float(ops.convert_to_numpy(alpha))


def _from_logits(model: keras.Model) -> bool:
    """Whether outputs are logits; the loss itself refuses other outputs."""
    try:
        return gives_logits(model)
    except ValueError:
        return False
