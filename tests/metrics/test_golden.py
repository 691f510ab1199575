"""Against numbers of netcal, torchmetrics and torch, see tests/golden."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from keras_freetickets import metrics

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "golden.json").read_text())


def _cases():
    spec = importlib.util.spec_from_file_location("cases", FOLDER / "cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = _cases()
KINDS = {
    "ece": (
        metrics.ExpectedCalibrationError,
        metrics.expected_calibration_error,
    ),
    "mce": (metrics.MaximumCalibrationError, metrics.maximum_calibration_error),
}
CALIBRATION = [
    (case, key)
    for case in CASES.predictions()
    for key in GOLDEN[case]
    if key.split("_")[1] in KINDS and not key.endswith("equal_mass")
]
SCORES = {
    "accuracy": metrics.Accuracy,
    "brier": metrics.Brier,
    "nll": metrics.NegativeLogLikelihood,
    "entropy": metrics.PredictiveEntropy,
}
EQUAL_MASS = [
    (case, key)
    for case in CASES.predictions()
    for key in GOLDEN[case]
    if key.endswith("equal_mass")
]


@pytest.mark.parametrize("case, key", CALIBRATION)
def test_calibration(case, key):
    probabilities, labels = CASES.predictions()[case]
    streaming, exact = KINDS[key.split("_")[1]]
    metric = streaming(num_bins=15)
    metric.update_state(labels, probabilities)
    # torchmetrics and the metric add up in float32.
    expected = pytest.approx(GOLDEN[case][key], abs=1e-6)
    assert float(metric.result()) == expected
    assert exact(labels, probabilities, 15) == expected


@pytest.mark.parametrize("case", list(CASES.predictions()))
def test_scores(case):
    probabilities, labels = CASES.predictions()[case]
    found = 0
    for name, kind in SCORES.items():
        metric = kind()
        given = probabilities[None] if name == "entropy" else probabilities
        metric.update_state(labels, given)
        for key in {f"torch_{name}", f"torchmetrics_{name}"} & {*GOLDEN[case]}:
            expected = pytest.approx(GOLDEN[case][key], rel=1e-5)
            assert float(metric.result()) == expected
            found += 1
    assert found >= 2


@pytest.mark.parametrize("case", list(CASES.members()))
def test_members(case):
    members = CASES.members()[case]
    labels = np.zeros(members.shape[1], "int32")
    for name, kind in {
        "pairwise_kl": metrics.PairwiseKL,
        "disagreement": metrics.Disagreement,
        "predictive_entropy": metrics.PredictiveEntropy,
        "mutual_information": metrics.MutualInformation,
    }.items():
        metric = kind()
        metric.update_state(labels, members)
        expected = pytest.approx(GOLDEN[case][name], rel=1e-5, abs=1e-6)
        assert float(metric.result()) == expected


@pytest.mark.parametrize("case, key", EQUAL_MASS)
def test_equal_mass(case, key):
    probabilities, labels = CASES.predictions()[case]
    streaming, exact = KINDS[key.split("_")[1]]
    expected = GOLDEN[case][key]
    assert exact(labels, probabilities, 10, "equal_mass") == pytest.approx(
        expected, abs=1e-6
    )
    metric = streaming(num_bins=10, binning="equal_mass")
    metric.update_state(labels, probabilities)
    bound = metric.error_bound() + 1e-6
    assert abs(float(metric.result()) - expected) <= bound
    # One edge moves by one example of 1,000 at most, with these few.
    assert float(metric.result()) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("case", list(CASES.scores()))
def test_detection(case):
    known, unknown = CASES.scores()[case]
    golden = GOLDEN[case]
    streaming = {
        "auroc": metrics.AUROC(score=None),
        "aupr_in": metrics.AUPR("in", score=None),
        "aupr_out": metrics.AUPR("out", score=None),
    }
    exact = {
        "auroc": metrics.auroc(known, unknown),
        "aupr_in": metrics.aupr(known, unknown, "in"),
        "aupr_out": metrics.aupr(known, unknown, "out"),
    }
    truth = np.repeat([1, 0], [len(known), len(unknown)])
    for name, metric in streaming.items():
        assert exact[name] == pytest.approx(golden[name], abs=1e-6)
        metric.update_state(truth, np.concatenate([known, unknown]))
        error = abs(float(metric.result()) - golden[name])
        assert error <= metric.error_bound() + 1e-6
        assert error < 2e-4
    # torchmetrics gives the best there is for 95 % and more.
    assert metrics.fpr_at_tpr(known, unknown) == pytest.approx(
        golden["fpr_at_95"], abs=1e-6
    )
    metric = metrics.FPRAtTPR(score=None)
    metric.update_state(truth, np.concatenate([known, unknown]))
    error = abs(float(metric.result()) - golden["fpr_at_95"])
    assert error <= metric.error_bound() + 1e-6
