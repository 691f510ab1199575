import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.arguments import named_or_callable


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_counts(value):
    with pytest.raises(ValueError, match="`num_bins` must be a positive"):
        check_count("num_bins", value)
    with pytest.raises(
        ValueError, match="`num_bins` must be an integer of at least 2"
    ):
        check_count("num_bins", 1, least=2)
    check_count("num_bins", np.int64(1))


@pytest.mark.parametrize("value", [-0.1, 1, float("nan"), True, "0.5", None])
def test_numbers(value):
    message = r"`share` must be in \[0, 1\): of what. Received: share="
    with pytest.raises(ValueError, match=message):
        check_number("share", value, "[0, 1)", "of what")
    check_number("share", np.float32(0), "[0, 1)")


@pytest.mark.parametrize(
    "interval, rule",
    [("(0, inf)", "positive"), ("[0, inf)", "a non-negative number")],
)
def test_numbers_without_an_upper_end(interval, rule):
    with pytest.raises(ValueError, match=f"`rate` must be {rule}. Received"):
        check_number("rate", -1, interval)
    check_number("rate", 1e30, interval)


def test_choices():
    message = r"`mode` must be one of \['min', 'max'\]. Received: mode=\[1\]"
    with pytest.raises(ValueError, match=message):
        check_choice("mode", [1], {"min": 0, "max": 1})


def test_named_or_callable():
    known = {"sum": sum, "max": max}
    assert named_or_callable("pool", "max", known) is max
    assert named_or_callable("pool", min, known) is min
    message = (
        r"`pool` must be one of \['max', 'sum'\] or a callable. Received: "
    )
    for value in ("mean", None, ["max"]):
        with pytest.raises(ValueError, match=message):
            named_or_callable("pool", value, known)


NOT_MODELS = {
    "sparsify": lambda model: kft.sparsify(model, 0.5),
    "prune": lambda model: kft.prune(model, 0.5),
    "sparsity_summary": kft.sparsity_summary,
    "reestimate": lambda model: kft.reestimate_batch_normalization(model, []),
    "calibrate": lambda model: kft.calibration.calibrate(model, X, [0, 1]),
    "calibrated": lambda model: kft.calibration.CalibratedModel(model, []),
    "attack": lambda model: kft.attacks.fast_gradient_sign(model, X, [0, 1]),
    "flops": kft.metrics.flops.kernel_macs,
    "ensemble": lambda model: kft.EnsembleModel([model]),
}
X = np.zeros((2, 3), "float32")


@pytest.mark.parametrize("name", list(NOT_MODELS))
@pytest.mark.parametrize("value", ["model", None, keras.layers.Dense(2)])
def test_one_mistake_one_exception(name, value):
    """What is not a model is named alike wherever a model is asked for."""
    kind = type(value).__name__
    with pytest.raises(TypeError, match=f"must be a keras.Model. .*{kind}$"):
        NOT_MODELS[name](value)
