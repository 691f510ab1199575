"""How many multiply-accumulates a call of a layer makes: a rule for each class.

`flops.py` applies them to the calls that it sees in a model.
"""

import math
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from keras import layers


def product(sizes: Iterable[Any]) -> float:
    """The product of sizes, NaN if one depends on the data."""
    return math.nan if None in sizes else math.prod(sizes)


Rule = Callable[[Any, tuple, tuple], dict[str, Any]]
_RULES: dict[type, Rule] = {}


def register_rule(*layer_classes: type[layers.Layer]) -> Callable[[Rule], Rule]:
    """Says how many multiply-accumulates layers of a class make: a decorator.

    Layers made of layers need no rule. One that multiplies by weights of its
    own does, or these cost NaN. The rule holds for subclasses too, unless
    they have one of their own; Keras' own layers are registered in the same
    way.

    Args:
        *layer_classes: Classes of Keras layers. (Cells of recurrent layers
            cannot have a rule: Keras traces them once for all steps.)

    Returns:
        A decorator of a function `(layer, input_shape, output_shape)` that
        returns a dict from the name of a weight, an attribute of the layer,
        to the multiply-accumulates of one call. The shapes begin with the
        batch, which is 1, or larger where time steps, crops or windows of an
        example were merged into it: count it. A size is `None` where it
        depends on the data; return NaN then.

    Raises:
        TypeError: If one of `layer_classes` is not a class of layers.
        ValueError: If a class has a rule already.

    Example:

    ```python
    @metrics.flops.register_rule(LowRank)  # x @ self.down @ self.up
    def low_rank(layer, input_shape, output_shape):
        rows = math.prod(input_shape[:-1])
        return {
            "down": rows * math.prod(layer.down.shape),
            "up": rows * math.prod(layer.up.shape),
        }
    ```
    """
    for kind in layer_classes:
        if not isinstance(kind, type) or not issubclass(kind, layers.Layer):
            raise TypeError(
                "`layer_classes` must be classes of Keras layers. "
                f"Received: {kind!r}"
            )
        if kind in _RULES:
            raise ValueError(
                "`layer_classes` must have no rule yet. Received: "
                f"{kind.__name__}, whose rule is `{_RULES[kind].__name__}` of "
                f"{_RULES[kind].__module__}"
            )

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(layer_classes, rule))
        return rule

    return register


def rule_of(layer: Any) -> Any:
    """The rule of a layer's class, or the nearest class above; or `None`."""
    rules = (_RULES[kind] for kind in type(layer).__mro__ if kind in _RULES)
    return next(rules, None)


def size_of(kernel: Any) -> int:
    """How many numbers a kernel holds."""
    return math.prod(kernel.shape)


@register_rule(layers.Dense)
def _dense(layer, inputs, outputs):
    return {"kernel": size_of(layer.kernel) * product(inputs[:-1])}


def positions(layer: Any, shape: tuple) -> float:
    """Number of pixels of the images, of one or more dimensions."""
    if layer.data_format == "channels_first":
        return product((shape[0], *shape[2:]))
    return product(shape[:-1])


@register_rule(
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)
def _conv(layer, inputs, outputs):
    # A kernel (3, 3, in / groups, out) is applied once at each output pixel.
    return {"kernel": size_of(layer.kernel) * positions(layer, outputs)}


@register_rule(
    layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose
)
def _conv_transpose(layer, inputs, outputs):
    # Each input pixel is multiplied with the whole kernel.
    return {"kernel": size_of(layer.kernel) * positions(layer, inputs)}


@register_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable_conv(layer, inputs, outputs):
    pixels = positions(layer, outputs)
    return {
        "depthwise_kernel": size_of(layer.depthwise_kernel) * pixels,
        "pointwise_kernel": size_of(layer.pointwise_kernel) * pixels,
    }


@register_rule(layers.EinsumDense)
def _einsum_dense(layer, inputs, outputs):
    # "abc,cde->abde" costs (c d e) (a b): the kernel's size times those of
    # the indices that the input alone has. Dots stand for such indices.
    operand, kernel = layer.equation.split("->")[0].split(",")
    left, dots, right = operand.partition("...")
    end = len(inputs) - len(right)
    sizes = [
        *zip(left, inputs[: len(left)], strict=True),
        *zip(right, inputs[end:], strict=True),
    ]
    sizes += [("...", size) for size in inputs[len(left) : end] if dots]
    alone = [size for index, size in sizes if index not in kernel]
    return {"kernel": size_of(layer.kernel) * product(alone)}


@register_rule(layers.ReversibleEmbedding)
def embedding_rule(
    layer: Any, inputs: tuple, outputs: tuple
) -> dict[str, float]:
    """Of a `ReversibleEmbedding`: only its reverse multiplies."""
    if len(inputs) != len(outputs):
        return {}  # a look-up
    name = "embeddings" if layer.tie_weights else "reverse_embeddings"
    return {name: size_of(getattr(layer, name)) * product(inputs[:-1])}


@register_rule(layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
def cell_rule(layer: Any, inputs: tuple, outputs: tuple) -> dict[str, float]:
    """Of the cells of Keras' recurrent layers."""
    return {
        name: size_of(getattr(layer, name)) * product(inputs[:-1])
        for name in ("kernel", "recurrent_kernel")
    }


CONV_LSTM = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)


def cells_of(layer: Any) -> list[Any]:
    """The cells that a recurrent layer calls once for each time step."""
    if isinstance(layer.cell, layers.StackedRNNCells):
        return layer.cell.cells
    return [layer.cell]
