import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets.models.mimo import mixed_rows


def rows(*args, **kwargs):
    return ops.convert_to_numpy(mixed_rows(*args, **kwargs))


def body(features, outputs, units=(), **kwargs):
    keras.utils.set_random_seed(1)
    stack = [layers.Dense(u, activation="relu") for u in units]
    last = layers.Dense(outputs, **kwargs)
    return keras.Sequential([keras.Input((features,)), *stack, last])


def compiled(model, rate=0.1):
    model.compile(
        keras.optimizers.SGD(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(1, 12),
    members=st.integers(1, 4),
    repetitions=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.25, 0.6, 1.0]),
    step=st.integers(0, 1000),
)
def test_rows(size, members, repetitions, share, step):
    found = rows(size, members, repetitions, share, 3, step)
    assert found.shape == (members, size * repetitions)
    for member in found:
        counts = np.bincount(member, minlength=size)
        np.testing.assert_array_equal(counts, repetitions)
    # floor(n (1 - share)) rows are mixed; 1 - 0.6 is no float.
    apart = size * repetitions * round(100 * (1 - share)) // 100
    assert (found[:, apart:] == found[0, apart:]).all()


def test_two_members_meet_as_often_as_chance_has_it():
    found = np.concatenate([rows(8, 2, 16, 0.0, 0, s) for s in range(25)], 1)
    equal = (found[0] == found[1]).mean()
    # 3,200 rows with probability 1/8: a deviation of 0.0058
    assert abs(equal - 1 / 8) < 4 * 0.0058
    assert not np.array_equal(rows(8, 2, 2, 0, 0, 0), rows(8, 2, 2, 0, 0, 1))
    assert not np.array_equal(rows(8, 2, 2, 0, 0, 0), rows(8, 2, 2, 0, 1, 0))


def test_one_member_is_the_plain_network():
    dense = body(4, 3, (5,))
    mimo = compiled(kft.MIMO(body(4, 3, (5,)), 1, batch_repetitions=1))
    dense = compiled(
        keras.Sequential([*dense.layers, layers.Softmax()]), rate=0.1
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 4)).astype("float32")
    y = rng.integers(3, size=16)
    for _ in range(3):
        losses = [m.train_on_batch(x, y)[0] for m in (dense, mimo)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for mine, other in zip(
        mimo.body.get_weights(), dense.get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        mimo.predict(x, verbose=0), dense.predict(x, verbose=0), rtol=1e-4
    )


@pytest.mark.parametrize(
    "classes, members, wanted",
    [(10, 2, 36_486_036), (10, 3, 36_492_878), (100, 3, 36_665_948)],
)
def test_parameters_of_the_paper_s_network(classes, members, wanted):
    network = kft.applications.wide_resnet(
        28,
        10,
        (32, 32, 3 * members),
        classes * members,
        classifier_activation=None,
    )
    trainable = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
    assert trainable == wanted


def test_loss_of_a_head_of_zeros():
    head = body(6, 12, kernel_initializer="zeros")
    mimo = compiled(kft.MIMO(head, 3, batch_repetitions=2), rate=0.0)
    loss, accuracy = mimo.train_on_batch(np.ones((8, 2)), np.arange(8) % 4)
    assert loss == pytest.approx(3 * np.log(4), rel=1e-6)
    assert 0 <= accuracy <= 1


def test_a_member_s_loss_reaches_its_own_head_alone():
    """One example, weight 1: the gradient of each head, by hand."""
    head = body(2, 6)
    mimo = compiled(kft.MIMO(head, 2, batch_repetitions=1), rate=1.0)
    kernel, bias = [np.array(w) for w in head.get_weights()]
    mimo.train_on_batch(np.array([[2.0]]), np.array([1]))
    logits = (np.array([[2.0, 2.0]]) @ kernel + bias).reshape(2, 3)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = p - np.eye(3)[1]
    moved = bias - head.get_weights()[1]
    np.testing.assert_allclose(moved.reshape(2, 3), wanted, rtol=1e-5)


def test_where_the_channels_go():
    """Channel c * M + m is channel c of member m, logits are in M blocks."""
    kernel = np.zeros((6, 6), "float32")
    for channel in range(2):
        for member in range(3):
            kernel[channel * 3 + member, member * 2 + channel] = 1.0
    model = body(6, 6)
    model.layers[-1].set_weights([kernel, np.zeros(6, "float32")])
    mimo = kft.MIMO(model, 3)
    x = np.arange(12, dtype="float32").reshape(2, 3, 2)
    apart = ops.convert_to_numpy(mimo(x))
    np.testing.assert_allclose(
        apart, np.exp(x) / np.exp(x).sum(-1, keepdims=True), rtol=1e-5
    )
    alike = np.repeat(x[:, :1], 3, axis=1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(mimo(x[:, 0])),
        ops.convert_to_numpy(mimo(alike)).mean(1),
        rtol=1e-6,
    )


def test_members_learn_to_look_at_their_own_image():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=512)
    x = np.stack([2.0 * y - 1, rng.normal(size=512)], 1).astype("float32")
    mimo = compiled(kft.MIMO(body(4, 4, (16,)), 2, batch_repetitions=2), 0.3)
    for _ in range(60):
        mimo.train_on_batch(x, y)
    pairs = np.stack([x[:-1], x[1:]], axis=1)
    labels = np.stack([y[:-1], y[1:]], axis=1)
    found = ops.convert_to_numpy(mimo(pairs)).argmax(-1)
    assert (found == labels).mean() == 1.0
    swapped = ops.convert_to_numpy(mimo(pairs[:, ::-1])).argmax(-1)
    np.testing.assert_array_equal(swapped, found[:, ::-1])


def test_a_loss_that_divides_by_the_weights_and_a_penalty():
    penalty = keras.regularizers.L2(0.5)
    head = body(
        6,
        12,
        kernel_initializer="zeros",
        bias_initializer="ones",
        bias_regularizer=penalty,
    )
    mimo = kft.MIMO(head, 3, batch_repetitions=2)
    loss = keras.losses.SparseCategoricalCrossentropy(
        reduction="mean_with_sample_weight"
    )
    mimo.compile(keras.optimizers.SGD(0.0), loss)
    found = mimo.train_on_batch(np.ones((8, 2)), np.arange(8) % 4)
    # 3 log 4, and 12 biases of 1 once
    assert found == pytest.approx(3 * np.log(4) + 0.5 * 12, rel=1e-6)


@pytest.mark.parametrize("listed", [False, True])
def test_a_loss_of_logits_is_refused(listed):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    mimo = kft.MIMO(body(6, 12), 3)
    mimo.compile("sgd", [loss] if listed else loss)
    with pytest.raises(ValueError, match="`loss` must take probabilities"):
        mimo.fit(np.ones((8, 2)), np.zeros(8), verbose=0)


LABEL, ROW = np.array([1]), np.eye(4, dtype="float32")[[1]]
LOSSES = {
    "name": ("sparse_categorical_crossentropy", LABEL),
    "short name": ("crossentropy", ROW),
    "function": (keras.losses.categorical_crossentropy, ROW),
    "object": (keras.losses.SparseCategoricalCrossentropy(), LABEL),
    "list": ([keras.losses.SparseCategoricalCrossentropy()], LABEL),
}


def identity(features, policy=None, sparsity=None):
    """A body whose logits are its inputs."""
    keras.config.set_dtype_policy(policy or "float32")
    model = body(features, features, kernel_initializer="identity")
    keras.config.set_dtype_policy("float32")
    return model if sparsity is None else kft.sparsify(model, sparsity)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_example_that_is_surely_wrong_is_learned(loss):
    loss, y = LOSSES[loss]
    mimo = kft.MIMO(identity(4), 1, batch_repetitions=1)
    mimo.compile(keras.optimizers.SGD(1.0), loss)
    mimo.train_on_batch(np.array([[20.0, 0, 0, 0]]), y)
    moved = mimo.body.get_weights()[0] - np.eye(4)
    # x (onehot - p), and p = (1, 2e-9, 2e-9, 2e-9)
    np.testing.assert_allclose(moved[0], [-20, 20, 0, 0], atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_members_learn_from_it_in_half_precision_and_sparse(policy):
    x = np.zeros((1, 4), "float32")
    x[0, 0] = 300.0  # p of the label is 0 in any precision
    mimo = kft.MIMO(identity(8, policy, 0.0), 2, batch_repetitions=1)
    # Of member m's channel c the column is 2 c + m; its logits begin at 4 m.
    kernel = np.zeros((8, 8), "float32")
    kernel[[0, 1], [0, 4]] = 1.0
    mimo.masked_kernels[0].kernel.assign(kernel)
    bias = mimo.body.trainable_variables[1]
    mimo.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    loss = mimo.train_on_batch(x, LABEL)
    assert loss == pytest.approx(600, rel=1e-2)
    moved = ops.convert_to_numpy(bias.value)
    np.testing.assert_allclose(moved, [-1, 1, 0, 0] * 2, atol=1e-2)


def test_settings_of_a_loss_and_its_weight_count():
    x, y = np.array([[40.0, 0, 0, 0]], "float32"), ROW
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.4)
    mimo = kft.MIMO(identity(4), 1, batch_repetitions=1)
    mimo.compile(keras.optimizers.SGD(0.0), loss, loss_weights=0.5)
    # Targets .1, .7, .1, .1 and log p = 0, -40, -40, -40.
    assert mimo.train_on_batch(x, y) == pytest.approx(0.5 * 0.9 * 40, rel=1e-5)


def test_metrics_and_other_losses_see_probabilities():
    seen = []

    def loss(y, p):
        seen.append(ops.convert_to_numpy(p))
        return ops.mean(p, axis=-1)

    def metric(y, p):
        seen.append(ops.convert_to_numpy(p))
        return ops.sum(p, axis=-1)

    mimo = kft.MIMO(identity(4), 2, batch_repetitions=1)
    mimo.compile("sgd", loss, metrics=[metric])
    y = np.zeros((1, 1))
    if keras.backend.backend() == "tensorflow":
        mimo.run_eagerly = True  # else tensors have no values
        mimo.train_on_batch(np.array([[3.0, 1.0]]), y)
        assert len(seen) == 2
        for p in seen:
            np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-6)
    mimo.compile("sgd", "sparse_categorical_crossentropy", metrics=["mse"])
    with mimo.training_scope():
        log_p = mimo(np.array([[[3.0, 1], [0, 2]]]), training=True)
        apart = mimo(np.array([[3.0, 1.0]]), training=True)
    p = mimo(np.array([[3.0, 1.0]]), training=True)
    assert (ops.convert_to_numpy(log_p) < 0).all()
    np.testing.assert_allclose(
        np.exp(ops.convert_to_numpy(apart)), ops.convert_to_numpy(p), rtol=1e-5
    )


def test_sample_weights_and_one_hot_labels():
    mimo = kft.MIMO(body(4, 6), 2, batch_repetitions=2)
    mimo.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy")
    before = mimo.body.get_weights()
    x, y = np.ones((4, 2), "float32"), np.eye(3)[[0, 1, 2, 0]]
    assert mimo.train_on_batch(x, y, np.zeros(4)) == 0.0
    for old, new in zip(before, mimo.body.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert mimo.train_on_batch(x, y, np.ones(4)) > 0


def test_a_pass_of_agent_is_over_what_a_step_trains_on():
    """Its mean gradient is that of a step of SGD at rate 1."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 2)).astype("float32"), rng.integers(2, size=8)
    stepped, passed = [
        compiled(kft.MIMO(body(4, 4), 2, batch_repetitions=2), rate=1.0)
        for _ in range(2)
    ]
    agent = kft.callbacks.AGENT([(x, y)])
    agent.set_model(passed)
    agent.on_epoch_begin(0)
    before = [
        ops.convert_to_numpy(v.value) for v in stepped.trainable_variables
    ]
    stepped.train_on_batch(x, y)
    for old, new, mean in zip(
        before,
        stepped.trainable_variables,
        passed.update_state.state["mean_gradient"],
        strict=True,
    ):
        moved = old - ops.convert_to_numpy(new.value)
        mean = ops.convert_to_numpy(mean.value)
        np.testing.assert_allclose(mean, moved, rtol=1e-4, atol=1e-6)


def images(rng, count=40):
    return rng.normal(size=(count, 8, 8, 1)).astype("float32")


def sparse_mimo():
    keras.utils.set_random_seed(0)
    network = kft.applications.small_cnn(
        (8, 8, 2), 6, filters=(4,), units=8, classifier_activation=None
    )
    return compiled(kft.MIMO(kft.sparsify(network, 0.5, seed=0), 2))


def trained(directory, epochs):
    rng = np.random.default_rng(0)
    x, y = images(rng), rng.integers(3, size=40)
    mimo = sparse_mimo()
    callbacks = [
        kft.callbacks.RigL(update_interval=2, drop_fraction=0.5),
        kft.callbacks.Backup(directory),
    ]
    kwargs = {"batch_size": 8, "verbose": 0, "shuffle": False}
    mimo.fit(x, y, epochs=epochs, callbacks=callbacks, **kwargs)
    return mimo


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four epochs, to look at."""
    return trained(tmp_path_factory.mktemp("whole"), 4)


def test_trains_sparse_and_is_saved(whole, tmp_path):
    rng = np.random.default_rng(1)
    x, y = images(rng), rng.integers(3, size=40)
    changed = [
        not np.array_equal(c.mask, before.mask)
        for c, before in zip(
            whole.masked_kernels, sparse_mimo().masked_kernels, strict=True
        )
    ]
    assert any(changed)
    for connection in whole.masked_kernels:
        assert not np.array(connection.kernel)[~np.array(connection.mask)].any()
    assert whole.density == pytest.approx(0.5, abs=0.01)
    whole.save(tmp_path / "mimo.keras")
    loaded = keras.saving.load_model(tmp_path / "mimo.keras")
    made = whole.predict(x, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), made)
    assert loaded.evaluate(x, y, verbose=0) == whole.evaluate(x, y, verbose=0)


def test_members_within_an_ensemble(tmp_path):
    rng = np.random.default_rng(0)
    x, y = images(rng), rng.integers(3, size=40)
    networks = [sparse_mimo(), sparse_mimo()]
    networks[1].train_on_batch(x, y)
    predictors = [network.predictor() for network in networks]
    with pytest.raises(ValueError, match=r"its `predictor\(\)` is such"):
        kft.EnsembleModel(networks)
    ensemble = kft.EnsembleModel(predictors)
    heads = np.concatenate([n.predict_members(x) for n in networks])
    assert heads.shape == (4, 40, 3)
    np.testing.assert_allclose(
        ensemble.predict(x, verbose=0), heads.mean(0), rtol=1e-5
    )
    nll = [-np.log(h[np.arange(40), y]).mean() for h in heads]
    whole = -np.log(heads.mean(0)[np.arange(40), y]).mean()
    assert ensemble.evaluate(x, y, verbose=0)[0] == pytest.approx(whole)
    assert whole <= np.mean(nll)  # Jensen
    plain = kft.strip(predictors[0])
    np.testing.assert_allclose(
        plain.predict(x, verbose=0),
        networks[0].ensemble().predict(x, verbose=0),
        rtol=1e-5,
    )


def test_a_killed_run_goes_on(whole, tmp_path):
    trained(tmp_path, 2)
    resumed = trained(tmp_path, 4)
    for one, other in zip(
        whole.get_weights(), resumed.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_members": 0}, "`num_members` must be a positive integer"),
        ({"batch_repetitions": 0.5}, "`batch_repetitions` must be a positive"),
        ({"input_repetition": 1.5}, "`input_repetition` must be in"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
        ({"num_members": 4}, "4 times the inputs"),
        ({"num_members": 6}, "two classes or more"),
        ({"body": body(6, 5)}, "3 times the outputs"),
        ({"body": body(6, 6, activation="softmax")}, "must return logits"),
        ({"body": None}, "`body` must be a Functional"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kft.MIMO(**{"body": body(6, 6), "num_members": 3, **arguments})
