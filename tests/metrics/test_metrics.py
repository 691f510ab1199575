"""What every metric of the package is asked for."""

import textwrap

import forked
import keras
import numpy as np
import pytest

from keras_freetickets import metrics

CLASSES = 3
OF_CLASSES = {
    "accuracy": metrics.Accuracy,
    "nll": metrics.NegativeLogLikelihood,
    "brier": metrics.Brier,
    "ece": lambda: metrics.ExpectedCalibrationError(7),
    "ece_mass": lambda: metrics.ExpectedCalibrationError(
        7, binning="equal_mass"
    ),
    "ece_freetickets": lambda: metrics.ExpectedCalibrationError(
        binning="freetickets"
    ),
    "mce": lambda: metrics.MaximumCalibrationError(5),
    "mce_mass": lambda: metrics.MaximumCalibrationError(
        5, binning="equal_mass"
    ),
    "classwise": lambda: metrics.ClasswiseCalibrationError(CLASSES, 5),
    "aurc": metrics.AURC,
}
OF_DETECTION = {
    "auroc": metrics.AUROC,
    "auroc_entropy": lambda: metrics.AUROC("entropy"),
    "auroc_unknown": lambda: metrics.AUROC("unknown_aware"),
    "aupr_in": metrics.AUPR,
    "aupr_out": lambda: metrics.AUPR("out"),
    "fpr": lambda: metrics.FPRAtTPR(0.9),
}
OF_MEMBERS = {
    "predictive_entropy": lambda: metrics.PredictiveEntropy(1),
    "expected_entropy": lambda: metrics.ExpectedEntropy(1),
    "mutual_information": lambda: metrics.MutualInformation(1),
    "variation_ratio": lambda: metrics.VariationRatio(1),
    "disagreement": lambda: metrics.Disagreement(1),
    "pairwise_kl": lambda: metrics.PairwiseKL(1),
    "double_fault": lambda: metrics.DoubleFault(1),
    "auroc_members": lambda: metrics.AUROC(
        "mutual_information", members_axis=1
    ),
}
ALL = {**OF_CLASSES, **OF_DETECTION, **OF_MEMBERS}
# Of numbers and intervals; test_intervals.py asks the same of them.
OF_REGRESSION = {
    metrics.CRPS,
    metrics.ExpectedIndividualCalibrationError,
    metrics.GaussianNLL,
    metrics.IntervalCoverage,
    metrics.IntervalLength,
}


def _data(name, count=90):
    generator = np.random.default_rng(0)
    shape = (count, 4, CLASSES) if name in OF_MEMBERS else (count, CLASSES)
    logits = 2 * generator.normal(size=shape).astype("float32")
    kinds = 2 if "auroc" in name or name in OF_DETECTION else CLASSES
    return logits, generator.integers(kinds, size=count)


def _softmax(logits):
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def _value(metric, labels, predictions):
    metric.update_state(labels, predictions)
    return float(metric.result())


def _model(name):
    shape = (4, CLASSES) if name in OF_MEMBERS else (CLASSES,)
    return keras.Sequential([keras.Input(shape), keras.layers.Softmax()])


def _mean(y_true, y_pred):
    """A loss that any shape suits."""
    del y_true
    return keras.ops.mean(y_pred, axis=-1)


@pytest.mark.parametrize("name", list(ALL))
def test_config_round_trip(name):
    metric = ALL[name]()
    config = keras.saving.serialize_keras_object(metric)
    assert config["registered_name"].startswith("keras_freetickets>")
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == metric.get_config()
    logits, labels = _data(name)
    predictions = _softmax(logits)
    assert _value(again, labels, predictions) == _value(
        metric, labels, predictions
    )


@pytest.mark.parametrize("name", list(ALL))
def test_states_of_parts_add_up(name):
    """What replicas and hosts rely on: the state is sums, nothing else."""
    logits, labels = _data(name)
    predictions = _softmax(logits)
    whole, first, second = ALL[name](), ALL[name](), ALL[name]()
    whole.update_state(labels, predictions)
    first.update_state(labels[:25], predictions[:25])
    second.update_state(labels[25:], predictions[25:])
    for mine, other in zip(first.variables, second.variables, strict=True):
        mine.assign_add(other.value)
    assert float(first.result()) == pytest.approx(
        float(whole.result()), abs=1e-6
    )
    whole.reset_state()
    assert all(not v.numpy().any() for v in whole.variables)


def _named(group):
    made = {name: make() for name, make in group.items()}
    for name, metric in made.items():
        metric.name = name
    return made


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "group", [OF_CLASSES, OF_DETECTION, OF_MEMBERS], ids=lambda g: next(iter(g))
)
def test_compiled_equals_eager(group, jit_compile):
    logits, labels = _data(next(iter(group)))
    if "auroc_members" in group:
        labels = labels % 2
    model = _model(next(iter(group)))
    model.compile(
        loss=_mean,
        metrics=list(_named(group).values()),
        jit_compile=jit_compile,
    )
    logs = model.evaluate(
        logits, labels, batch_size=30, verbose=0, return_dict=True
    )
    for name, metric in _named(group).items():
        expected = _value(metric, labels, _softmax(logits))
        assert logs[name] == pytest.approx(expected, abs=1e-4), name


@pytest.mark.parametrize(
    "group", [OF_CLASSES, OF_DETECTION, OF_MEMBERS], ids=lambda g: next(iter(g))
)
def test_nan_makes_the_result_nan(group):
    """One of one example: of the last class, whose share some scores skip."""
    shape = (2, CLASSES) if group is OF_MEMBERS else (CLASSES,)
    predictions = np.full((3, *shape), 1 / CLASSES, "float32")
    predictions[..., 0] += 0.1
    predictions[..., 1] -= 0.1
    predictions[1].flat[-1] = np.nan
    model = keras.Sequential([keras.Input(shape), keras.layers.Identity()])
    # Called eagerly they would refuse it.
    model.compile(
        loss=_mean,
        metrics=list(_named(group).values()),
        jit_compile=keras.backend.backend() == "jax",
    )
    labels = np.array([0, 1, 1])
    logs = model.evaluate(predictions, labels, verbose=0, return_dict=True)
    assert {name for name in group if not np.isnan(logs[name])} == set()


@pytest.mark.parametrize("name", ["ece_mass", "auroc", "aurc", "disagreement"])
def test_saved_with_the_model(name, tmp_path):
    logits, labels = _data(name)
    model = _model(name)
    model.compile(loss=_mean, metrics=[ALL[name]()])
    before = model.evaluate(logits, labels, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"_mean": _mean}
    )
    assert again.evaluate(logits, labels, verbose=0, return_dict=True) == before


def test_in_fit():
    """Beside a trained layer, and watched by callbacks in mode "auto"."""
    logits, labels = _data("ece")
    model = keras.Sequential(
        [
            keras.Input((CLASSES,)),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile(
        loss="sparse_categorical_crossentropy",
        metrics=list(_named(OF_CLASSES).values()),
    )
    callbacks = [keras.callbacks.EarlyStopping(name) for name in OF_CLASSES]
    history = model.fit(
        logits,
        labels,
        validation_data=(logits, labels),
        verbose=0,
        callbacks=callbacks,
    )
    for name in OF_CLASSES:
        assert np.isfinite(history.history[f"val_{name}"]).all()


def test_every_public_metric_is_here():
    kinds = {
        value
        for value in vars(metrics).values()
        if isinstance(value, type) and issubclass(value, keras.metrics.Metric)
    }
    assert {type(make()) for make in ALL.values()} | OF_REGRESSION == kinds


ON_TWO_REPLICAS = """
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    import keras
    from keras_freetickets import metrics

    def made():
        return [
            metrics.ExpectedCalibrationError(7, binning="equal_mass"),
            metrics.ClasswiseCalibrationError(2, 5),
            metrics.AUROC(),
            metrics.AURC(),
        ]

    generator = np.random.default_rng(0)
    logits = generator.normal(size=(80, 2)).astype("float32")
    labels = generator.integers(2, size=80)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
        model.compile(
            loss="sparse_categorical_crossentropy", metrics=made()
        )
    data = tf.data.Dataset.from_tensor_slices((logits, labels)).batch(16)
    logs = model.evaluate(data, verbose=0, return_dict=True)
    for metric in made():
        metric.update_state(labels, keras.ops.softmax(logits))
        expected = float(metric.result())
        assert expected > 0
        np.testing.assert_allclose(logs[metric.name], expected, atol=1e-5)
"""


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute"
)
def test_two_replicas():
    done = forked.run(["-c", textwrap.dedent(ON_TWO_REPLICAS)])
    assert done.returncode == 0, done.stderr[-3000:]
