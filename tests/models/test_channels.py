"""Which kernels make and read the same channels."""

import keras
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.models.channels import channels_of


def groups_of(inputs, outputs, **settings):
    model = kft.sparsify(keras.Model(inputs, outputs), 0.5, **settings)
    return kft.channel_groups(model)


def test_a_chain():
    model = kft.applications.small_cnn((8, 8, 1), 10, filters=(4, 6), units=8)
    assert kft.channel_groups(kft.sparsify(model, 0.5)) == [
        {"producers": [i], "readers": [i + 1]} for i in range(3)
    ]


def test_several_readers_and_depthwise_kernels():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inputs)
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    parts = [layers.Conv2D(2, 1)(one) for one in (x, y)]
    outputs = layers.Concatenate()(parts)
    expected = {"producers": [0], "readers": [1, 2]}
    assert groups_of(inputs, outputs) == [expected]
    # A depthwise kernel that has a mask loses the channel too.
    (found,) = groups_of(inputs, outputs, kernels=("kernel",))
    assert len(found["readers"]) == 3


@pytest.mark.parametrize(
    "kind", ["softmax", "shared", "norm", "reshape", "operation", "grouped"]
)
def test_what_is_not_known_stays(kind):
    inputs = keras.Input((4, 6))
    activation = kind if kind == "softmax" else None
    first = layers.Dense(6, activation=activation)
    x = first(inputs)
    if kind == "shared":
        x = first(x)
    elif kind == "norm":
        x = layers.LayerNormalization()(x)
    elif kind == "reshape":
        x = layers.Reshape((6, 4))(x)
    elif kind == "operation":
        x = keras.ops.flip(x, axis=-1)
    elif kind == "grouped":
        x = layers.Conv1D(6, 1, groups=2)(x)
    assert groups_of(inputs, layers.Dense(3)(x)) == []


def test_kernels_without_masks_leave_channels_alone():
    inputs = keras.Input((6,))
    first = layers.Dense(5)
    second = layers.Dense(4)
    outputs = layers.Dense(3)(second(first(inputs)))
    model = keras.Model(inputs, outputs)
    sparse = kft.sparsify(model, 0.5, filters=lambda layer: layer is not first)
    assert kft.channel_groups(sparse) == [{"producers": [0], "readers": [1]}]
    assert len(channels_of(model)) == 2


def test_other_models():
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model"):
        kft.channel_groups("model")
    model = kft.sparsify(kft.applications.lenet_300_100(), 0.9)
    with pytest.raises(ValueError, match="must have a graph of layers"):
        kft.channel_groups(kft.EnsembleModel([model]))
    with pytest.raises(ValueError, match="must be a SparseModel"):
        kft.channel_groups(kft.strip(model))
