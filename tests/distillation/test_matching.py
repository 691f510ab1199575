"""The matching loss, its gradient, and whole distillations."""

import contextlib
import itertools

import backends
import keras
import numpy as np
import pytest
from keras import ops

import keras_freetickets as kft
from keras_freetickets import distillation
from keras_freetickets import trainers
from keras_freetickets.distillation import networks as parts
from keras_freetickets.distillation.matcher import Matcher

IMAGE = (8, 8, 1)


def make_model(seed=0, image=IMAGE, dtype="float32", classes=3, softmax=False):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(image, dtype=dtype),
            keras.layers.Conv2D(4, 3, padding="same", dtype=dtype),
            keras.layers.GroupNormalization(groups=-1, dtype=dtype),
            keras.layers.Activation("softplus", dtype=dtype),
            keras.layers.AveragePooling2D(2, dtype=dtype),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(
                classes, "softmax" if softmax else None, dtype=dtype
            ),
        ]
    )


def sparse_model(seed=0):
    return kft.sparsify(
        make_model(seed), 0.5, distribution="uniform", seed=seed
    )


def data(per_class=12, classes=3, seed=0):
    """Bars at other places: easy images."""
    rng = np.random.default_rng(seed)
    y = np.arange(per_class * classes) % classes
    x = 0.3 * rng.random((len(y), *IMAGE))
    for image, label in zip(x, y, strict=True):
        image[:, 2 * label : 2 * label + 2] += 0.6
    return x.astype("float32"), y


def prepared(model, real, compiled=False, **kwargs):
    """The matching loss and its gradient as a function of images."""
    network = parts.network_of(model)
    matcher = Matcher(model, real[:2], **kwargs)
    function = matcher.loss_and_gradient
    if compiled:
        function = trainers.get_backend().function(function)
    values, fixed = (
        [ops.convert_to_tensor(one) for one in part]
        for part in (network.values, network.fixed)
    )
    target = np.eye(model.output_shape[-1])[1]

    def of(images, **drawn):
        loss, gradient = function(
            values, fixed, network.masks, images, real, target, **drawn
        )
        return float(loss), ops.convert_to_numpy(gradient)

    return of


@pytest.mark.parametrize("metric", ["squared", "absolute"])
@pytest.mark.parametrize("make", [make_model, sparse_model])
def test_equal_batches_match(metric, make):
    x = data()[0][:5]
    augmentation = distillation.SharedAugmentation()
    change = augmentation.draw(IMAGE, np.random.default_rng(0))
    arguments = {
        "metric": metric,
        "augmentation": augmentation,
        "mean": 0.3,
        "std": 0.4,
    }
    loss, gradient = prepared(make(), x, **arguments)(x, change=change)
    assert loss == 0 and not gradient.any()
    of = prepared(make(), x[::-1] ** 2, **arguments)
    loss, gradient = of(x, change=change)
    assert loss > 0 and gradient.any()


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("factor", [1, 2])
def test_gradient_agrees_with_central_differences(factor, softmax):
    """In float64, on images of 4 x 4."""
    scope = contextlib.nullcontext()
    if backends.ON_JAX:
        import jax

        scope = jax.enable_x64()
    with scope:
        model = make_model(0, (4, 4, 1), "float64", softmax=softmax)
        rng = np.random.default_rng(0)
        real = rng.random((6, 4, 4, 1))
        images = rng.random((2, 4, 4, 1))
        of = prepared(model, real, compiled=True, factor=factor)
        _, gradient = of(images)
        assert gradient.dtype == "float64"
        # A part of Keras computes in float32 on JAX even so: larger steps.
        step = 1e-2 if backends.ON_JAX else 1e-5
        found = np.zeros_like(images)
        for place in np.ndindex(images.shape):
            ends = []
            for sign in (1, -1):
                moved = images.copy()
                moved[place] += sign * step
                ends.append(of(moved)[0])
            found[place] = (ends[0] - ends[1]) / (2 * step)
    error = np.linalg.norm(found - gradient) / np.linalg.norm(found)
    assert error < 1e-3


def test_masked_inputs_get_no_gradient():
    x = data()[0]
    visible = np.random.default_rng(0).random((4, *IMAGE)) >= 0.3
    of = prepared(make_model(), x[4:9])
    _, gradient = of(x[:4], visible=visible.astype("float32"))
    assert not gradient[~visible].any() and gradient[visible].all()


def test_only_active_weights_are_compared():
    """Against the distance by hand, of masked gradients."""
    model, x = sparse_model(), data()[0]
    loss, _ = prepared(model, x[3:9])(x[:3])
    found = []
    for images in (x[:3], x[3:9]):
        network = parts.network_of(model)
        (place,) = np.flatnonzero(parts.matched_kernels(model))
        matcher = Matcher(model, x[:2])
        (gradient,) = matcher._kernel_gradients(
            [ops.convert_to_tensor(one) for one in network.values],
            [ops.convert_to_tensor(one) for one in network.fixed],
            [None] * len(network.masks),
            ops.convert_to_tensor(images),
            np.eye(3)[1],
        )
        found.append(ops.convert_to_numpy(gradient) * network.masks[place])
    assert loss == pytest.approx(np.sum((found[0] - found[1]) ** 2), rel=1e-4)


def test_the_loss_on_a_fixed_network_falls():
    x, y = data(30)
    bank = distillation.NetworkBank([make_model()])
    settings = distillation.GradientMatching(
        images_per_class=1,
        factor=1,
        outer_steps=20,
        inner_steps=1,
        train_examples=0,
        perturbation=None,
        augmentation=None,
        batch_size=30,
        learning_rate=1e-3,
    )
    losses = settings.distill(bank, x, y).losses
    assert losses[-1] < 0.5 * losses[0]
    assert all(b < a for a, b in itertools.pairwise(losses))


def short(**kwargs):
    arguments = {
        "images_per_class": 1,
        "factor": 2,
        "outer_steps": 4,
        "inner_steps": 3,
        "train_examples": 100,
        "learning_rate": 1e-3,
        "input_mask_ratio": 0.2,
        "mean": 0.3,
        "std": 0.4,
        **kwargs,
    }
    return distillation.GradientMatching(**arguments)


@pytest.mark.parametrize("make", [make_model, sparse_model])
def test_the_bank_is_unchanged_and_a_run_resumes(make, tmp_path):
    x, y = data()
    bank = distillation.NetworkBank([make(0), make(1)])
    before = [[v.copy() for v in n.values] for n in bank.networks]
    weights = bank.model.get_weights()
    path, seen = tmp_path / "state.npz", []

    def note(state):
        seen.append(state.step)
        if state.step == 2:
            state.save(path)

    whole = short().distill(bank, x, y, callback=note)
    assert seen == [1, 2, 3, 4] and len(whole.losses) == 4
    for network, values in zip(bank.networks, before, strict=True):
        for value, old in zip(network.values, values, strict=True):
            np.testing.assert_array_equal(value, old)
    for value, old in zip(bank.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(value, old)
    state = distillation.DistillationState.load(path)
    resumed = short().distill(bank, x, y, state=state)
    np.testing.assert_array_equal(
        resumed.distilled.images, whole.distilled.images
    )
    assert resumed.losses == whole.losses
    found = whole.distilled
    assert found.labels.tolist() == [0, 1, 2] and found.factor == 2
    assert found.images.min() >= 0 and found.images.max() <= 1
    start = distillation.real_start(x, y, 1, 2)
    assert (found.images != start.images).any()


def test_more_images_than_a_batch_and_few_real_ones():
    x, y = data(150)
    settings = short(images_per_class=140, factor=1, outer_steps=1)
    state = settings.distill(distillation.FreshNetworks(make_model), x, y)
    assert len(state.distilled.images) == 420
    x, y = data(4)  # fewer than `batch_size`
    short(outer_steps=1).distill(distillation.FreshNetworks(make_model), x, y)


def test_training_keeps_absent_weights_at_zero():
    model = sparse_model()
    x, y = data()
    network = parts.network_of(model)
    matcher = Matcher(model, x[:2])
    tensors = [ops.convert_to_tensor(one) for one in network.values]
    values, moves = tensors, [ops.zeros_like(one) for one in tensors]
    losses = []
    for _ in range(30):
        values, moves = matcher.train_step(
            values, moves, network.fixed, network.masks, x, np.eye(3)[y]
        )
        losses.append(
            float(
                matcher._cross_entropy(
                    values, network.fixed, x, np.eye(3, dtype="float32")[y]
                )
            )
        )
    assert losses[-1] < 0.5 * losses[0]
    for value, mask in zip(values, network.masks, strict=True):
        if mask is not None:
            assert not ops.convert_to_numpy(value)[~mask].any()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images_per_class": 0}, "`images_per_class` must be a positive"),
        ({"factor": 0}, "`factor` must be a positive"),
        ({"outer_steps": 0}, "`outer_steps`"),
        ({"inner_steps": 0}, "`inner_steps`"),
        ({"perturbation": (0.1, 0.01)}, "`perturbation` must be two positive"),
        ({"metric": "cosine"}, "`metric` must be one of"),
        ({"learning_rate": 0}, "`learning_rate` must be positive"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"train_examples": -1}, "`train_examples` must be a non-negative"),
        ({"input_mask_ratio": 1.0}, r"`input_mask_ratio` must be in \[0, 1\)"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_wrong_settings(change, message):
    with pytest.raises(ValueError, match=message):
        distillation.GradientMatching(**change)


def test_wrong_data_and_networks():
    x, y = data()
    fresh = distillation.FreshNetworks(make_model)
    cases = [
        (fresh, x, np.where(y == 1, 2, y), "without an example of class 1"),
        (fresh, x[:, :6], y, "`x` must be images of the shape"),
        (fresh, x[:6], y[:6], "more distilled images than real ones"),
        (fresh, x, y + 1, "without an example of class 0"),
        (fresh, *data(classes=4), "of 4 classes or more"),
        (distillation.NetworkBank(), x, y, "one network or more"),
    ]
    for networks, images, labels, message in cases:
        with pytest.raises(ValueError, match=message):
            short().distill(networks, images, labels)
    with pytest.raises(ValueError, match="`factor` must divide"):
        short(factor=3).distill(fresh, x, y)
    linear = keras.Sequential(
        [keras.Input(IMAGE), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    with pytest.raises(ValueError, match="two layers with kernels"):
        short().distill(distillation.NetworkBank([linear]), x, y)


def test_a_file_of_a_set_holds_no_state(tmp_path):
    path = tmp_path / "set.npz"
    distillation.real_start(*data(), 1).save(path)
    with pytest.raises(ValueError, match="velocity"):
        distillation.DistillationState.load(path)
