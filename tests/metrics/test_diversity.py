import itertools

import keras
import numpy as np
import pytest
from sklearn.metrics import zero_one_loss

import keras_freetickets as kft
from keras_freetickets import metrics

# Two agree on class 0, one says 1: three members, one example.
SPLIT = np.array([[[0.9, 0.1]], [[0.8, 0.2]], [[0.3, 0.7]]], "float32")
CERTAIN = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], "float32")
OF_MEMBERS = {
    metrics.PredictiveEntropy: metrics.predictive_entropy,
    metrics.ExpectedEntropy: metrics.expected_entropy,
    metrics.MutualInformation: metrics.mutual_information,
    metrics.VariationRatio: metrics.variation_ratio,
    metrics.Disagreement: metrics.disagreement,
    metrics.PairwiseKL: metrics.pairwise_kl,
}


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _random(seed=0, examples=50, members=4, classes=3):
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(classes), (members, examples))
    return p.astype("float32"), generator.integers(classes, size=examples)


def test_by_hand():
    third = 1 / 3
    assert _array(metrics.variation_ratio(SPLIT)) == pytest.approx(third)
    assert _array(metrics.disagreement(SPLIT)) == pytest.approx(2 * third)
    assert _array(metrics.double_fault([1], SPLIT)) == pytest.approx(third)
    assert _array(metrics.double_fault([0], SPLIT)) == pytest.approx(0)
    assert _array(metrics.predictive_entropy(CERTAIN)) == pytest.approx(
        np.log(2)
    )
    assert _array(metrics.expected_entropy(CERTAIN)) == pytest.approx(0)
    assert _array(metrics.mutual_information(CERTAIN)) == pytest.approx(
        np.log(2)
    )
    pair = [[[0.5, 0.5]], [[0.75, 0.25]]]
    there = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    back = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert _array(metrics.pairwise_kl(pair)) == pytest.approx(
        (there + back) / 2, abs=1e-6
    )


def test_against_loops_over_pairs():
    p, labels = _random()
    choice = p.argmax(-1)
    unequal, both, divergence = [], [], []
    for i, j in itertools.permutations(range(4), 2):
        unequal.append(choice[i] != choice[j])
        both.append((choice[i] != labels) & (choice[j] != labels))
        ratio = np.log(p[j]) - np.log(p[i])
        divergence.append((p[j] * ratio).sum(-1))
    for value, expected in (
        (metrics.disagreement(p), np.mean(unequal, 0)),
        (metrics.double_fault(labels, p), np.mean(both, 0)),
        (metrics.pairwise_kl(p), np.mean(divergence, 0)),
    ):
        np.testing.assert_allclose(_array(value), expected, atol=2e-5)


def test_members_that_agree_differ_in_nothing():
    p = np.repeat(_random(members=1)[0], 5, axis=0)
    for function in (
        metrics.disagreement,
        metrics.pairwise_kl,
        metrics.mutual_information,
        metrics.variation_ratio,
    ):
        np.testing.assert_allclose(_array(function(p)), 0, atol=1e-6)
        assert (_array(function(p)) >= 0).all()


def test_divergence_of_certain_members_is_finite():
    value = float(_array(metrics.pairwise_kl(CERTAIN))[0])
    assert value == pytest.approx(-np.log(1e-7), rel=1e-4)


@pytest.mark.parametrize("kind", list(OF_MEMBERS))
def test_metric_is_the_mean(kind):
    p, labels = _random()
    expected = _array(OF_MEMBERS[kind](p)).mean()
    metric = kind()
    metric.update_state(labels[:20], p[:, :20])
    metric.update_state(labels[20:], p[:, 20:])
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)
    second = kind(members_axis=1)
    second.update_state(labels, p.swapaxes(0, 1))
    assert float(second.result()) == pytest.approx(expected, abs=1e-6)


def test_double_fault_metric():
    p, labels = _random()
    expected = _array(metrics.double_fault(labels, p)).mean()
    for axis, given in ((0, p), (1, p.swapaxes(0, 1))):
        metric = metrics.DoubleFault(members_axis=axis)
        metric.update_state(labels, given)
        assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_weights():
    p, labels = _random()
    weights = np.arange(50.0)
    metric = metrics.Disagreement()
    metric.update_state(labels, p, weights)
    expected = np.average(_array(metrics.disagreement(p)), weights=weights)
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_disagreement_matrix():
    p, _ = _random()
    choice = p.argmax(-1)
    expected = [
        [zero_one_loss(choice[i], choice[j]) for j in range(4)]
        for i in range(4)
    ]
    matrix = metrics.disagreement_matrix(p)
    np.testing.assert_allclose(matrix, expected)
    mean = _array(metrics.disagreement(p)).mean()
    assert matrix.sum() / 12 == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: metrics.disagreement(SPLIT[:1]),
            "`members` must be 2 or more",
        ),
        (lambda: metrics.pairwise_kl(SPLIT[0]), "two classes or more"),
        (
            lambda: metrics.expected_entropy(SPLIT, members_axis=2),
            "`members_axis` must be 0 or 1",
        ),
        (
            lambda: metrics.predictive_entropy(2 * SPLIT),
            "`y_pred` must hold probabilities",
        ),
        (
            lambda: metrics.double_fault([2], SPLIT),
            r"`y_true` must hold integers in \[0, 2\)",
        ),
        (
            lambda: metrics.disagreement_matrix(np.zeros((3, 0, 2))),
            "`members` must have the shape",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_members_on_the_wrong_axis():
    """3 members of 1 example, read as 3 examples of 1 member: refused."""
    with pytest.raises(ValueError, match="`members` must be 2 or more"):
        metrics.disagreement(SPLIT, members_axis=1)


def _network(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, activation="softmax")]
    )


def test_mutual_information_of_what_predict_members_returns():
    """By NumPy: 3 members, 100 examples; the wrong axis gave 3 numbers."""
    p, _ = _random(examples=100, members=3)

    def entropy(q):
        return -(q * np.log(q)).sum(-1)

    expected = entropy(p.mean(axis=0)) - entropy(p).mean(axis=0)
    found = _array(metrics.mutual_information(p))
    assert found.shape == (100,)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", [*OF_MEMBERS, metrics.DoubleFault])
def test_members_come_first_as_predict_members_gives_them(kind):
    """3 members, 100 examples: one number for each example."""
    models = [_network(seed) for seed in range(3)]
    ensemble = kft.EnsembleModel(models)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(100, 4)).astype("float32")
    y = generator.integers(5, size=100)
    p = ensemble.predict_members(x)
    function = OF_MEMBERS.get(kind)
    values = metrics.double_fault(y, p) if function is None else function(p)
    assert values.shape == (100,)
    metric = kind()
    metric.update_state(y, p)
    assert float(metric.result()) == pytest.approx(
        _array(values).mean(), abs=1e-6
    )
    wrong = kind(members_axis=1)
    with pytest.raises(ValueError, match="one label for each"):
        wrong.update_state(y, p)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_model_has_the_batch_first(jit_compile):
    """Read the other way round it is refused, not averaged over members."""
    p, labels = _random(examples=10, members=4)
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.Identity()])
    given = p.swapaxes(0, 1)
    for axis in (0, 1):
        model.compile(
            loss=lambda y_true, y_pred: keras.ops.mean(y_pred, axis=-1),
            metrics=[metrics.Disagreement(members_axis=axis)],
            jit_compile=jit_compile,
        )
        if axis == 0:
            with pytest.raises(
                ValueError, match=r"`members_axis` must|one lab"
            ):
                model.evaluate(given, labels, verbose=0)
            continue
        logs = model.evaluate(given, labels, verbose=0, return_dict=True)
        expected = _array(metrics.disagreement(p)).mean()
        assert logs["disagreement"] == pytest.approx(expected, abs=1e-6)
