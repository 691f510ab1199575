import itertools

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets.applications import spiking_cnn
from keras_freetickets.applications import spiking_resnet19
from keras_freetickets.applications import spiking_vgg16
from keras_freetickets.metrics import flops


def kernels(model):
    return [w for w in model.trainable_weights if w.name == "kernel"]


def test_layers_of_vgg16():
    model = spiking_vgg16()
    shapes = [tuple(k.shape) for k in kernels(model)]
    channels = [3, 64, 64, 128, 128, 256, 256, 256] + [512] * 6
    expected = [(3, 3, a, b) for a, b in itertools.pairwise(channels)]
    assert shapes == [*expected, (512, 10)]
    neurons = [la for la in model.layers if isinstance(la, kft.spiking.LIF)]
    assert len(neurons) == 13


def test_layers_of_resnet19():
    model = spiking_resnet19()
    convolutions = [k for k in kernels(model) if tuple(k.shape)[:2] == (3, 3)]
    # A stem and 8 blocks of two; the two dense layers make 19.
    assert len(convolutions) == 17
    dense = [tuple(k.shape) for k in kernels(model) if len(k.shape) == 2]
    assert dense == [(512, 256), (256, 10)]


def test_layers_of_the_small_one():
    model = spiking_cnn((28, 28, 1), steps=3)
    shapes = [tuple(k.shape) for k in kernels(model)]
    hidden = (7 * 7 * 64, 128)
    assert shapes == [(3, 3, 1, 32), (3, 3, 32, 64), hidden, (128, 10)]
    neurons = [la for la in model.layers if isinstance(la, kft.spiking.LIF)]
    assert len(neurons) == 3
    # Two convolutions of an image: one for all steps, one for each.
    first, second = 28 * 28 * 9 * 32, 14 * 14 * 9 * 32 * 64
    dense = hidden[0] * hidden[1] + 128 * 10
    assert flops.forward_flops(model) == 2 * (first + 3 * (second + dense))


@pytest.mark.parametrize(
    "build, arguments",
    [
        (spiking_cnn, {"filters": (4, 4), "units": 8}),
        pytest.param(spiking_vgg16, {"width": 4}, marks=pytest.mark.slow),
        pytest.param(spiking_resnet19, {"width": 4}, marks=pytest.mark.slow),
    ],
)
def test_a_small_one_trains_sparse_and_is_saved(build, arguments, tmp_path):
    keras.utils.set_random_seed(0)
    dense = build((16, 16, 1), classes=3, steps=2, **arguments)
    model = kft.sparsify(dense, 0.8)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
    )
    x = np.random.default_rng(0).normal(size=(12, 16, 16, 1)).astype("float32")
    y = np.arange(12) % 3
    before = kernel_values(model)
    model.fit(
        x,
        y,
        batch_size=6,
        epochs=2,
        shuffle=False,
        callbacks=[kft.callbacks.NDSNN(0.9, end_step=4, update_interval=2)],
        verbose=0,
    )
    # The gradient reaches every layer through the neurons; that of the last
    # is zero where none fires before it.
    for old, record in zip(before[:-1], model.masked_kernels[:-1], strict=True):
        assert (old != np.asarray(record.kernel.value)).any(), record.name
    sizes = [r.size for r in model.masked_kernels]
    active = sum(np.asarray(r.mask.value).sum() for r in model.masked_kernels)
    assert active == pytest.approx(0.1 * sum(sizes), abs=len(sizes))
    path = tmp_path / "snn.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    expected = np.asarray(model(x))
    np.testing.assert_allclose(np.asarray(again(x)), expected, atol=1e-6)
    # Potentials are not carried over.
    np.testing.assert_array_equal(np.asarray(model(x)), expected)
    np.testing.assert_allclose(expected.sum(axis=1), 1.0, rtol=1e-5)


def test_the_outputs_of_each_step_and_their_losses():
    keras.utils.set_random_seed(0)
    size = {"filters": (4, 8), "units": 16, "steps": 3}
    mean = spiking_cnn((8, 8, 1), 5, activation="linear", **size)
    each = spiking_cnn((8, 8, 1), 5, per_step=True, **size)
    each.set_weights(mean.get_weights())
    generator = np.random.default_rng(0)
    x = 3 * generator.normal(size=(6, 8, 8, 1)).astype("float32")
    y = np.arange(6) % 5
    found = keras.ops.convert_to_numpy(each(x))
    assert found.shape == (6, *each.output_shape[1:]) == (6, 3, 5)
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)
    # The steps differ, as potentials add up.
    assert np.abs(found[:, 0] - found[:, 2]).max() > 1e-3
    # The same read-out: the mean of the logits, up to what softmax takes away.
    logits = keras.ops.convert_to_numpy(mean(x))
    expected = np.log(found).mean(axis=1)
    np.testing.assert_allclose(
        expected - expected.mean(axis=1, keepdims=True),
        logits - logits.mean(axis=1, keepdims=True),
        atol=1e-4,
    )
    # What `fit` trains: the mean over the steps of their losses, which is not
    # less than the loss of the mean logits.
    labels = np.repeat(y[:, None], 3, axis=1)
    each.compile("sgd", "sparse_categorical_crossentropy")
    loss = each.evaluate(x, labels, verbose=0)
    by_hand = -np.log(found[np.arange(6)[:, None], np.arange(3), labels])
    assert loss == pytest.approx(by_hand.mean(), rel=1e-4)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert by_hand.mean() >= float(cross_entropy(y, logits)) - 1e-6


def kernel_values(model):
    return [np.array(r.kernel.value) for r in model.masked_kernels]
