import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from keras_freetickets import metrics
from keras_freetickets.metrics import validation

LABELS = np.array([0, 1])
PROBABILITIES = np.array([[0.75, 0.25], [0.5, 0.5]], "float32")
OF_CLASSES = [
    metrics.NegativeLogLikelihood,
    metrics.Brier,
    metrics.ExpectedCalibrationError,
    metrics.MaximumCalibrationError,
    lambda: metrics.ClasswiseCalibrationError(2),
    metrics.AURC,
]
OF_DETECTION = [metrics.AUROC, metrics.AUPR, metrics.FPRAtTPR]
FUNCTIONS = [
    metrics.expected_calibration_error,
    metrics.maximum_calibration_error,
    metrics.classwise_calibration_errors,
    metrics.calibration_errors_by_label,
    metrics.reliability_bins,
    metrics.area_under_risk_coverage,
]
BAD = [
    ([[2.0, -1.0], [0.5, 0.5]], r"probabilities in \[0, 1\]"),
    ([[0.3, 0.3], [0.5, 0.5]], "sum to one"),
    ([[0.5, np.nan], [0.5, 0.5]], r"probabilities in \[0, 1\]"),
    ([0.5, 0.5], "two classes or more"),
]
LENGTH = "`y_true` must have one label for each .* {} labels for {} examples"


@pytest.mark.parametrize("make", OF_CLASSES)
@pytest.mark.parametrize("predictions, message", BAD)
def test_metrics_refuse_what_are_no_probabilities(make, predictions, message):
    with pytest.raises(ValueError, match=message):
        make().update_state(LABELS, np.array(predictions, "float32"))


def test_accuracy_takes_logits_but_no_other_shape():
    metric = metrics.Accuracy()
    metric.update_state([1, 1], [[-2.0, 5.0], [3.0, 2.0]])
    assert float(metric.result()) == 0.5
    with pytest.raises(ValueError, match="two classes or more"):
        metric.update_state([1, 1], np.array([0.5, 0.5], "float32"))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("predictions, message", BAD)
def test_functions_refuse_them_too(function, predictions, message):
    with pytest.raises(ValueError, match=message):
        function(LABELS, np.array(predictions, "float32"))


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0], [0.5, 1]])
def test_labels_out_of_range(labels):
    message = r"`y_true` must .* \[0, 2\)"
    for make in (metrics.Accuracy, *OF_CLASSES):
        with pytest.raises(ValueError, match=message):
            make().update_state(np.array(labels), PROBABILITIES)
    with pytest.raises(ValueError, match=message):
        metrics.negative_log_likelihood(np.array(labels), PROBABILITIES)
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=message):
            function(labels, PROBABILITIES)


def test_as_many_labels_as_rows():
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match="`y_true` must have one integer"):
            function([0, 1, 1], PROBABILITIES)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "labels",
    [[0, 1], [[0], [1]], [[1, 0], [0, 1]], [[1.0, 0.0], [0.0, 1.0]]],
    ids=["integers", "column", "one_hot", "floats"],
)
def test_labels_given_second(function, labels):
    """Also of one column, and one-hot, where the shapes do not tell."""
    function(labels, PROBABILITIES)
    given = PROBABILITIES, PROBABILITIES[:, :1]
    for predictions in given[: 1 if np.shape(labels) == (2, 2) else 2]:
        with pytest.raises(ValueError, match=r"order .* \(y_true, y_pred\)"):
            function(predictions, labels)


def test_labels_of_maps_given_second():
    labels = np.zeros((2, 3, 3), int)
    predictions = np.full((2, 3, 3, 2), 0.5)
    with pytest.raises(ValueError, match=r"order .* \(y_true, y_pred\)"):
        metrics.expected_calibration_error(predictions, labels)


@pytest.mark.parametrize(
    "labels, count", [([0], 1), ([[1]], 1), ([1, 0, 1], 3), ([[0.0, 1.0]], 1)]
)
def test_metrics_want_as_many_labels_too(labels, count):
    """One for many rows would be read as the label of each."""
    labels = np.array(labels)
    for make in (metrics.Accuracy, *OF_CLASSES):
        with pytest.raises(ValueError, match=LENGTH.format(count, 2)):
            make().update_state(labels, PROBABILITIES)
    members = np.stack([PROBABILITIES] * 3)
    for function, predictions in (
        (metrics.negative_log_likelihood, PROBABILITIES),
        (metrics.double_fault, members),
    ):
        with pytest.raises(ValueError, match=LENGTH.format(count, 2)):
            function(labels, predictions)


@pytest.mark.parametrize("make", OF_DETECTION)
def test_detection_wants_as_many_too(make):
    with pytest.raises(ValueError, match=LENGTH.format(1, 2)):
        make().update_state([1], PROBABILITIES)
    with pytest.raises(ValueError, match=LENGTH.format(3, 4)):
        make(score=None).update_state([1, 0, 1], [0.5, 0.6, 0.7, 0.8])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bfloat16_is_read(function):
    """Quarters are exact in it."""
    half = PROBABILITIES.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(
        function(LABELS, half), function(LABELS, PROBABILITIES)
    )


def test_half_precision_may_be_off_further():
    predictions = np.full((1, 3), 0.332, "float16")
    validation.check_probabilities(predictions)
    with pytest.raises(ValueError, match="sum to one"):
        validation.check_probabilities(predictions.astype("float32"))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_traced_step_goes_unchecked(jit_compile):
    """Only shapes are known there; documented, and no crash."""
    if keras.backend.backend() == "jax" and not jit_compile:
        pytest.skip("a step of JAX that is not compiled is not traced")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    model.compile(
        loss="sparse_categorical_crossentropy",
        metrics=[metrics.Brier()],
        jit_compile=jit_compile,
    )
    logs = model.evaluate(
        np.array([[2.0, 0.0]], "float32"),
        np.array([0]),
        verbose=0,
        return_dict=True,
    )
    assert logs["brier"] == pytest.approx(1.0)


def test_concrete():
    np.testing.assert_array_equal(validation.concrete(ops.ones(2)), [1, 1])
    assert validation.concrete(keras.KerasTensor((2,))) is None
