"""Theoretical FLOPs: two for each multiply-accumulate of a kernel.

The multiplications of kernels are counted, nothing else: no normalization,
activation, pooling, loss, nor the products of queries and keys. Masks only
simulate sparsity, so these numbers say what hardware for sparse kernels could
save, never what was saved.

Which layer is called how often and on which shapes is seen by tracing the
model once on symbolic tensors while every layer notes its calls. So nested
models, wrappers, shared layers, attention and layers made of layers need no
rule of their own.
"""

import contextlib
import dataclasses
import math
import numbers
import typing

import keras
from keras import layers

from keras_freetickets import keras_adapter


@dataclasses.dataclass
class KernelCost:
    """What a kernel costs in the forward pass of one example.

    The arguments are the attributes.

    Args:
        kernel: The Keras variable.
        path: String, path of the layer that owns it.
        macs: Integer, multiply-accumulates summed over all calls.

    Example:

    >>> model = keras.Sequential([keras.Input((300,)), layers.Dense(100)])
    >>> (cost,) = kernel_macs(model).values()
    >>> cost.macs
    30000
    """

    kernel: typing.Any
    path: str
    macs: int


class KernelMacs(dict):
    """Dict from `id(kernel)` to `KernelCost`.

    Attributes:
        notes: List of strings, what could not be counted and why.

    Example:

    ```python
    kernel_macs(model).notes
    ```
    """

    def __init__(self):
        super().__init__()
        self.notes = []


# Rules: (layer, input shape, output shape) -> {attribute: MACs}. The model sees
# a batch of one; a layer's batch is larger where steps, crops or windows of an
# example are merged into it.


def _size(variable):
    return math.prod(variable.shape)


def _dense(layer, inputs, outputs):
    return {"kernel": _size(layer.kernel) * math.prod(inputs[:-1])}


def _positions(layer, shape):
    """Number of pixels of the images, of one or more dimensions."""
    if layer.data_format == "channels_first":
        return shape[0] * math.prod(shape[2:])
    return math.prod(shape[:-1])


def _conv(layer, inputs, outputs):
    # A kernel (3, 3, in / groups, out) is applied once at each output pixel.
    return {"kernel": _size(layer.kernel) * _positions(layer, outputs)}


def _conv_transpose(layer, inputs, outputs):
    # Each input pixel is multiplied with the whole kernel.
    return {"kernel": _size(layer.kernel) * _positions(layer, inputs)}


def _separable_conv(layer, inputs, outputs):
    pixels = _positions(layer, outputs)
    return {
        "depthwise_kernel": _size(layer.depthwise_kernel) * pixels,
        "pointwise_kernel": _size(layer.pointwise_kernel) * pixels,
    }


def _einsum_dense(layer, inputs, outputs):
    # "abc,cde->abde" costs (c d e) (a b): the kernel's size times those of
    # the indices that the input alone has. Dots stand for such indices.
    operand, kernel = layer.equation.split("->")[0].split(",")
    left, dots, right = operand.partition("...")
    end = len(inputs) - len(right)
    sizes = [*zip(left, inputs), *zip(right, inputs[end:])]
    sizes += [("...", size) for size in inputs[len(left) : end] if dots]
    alone = [size for index, size in sizes if index not in kernel]
    return {"kernel": _size(layer.kernel) * math.prod(alone)}


_RULES = (
    (layers.Dense, _dense),
    (layers.EinsumDense, _einsum_dense),
    ((layers.SeparableConv1D, layers.SeparableConv2D), _separable_conv),
    (
        (
            layers.Conv1DTranspose,
            layers.Conv2DTranspose,
            layers.Conv3DTranspose,
        ),
        _conv_transpose,
    ),
    (
        (
            layers.Conv1D,
            layers.Conv2D,
            layers.Conv3D,
            layers.DepthwiseConv1D,
            layers.DepthwiseConv2D,
        ),
        _conv,
    ),
)
_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)


def _rule_of(layer):
    for kinds, rule in _RULES:
        if isinstance(layer, kinds):
            return rule
    return None


def _cells(layer):
    """The cells of a recurrent layer, if this file can count them all."""
    if not isinstance(layer, layers.RNN):
        return []
    stacked = isinstance(layer.cell, layers.StackedRNNCells)
    cells = layer.cell.cells if stacked else [layer.cell]
    return cells if all(isinstance(c, _CELLS) for c in cells) else []


def _add(costs, layer, kernel, macs):
    cost = costs.setdefault(id(kernel), KernelCost(kernel, layer.path, 0))
    cost.macs += macs


def _record(costs, layer, inputs, outputs):
    """Notes one call of a layer by the shapes that went in and came out."""
    rule = _rule_of(layer)
    if rule is not None:
        for name, macs in rule(layer, inputs, outputs).items():
            _add(costs, layer, getattr(layer, name), macs)
    for cell in _cells(layer):
        for kernel in (cell.kernel, cell.recurrent_kernel):
            # Once for each time step.
            _add(costs, layer, kernel, math.prod(inputs[:2]) * _size(kernel))


def _first_shape(tensors):
    flat = keras.tree.flatten(tensors)
    return next(tuple(t.shape) for t in flat if hasattr(t, "shape"))


def _noting(layer, costs):
    """The `call` of a layer, made to note its shapes."""
    call = layer.call

    def noting_call(*args, **kwargs):
        outputs = call(*args, **kwargs)
        inputs = _first_shape((args, kwargs))
        _record(costs, layer, inputs, _first_shape(outputs))
        return outputs

    return noting_call


@contextlib.contextmanager
def _calls_noted(counted, costs):
    """Lets layers note their calls; their instances get a `call` meanwhile."""
    before = [vars(layer).get("call") for layer in counted]
    try:
        for layer in counted:
            vars(layer)["call"] = _noting(layer, costs)
        yield
    finally:
        for layer, call in zip(counted, before):
            vars(layer).pop("call", None)
            if call is not None:
                vars(layer)["call"] = call


class _ModelCall(keras.Operation):
    """A model as an operation, which Keras traces on symbolic tensors."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, inputs):
        return self.model(inputs, training=False)


def _example(model, notes):
    """Symbolic inputs of one example; an unknown size counts as one."""
    if not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must know its inputs: a functional model or a built "
            f"Sequential. Received: model={getattr(model, 'name', model)!r}"
        )
    sequential = isinstance(model, keras.Sequential)

    def one(tensor):
        if None in tensor.shape[1:]:
            notes.append(
                f"input {tensor.name} has shape {tuple(tensor.shape)}: "
                "unknown sizes are counted as 1"
            )
        shape = (1, *(size or 1 for size in tensor.shape[1:]))
        return keras.KerasTensor(shape, dtype=tensor.dtype, name=tensor.name)

    inputs = model.inputs[0] if sequential else model.input
    return keras.tree.map_structure(one, inputs)


def _known_free(parts):
    """Ids of the weights of rank 2 and more that multiply nothing."""
    free = []
    for layer in parts:
        if isinstance(layer, layers.Embedding):
            free += layer.weights
        if _rule_of(layer) is not None:
            free.append(getattr(layer, "bias", None))
        free += [cell.bias for cell in _cells(layer)]
    return {id(variable) for variable in free}


def kernel_macs(model):
    """Counts the multiply-accumulates of each kernel for one example.

    Known are Dense, EinsumDense (so attention layers, but for the products of
    queries, keys and values), plain, transposed, depthwise and separable
    convolutions, and LSTM, GRU and SimpleRNN, alone, shared, nested or in any
    wrapper.

    Args:
        model: A Keras functional model or a built Sequential.

    Returns:
        Dict from `id(kernel)` to a `KernelCost` with the attributes `kernel`,
        `path` and `macs`. Its attribute `notes` is a list of strings: weights
        that no rule covers and sizes that are unknown.

    Raises:
        ValueError: If the model does not know its inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((300,)), layers.Dense(100)])
    >>> [cost.macs for cost in kernel_macs(model).values()]
    [30000]
    """
    costs = KernelMacs()
    inputs = _example(model, costs.notes)
    parts = keras_adapter.sublayers(model)
    counted = [part for part in parts if _rule_of(part) or _cells(part)]
    with _calls_noted(counted, costs):
        _ModelCall(model)(inputs)
    known = _known_free(parts) | set(costs)
    for variable in model.trainable_weights:
        if len(variable.shape) > 1 and id(variable) not in known:
            costs.notes.append(f"{variable.path}: no rule, counted as 0")
    return costs


def forward_flops(model, density_of=None):
    """Theoretical FLOPs of the forward pass of one example.

    Args:
        model: A Keras functional model or a built Sequential.
        density_of: Callable from a kernel, a Keras variable, to its density
            in [0, 1]. `None` counts every kernel as dense.

    Returns:
        Float, two FLOPs for each multiply-accumulate.

    Raises:
        ValueError: If the model does not know its inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((300,)), layers.Dense(100)])
    >>> forward_flops(model), forward_flops(model, lambda kernel: 0.25)
    (60000.0, 15000.0)
    """
    density_of = density_of or (lambda kernel: 1.0)
    return 2.0 * sum(
        cost.macs * density_of(cost.kernel)
        for cost in kernel_macs(model).values()
    )


_METHODS = ("dense", "rigl", "set", "snfs", "static")


def training_flops_per_sample(
    dense_flops, sparse_flops, method="rigl", update_interval=None
):
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
    number = isinstance(update_interval, numbers.Real)
    if not number or not update_interval >= 1:
        raise ValueError(
            '`update_interval` must be at least 1 for the method "rigl". '
            f"Received: update_interval={update_interval}"
        )
    steps = 3.0 * sparse_flops * update_interval
    return (steps + with_dense_gradient) / (update_interval + 1)
