import keras
import numpy as np
import pytest
import updates
from keras import layers

import keras_freetickets as kft
from keras_freetickets.topology import Chase
from keras_freetickets.topology import get

SHAPES = [(9, 20), (20, 30), (3 * 30, 5)]
GROUPS = [
    {"producers": [0], "readers": [1]},
    {"producers": [1], "readers": [2]},
]


def alive(masks):
    """Which channels of each group have connections, by either side."""
    rows = [masks[1], masks[2].reshape(3, 30, 5).any(axis=0)]
    return [
        made.any(axis=0) | read.any(axis=1)
        for made, read in zip(masks[:2], rows, strict=True)
    ]


def room(masks):
    """What the channels of each kernel that are left can hold."""
    first, second = (one.sum() for one in alive(masks))
    return [9 * first, first * second, 3 * second * 5]


def steps(method, density=0.5, seed=0):
    kernels, masks, gradients = updates.network(SHAPES, [density] * 3, seed)
    updates.begin(method, kernels, masks)
    for number in range(1, 13):
        before = masks
        masks, kept = updates.run(
            method, kernels, masks, gradients, step=100 * number
        )
        yield number, kernels, before, masks, kept
        kernels = [
            np.where(mask, kernel + 0.01 * gradient, 0).astype("float32")
            for kernel, mask, gradient in zip(
                kernels, masks, gradients, strict=True
            )
        ]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_channels_follow_the_cubic_and_connections_stay(scope):
    method = Chase(0.6, GROUPS, end_step=1000, scope=scope)
    budgets = [90, 300, 225]
    for number, kernels, before, masks, _ in steps(method):
        gone = 0.6 * (1 - max(0, 1 - number / 10) ** 3)
        counts = [one.sum() for one in alive(masks)]
        if scope == "layer":
            assert counts == [round(20 * (1 - gone)), round(30 * (1 - gone))]
            wanted = np.minimum(budgets, room(masks))
            assert [mask.sum() for mask in masks] == wanted.tolist()
        else:
            assert sum(counts) == round(50 * (1 - gone))
            wanted = min(sum(budgets), sum(room(masks)))
            assert sum(mask.sum() for mask in masks) == wanted
        for was, now in zip(alive(before), alive(masks), strict=True):
            assert not (now & ~was).any()  # none returns
        means = [np.abs(kernel).mean(axis=0) for kernel in kernels[:2]]
        groups = zip(means, alive(before), alive(masks), strict=True)
        ends = [
            (mean[now].min(), mean[was & ~now].max(initial=0))
            for mean, was, now in groups
        ]
        if scope == "global":
            ends = [(min(e[0] for e in ends), max(e[1] for e in ends))]
        assert all(left >= went for left, went in ends)


def test_some_channels_of_each_layer_stay():
    method = Chase(0.5, GROUPS, end_step=100, least=1.0)
    kernels, masks, gradients = updates.network(SHAPES, [0.5] * 3)
    kernels[0] = kernels[0] / 100  # all channels of the first are the worst
    updates.begin(method, kernels, masks)
    masks, _ = updates.run(method, kernels, masks, gradients, step=100)
    assert [one.sum() for one in alive(masks)] == [10, 15]


def test_connections_are_replaced_too():
    method = Chase(0.1, GROUPS, end_step=1000, drop_fraction=0.3)
    _, _, before, _, kept = next(steps(method))
    lost = sum((was & ~k).sum() for was, k in zip(before, kept, strict=True))
    assert lost == pytest.approx(0.3 * sum(m.sum() for m in before), abs=1)


def test_channels_that_are_added_go_together():
    shapes = [(4, 6), (6, 6), (6, 3)]
    groups = [{"producers": [0, 1], "readers": [1, 2]}]
    method = Chase(0.5, groups, end_step=100, update_interval=100)
    kernels, masks, gradients = updates.network(shapes, [1.0] * 3)
    updates.begin(method, kernels, masks)
    masks, _ = updates.run(method, kernels, masks, gradients, step=100)
    means = sum(np.abs(kernel).mean(axis=0) for kernel in kernels[:2])
    left = np.isin(np.arange(6), np.argsort(means)[3:])
    np.testing.assert_array_equal(masks[0], np.tile(left, (4, 1)))
    np.testing.assert_array_equal(masks[1], left[:, None] & left)
    np.testing.assert_array_equal(masks[2], np.tile(left[:, None], 3))


def test_a_network_becomes_smaller():
    """With convolutions of all kinds, and blocks whose outputs are added."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="a")(inputs)
    y = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(12, 3, padding="same", activation="relu", name="b")(y)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu")(y)
    x = layers.Add()([x, layers.Conv2D(8, 1, name="c")(y)])
    x = layers.Flatten()(layers.MaxPooling2D(4)(x))
    outputs = layers.Dense(3, activation="softmax", name="d")(x)
    model = kft.sparsify(keras.Model(inputs, outputs), 0.5, "uniform")
    groups = kft.channel_groups(model)
    assert groups == [
        {"producers": [0, 2], "readers": [1, 3]},
        {"producers": [1], "readers": [2]},
    ]
    generator = np.random.default_rng(0)
    images = generator.normal(size=(64, 8, 8, 3)).astype("float32")
    model.compile("adam", "sparse_categorical_crossentropy")
    callback = kft.callbacks.Chase(
        0.5, groups, end_step=8, update_interval=2, scope="layer"
    )
    labels = np.arange(64) % 3
    model.fit(images, labels, 16, 3, verbose=0, callbacks=[callback])
    small = kft.compact(model)
    assert [small.get_layer(name).kernel.shape[-1] for name in "abcd"] == [
        4,
        6,
        4,
        3,
    ]
    np.testing.assert_allclose(
        small.predict(images, verbose=0),
        model.predict(images, verbose=0),
        atol=1e-6,
    )
    assert small.count_params() < 0.4 * kft.strip(model).count_params()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"channel_sparsity": 0.0}, "`channel_sparsity` must be in"),
        ({"channel_sparsity": 1.0}, "`channel_sparsity` must be in"),
        ({"least": 1.5}, "`least` must be in"),
        ({"end_step": 99}, r"`end_step` must be .* Received: end_step=99"),
        ({"groups": []}, r"`groups` must name .* Received: groups=\[\]"),
    ],
)
def test_wrong_arguments(changed, message):
    given = {"channel_sparsity": 0.5, "groups": GROUPS, "end_step": 1000}
    with pytest.raises(ValueError, match=message):
        Chase(**{**given, **changed})


def test_groups_of_another_model():
    method = Chase(0.5, [{"producers": [0], "readers": [7]}], end_step=100)
    kernels, masks, _ = updates.network(SHAPES, [0.5] * 3)
    with pytest.raises(ValueError, match="kernels of this model, which has 3"):
        updates.begin(method, kernels, masks)
    method = Chase(0.5, GROUPS, end_step=100)
    with pytest.raises(RuntimeError, match="must be attached to a model"):
        updates.run(method, kernels, masks, kernels, step=100)


def test_its_config_makes_it_again():
    method = Chase(0.5, GROUPS, 1000, start_step=100, least=0.3, scope="layer")
    config = method.get_config()
    again = Chase.from_config(config)
    assert again.get_config() == config
    settings = {"channel_sparsity": 0.5, "groups": GROUPS, "end_step": 1000}
    assert get("chase", **settings).scope == "global"
    assert method.stop_step == 1000 and not method.apply_on_update
