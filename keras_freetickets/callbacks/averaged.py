"""Presets that end with an average of late weights: CigL and MOON."""

import warnings

from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.weight_averaging import WeightAveraging
from keras_freetickets.ensembles.members import gives_logits
from keras_freetickets.losses.moon import MOON as MoonLoss
from keras_freetickets.topology import methods

# How the released code of MOON counts and treats regrown connections.
_REGROWTH = {"rounding": "ceil", "regrown": "reset"}


def _check_given(method, kwargs):
    if method is not None and kwargs:
        raise ValueError(
            "Give either `method` or its arguments. "
            f"Received: method={method} and {sorted(kwargs)}"
        )


class _Averaged(DropAndGrow):
    """`DropAndGrow`, and `WeightAveraging` from some epoch on."""

    serves_members = False
    companion_of = ("CigL",)

    def __init__(
        self, method, start_epoch, data, votes_per_epoch, track_ever_active
    ):
        super().__init__(method, track_ever_active=track_ever_active)
        self.averaging = WeightAveraging(start_epoch, data, votes_per_epoch)

    def set_params(self, params):
        super().set_params(params)
        self.averaging.set_params(params)

    def set_model(self, model):
        super().set_model(model)
        self.averaging.set_model(model)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.averaging.on_train_begin(logs)
        self._warn_if_the_topology_moves()

    def _warn_if_the_topology_moves(self):
        """A connection that comes late is averaged with zeros."""
        batches, stop = self.params.get("steps"), self.method.stop_step
        # The first average is taken at the end of its epoch.
        rests = batches and batches * (self.averaging.start_epoch + 1)
        if stop is not None and (not rests or stop <= rests):
            return
        warnings.warn(
            "The topology may change while weights are averaged, from the end "
            f"of epoch {self.averaging.start_epoch} on: let it rest by "
            f"`stop_step`, in optimizer updates. Received: stop_step={stop}",
            stacklevel=2,
        )

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.averaging.on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self.averaging.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.averaging.on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        self.averaging.on_train_end(logs)
        super().on_train_end(logs)


def _from_logits(model):
    """Whether outputs are logits; a loss of logits refuses what is neither."""
    try:
        return gives_logits(model)
    except ValueError:
        return False


class CigL(_Averaged):
    """Calibrated sparse training: a random second mask, and averaging.

    In every step a few active weights are switched off at random. From an
    epoch on, what the steps computed with is averaged; the model is left with
    the average when training ends. Validation during the training is of the
    model that trains, not of the average.

    Args:
        start_epoch: Non-negative integer, the first epoch to be averaged,
            counted from 0, after the topology has come to rest. The released
            code begins with the 200th of 250, which is 199.
        data: Training data for the statistics of batch normalization, as for
            `keras_freetickets.reestimate_batch_normalization`.
        votes_per_epoch: Positive integer, how often in an epoch the weights
            enter the average. Defaults to 1 (paper).
        track_ever_active: As for `DropAndGrow`.
        method: A `keras_freetickets.topology.CigL`. `None` for one made from
            the arguments that follow.
        **kwargs: As for `keras_freetickets.topology.CigL`: `random_drop`,
            `update_interval`, `drop_fraction`, `stop_step` ...

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    cigl = CigL(start_epoch=199, data=train, random_drop=0.1, stop_step=66_000)
    model.fit(train, epochs=250, callbacks=[cigl])
    ```

    Reference:
        Lei et al., 2023, arXiv:2302.09369.
    """

    forwards_to = methods.CigL

    def __init__(
        self,
        start_epoch,
        data=None,
        votes_per_epoch=1,
        track_ever_active=False,
        method=None,
        **kwargs,
    ):
        _check_given(method, kwargs)
        method = methods.CigL(**kwargs) if method is None else method
        if not isinstance(method, methods.CigL):
            raise ValueError(
                "`method` must be a keras_freetickets.topology.CigL. "
                f"Received: method={method}"
            )
        super().__init__(
            method, start_epoch, data, votes_per_epoch, track_ever_active
        )


class MOON(_Averaged):
    """Training that embraces the unknown: MOON's loss, and voting.

    The model has one output more than there are classes, the last for the
    unknown; `evaluate` and metrics take it for a class that never comes.

    Args:
        epochs: Positive integer, the epochs that `fit` runs.
        data: Training data for the statistics of batch normalization, as for
            `keras_freetickets.reestimate_batch_normalization`.
        method: A `keras_freetickets.topology.Method`. `None` for RigL with
            the arguments that follow.
        voting_epochs: Natural number, how many of the last epochs are
            averaged, besides the one before them. Defaults to 20 (the
            released code, of 100).
        votes_per_epoch: Positive integer, how often in an epoch the weights
            enter the average, at equal distances. Defaults to 1 (paper). The
            released code takes the steps of the first tenth of each epoch;
            10 is what it seems to mean.
        learn_epochs: As for `keras_freetickets.losses.MOON`.
        alpha: As for `keras_freetickets.losses.MOON`.
        alpha_factor: As for `keras_freetickets.losses.MOON`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.RigL`, but for
            `rounding="ceil"` and `regrown="reset"` (the released code).

    Raises:
        ValueError: If an argument is out of range, `fit` runs another
            number of epochs, the model has no graph or several outputs, these
            are neither logits nor a softmax or, after an epoch, a label stood
            for the unknown.

    Example:

    ```python
    moon = MOON(epochs=100, data=train, update_interval=80, stop_step=27_000)
    model.fit(train, epochs=100, callbacks=[moon])
    ```

    Reference:
        Lei et al., 2024, arXiv:2403.20047.
    """

    forwards_to = methods.RigL
    defaults = _REGROWTH

    def __init__(
        self,
        epochs,
        data=None,
        method=None,
        voting_epochs=20,
        votes_per_epoch=1,
        learn_epochs=5,
        alpha=1.0,
        alpha_factor=64.0,
        track_ever_active=False,
        **kwargs,
    ):
        self.objective = MoonLoss(epochs, learn_epochs, alpha, alpha_factor)
        _check_given(method, kwargs)
        if method is None:
            kwargs = {**_REGROWTH, **kwargs}
            method = methods.RigL(**kwargs)
        check_count("voting_epochs", voting_epochs, least=0)
        if voting_epochs >= epochs:
            raise ValueError(
                f"`voting_epochs` must be less than `epochs`, which is {epochs}"
                f". Received: voting_epochs={voting_epochs}"
            )
        start_epoch = epochs - voting_epochs - 1
        super().__init__(
            method, start_epoch, data, votes_per_epoch, track_ever_active
        )

    def set_model(self, model):
        super().set_model(model)
        if len(getattr(model, "outputs", None) or []) != 1:
            raise ValueError(
                "MOON trains a model with a graph and one output. Received: "
                f"a {type(model).__name__} with the outputs "
                f"{getattr(model, 'output_names', None)}"
            )
        self.objective.from_logits = _from_logits(model)
        model.set_objective(self.objective)

    def release(self):
        super().release()
        self.model.set_objective(None)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        epochs = self.params.get("epochs", self.objective.epochs)
        if epochs != self.objective.epochs:
            raise ValueError(
                "`epochs` must be what `fit` runs. Received: "
                f"MOON(epochs={self.objective.epochs}) and "
                f"fit(epochs={epochs})"
            )

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.model.update_state.state["moon_epoch"].assign(float(epoch + 1))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        state = self.model.update_state.state
        self.objective.check_labels(state, self.model.outputs[0].shape[-1])
        if logs is not None:
            alpha = state["moon_alpha"].value
            logs["alpha"] = float(ops.convert_to_numpy(alpha))
