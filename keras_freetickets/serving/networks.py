"""The network of kernels that predicts with a model, whichever suits it."""

import typing

from keras_freetickets.kernels import CompressedNetwork
from keras_freetickets.kernels import ImageNetwork
from keras_freetickets.serving.architecture import members_of
from keras_freetickets.serving.image_architecture import images_of
from keras_freetickets.serving.image_architecture import is_of_images
from keras_freetickets.serving.layer_reader import Arrays
from keras_freetickets.serving.layer_reader import Record

Network: typing.TypeAlias = CompressedNetwork | ImageNetwork


def network_of(
    template: Record, arrays: Arrays, num_members: int
) -> tuple[tuple[int, ...], Network]:
    """What predicts with all members of an ensemble.

    Args:
        template: Dict, a member as Keras serializes it.
        arrays: Dict of arrays `(members, ...)` by the path of their variable.
        num_members: Positive integer.

    Returns:
        Tuple of the shape of an example and the network.

    Raises:
        ImportError: If it is of images and numba is not installed.
        ValueError: If the model is neither a chain of dense layers nor a
            convolutional network that can be computed.
    """
    if is_of_images(template):
        shape, outputs = images_of(template, arrays, num_members)
        return shape, ImageNetwork(outputs)
    shape, members = members_of(template, arrays, num_members)
    return shape, CompressedNetwork(members)
