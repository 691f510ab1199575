"""What a mask and quantization, or LoRA, ask of each other: a float kernel."""

import typing
from collections.abc import Sequence

from keras_freetickets import keras_adapter
from keras_freetickets.layers.kernels import INTEGER_MODES
from keras_freetickets.layers.kernels import is_quantized
from keras_freetickets.layers.kernels import roles_of
from keras_freetickets.types import Layer


def without_float_kernel(
    layer: Layer, roles: Sequence[str] | None = None
) -> list[Layer]:
    """Lists the layer and sublayers whose kernels are quantized or have LoRA.

    Args:
        layer: A built Keras layer.
        roles: As for `find_kernels`.

    Returns:
        List of layers that `find_kernels` skips for that reason.
    """
    return [
        part
        for part in keras_adapter.sublayers(layer)
        if (is_quantized(part) or getattr(part, "lora_enabled", False))
        and any(hasattr(part, role) for role in roles_of(part, roles))
    ]


def check_float_kernels(
    layer: Layer, roles: Sequence[str] | None = None
) -> None:
    """Raises if kernels that would be masked are quantized or have LoRA.

    Args:
        layer: A built Keras layer.
        roles: As for `find_kernels`.

    Raises:
        ValueError: If a layer is quantized to integers or has LoRA.
    """
    for part in without_float_kernel(layer, roles):
        if is_quantized(part):
            raise ValueError(
                f"Layer '{part.path}' is quantized and has no float kernel to "
                "mask: make the model sparse first, train it, and quantize "
                "the result of `keras_freetickets.strip`. "
                f"Received: quantization_mode={part.quantization_mode!r}"
            )
        raise ValueError(
            f"Layer '{part.path}' has LoRA, whose product would make a "
            "masked kernel dense: merge it first. Call "
            "`model.save_weights(path)`, then `load_weights(path)` on the "
            "same model built without "
            f"LoRA. Received: lora_rank={part.lora_rank}"
        )


def keep_float_kernel(layer: Layer) -> None:
    """Makes a layer refuse methods that would replace its masked kernel.

    Keras also sets `quantize` on each instance, in `Layer.__new__`.
    """
    quantize = layer.quantize

    def quantize_to_float8(mode=None, *args, config=None, **kwargs):
        check_quantization(layer, mode, config)
        return quantize(mode, *args, config=config, **kwargs)

    def enable_lora(*args, **kwargs):
        raise ValueError(
            f"Layer '{layer.path}' is sparse, and the product of LoRA would "
            "make its kernel dense: enable LoRA on the result of "
            "`keras_freetickets.strip`, or on layers without masks. "
            f"Received: a call of enable_lora for layer '{layer.name}'"
        )

    layer.quantize = quantize_to_float8
    if hasattr(layer, "enable_lora"):
        layer.enable_lora = enable_lora


def check_quantization(
    layer: Layer, mode: str | None = None, config: typing.Any = None
) -> None:
    """Raises if `quantize` would remove the float kernel of a sparse layer.

    Args:
        layer: A layer with a masked kernel.
        mode: As for `keras.Layer.quantize`.
        config: As for `keras.Layer.quantize`.

    Raises:
        ValueError: If the mode is only for prediction, such as `"int8"`.
    """
    mode = getattr(config, "mode", None) if mode is None else mode
    if mode in INTEGER_MODES:
        raise ValueError(
            f"Layer '{layer.path}' is sparse, and its mask needs a float "
            "kernel: train the model first, then quantize the result of "
            "`keras_freetickets.strip`. "
            f"Received: mode={mode!r} (of Keras' modes only 'float8' keeps a "
            "float kernel)"
        )
