"""Plain, dense Keras models."""

from keras_freetickets.applications.lenet import lenet_300_100
from keras_freetickets.applications.small_cnn import small_cnn
from keras_freetickets.applications.spiking_networks import spiking_cnn
from keras_freetickets.applications.spiking_networks import spiking_resnet19
from keras_freetickets.applications.spiking_networks import spiking_vgg16
from keras_freetickets.applications.wide_resnet import wide_resnet

__all__ = [
    "lenet_300_100",
    "small_cnn",
    "spiking_cnn",
    "spiking_resnet19",
    "spiking_vgg16",
    "wide_resnet",
]
