"""Which devices TensorFlow found besides processors."""

import functools


@functools.cache
def tensorflow_accelerators() -> tuple[str, ...]:
    """Names of the GPUs and TPUs of this process.

    Asking makes TensorFlow set up its devices, after which they cannot be
    configured.

    Returns:
        Tuple of strings, e.g. `("/device:GPU:0",)`.
    """
    import tensorflow as tf

    return tuple(
        device.name
        for kind in ("GPU", "TPU")
        for device in tf.config.list_logical_devices(kind)
    )
