"""What is exported: one graph of plain layers, without masks.

Converters keep all that a graph reads. A mask that is not in it cannot end up
in a file, and zeros are where the masks were.
"""

import typing
import warnings
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.calibration.calibrated_model import CalibratedModel
from keras_freetickets.deployment.arrays import is_kernel
from keras_freetickets.ensembles import pooling as pools
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.ensembles.members import check_copied_by_config
from keras_freetickets.ensembles.members import revived
from keras_freetickets.ensembles.members import uncompiled
from keras_freetickets.ensembles.outputs import probabilities
from keras_freetickets.models.conversion import strip
from keras_freetickets.models.mimo import MIMO
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Array
from keras_freetickets.types import Tensor


@keras.saving.register_keras_serializable(package="keras_freetickets")
class PoolMembers(keras.layers.Layer):
    """Pools the outputs of members by a function, as `EnsembleModel` does.

    Args:
        pooling: Function from a tensor `(members, batch, ...)` to a tensor or
            a structure of tensors, registered with Keras if the model is to
            be saved.
        **kwargs: Further arguments of `keras.layers.Layer`.
    """

    def __init__(self, pooling: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(**kwargs)
        self.pooling = pools.pooling_of(pooling)

    def call(self, outputs: list[Tensor]) -> typing.Any:
        return self.pooling(ops.stack(outputs))

    def get_config(self) -> dict[str, typing.Any]:
        pooling = pools.pooling_config(self.pooling)
        return {**super().get_config(), "pooling": pooling}


def plain_model(model: keras.Model) -> keras.Model:
    """The model as plain Keras layers that predict the same.

    Args:
        model: A built Keras model: a `SparseModel`, a stripped or another
            plain model, an `EnsembleModel`, `MIMO`, or a `CalibratedModel` of
            these.

    Returns:
        A Functional model, or `model` itself if it has no graph of layers or
        is plain already. Members are the layers `member_0`, `member_1`, ...
        The model shares no variable with a sparse one.

    Raises:
        ValueError: If a layer cannot be copied without its masks, or one
            within a calibrated model is quantized by calibration.

    Example:

    ```python
    plain = keras_freetickets.deployment.plain_model(ensemble)
    plain.export("served", verbose=False)
    ```
    """
    if isinstance(model, CalibratedModel):
        return _calibrated(model)
    if isinstance(model, EnsembleModel):
        return _ensemble(model)
    if isinstance(model, MIMO):
        return plain_model(model.predictor())
    is_graph = isinstance(model, keras_adapter.Functional)
    if isinstance(model, SparseModel) and is_graph:
        return strip(model)
    return model


def one_network(model: keras.Model) -> keras.Model:
    """One of the networks that a model holds, to compare sizes with.

    Args:
        model: As for `plain_model`.

    Returns:
        As `plain_model`: the model itself, or the first member.
    """
    if isinstance(model, CalibratedModel):
        return one_network(model.model)
    if isinstance(model, EnsembleModel):
        return plain_model(model.member(0))
    return plain_model(model)


def with_uncertainty(model: EnsembleModel) -> keras.Model:
    """An ensemble as one graph that returns how uncertain it is, too.

    For servers and devices, where there is no `predict_uncertainty`: write it
    by `export`, and its outputs have these names in the file.

    Args:
        model: `EnsembleModel` whose pooling is given by name.

    Returns:
        A Functional model that returns a dict. Of classifiers:
        `"probabilities"`, the mean of the members', `(batch, ..., classes)`;
        `"members"`, theirs, `(batch, members, ..., classes)`; and
        `"mutual_information"`, `(batch, ...)`, their disagreement in nats. Of
        regressors: `"mean"`, `"members"` and `"variance"`, that of the mixture
        if the members predict variances, else that of their predictions;
        both `(batch, ..., outputs)`.

    Raises:
        ValueError: If it is no `EnsembleModel`, or its pooling is a function.

    Example:

    ```python
    graph = keras_freetickets.deployment.with_uncertainty(ensemble)
    keras_freetickets.export(graph, "run/ensemble.onnx")
    ```
    """
    if not isinstance(model, EnsembleModel) or callable(model.pooling):
        raise ValueError(
            "`model` must be an EnsembleModel whose pooling is given by name. "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )
    inputs, outputs = _members(model)
    members = _readable(model, outputs)
    stacked = ops.stack(members)
    found = {"members": ops.stack(members, axis=1)}
    if model.is_classifier:
        mean = ops.mean(stacked, axis=0)
        expected = ops.mean(_entropy(stacked), axis=0)
        found["probabilities"] = mean
        # Rounding may take it below zero.
        found["mutual_information"] = ops.maximum(
            _entropy(mean) - expected, 0.0
        )
    elif model.pooling == "mean_and_variance":
        both = pools.mean_and_variance(stacked)
        found["mean"], found["variance"] = ops.split(both, 2, axis=-1)
    else:
        found["mean"] = ops.mean(stacked, axis=0)
        found["variance"] = ops.var(stacked, axis=0)
    return keras.Model(inputs, found, name=model.name)


def _entropy(probabilities: Tensor) -> Tensor:
    """Entropy of distributions over the last axis, in nats."""
    if probabilities.shape[-1] == 1:
        probabilities = ops.concatenate(
            [1.0 - probabilities, probabilities], axis=-1
        )
    # 0 * log 0 is 0; the smallest number that a runtime may not flush to it.
    logarithms = ops.log(ops.maximum(probabilities, 1e-37))
    return -ops.sum(probabilities * logarithms, axis=-1)


def copied(model: keras.Model) -> keras.Model:
    """A copy of a plain model, which may be changed.

    Args:
        model: A model as `plain_model` returns it.

    Raises:
        ValueError: If a layer is quantized by calibration (GPTQ, AWQ), which
            is not in its config, or the config does not build the model.
    """
    check_copied_by_config(model)
    return _with_weights_of(model, revived(uncompiled(model)))


def _with_weights_of(model: keras.Model, copy: keras.Model) -> keras.Model:
    """A model that a config has built, with the weights of the given one."""
    if len(copy.weights) != len(model.weights):
        raise ValueError(
            "`model` must be rebuilt by its config to be copied, as models "
            f"with a graph of layers are. Received: model={model.name!r} of "
            f"type {type(model).__name__}"
        )
    for own, theirs in zip(copy.weights, model.weights, strict=True):
        own.assign(ops.convert_to_numpy(theirs.value))
    keras_adapter.copy_adapted_state(model, copy)
    return copy


def unrolled(model: keras.Model) -> keras.Model:
    """A model whose recurrent layers are written out, step by step.

    LiteRT and OpenVINO have no lists of tensors, which loops over steps are
    made with. The number of steps has to be known.

    Args:
        model: A model as `plain_model` returns it.

    Returns:
        A copy, or the model itself if it has no recurrent layer, or one whose
        number of steps is left open.
    """
    steps = [
        part.input.shape[1]
        for part in keras_adapter.sublayers(model)
        if getattr(part, "unroll", True) is False
    ]
    if not steps or None in steps:
        return model
    check_copied_by_config(model)
    return _with_weights_of(model, revived(_unrolled(uncompiled(model))))


def _unrolled(config: typing.Any) -> typing.Any:
    """A config with the setting `unroll` everywhere."""
    if isinstance(config, dict):
        return {
            key: True if key == "unroll" else _unrolled(value)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [_unrolled(value) for value in config]
    return config


def quantized(model: keras.Model) -> keras.Model:
    """A copy of a plain model in 8 bits, as Keras quantizes it.

    Args:
        model: A model as `plain_model` returns it.
    """
    copy = copied(model)
    with warnings.catch_warnings():
        # Of each layer that has nothing to quantize.
        warnings.filterwarnings("ignore", "Layer .* does not have a `quantize")
        copy.quantize("int8")
    return copy


def outputs_of(
    model: keras.Model, specs: typing.Any, inputs: Sequence[Array]
) -> list[Array]:
    """What a Keras model predicts for an array for each of its inputs.

    Args:
        model: A built Keras model.
        specs: Specs in the structure of its inputs, or `None` for one input.
        inputs: List of arrays in the order of the specs.

    Returns:
        List of its outputs.
    """
    packed: typing.Any = inputs[0]
    if specs is not None:
        packed = keras.tree.pack_sequence_as(specs, list(inputs))
    found = model.predict(packed, verbose=0)
    return [np.asarray(one) for one in keras.tree.flatten(found)]


def kernels_of(model: keras.Model) -> list[Array]:
    """The values of all weights that have two axes longer than one.

    Args:
        model: A built Keras model.

    Returns:
        List of arrays.
    """
    return [
        np.asarray(ops.convert_to_numpy(weight.value))
        for weight in model.weights
        if is_kernel(weight.shape)
    ]


def _ensemble(model: EnsembleModel) -> keras.Model:
    inputs, members = _members(model)
    if callable(model.pooling):
        outputs = PoolMembers(model.pooling, name="pooling")(members)
    elif model.pooling == "mean_and_variance":
        outputs = pools.mean_and_variance(ops.stack(members))
    elif model.pooling == "mean_logits":
        wide = [ops.cast(member, "float32") for member in members]
        outputs = pools.mean_of_logits(ops.stack(wide), bool(model.from_logits))
    else:
        outputs = _mean(_readable(model, members))
    return keras.Model(inputs, outputs, name=model.name)


def _members(model: EnsembleModel) -> tuple[typing.Any, list[Tensor]]:
    """New inputs, and what each member makes of them."""
    parts = [plain_model(model.member(i)) for i in range(model.num_members)]
    structure, _ = keras_adapter.ends_of_graph(parts[0])
    inputs = keras.tree.map_structure(keras_adapter.new_input, structure)
    outputs = []
    for i, part in enumerate(parts):
        part.name = f"member_{i}"
        outputs.append(part(inputs))
    return inputs, outputs


def _readable(model: EnsembleModel, members: list[Tensor]) -> list[Tensor]:
    """What members predict, as `EnsembleModel.predict_members` reads it."""
    if model.is_classifier:
        return [probabilities(one, model.from_logits) for one in members]
    return [pools.widened(one) for one in members]


def _mean(members: list[Tensor]) -> Tensor:
    if len(members) == 1:
        return members[0]
    return keras.layers.Average(dtype="float32", name="mean")(members)


def _calibrated(model: CalibratedModel) -> keras.Model:
    if model.order == "members_first":
        inputs, members = _members(model.model)
        read = _readable(model.model, members)
        pairs = zip(model.calibrators, read, strict=True)
        outputs = _mean([calibrator(one) for calibrator, one in pairs])
    else:
        part = plain_model(model.model)
        if not getattr(part, "inputs", None):
            return model
        structure, _ = keras_adapter.ends_of_graph(part)
        inputs = keras.tree.map_structure(keras_adapter.new_input, structure)
        part = part if part is not model.model else copied(part)
        part.name = "uncalibrated"
        outputs = model.calibrators[0](part(inputs))
    return keras.Model(inputs, outputs, name=model.name)
