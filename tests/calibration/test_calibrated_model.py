import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_freetickets as kft
from keras_freetickets import calibration

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _data(count=600, seed=0):
    """Inputs, and labels drawn from the softmax of their first columns."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 6)).astype("float32")
    chances = _softmax(1.5 * x[:, :3]).cumsum(axis=1)
    labels = (generator.uniform(size=(count, 1)) > chances).sum(axis=1)
    return x, np.minimum(labels, 2)


def _member(seed=0, factor=4.0, activation="softmax"):
    """Knows the truth, is too sure of it, and errs in its own way."""
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(3, activation=activation)]
    )
    noise = np.random.default_rng(seed).normal(size=(6, 3))
    kernel = factor * (1.5 * np.eye(6, 3) + 0.3 * noise)
    model.layers[0].set_weights([kernel, np.zeros(3)])
    return model


def _ensemble():
    return kft.EnsembleModel([_member(seed) for seed in range(3)])


@pytest.mark.parametrize("activation", ["softmax", "linear"])
def test_single_model(activation):
    x, y = _data()
    model = _member(activation=activation)
    calibrated = calibration.calibrate(model, x, y)
    logits = _member(activation="linear").predict(x, verbose=0)
    expected = calibration.TemperatureScaling(from_logits=True).fit(y, logits)
    (layer,) = calibrated.calibrators
    assert layer.temperature == pytest.approx(expected.temperature, rel=1e-3)
    assert layer.temperature > 2
    np.testing.assert_allclose(
        calibrated.predict(x, verbose=0),
        _softmax(logits / layer.temperature),
        atol=1e-4,
    )


@pytest.mark.parametrize("name", ["temperature", "vector", "isotonic"])
@pytest.mark.parametrize("order", ["pool_first", "members_first"])
def test_ensemble(name, order):
    x, y = _data()
    ensemble = _ensemble()
    calibrated = calibration.calibrate(ensemble, x, y, name, order)
    members = ensemble.predict_members(x)
    if order == "pool_first":
        pooled = members.mean(axis=0)
        expected = calibration.get(name).fit(y, pooled)(pooled)
    else:
        each = [calibration.get(name).fit(y, m)(m) for m in members]
        expected = np.mean(keras.ops.convert_to_numpy(each), axis=0)
    close = np.isclose(calibrated.predict(x, verbose=0), expected, atol=1e-5)
    # Isotonic curves are steep between neighbours: there the last bit of a
    # mean shows.
    assert close.mean() > (0.99 if name == "isotonic" else 1 - 1e-9)
    fresh, labels = _data(seed=1)
    logs = calibrated.evaluate(fresh, labels, verbose=0, return_dict=True)
    before = ensemble.evaluate(fresh, labels, verbose=0, return_dict=True)
    assert logs["nll"] < before["nll"] - 0.1
    assert logs["ece"] < 0.1


@pytest.mark.parametrize("order", ["pool_first", "members_first"])
@pytest.mark.parametrize("name", ["vector", "isotonic"])
def test_saved_and_loaded(order, name, tmp_path):
    x, y = _data(200)
    calibrated = calibration.calibrate(_ensemble(), x, y, name, order)
    calibrated.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(again(x)),
        keras.ops.convert_to_numpy(calibrated(x)),
        atol=1e-6,
    )
    # Compiled as the first one was.
    assert again.evaluate(x, y, verbose=0) == pytest.approx(
        calibrated.evaluate(x, y, verbose=0), abs=1e-6
    )


@pytest.mark.skipif(not ON_TENSORFLOW, reason="SavedModel")
@pytest.mark.parametrize("kind", ["single", "pool_first", "members_first"])
def test_exported(kind, tmp_path):
    import tensorflow as tf

    x, y = _data(100)
    if kind == "single":
        calibrated = calibration.calibrate(_member(), x, y)
    else:
        calibrated = calibration.calibrate(_ensemble(), x, y, order=kind)
    calibrated.export(tmp_path / "saved")
    loaded = tf.saved_model.load(tmp_path / "saved")
    served = loaded.serve(x[:7])
    np.testing.assert_allclose(
        served, calibrated.predict(x[:7], verbose=0), atol=1e-6
    )


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tf.data")
def test_dataset():
    import tensorflow as tf

    x, y = _data(100)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    of_arrays = calibration.calibrate(_member(), x, y).calibrators[0]
    of_data = calibration.calibrate(_member(), data).calibrators[0]
    assert of_data.temperature == of_arrays.temperature


class _Sees(keras.Model):
    """Passes on six logits and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.built = True

    def predict(self, x, **kwargs):
        if not isinstance(x, np.ndarray):  # batches
            x = np.concatenate([x[i][0] for i in range(x.num_batches)])
        self.seen.append(x)
        return x[:, :3]

    def call(self, x):
        return x[:, :3]


def test_masked_inputs():
    x, y = _data(400)
    model = _Sees()
    masked = calibration.calibrate(
        model, x, y, input_mask_ratio=0.3, num_draws=5
    )
    (seen,) = model.seen  # all draws in one call
    seen = seen.reshape(5, *x.shape)
    kept = seen != 0
    np.testing.assert_array_equal(seen[kept], np.tile(x, (5, 1, 1))[kept])
    # 12,000 draws: three standard errors are 0.0126.
    assert (~kept).mean() == pytest.approx(0.3, abs=0.0126)
    assert (kept[0] != kept[1]).any()
    by_hand = calibration.TemperatureScaling(from_logits=True)
    by_hand.fit(np.tile(y, 5), seen.reshape(-1, 6)[:, :3])
    temperature = masked.calibrators[0].temperature
    assert temperature == pytest.approx(by_hand.temperature)
    again = calibration.calibrate(
        _Sees(), x, y, input_mask_ratio=0.3, num_draws=5
    )
    assert again.calibrators[0].temperature == temperature
    other = calibration.calibrate(
        _Sees(), x, y, input_mask_ratio=0.3, num_draws=5, seed=1
    )
    assert other.calibrators[0].temperature != temperature


def test_no_mask_is_plain_scaling():
    x, y = _data(200)
    model = _Sees()
    unmasked = calibration.calibrate(
        model, x, y, input_mask_ratio=0.0, num_draws=7
    )
    assert len(model.seen) == 1
    np.testing.assert_array_equal(model.seen[0], x)
    plain = calibration.TemperatureScaling(from_logits=True).fit(y, x[:, :3])
    (found,) = unmasked.calibrators
    assert found.temperature == pytest.approx(plain.temperature, rel=1e-6)


@pytest.mark.filterwarnings("error:Your input ran out of data")
@pytest.mark.parametrize("order", ["pool_first", "members_first"])
def test_masked_inputs_of_an_ensemble(order):
    """One temperature of the mean's masked predictions, or one of each."""
    x, y = _data(300)
    ensemble = _ensemble()
    calibrated = calibration.calibrate(
        ensemble, x, y, order=order, input_mask_ratio=0.3, num_draws=3, seed=4
    )
    generator = np.random.default_rng(4)
    masked = np.concatenate(
        [x * (generator.random(x.shape) >= 0.3) for _ in range(3)]
    )
    members = [
        _softmax(masked @ _array(member.layers[0].kernel))
        for member in map(_member, range(3))
    ]
    each = members if order == "members_first" else [np.mean(members, axis=0)]
    for layer, p in zip(calibrated.calibrators, each, strict=True):
        by_hand = calibration.TemperatureScaling().fit(np.tile(y, 3), p)
        assert layer.temperature == pytest.approx(by_hand.temperature, rel=1e-4)


def test_the_temperature_rises_with_the_masked_share():
    """Of memorized examples, in trend: means over seeds fixed beforehand."""
    ratios = (0.1, 0.3, 0.5, 0.7, 0.9)
    found = []
    for seed in (0, 1, 2):
        x, y = _data(400, seed)
        own = x[:, :3].argmax(axis=1) == y
        found.append(
            [
                calibration.calibrate(
                    _Sees(), x[own], y[own], input_mask_ratio=ratio, num_draws=2
                )
                .calibrators[0]
                .temperature
                for ratio in ratios
            ]
        )
    means = np.log(np.mean(found, axis=0))
    assert np.corrcoef(ratios, means)[0, 1] > 0.8
    assert means[-1] > means[0]


def test_masks_help_where_only_training_data_are_left():
    """All calibration data right: plain scaling runs off, masked does not."""
    x, y = _data(2000)
    own = x[:, :3].argmax(axis=1) == y
    memorized = x[own], y[own]
    fresh, labels = _data(seed=1)
    model = _member(factor=1.0)
    with pytest.warns(UserWarning, match="end of its range"):
        plain = calibration.calibrate(_Sees(), *memorized)
    masked = calibration.calibrate(_Sees(), *memorized, input_mask_ratio=0.3)
    del model
    losses = []
    for calibrated in (plain, masked):
        layer = calibrated.calibrators[0]
        p = _softmax(fresh[:, :3] / layer.temperature)
        own = np.maximum(p[np.arange(len(labels)), labels], 1e-7)
        losses.append(-np.log(own).mean())
    assert losses[1] < losses[0] / 2


def test_a_ratio_is_chosen_by_held_out_likelihood():
    x, y = _data(600)
    own = x[:, :3].argmax(axis=1) == y
    memorized = x[own], y[own]
    few = _data(60, seed=1)
    ratios = (0.1, 0.4, 0.7)
    chosen = calibration.choose_input_mask_ratio(
        _Sees(), *memorized, *few, ratios=ratios, num_draws=3
    )
    losses = []
    for ratio in ratios:
        calibrated = calibration.calibrate(
            _Sees(), *memorized, input_mask_ratio=ratio, num_draws=3
        )
        p = _softmax(few[0][:, :3] / calibrated.calibrators[0].temperature)
        losses.append(-np.log(p[np.arange(60), few[1]]).mean())
    assert chosen == ratios[int(np.argmin(losses))]
    assert len(set(losses)) == 3


def test_bad_ratios():
    x, y = _data(60)
    for ratios, rule in (((), "one ratio"), ((1.0,), r"in \[0, 1\)")):
        with pytest.raises(ValueError, match=rule):
            calibration.choose_input_mask_ratio(_Sees(), x, y, x, y, ratios)
    with pytest.raises(ValueError, match="same number"):
        calibration.choose_input_mask_ratio(_Sees(), x, y, x, y[:5])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"order": "none"}, "`order` must be one of"),
        ({"order": "members_first"}, "is for an EnsembleModel"),
        ({"input_mask_ratio": 1.0}, r"`input_mask_ratio` must be in \[0, 1\)"),
        ({"num_draws": 0}, "`num_draws` must be a positive integer"),
        ({"calibrator": "odd"}, "`calibrator` must be one of"),
        ({"y": None}, "`y` must be given"),
        ({"y": np.zeros(3)}, "`x` and `y` must have the same number"),
        ({"y": np.full(30, 5)}, r"`y_true` must .* \[0, 3\)"),
        ({"y": np.zeros(30)}, "two classes or more"),
    ],
)
def test_bad_input(change, message):
    x, y = _data(30)
    arguments = {"x": x, "y": y, **change}
    with pytest.raises(ValueError, match=message):
        calibration.calibrate(_member(), **arguments)


def test_number_of_calibrators():
    with pytest.raises(ValueError, match="`calibrators` must be 3"):
        calibration.CalibratedModel(
            _ensemble(), [calibration.TemperatureScaling()], "members_first"
        )


def test_not_to_be_trained():
    x, y = _data(30)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        calibration.calibrate(_member(), x, y).fit(x, y, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["temperature", "vector", "isotonic"])
def test_half_precision_around_it_changes_nothing(policy, name):
    x, y = _data()
    predictions = _member().predict(x, verbose=0)
    wanted = calibration.calibrators.get(name).fit(y, predictions)
    expected = np.array(wanted(predictions))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        layer = calibration.calibrators.get(name).fit(y, predictions)
        again = type(layer).from_config(layer.get_config())
        found = np.array(layer(predictions))
    finally:
        keras.config.set_dtype_policy(before)
    assert layer.compute_dtype == again.compute_dtype == "float32"
    np.testing.assert_array_equal(found, expected)


def _half(kind, activation="softmax", seed=0):
    """A member whose last layer is of half precision."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(3, activation=activation, dtype=kind),
        ]
    )
    model.layers[0].set_weights(_member(seed).get_weights())
    return model


@pytest.mark.parametrize("kind", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("order", ["pool_first", "members_first"])
def test_probabilities_of_half_precision_are_no_logits(kind, order):
    x, y = _data()
    ensemble = kft.EnsembleModel([_half(kind, seed=i) for i in range(3)])
    calibrated = calibration.calibrate(ensemble, x, y, order=order)
    exact = calibration.calibrate(_ensemble(), x, y, order=order)
    for mine, other in zip(
        calibrated.calibrators, exact.calibrators, strict=True
    ):
        assert not mine.from_logits
        # Small probabilities are 0 in half precision, which asks for more;
        # taken for logits, all would be far less sure and T below 1.
        assert mine.temperature == pytest.approx(other.temperature, rel=0.3)
        assert mine.temperature > 2
    single = calibration.calibrate(_half(kind), x, y)
    assert not single.calibrators[0].from_logits
    logits = calibration.calibrate(_half(kind, "linear"), x, y)
    assert logits.calibrators[0].from_logits


def test_neither_probabilities_nor_logits():
    x, y = _data()
    with pytest.raises(ValueError, match=r"`from_logits`.*sigmoid"):
        calibration.calibrate(_member(activation="sigmoid", factor=0.1), x, y)
    with pytest.raises(ValueError, match="sum to one"):
        calibration.calibrate(
            _member(activation="sigmoid"), x, y, from_logits=False
        )


def test_a_linear_layer_gives_logits():
    """Compiled or not; only a loss of regressors says otherwise."""
    x, y = _data()
    model = _member(activation="linear")
    for loss in (None, "crossentropy", "mse"):
        if loss == "crossentropy":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if loss is not None:
            model.compile(loss=loss)
        if loss == "mse":
            with pytest.raises(ValueError, match="must be a classifier"):
                calibration.calibrate(model, x, y)
        else:
            (layer,) = calibration.calibrate(model, x, y).calibrators
            assert layer.from_logits
    (layer,) = calibration.calibrate(model, x, y, from_logits=True).calibrators
    assert layer.from_logits


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_values_outlive_data_that_do_not_fit(call):
    """On JAX Keras takes them out of the variables before the first batch."""
    x, y = _data()
    model = calibration.calibrate(_ensemble(), x, y, "vector")
    model.evaluate(x, y, verbose=0)
    before = model.get_weights()
    bad = {"evaluate": (x[:, :2], y), "predict": (x[:, :2],)}[call]
    errors = (ValueError, TypeError, tf.errors.InvalidArgumentError)
    with pytest.raises(errors):
        getattr(model, call)(*bad, verbose=0)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert model.predict(x, verbose=0).shape == (len(x), 3)
