"""Binary, per-pixel and per-token predictions, and labels to ignore."""

import keras
import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss
from sklearn.metrics import roc_auc_score

from keras_freetickets import metrics

IGNORED = 255
GENERATOR = np.random.default_rng(0)


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def _sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


# 200 examples of a binary classifier, in one column.
LOGIT = 2 * GENERATOR.normal(size=(200, 1)).astype("float32")
LABEL = (GENERATOR.uniform(size=200) < _sigmoid(0.6 * LOGIT[:, 0])).astype(int)
WEIGHT = GENERATOR.uniform(size=200).astype("float32")
# 9 images of 6 x 5 pixels and 4 classes; a third of the pixels is not labelled.
MAP_LOGIT = 2 * GENERATOR.normal(size=(9, 6, 5, 4)).astype("float32")
MAP_LABEL = np.where(
    GENERATOR.uniform(size=(9, 6, 5)) < 1 / 3,
    IGNORED,
    GENERATOR.integers(4, size=(9, 6, 5)),
)
COUNTED = MAP_LABEL != IGNORED


def _value(metric, *data):
    metric.update_state(*data)
    return float(metric.result())


def metrics_of(num_classes, **kwargs):
    """Every metric of one model's predictions."""
    return {
        "accuracy": metrics.Accuracy(**kwargs),
        "nll": metrics.NegativeLogLikelihood(**kwargs),
        "brier": metrics.Brier(**kwargs),
        "ece": metrics.ExpectedCalibrationError(10, **kwargs),
        "ace": metrics.ExpectedCalibrationError(
            10, binning="equal_mass", **kwargs
        ),
        "mce": metrics.MaximumCalibrationError(5, **kwargs),
        "classwise": metrics.ClasswiseCalibrationError(
            num_classes, 10, **kwargs
        ),
        "aurc": metrics.AURC(**kwargs),
    }


def functions_of(p, y, **kwargs):
    """The functions of arrays."""
    return {
        "ece": metrics.expected_calibration_error(y, p, 10, **kwargs),
        "mce": metrics.maximum_calibration_error(y, p, 5, **kwargs),
        "classwise": metrics.classwise_calibration_errors(y, p, 10, **kwargs),
        "by_label": metrics.calibration_errors_by_label(y, p, 10, **kwargs),
        "bins": metrics.reliability_bins(y, p, 10, **kwargs),
        "aurc": metrics.area_under_risk_coverage(y, p, **kwargs),
        "curve": metrics.risk_coverage_curve(y, p, **kwargs),
    }


@pytest.mark.parametrize("from_logits", [False, True])
def test_a_column_against_scikit_learn(from_logits):
    given = LOGIT if from_logits else _sigmoid(LOGIT)
    p = _sigmoid(LOGIT[:, 0]).astype("float64")
    scores = {
        metrics.NegativeLogLikelihood: log_loss(LABEL, p, sample_weight=WEIGHT),
        # Over both classes, which is twice that of one.
        metrics.Brier: 2 * brier_score_loss(LABEL, p, sample_weight=WEIGHT),
        metrics.Accuracy: accuracy_score(LABEL, p > 0.5, sample_weight=WEIGHT),
    }
    for kind, expected in scores.items():
        for labels in (LABEL, LABEL[:, None]):
            metric = kind(from_logits=from_logits)
            value = _value(metric, labels, given, WEIGHT)
            assert value == pytest.approx(expected, abs=1e-5)


def test_calibration_of_a_column_against_scikit_learn():
    p = _sigmoid(LOGIT)
    share, mean = calibration_curve(LABEL, p[:, 0], n_bins=10)
    place = np.searchsorted(np.linspace(0, 1, 11)[1:-1], p[:, 0])
    count = np.bincount(place, minlength=10)
    expected = (np.abs(share - mean) * count[count > 0]).sum() / count.sum()
    errors = metrics.classwise_calibration_errors(LABEL, p, 10)
    # What class 1 is too sure of, class 0 is too unsure of.
    np.testing.assert_allclose(errors, [expected] * 2, atol=1e-6)
    metric = metrics.ClasswiseCalibrationError(2, 10)
    assert _value(metric, LABEL, p) == pytest.approx(expected, abs=1e-5)


def test_a_column_is_two_classes():
    """Whatever the metric: [[p]] is [[1 - p, p]], [[z]] is [[0, z]]."""
    p = _sigmoid(LOGIT)
    both = np.concatenate([1 - p, p], axis=1)
    logits = np.concatenate([0 * LOGIT, LOGIT], axis=1)
    column, pair = metrics_of(2), metrics_of(2)
    of_logits = metrics_of(2, from_logits=True)
    of_pairs = metrics_of(2, from_logits=True)
    for name, metric in column.items():
        expected = _value(pair[name], LABEL, both, WEIGHT)
        assert expected > 0
        for other, given in (
            (metric, p),
            (of_logits[name], LOGIT),
            (of_pairs[name], logits),
        ):
            value = _value(other, LABEL, given, WEIGHT)
            assert value == pytest.approx(expected, abs=1e-5), name
    expected = functions_of(both, LABEL)
    for name, value in functions_of(p, LABEL).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)


@pytest.mark.parametrize("form", ["integers", "column", "one_hot"])
def test_maps_are_rows(form):
    """Pixels count as examples, and those to ignore do not."""
    p = _softmax(MAP_LOGIT)
    given = {
        "integers": MAP_LABEL,
        "column": MAP_LABEL[..., None],
        "one_hot": np.eye(4)[np.where(COUNTED, MAP_LABEL, 3)],
    }[form]
    weight = GENERATOR.uniform(size=9).astype("float32")
    of_pixels = np.broadcast_to(weight[:, None, None], COUNTED.shape)
    ignored = IGNORED
    if form == "one_hot":
        ignored, of_pixels = None, of_pixels * COUNTED
        weight = of_pixels
    rows = p[COUNTED], MAP_LABEL[COUNTED], of_pixels[COUNTED]
    expected = metrics_of(4)
    for name, metric in metrics_of(4, ignore_class=ignored).items():
        value = _value(metric, given, p, weight)
        wanted = _value(expected[name], rows[1], rows[0], rows[2])
        assert value == pytest.approx(wanted, abs=1e-5), name
        again = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(metric)
        )
        again.update_state(given[:4], p[:4], weight[:4])
        again.update_state(given[4:], p[4:], weight[4:])
        assert float(again.result()) == pytest.approx(value, abs=1e-5), name


def test_functions_of_maps():
    p = _softmax(MAP_LOGIT)
    expected = functions_of(p[COUNTED], MAP_LABEL[COUNTED])
    found = functions_of(p, MAP_LABEL, ignore_class=IGNORED)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])
    scores = p.max(axis=-1) ** 2
    assert metrics.area_under_risk_coverage(
        MAP_LABEL, p, scores, IGNORED
    ) == pytest.approx(expected["aurc"])


def test_likelihood_of_maps_is_that_of_keras():
    p = _softmax(MAP_LOGIT)
    for reduction in ("sum_over_batch_size", "sum"):
        mine = metrics.NegativeLogLikelihoodLoss(IGNORED, reduction)
        keras_own = keras.losses.SparseCategoricalCrossentropy(
            ignore_class=IGNORED, reduction=reduction
        )
        np.testing.assert_allclose(
            float(mine(MAP_LABEL, p)), float(keras_own(MAP_LABEL, p)), rtol=1e-5
        )
    by_hand = -np.log(
        np.take_along_axis(p, np.where(COUNTED, MAP_LABEL, 0)[..., None], -1)
    )[..., 0]
    values = metrics.negative_log_likelihood(MAP_LABEL, p, IGNORED)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(values), by_hand * COUNTED, atol=1e-5
    )
    assert float(
        metrics.NegativeLogLikelihoodLoss(IGNORED)(MAP_LABEL, p)
    ) == pytest.approx(by_hand[COUNTED].mean(), rel=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(mine))
    assert again.get_config() == mine.get_config()


def test_likelihood_of_a_column():
    p = _sigmoid(LOGIT)
    soft = np.where(LABEL, 0.9, 0.1)
    hard = metrics.negative_log_likelihood(LABEL, p)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(hard).mean(),
        log_loss(LABEL, p[:, 0].astype("float64")),
        rtol=1e-5,
    )
    by_hand = -soft * np.log(p[:, 0]) - (1 - soft) * np.log(1 - p[:, 0])
    values = metrics.negative_log_likelihood(soft, p)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(values), by_hand, rtol=1e-4
    )
    metric = metrics.NegativeLogLikelihood()
    assert _value(metric, soft, p) == pytest.approx(by_hand.mean(), rel=1e-4)
    labels = np.where(np.arange(200) < 50, -1, LABEL)
    loss = metrics.NegativeLogLikelihoodLoss(ignore_class=-1)
    assert float(loss(labels, p)) == pytest.approx(
        log_loss(LABEL[50:], p[50:, 0].astype("float64")), rel=1e-5
    )


def _members(shape=(3, 20, 7, 4)):
    logits = 2 * np.random.default_rng(1).normal(size=shape)
    logits = logits.astype("float32")
    if shape[-1] == 1:
        return _sigmoid(logits)
    return _softmax(logits)


OF_MEMBERS = {
    metrics.predictive_entropy: metrics.PredictiveEntropy,
    metrics.expected_entropy: metrics.ExpectedEntropy,
    metrics.mutual_information: metrics.MutualInformation,
    metrics.variation_ratio: metrics.VariationRatio,
    metrics.disagreement: metrics.Disagreement,
    metrics.pairwise_kl: metrics.PairwiseKL,
    metrics.double_fault: metrics.DoubleFault,
}


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("function", list(OF_MEMBERS))
def test_members_of_tokens(function, classes):
    p = _members((3, 20, 7, classes))
    y = np.random.default_rng(2).integers(max(2, classes), size=(20, 7))
    both = np.concatenate([1 - p, p], -1) if classes == 1 else p
    flat = both.reshape(3, 140, -1)

    def values(members, labels):
        if function is metrics.double_fault:
            return keras.ops.convert_to_numpy(function(labels, members))
        return keras.ops.convert_to_numpy(function(members))

    expected = values(flat, y.ravel()).reshape(20, 7)
    np.testing.assert_allclose(values(p, y), expected, atol=1e-6)
    ignored = y.copy()
    ignored[:, 5:] = -1
    metric = OF_MEMBERS[function](ignore_class=-1)
    assert _value(metric, ignored, p) == pytest.approx(
        expected[:, :5].mean(), abs=1e-5
    )
    if function is metrics.disagreement:
        matrix = metrics.disagreement_matrix(p)
        assert matrix.sum() / 6 == pytest.approx(expected.mean(), abs=1e-6)


def test_entropies_ask_for_no_labels():
    """Inputs of other classes have labels of other classes."""
    p = _members((3, 20, 4))
    metric = metrics.MutualInformation()
    expected = keras.ops.convert_to_numpy(metrics.mutual_information(p)).mean()
    value = _value(metric, np.full(20, 17), p)
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("score", ["maximum_probability", "entropy"])
def test_unknown_pixels_against_scikit_learn(score):
    """A label for each pixel, some of them to ignore; or one for an image."""
    p = _softmax(MAP_LOGIT)
    function = {
        "maximum_probability": metrics.maximum_probability,
        "entropy": metrics.negative_entropy,
    }[score]
    scores = keras.ops.convert_to_numpy(function(p))
    assert scores.shape == (9, 6, 5)
    known = np.where(COUNTED, MAP_LABEL % 2, IGNORED)
    metric = metrics.AUROC(score, ignore_class=IGNORED)
    expected = roc_auc_score(known[COUNTED], scores[COUNTED])
    value = _value(metric, known, p)
    assert value == pytest.approx(expected, abs=metric.error_bound() + 1e-6)
    of_images = np.arange(9) % 2
    metric = metrics.AUROC(score)
    expected = roc_auc_score(np.repeat(of_images, 30), scores.ravel())
    value = _value(metric, of_images, p)
    assert value == pytest.approx(expected, abs=metric.error_bound() + 1e-6)


def test_unknown_inputs_of_a_binary_classifier():
    p = _sigmoid(LOGIT)
    known = np.arange(200) % 2
    scores = np.maximum(p, 1 - p)[:, 0]
    for metric, given in (
        (metrics.AUROC(), p),
        (metrics.AUROC(from_logits=True), LOGIT),
    ):
        value = _value(metric, known, given)
        assert value == pytest.approx(
            roc_auc_score(known, scores), abs=metric.error_bound() + 1e-5
        )
    members = _members((3, 200, 1))
    metric = metrics.AUROC("mutual_information")
    information = metrics.mutual_information(members)
    value = _value(metric, known, members)
    assert value == pytest.approx(
        roc_auc_score(known, -keras.ops.convert_to_numpy(information)),
        abs=metric.error_bound() + 1e-5,
    )
    for function in (metrics.negative_energy, metrics.maximum_logit):
        with pytest.raises(ValueError, match="column for each of two classes"):
            function(LOGIT)
    with pytest.raises(ValueError, match="a column for the unknown"):
        metrics.unknown_aware_score(p)


@pytest.mark.parametrize("classes", [1, 4])
def test_all_ignored(classes):
    """No example: 0, as where none was seen; and no NaN from beneath."""
    shape = (2, 3, classes)
    nothing = np.full(shape, np.nan, "float32")
    labels = np.full(shape[:-1], -1)
    num_classes = max(2, classes)
    for name, metric in metrics_of(num_classes, ignore_class=-1).items():
        assert _value(metric, labels, nothing) == 0.0, name
    for kind in OF_MEMBERS.values():
        members = np.full((3, *shape), np.nan, "float32")
        assert _value(kind(ignore_class=-1), labels, members) == 0.0
    loss = metrics.NegativeLogLikelihoodLoss(ignore_class=-1)
    assert float(loss(labels, nothing)) == 0.0
    assert (
        metrics.expected_calibration_error(
            labels, nothing, 5, "equal_width", -1
        )
        == 0
    )
    assert np.isnan(_value(metrics.AUROC(ignore_class=-1), labels, nothing))
    with pytest.raises(ValueError, match="one example or more"):
        metrics.risk_coverage_curve(labels, nothing, ignore_class=-1)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_present(label):
    p = np.array([[0.25], [0.75], [0.5]], "float32")
    labels = np.full(3, label)
    # At 0.5 the first class is taken, as by Keras' BinaryAccuracy.
    keras_own = keras.metrics.BinaryAccuracy()
    accuracy = _value(metrics.Accuracy(), labels, p)
    assert accuracy == pytest.approx(_value(keras_own, labels[:, None], p))
    assert accuracy == pytest.approx([2 / 3, 1 / 3][label])
    own = p[:, 0] if label else 1 - p[:, 0]
    nll = _value(metrics.NegativeLogLikelihood(), labels, p)
    assert nll == pytest.approx(-np.log(own).mean(), rel=1e-5)
    brier = _value(metrics.Brier(), labels, p)
    assert brier == pytest.approx(2 * np.square(1 - own).mean())
    errors = metrics.calibration_errors_by_label(labels, p, 4)
    assert np.isnan(errors[1 - label]) and errors[label] >= 0


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision(kind):
    p = keras.ops.cast(_sigmoid(LOGIT), kind)
    exact = keras.ops.convert_to_numpy(keras.ops.cast(p, "float32"))
    maps = keras.ops.cast(_softmax(MAP_LOGIT), kind)
    exact_maps = keras.ops.convert_to_numpy(keras.ops.cast(maps, "float32"))
    exact_maps /= exact_maps.sum(axis=-1, keepdims=True)
    wide = metrics_of(2)
    for name, metric in metrics_of(2).items():
        value = _value(metric, LABEL, p)
        assert value == pytest.approx(
            _value(wide[name], LABEL, exact), abs=1e-6
        )
    wide = metrics_of(4, ignore_class=IGNORED)
    for name, metric in metrics_of(4, ignore_class=IGNORED).items():
        # Rows of half precision do not quite sum to one.
        value = _value(metric, MAP_LABEL, maps)
        wanted = _value(wide[name], MAP_LABEL, exact_maps)
        assert value == pytest.approx(wanted, abs=1e-2), name


@pytest.mark.parametrize("jit_compile", [False, True])
def test_evaluate_with_a_ragged_batch(jit_compile):
    """In a traced step, 9 images by 4; as eagerly, and as Keras' own."""
    if keras.backend.backend() == "jax" and not jit_compile:
        pytest.skip("one way is enough")
    model = keras.Sequential(
        [keras.Input((None, 5, 4)), keras.layers.Softmax()]
    )
    made = metrics_of(4, ignore_class=IGNORED)
    for name, metric in made.items():
        metric.name = name
    model.compile(
        loss=metrics.NegativeLogLikelihoodLoss(IGNORED),
        metrics=list(made.values()),
        weighted_metrics=[metrics.Brier(ignore_class=IGNORED, name="weighted")],
        jit_compile=jit_compile,
    )
    weight = np.arange(1, 10, dtype="float32")
    logs = model.evaluate(
        MAP_LOGIT,
        MAP_LABEL,
        sample_weight=weight,
        batch_size=4,
        verbose=0,
        return_dict=True,
    )
    p = _softmax(MAP_LOGIT)
    for name, metric in metrics_of(4, ignore_class=IGNORED).items():
        value = _value(metric, MAP_LABEL, p)
        assert logs[name] == pytest.approx(value, abs=1e-4), name
    weighted = _value(metrics.Brier(ignore_class=IGNORED), MAP_LABEL, p, weight)
    assert logs["weighted"] == pytest.approx(weighted, abs=1e-5)


def test_what_keras_masks_is_not_counted():
    """As in Keras' losses and metrics: padded tokens have no label."""
    tokens = np.array([[1, 2, 3, 0], [2, 0, 0, 0]])
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(5, 3, mask_zero=True),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    y = np.array([[0, 1, 2, 0], [1, 0, 0, 0]])
    model.compile(
        loss="sparse_categorical_crossentropy",
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="of_keras"),
            metrics.Accuracy(),
            metrics.NegativeLogLikelihood(),
        ],
    )
    logs = model.evaluate(tokens, y, verbose=0, return_dict=True)
    p = keras.ops.convert_to_numpy(model(tokens))
    counted = tokens > 0
    own = np.take_along_axis(p, y[..., None], -1)[..., 0][counted]
    assert logs["nll"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["nll"], rel=1e-5)
    hits = (p.argmax(-1) == y)[counted]
    assert logs["accuracy"] == pytest.approx(hits.mean())


@pytest.mark.parametrize(
    "labels, predictions, message",
    [
        ([0, 1], [0.5, 0.5], r"\(batch, ..., 1\) for a binary classifier"),
        ([0, 2], [[0.5], [0.5]], r"integers in \[0, 2\)"),
        ([-1, 1], [[0.5], [0.5]], r"integers in \[0, 2\)"),
        ([0, 1], [[1.5], [0.5]], r"probabilities in \[0, 1\]"),
        ([0], [[0.5], [0.5]], "1 labels for 2 examples"),
        ([[0, 1]], [[0.5], [0.5]], r"shapes \(1, 2\) and \(2,\)"),
        # Two labels at once: the sentence says how to go on.
        ([0, 1], [[0.9, 0.8], [0.2, 0.7]], r"several labels.*`y_pred\[..., No"),
    ],
)
def test_refused(labels, predictions, message):
    for kind in (metrics.Brier, metrics.ExpectedCalibrationError):
        with pytest.raises(ValueError, match=message):
            kind().update_state(np.array(labels), np.array(predictions, "f"))


def test_several_labels_are_binary_positions():
    """What the error advises: a yes or no for each of three labels."""
    p = GENERATOR.uniform(size=(50, 3)).astype("float32")
    y = GENERATOR.integers(2, size=(50, 3))
    expected = np.mean(
        [2 * brier_score_loss(y[:, k], p[:, k]) for k in range(3)]
    )
    value = _value(metrics.Brier(), y, p[..., None])
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"ignore_class": 1.5}, "`ignore_class` must be an integer"),
        ({"ignore_class": True}, "`ignore_class` must be an integer"),
        ({"from_logits": "name"}, "`from_logits` must be True or False"),
    ],
)
def test_bad_arguments(kwargs, message):
    for kind in (metrics.Accuracy, metrics.AURC, metrics.AUROC):
        with pytest.raises(ValueError, match=message):
            kind(**kwargs)


def test_weights_of_another_shape():
    with pytest.raises(ValueError, match="`sample_weight` must have one numb"):
        metrics.Brier().update_state(LABEL, _sigmoid(LOGIT), np.ones(3))
