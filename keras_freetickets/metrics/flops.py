"""Theoretical FLOPs: two for each multiply-accumulate of a kernel.

The multiplications of kernels are counted, nothing else: no normalization,
activation, pooling, loss, nor the products of queries and keys. Masks only
simulate sparsity, so these numbers say what hardware for sparse kernels could
save, never what was saved.

Which layer is called how often and on which shapes is seen by tracing the
model once on symbolic tensors while every layer notes its calls. So nested
models, wrappers, shared layers, attention and layers made of layers need no
rule of their own. What no rule covers costs NaN, and a note names it: give a
layer that multiplies by weights of its own a rule with `register_rule`.
"""

import dataclasses
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras
from keras import layers
from keras import tree

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_model
from keras_freetickets.arguments import is_integer
from keras_freetickets.arguments import is_within
from keras_freetickets.metrics.flop_rules import CONV_LSTM
from keras_freetickets.metrics.flop_rules import cell_rule
from keras_freetickets.metrics.flop_rules import cells_of
from keras_freetickets.metrics.flop_rules import embedding_rule
from keras_freetickets.metrics.flop_rules import positions
from keras_freetickets.metrics.flop_rules import product
from keras_freetickets.metrics.flop_rules import register_rule
from keras_freetickets.metrics.flop_rules import rule_of
from keras_freetickets.metrics.flop_rules import size_of
from keras_freetickets.types import Tensor

__all__ = [
    "KernelCost",
    "KernelMacs",
    "forward_flops",
    "kernel_macs",
    "open_inputs",
    "register_rule",
    "training_flops_per_sample",
]


@dataclasses.dataclass
class KernelCost:
    """What a kernel costs in the forward pass of one example.

    The arguments are the attributes.

    Args:
        kernel: The Keras variable.
        path: String, path of the layer that owns it.
        macs: Integer, multiply-accumulates summed over all calls, or NaN
            where they are unknown.
        size: Integer, number of weights; a variable quantized to int4 has
            half as many entries.

    Example:

    >>> model = keras.Sequential([keras.Input((300,)), layers.Dense(100)])
    >>> (cost,) = kernel_macs(model).values()
    >>> cost.macs
    30000
    """

    kernel: Any
    path: str
    macs: float
    size: int


class KernelMacs(dict):
    """Dict from `id(kernel)` to `KernelCost`.

    Attributes:
        notes: List of strings, what could not be counted and why.

    Example:

    ```python
    kernel_macs(model).notes
    ```
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []


# Layers whose weights of rank 2 and more are looked up, or multiply entry by
# entry.
_NO_KERNELS = (
    layers.BatchNormalization,
    layers.Embedding,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.PReLU,
    layers.RMSNormalization,
    layers.SpectralNormalization,
)


def _first_shape(tensors):
    flat = tree.flatten(tensors)
    return next(tuple(t.shape) for t in flat if hasattr(t, "shape"))


class _Trace:
    """Notes the calls of layers while a model is traced."""

    def __init__(self) -> None:
        self.costs = KernelMacs()
        self._in_loop = False

    def add(self, layer: Any, name: str, macs: float) -> None:
        """Adds to what the weight `layer.name` costs."""
        value = getattr(layer, name)
        variable = keras_adapter.stored_weight(layer, name)
        cost = KernelCost(variable, layer.path, 0, size_of(value))
        self.costs.setdefault(id(variable), cost).macs += macs

    def noting(self, parts: Any) -> AbstractContextManager:
        """Lets layers note their calls."""
        noted = [p for p in parts if rule_of(p) or isinstance(p, layers.RNN)]
        return keras_adapter.wrapped_calls(noted, self._noting)

    def _noting(self, layer, call):
        recurrent = isinstance(layer, layers.RNN)

        def noting_call(*args, **kwargs):
            outside = not self._in_loop
            # The body of a loop is traced once, or once for each step.
            self._in_loop = self._in_loop or recurrent
            try:
                outputs = call(*args, **kwargs)
            finally:
                self._in_loop = not outside
            if outside:
                inputs = _first_shape((args, kwargs))
                self._record(layer, inputs, _first_shape(outputs))
            return outputs

        return noting_call

    def _record(self, layer, inputs, outputs):
        """Notes one call of a layer by the shapes that went in and out."""
        if isinstance(layer, CONV_LSTM):
            self._record_conv_lstm(layer, inputs, outputs)
        elif isinstance(layer, layers.RNN):
            for cell in cells_of(layer):
                if rule_of(cell) is cell_rule:
                    macs_of = cell_rule(cell, (*inputs[:2], 0), ())
                    for name, macs in macs_of.items():
                        self.add(cell, name, macs)
        else:
            rule = rule_of(layer)
            for name, macs in rule(layer, inputs, outputs).items():
                if not hasattr(layer, name):
                    raise ValueError(
                        f"The rule `{rule.__name__}` must name weights of "
                        f"{type(layer).__name__}. Received: {name!r}"
                    )
                self.add(layer, name, macs)

    def _record_conv_lstm(self, layer, inputs, outputs):
        # Both kernels are applied at each pixel of the state in each step.
        image = outputs[2:] if layer.return_sequences else outputs[1:]
        pixels = positions(layer.cell, (1, *image))
        for name in ("kernel", "recurrent_kernel"):
            size = size_of(getattr(layer.cell, name))
            self.add(layer.cell, name, size * pixels * product(inputs[:2]))


class _ModelCall(keras.Operation):
    """A model as an operation, which Keras traces on symbolic tensors."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def call(self, inputs: Any) -> Tensor:
        return self.model(inputs, training=False)


def _inputs_of(model):
    """The symbolic inputs of a model in their structure."""
    check_model("model", model)
    if not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must know its inputs: a functional model or a built "
            f"Sequential. Received: model={getattr(model, 'name', model)!r}"
        )
    sequential = isinstance(model, keras.Sequential)
    return model.inputs[0] if sequential else model.input


def open_inputs(model: keras.Model) -> list[str]:
    """Names of a model's inputs whose sizes depend on the data.

    Args:
        model: A Keras functional model or a built Sequential.

    Returns:
        List of strings. Where there are some, `input_shape` must be given.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model does not know its inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((None, 8)), layers.LSTM(4)])
    >>> len(open_inputs(model))
    1
    """
    flat = tree.flatten(_inputs_of(model))
    return [tensor.name for tensor in flat if None in tensor.shape[1:]]


def _shapes_of_one(inputs, input_shape):
    """The shape of one example for each input, in the inputs' structure."""
    if input_shape is None:
        return tree.map_structure(lambda t: tuple(t.shape[1:]), inputs)
    try:
        return tree.map_structure_up_to(
            inputs, lambda _, shape: shape, inputs, input_shape
        )
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            "`input_shape` must have the structure of the model's inputs, "
            f"{tree.map_structure(lambda t: t.name, inputs)}. Received: "
            f"input_shape={input_shape}"
        ) from error


def symbolic_example(model: keras.Model, input_shape: Any = None) -> Any:
    """Symbolic inputs of one example.

    Args:
        model: A Keras functional model or a built Sequential.
        input_shape: As for `kernel_macs`.

    Returns:
        Symbolic tensors of batch size 1, in the structure of the inputs.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: As for `kernel_macs`.

    Example:

    >>> model = keras.Sequential([keras.Input((None, 8)), layers.LSTM(4)])
    >>> symbolic_example(model, (5, 8)).shape
    (1, 5, 8)
    """

    def one(tensor, shape):
        shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        fixed = tuple(tensor.shape[1:])
        fits = len(shape) == len(fixed) and all(
            is_integer(size) and known in (None, size)
            for size, known in zip(shape, fixed, strict=True)
        )
        if not fits:
            raise ValueError(
                "`input_shape` must give the sizes that an input leaves open, "
                "such as the length of a sequence, since FLOPs grow with "
                "them: the shape of one example, without the batch, or a "
                "structure of shapes, as the model has inputs. Received: "
                f"input_shape={input_shape} for input {tensor.name!r} of "
                f"shape {fixed}"
            )
        return keras.KerasTensor((1, *shape), tensor.dtype, name=tensor.name)

    inputs = _inputs_of(model)
    shapes = _shapes_of_one(inputs, input_shape)
    return tree.map_structure_up_to(inputs, one, inputs, shapes)


def _cells_without_rule(parts):
    """Maps the id of each layer in a cell of one's own to that cell."""
    return {
        id(inner): cell
        for part in parts
        if isinstance(part, layers.RNN) and not isinstance(part, CONV_LSTM)
        for cell in cells_of(part)
        if rule_of(cell) is not cell_rule
        for inner in keras_adapter.sublayers(cell)
    }


def _may_multiply(part):
    """Weights of a layer that may multiply more than entry by entry."""
    if isinstance(part, _NO_KERNELS):
        return []
    declared = getattr(part, "sparse_kernels", None) or ()
    declared = {id(getattr(part, name, None)) for name in declared}
    return [
        variable
        for variable in keras_adapter.own_trained(part)
        if len(variable.shape) > 1 or id(variable) in declared
    ]


def _note_what_is_unknown(costs, parts):
    """Costs of NaN, and a note, for what was not counted."""
    for cost in costs.values():
        if math.isnan(cost.macs):
            costs.notes.append(
                f"{cost.kernel.path}: unknown, as sizes depend on the data"
            )
    own_cells = _cells_without_rule(parts)
    counted = {id(p.cell) for p in parts if isinstance(p, CONV_LSTM)}
    for part in parts:
        covered = rule_of(part) is not None or id(part) in counted
        if covered and id(part) not in own_cells:
            continue
        kind = type(own_cells.get(id(part), part)).__name__
        for variable in _may_multiply(part):
            costs[id(variable)] = KernelCost(
                variable, part.path, math.nan, size_of(variable)
            )
            costs.notes.append(
                f"{variable.path}: unknown, as there is no rule for {kind}"
            )


def _note_what_is_not_called(costs, parts):
    for part in parts:
        if rule_of(part) in (None, embedding_rule):
            continue
        if not any(id(weight) in costs for weight in part.weights):
            costs.notes.append(f"{part.path}: 0, as the model never calls it")


def kernel_macs(model: keras.Model, input_shape: Any = None) -> KernelMacs:
    """Counts the multiply-accumulates of each kernel for one example.

    There are rules for Dense, EinsumDense (so for attention layers, except
    the products of queries, keys and values), plain, transposed, depthwise
    and separable convolutions, LSTM, GRU, SimpleRNN, their cells and
    ConvLSTM, alone, shared, nested, quantized or in any wrapper. LoRA counts
    as merged into its kernel. Weights of rank 2 and more in other layers may
    multiply anything: they cost NaN.

    Args:
        model: A Keras functional model or a built Sequential.
        input_shape: Shape of one example, without the batch, such as
            `(224, 224, 3)`, or a structure of shapes as the model has inputs.
            `None` for that of the model, if it leaves no size open.

    Returns:
        Dict from `id(kernel)` to a `KernelCost` with the attributes `kernel`,
        `path`, `macs` and `size`. Its attribute `notes` is a list of strings:
        weights whose cost is unknown, or that are never called, and why.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model does not know its inputs, or `input_shape`
            does not fit them or is missing where they leave sizes open.

    Example:

    >>> model = keras.Sequential([keras.Input((300,)), layers.Dense(100)])
    >>> [cost.macs for cost in kernel_macs(model).values()]
    [30000]
    """
    inputs = symbolic_example(model, input_shape)
    parts = keras_adapter.sublayers(model)
    trace = _Trace()
    with trace.noting(parts):
        _ModelCall(model)(inputs)
    _note_what_is_unknown(trace.costs, parts)
    _note_what_is_not_called(trace.costs, parts)
    return trace.costs


def forward_flops(
    model: keras.Model,
    density_of: Callable[[Any], float] | None = None,
    input_shape: Any = None,
) -> float:
    """Theoretical FLOPs of the forward pass of one example.

    Args:
        model: A Keras functional model or a built Sequential.
        density_of: Callable from a kernel, a Keras variable, to its density
            in [0, 1]. `None` counts every kernel as dense.
        input_shape: As for `kernel_macs`.

    Returns:
        Float, two FLOPs for each multiply-accumulate; NaN if the cost of a
        kernel is unknown, which `kernel_macs(model).notes` names.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: As for `kernel_macs`.

    Example:

    >>> model = keras.Sequential([keras.Input((300,)), layers.Dense(100)])
    >>> forward_flops(model), forward_flops(model, lambda kernel: 0.25)
    (60000.0, 15000.0)
    """
    density_of = density_of or (lambda kernel: 1.0)
    return 2.0 * sum(
        cost.macs * density_of(cost.kernel)
        for cost in kernel_macs(model, input_shape).values()
    )


_METHODS = ("dense", "rigl", "set", "snfs", "static")


def training_flops_per_sample(
    dense_flops: float,
    sparse_flops: float,
    method: str = "rigl",
    update_interval: int | None = None,
) -> float:
    """Theoretical FLOPs of training on one example once.

    The backward pass costs twice the forward pass: gradients of activations
    and of weights. With f_D and f_S the forward FLOPs, dense and sparse:

    ```
    dense        3 f_D
    static, set  3 f_S
    snfs         2 f_S + f_D    (dense weight gradients in every step)
    rigl         (3 f_S T + 2 f_S + f_D) / (T + 1)    (in one of T + 1)
    ```

    Args:
        dense_flops: Float, `forward_flops(model)`.
        sparse_flops: Float, the same with the densities.
        method: One of `"dense"`, `"static"`, `"set"`, `"snfs"` and `"rigl"`,
            which stands for any growth by gradient.
        update_interval: Integer, T, steps between two updates of the
            topology. Needed by `"rigl"`.

    Returns:
        Float.

    Raises:
        ValueError: If the method is unknown or `update_interval` is missing.

    Example:

    >>> training_flops_per_sample(10.0, 2.0, "rigl", update_interval=3)
    8.0

    Reference:
        Evci et al., Rigging the Lottery, https://arxiv.org/abs/1911.11134;
        formulas as in varun19299/rigl-reproducibility.
    """
    if method not in _METHODS:
        raise ValueError(
            f"`method` must be one of {_METHODS}. Received: method={method!r}"
        )
    if method == "dense":
        return 3.0 * dense_flops
    if method in ("static", "set"):
        return 3.0 * sparse_flops
    with_dense_gradient = 2.0 * sparse_flops + dense_flops
    if method == "snfs":
        return with_dense_gradient
    if update_interval is None or not is_within(update_interval, "[1, inf)"):
        raise ValueError(
            '`update_interval` must be at least 1 for the method "rigl". '
            f"Received: update_interval={update_interval}"
        )
    steps = 3.0 * sparse_flops * update_interval
    return (steps + with_dense_gradient) / (update_interval + 1)
