"""Influence against training again, derivatives against differences."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_freetickets as kft
from keras_freetickets.graphs import LeaveOneOut
from keras_freetickets.graphs import block_model
from keras_freetickets.graphs import class_weights
from keras_freetickets.graphs import conjugate_gradients
from keras_freetickets.graphs import graph_network

L2 = 0.01


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def fit_logistic(features, y, weights, start=None, l2=L2):
    """Minimum of mean weighted loss + l2 * |w|^2, by Newton's method.

    One column of logits; the network has two, of which one is fixed at 0.
    """
    theta = np.zeros(features.shape[1]) if start is None else start
    for _ in range(30):
        p = sigmoid(features @ theta)
        gradient = features.T @ (weights * (p - y)) / len(y) + 2 * l2 * theta
        scale = weights * p * (1 - p) / len(y)
        hessian = (features.T * scale) @ features
        hessian += 2 * l2 * np.eye(len(theta))
        step = np.linalg.solve(hessian, gradient)
        theta = theta - step
        if np.abs(step).max() < 1e-10:
            break
    return theta


@keras.saving.register_keras_serializable(package="test_influence")
class Two(keras.layers.Layer):
    """One logit as two, the first of them 0."""

    def call(self, x):
        return ops.concatenate([ops.zeros_like(x), x], axis=-1)


@functools.cache
def linear(seed):
    """The convex model of a block model, with all that it was made of."""
    data = block_model(seed=seed)
    z = data.graph.propagate(data.x, 2)
    features = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    weights = class_weights(data.y, data.train)
    theta = fit_logistic(features, data.y, weights)
    head = keras.layers.Dense(
        1, use_bias=False, kernel_regularizer=keras.regularizers.L2(L2)
    )
    inputs = keras.Input((features.shape[1],))
    model = keras.Model(inputs, Two()(head(inputs)))
    head.kernel.assign(theta[:, None])
    features = features.astype("float32")
    return data, features, weights, theta, model


@functools.cache
def left_out(seed):
    data, features, weights, _, model = linear(seed)
    return LeaveOneOut(
        model, features, data.y, weights, damping=0.0, tolerance=1e-5
    )


def exact_residuals(seed):
    data, features, weights, theta, _ = linear(seed)
    found = []
    for k in data.train:
        without = weights.copy()
        without[k] = 0
        again = fit_logistic(features, data.y, without, theta)
        found.append(abs(data.y[k] - sigmoid(features[k] @ again)))
    return np.array(found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_influence_is_training_again_on_a_convex_model(seed):
    found, exact = left_out(seed).residuals(), exact_residuals(seed)
    assert np.corrcoef(found, exact)[0, 1] > 0.99
    assert np.abs(found - exact).max() < 0.1


def test_a_left_out_label_is_further_from_its_prediction():
    for seed in range(3):
        data, features, _, theta, _ = linear(seed)
        rows = data.train
        fitted = np.abs(data.y[rows] - sigmoid(features[rows] @ theta))
        assert left_out(seed).residuals().mean() >= fitted.mean()


def test_intervals_of_0_9_hold_nine_labels_of_ten():
    covered = []
    for seed in range(10):
        data = linear(seed)[0]
        low, high = left_out(seed).intervals(0.9, rows=data.test).T
        y = data.y[data.test]
        covered.append(np.mean((y >= low) & (y <= high)))
    assert 0.82 <= np.mean(covered) <= 0.98


def test_intervals_nest():
    low, high = np.stack(
        [left_out(0).intervals(c) for c in (0.5, 0.8, 0.9, 0.99)]
    ).transpose(2, 0, 1)
    assert (np.diff(low, axis=0) <= 0).all()
    assert (np.diff(high, axis=0) >= 0).all()


def loss_of(seed):
    data, features, weights, _, _ = linear(seed)
    features = features.astype("float64")

    def terms(theta):
        signs = 2.0 * data.y - 1
        losses = np.logaddexp(0, -signs * (features @ theta))
        return weights * losses / len(losses)

    return terms


def test_derivatives_are_those_of_finite_differences():
    """(H + damping) * changes = gradients, both from differences alone."""
    theta = linear(0)[3]
    terms, step = loss_of(0), 1e-4
    found = left_out(0)
    size = len(theta)

    def gradients(at):
        moved = [
            (terms(at + step * e) - terms(at - step * e)) / (2 * step)
            for e in np.eye(size)
        ]
        return np.array(moved)  # (weights, nodes)

    expected = gradients(theta)[:, found.examples].T
    whole = [
        (
            gradients(theta + step * v).sum(1)
            - gradients(theta - step * v).sum(1)
        )
        / (2 * step)
        + 2 * L2 * v
        for v in found.changes[:5]
    ]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(whole, expected[:5], atol=2e-3 * scale)
    block = found._gradients(
        found._network.theta(), found._x, found.examples[: found._block_size]
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(block), expected, atol=1e-3 * scale
    )
    vectors = np.random.default_rng(0).normal(size=(3, size))
    products = found._products(
        found._network.theta(), found._x, vectors.astype("float32")
    )
    by_differences = [
        (
            gradients(theta + step * v).sum(1)
            - gradients(theta - step * v).sum(1)
        )
        / (2 * step)
        + 2 * L2 * v
        for v in vectors
    ]
    np.testing.assert_allclose(
        ops.convert_to_numpy(products), by_differences, rtol=0.02, atol=2e-3
    )


def test_blocks_and_rows_change_nothing():
    data, features, weights, _, model = linear(0)
    small = LeaveOneOut(
        model, features, data.y, weights, damping=0.0, block_size=7
    )
    np.testing.assert_allclose(
        small.changes, left_out(0).changes, rtol=1e-2, atol=1e-4
    )
    rows = [5, 2]
    np.testing.assert_allclose(
        small.predictions(rows=rows), small.predictions()[:, rows], atol=1e-6
    )
    np.testing.assert_allclose(small.predictions().sum(-1), 1, atol=1e-5)


def test_compressed_kernels_are_refused():
    hidden, last = keras.layers.Dense(8), keras.layers.Dense(2)
    dense = keras.Sequential([keras.Input((4,)), hidden, last])
    settings = {"storage": "compressed", "max_compressed_density": 1.0}
    model = kft.sparsify(dense, 0.5, **settings)
    x, y = np.ones((6, 4), "float32"), np.zeros(6, int)
    with pytest.raises(ValueError, match=r"must have masks.*decompress"):
        LeaveOneOut(model, x, y)


def test_conjugate_gradients_solve():
    random = np.random.default_rng(0)
    root = random.normal(size=(12, 12))
    matrix = root @ root.T + np.eye(12)
    right = random.normal(size=(5, 12))
    right[2] = 0
    found, steps = conjugate_gradients(lambda v: v @ matrix, right, 1e-10)
    np.testing.assert_allclose(found @ matrix, right, atol=1e-8)
    assert steps <= 20 and not found[2].any()
    with pytest.warns(UserWarning, match="stopped after 2 steps"):
        conjugate_gradients(lambda v: v @ matrix, right, 1e-10, 2)
    with pytest.raises(ValueError, match=r"positive definite.*curvature of -1"):
        conjugate_gradients(lambda v: -v, right)


def test_masked_weights_do_not_move():
    """Of a sparse network, in its last layer, whose loss is convex."""
    data = block_model(num_nodes=80, num_rare_train=5, num_other_train=15)
    keras.utils.set_random_seed(0)
    model = kft.sparsify(graph_network(data.graph, 16), 0.5, seed=0)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    weights = class_weights(data.y, data.train)
    model.fit(
        data.x[None],
        data.y[None],
        sample_weight=weights[None],
        epochs=20,
        verbose=0,
    )
    last = model.sparse_layers[-1]
    found = LeaveOneOut(
        model,
        data.x[None],
        data.y[None],
        weights[None],
        variables=last.trainable_variables,
    )
    assert found.changes.shape == (20, 16 * 2 + 2)
    mask = ops.convert_to_numpy(last.masked_kernels[0].mask.value).ravel()
    kernel = found.changes[:, : mask.size]
    assert (kernel[:, ~mask] == 0).all() and (kernel[:, mask] != 0).any()
    low, high = found.intervals(rows=data.test).T
    assert (low >= 0).all() and (high <= 1).all() and (low <= high).all()


@pytest.mark.parametrize(
    "wrong, kind, message",
    [
        ({"damping": -1.0}, ValueError, "`damping` must be"),
        ({"examples": [0.5]}, TypeError, "`examples` must be integers"),
        ({"examples": [300]}, ValueError, "from 0 to 299"),
        ({"variables": []}, ValueError, "`variables` must be trainable"),
        ({"y": [0, 1]}, ValueError, "`sample_weight` must be"),
        (
            {"y": [0, 1], "sample_weight": None},
            ValueError,
            "one label for each row",
        ),
        ({"model": 3}, TypeError, "`model` must be"),
        ({"y": np.full(300, 2)}, ValueError, "`y` must be of the model's cl"),
        ({"y": np.full(300, -1)}, ValueError, "classes, 0 to 1.*y with -1"),
        ({"y": np.zeros(300)}, ValueError, "integer labels.*float64"),
        ({"x": np.full((300, 17), np.nan)}, ValueError, "finite gradients"),
    ],
)
def test_wrong_arguments_are_named(wrong, kind, message):
    data, features, weights, _, model = linear(0)
    given = {
        "model": model,
        "x": features,
        "y": data.y,
        "sample_weight": weights,
        **wrong,
    }
    with pytest.raises(kind, match=message):
        LeaveOneOut(**given)


@pytest.mark.parametrize(
    "wrong, kind, message",
    [
        ({"rare_class": 2}, ValueError, "classes, 0 to 1.*rare_class with 2"),
        ({"rare_class": -1}, ValueError, "`rare_class` must be"),
        ({"rows": [300]}, ValueError, "`rows` must name nodes from 0 to 299"),
        ({"rows": [0.5]}, TypeError, "`rows` must be integers"),
        ({"coverage": 1.0}, ValueError, "`coverage` must be"),
    ],
)
def test_wrong_intervals_are_named(wrong, kind, message):
    with pytest.raises(kind, match=message):
        left_out(0).intervals(**wrong)


def test_rows_of_weight_zero_need_no_label():
    data, features, weights, _, model = linear(0)
    y = np.where(weights > 0, data.y, -1)
    found = LeaveOneOut(
        model, features, y, weights, damping=0.0, tolerance=1e-5
    )
    np.testing.assert_array_equal(found.residuals(), left_out(0).residuals())
