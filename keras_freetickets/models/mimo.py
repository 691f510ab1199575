"""MIMO: subnetworks that share one network and predict in one pass."""

import typing

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import is_within
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.members import gives_logits
from keras_freetickets.losses.objective import Objective
from keras_freetickets.models import logits
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.topology.randomness import bits_at
from keras_freetickets.topology.randomness import random_keys
from keras_freetickets.topology.randomness import typed
from keras_freetickets.types import Array
from keras_freetickets.types import Config
from keras_freetickets.types import Model
from keras_freetickets.types import PathLike
from keras_freetickets.types import Tensor

# Shares of a batch are multiples of 1/10,000, because integers are exact.
_PARTS = 10_000
_ONE = np.uint32(1)


def _check_body(body, num_members):
    graph = len(getattr(body, "inputs", None) or []) == 1
    if not graph or len(body.outputs) != 1:
        raise ValueError(
            "`body` must be a Functional or Sequential model with one input "
            f"and one output. Received: body of type {type(body).__name__}"
        )
    ends = {
        "inputs, the last axis": body.inputs[0].shape[-1],
        "outputs": body.outputs[0].shape[-1],
    }
    for end, size in ends.items():
        if size is None or size % num_members:
            raise ValueError(
                f"`body` must have {num_members} times the {end} of one "
                f"member. Received: {size} for num_members={num_members}"
            )
    if len(body.outputs[0].shape) != 2 or ends["outputs"] == num_members:
        raise ValueError(
            "`body` must return the logits of all members, (batch, members * "
            f"classes), for two classes or more. Received: "
            f"{body.outputs[0].shape} for num_members={num_members}"
        )
    if not gives_logits(body):
        raise ValueError(
            "`body` must return logits, because each member has its own "
            "softmax: build it with classifier_activation=None. "
            f"Received: body={body.name!r} with a softmax at its end"
        )


def check_share(value: typing.Any) -> None:
    if not is_within(value, "[0, 1]"):
        raise ValueError(
            "`input_repetition` must be in [0, 1]: the share of rows in which "
            "all members see the same image. "
            f"Received: input_repetition={value!r}"
        )


def _check_loss(loss):
    for one in keras.tree.flatten(loss):
        if getattr(one, "from_logits", False):
            raise ValueError(
                "`loss` must take probabilities, because this model returns "
                "them. (In training, cross-entropies use the logits.) "
                f"Received: loss={type(one).__name__}(from_logits=True)"
            )


def mixed_rows(
    size: Tensor,
    num_members: int,
    repetitions: int,
    input_repetition: float,
    seed: int,
    step: Tensor,
) -> Tensor:
    """Which example of a batch each member sees in each row.

    Args:
        size: Integer or integer tensor, examples in the batch.
        num_members: Positive integer.
        repetitions: Positive integer, how often each member sees an example.
        input_repetition: Float in [0, 1], the share of rows at the end in
            which all members see the same example; rounded to 1/10,000.
        seed: Non-negative integer.
        step: Integer tensor; each step has a different order.

    Returns:
        `int32` tensor of shape `(num_members, repetitions * size)`: indices
        of examples.

    Example:

    ```python
    rows = mixed_rows(128, 3, 4, 0.6, seed=0, step=0)  # (3, 512)
    ```

    Reference:
        Havasi et al., 2021, arXiv:2010.06610; google/uncertainty-baselines.
    """
    count = size * repetitions
    position = ops.arange(count, dtype="int32")
    keys = random_keys(seed, step, range(num_members + 1))
    # Shifted by one bit, to fit in non-negative `int32`.
    bits = [
        ops.cast(ops.right_shift(bits_at(position, key), typed(_ONE)), "int32")
        for key in ops.unstack(keys, num_members + 1)
    ]
    main = ops.argsort(bits[-1]) % size
    apart = count * (_PARTS - round(input_repetition * _PARTS)) // _PARTS
    last = np.int32(np.iinfo(np.int32).max)
    # Sorting is stable, so the common rows keep their places.
    orders = [
        ops.argsort(ops.where(position < apart, b, last)) for b in bits[:-1]
    ]
    return ops.stack([ops.take(main, order) for order in orders])


@keras.saving.register_keras_serializable(package="keras_freetickets")
class MIMO(SparseModel):
    """An ensemble of subnetworks in one network, each with an input and a head.

    In training each member sees a different image of the batch and learns to
    predict its label. In prediction all members see the same image, and their
    probabilities are averaged: an ensemble at the cost of one prediction.
    `fit` takes images and labels like any classifier; the model mixes the
    batches itself. It is a `SparseModel`: a body with `Sparse` layers trains
    sparse.

    In training, cross-entropies are computed from the members' logits, so that
    examples that are confidently wrong have a gradient too. Other losses get
    probabilities; if they clip these (Keras' focal cross-entropy and
    Kullback-Leibler divergence), such examples have none.

    Batch normalization collects its statistics on mixed images but applies
    them to equal ones; an `input_repetition` above 0 reduces the difference.

    Args:
        body: A built Functional or Sequential model, dense or from `sparsify`.
            It maps the members' inputs, joined along the last axis (channel
            `c * num_members + m` is channel c of member m), to the logits of
            all members, `(batch, num_members * classes)`.
        num_members: Positive integer. Defaults to 3 (paper, CIFAR).
        batch_repetitions: Positive integer, how often a member sees each
            image of a batch in one step. The cost of a step is multiplied by
            it. Defaults to 4 (google/uncertainty-baselines, CIFAR).
        input_repetition: Float in [0, 1], the share of rows in which all
            members see the same image. Defaults to 0
            (google/uncertainty-baselines, CIFAR; 0.6 for ImageNet).
        seed: Non-negative integer that decides how images are mixed.
        name: Name of the model.
        **kwargs: Arguments that Keras adds when it loads a model.

    Raises:
        ValueError: If an argument is out of range, or the numbers of the
            body's inputs and logits are not multiples of `num_members`.

    Example:

    ```python
    body = small_cnn((28, 28, 3), 30, classifier_activation=None)
    mimo = keras_freetickets.MIMO(body, num_members=3)
    mimo.compile("sgd", "sparse_categorical_crossentropy", metrics=["acc"])
    mimo.fit(x, y)  # images (examples, 28, 28, 1), labels of 10 classes
    ensemble = mimo.ensemble()
    ```

    Reference:
        Havasi et al., 2021, arXiv:2010.06610.
    """

    def __init__(
        self,
        body: Model,
        num_members: int = 3,
        batch_repetitions: int = 4,
        input_repetition: float = 0.0,
        seed: int = 0,
        name: str | None = None,
        **kwargs: typing.Any,
    ) -> None:
        check_count("num_members", num_members)
        check_count("batch_repetitions", batch_repetitions)
        check_count("seed", seed, least=0)
        check_share(input_repetition)
        _check_body(body, num_members)
        super().__init__(name=name, **kwargs)
        self.body = body
        self.num_members = num_members
        self.batch_repetitions = batch_repetitions
        self.input_repetition = input_repetition
        self.seed = seed
        self.built = True
        self.add_batch_transform(self._mix)

    @property
    def input_shape(self) -> tuple:
        """The shape of a batch of images for one member."""
        *shape, channels = self.body.inputs[0].shape
        return (*shape, channels // self.num_members)

    def _mix(self, x, y, sample_weight, step):
        """Makes a batch with members on axis 1, each with a different image."""
        _check_loss(self.loss)
        rows = mixed_rows(
            ops.shape(x)[0],
            self.num_members,
            self.batch_repetitions,
            self.input_repetition,
            self.seed,
            step,
        )
        rows = ops.transpose(rows)

        def taken(values):
            return None if values is None else ops.take(values, rows, axis=0)

        return taken(x), taken(y), taken(sample_weight)

    def call(self, x: typing.Any, training: bool | None = None) -> typing.Any:
        """Returns probabilities; log-probabilities within `training_scope`.

        Args:
            x: Images `(batch, ...)`, or `(batch, members, ...)` with a
                separate image for each member.
            training: Whether layers are in training mode.

        Returns:
            Tensor `(batch, classes)`, the members' mean, or
            `(batch, members, classes)` for separate images.
        """
        rank = len(x.shape)
        apart = rank > len(self.body.inputs[0].shape)
        if apart:
            joined = ops.transpose(x, (0, *range(2, rank), 1))
            shape = (-1, *x.shape[2:-1], x.shape[-1] * self.num_members)
            x = ops.reshape(joined, shape)
        else:
            x = ops.repeat(x, self.num_members, axis=-1)
        y = self.body(x, training=training)
        y = ops.reshape(y, (-1, self.num_members, self.num_classes))
        y = ops.cast(y, "float32")
        if not logits.in_training(self):
            p = ops.softmax(y)
            return p if apart else ops.mean(p, axis=1)
        log_p = ops.log_softmax(y)
        if apart:
            return log_p
        count = np.float32(np.log(self.num_members))
        return ops.logsumexp(log_p, axis=1) - count

    @property
    def num_classes(self) -> int:
        return self.body.outputs[0].shape[-1] // self.num_members

    def compute_output_shape(self, input_shape: typing.Any) -> typing.Any:
        return (input_shape[0], self.num_classes)

    def compute_loss(
        self,
        x: typing.Any = None,
        y: typing.Any = None,
        y_pred: Tensor = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        members = 1
        if len(y_pred.shape) == 3:
            members = self.num_members
            y, y_pred, sample_weight = _one_a_row(y, y_pred, sample_weight)
        compiled = keras_adapter.compiled_loss(self)
        if logits.in_training(self):
            of_logits = logits.loss_of_logits(self.loss, y)
            if of_logits is None:
                y_pred = ops.exp(y_pred)
            else:
                compiled = keras_adapter.compiled_as(self, of_logits)
        loss = compiled(y, y_pred, sample_weight)
        # The sum of the members' mean losses; penalties count once.
        return members * loss + keras_adapter.penalties(self)

    def compute_metrics(
        self,
        x: typing.Any,
        y: typing.Any,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> dict:
        if logits.in_training(self):
            y_pred = ops.exp(y_pred)
        if len(y_pred.shape) == 3:
            y, y_pred, sample_weight = _one_a_row(y, y_pred, sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def set_objective(self, objective: Objective | None) -> None:
        if objective is not None:
            raise ValueError(
                "MIMO supports only the compiled loss, because each member "
                "has its own loss. "
                f"Received: objective={type(objective).__name__}"
            )
        super().set_objective(objective)

    def predictor(self, average: bool = True) -> Model:
        """The network for prediction: maps images to probabilities.

        Args:
            average: Whether to average over the members.

        Returns:
            A Functional model that shares the layers of this one and is sparse
            if the body is. It maps images to probabilities
            `(batch, classes)`, or `(batch, members, classes)` if not averaged.
        """
        images = keras.Input(
            self.input_shape[1:], dtype=self.body.inputs[0].dtype
        )
        logits = self.body(ops.repeat(images, self.num_members, axis=-1))
        x = keras.layers.Reshape((self.num_members, self.num_classes))(logits)
        x = keras.layers.Softmax(dtype="float32")(x)
        if average:
            x = keras.layers.GlobalAveragePooling1D(dtype="float32")(x)
        kind = SparseModel if self.masked_kernels else keras.Model
        return kind(images, x, name=self.name)

    def export(
        self, filepath: PathLike, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        """Exports the `predictor`, as `keras.Model.export` does.

        Args:
            filepath: Path to write to.
            *args: As for `keras.Model.export`.
            **kwargs: As for `keras.Model.export`.

        Example:

        ```python
        mimo.export("saved_model")
        ```
        """
        return self.predictor().export(filepath, *args, **kwargs)

    def predict_members(self, x: typing.Any, batch_size: int = 32) -> Array:
        """Class probabilities of each member.

        Args:
            x: As for `predict`.
            batch_size: Positive integer, for arrays.

        Returns:
            Array of shape `(members, examples, classes)`.
        """
        view = self.predictor(average=False)
        made = view.predict(x, batch_size=batch_size, verbose=0)
        return np.moveaxis(made, 1, 0)

    def ensemble(self) -> EnsembleModel:
        """Returns an `EnsembleModel` that contains only this network.

        The heads are averaged within it, so it reports no disagreement. For
        the predictions of each head call `predict_members` of this model.
        """
        return EnsembleModel([self.predictor()])

    def get_config(self) -> Config:
        return {
            "body": keras.saving.serialize_keras_object(self.body),
            "num_members": self.num_members,
            "batch_repetitions": self.batch_repetitions,
            "input_repetition": self.input_repetition,
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: dict | None = None
    ) -> typing.Any:
        body = keras.saving.deserialize_keras_object(
            config["body"], custom_objects=custom_objects
        )
        return cls(**{**config, "body": body})


def _one_a_row(y, y_pred, sample_weight):
    """Flattens members and examples of labels, probabilities and weights."""

    def flat(values):
        if values is None:
            return None
        return ops.reshape(values, (-1, *values.shape[2:]))

    return flat(y), flat(y_pred), flat(sample_weight)
