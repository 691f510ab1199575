import functools
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft


def network():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    x = layers.Dense(20, activation="relu", name="a")(inputs)
    outputs = layers.Dense(4, activation="softmax")(x)  # 3 classes, 1 unknown
    model = kft.sparsify(keras.Model(inputs, outputs), 0.5, seed=1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(48, 6)).astype("float32")
    return x, generator.integers(3, size=48)


def fit(model, callback, epochs, **kwargs):
    return model.fit(
        *data(),
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
        **kwargs,
    )


def test_alpha_rises_once_an_epoch():
    moon = kft.callbacks.MOON(
        epochs=9, voting_epochs=2, learn_epochs=3, update_interval=1000
    )
    model = network()
    history = fit(model, moon, 9).history
    alpha = np.array(history["alpha"])
    assert (alpha[:3] == 0).all() and 0 < alpha[3] < 0.05
    steps = np.diff(alpha[3:])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert alpha[-1] == pytest.approx(1.0, abs=1e-5)
    # What is left is a plain model: the compiled loss again.
    x, y = data()
    p = model.predict(x, verbose=0)
    plain = -np.log(p[np.arange(48), y]).mean()
    assert model.evaluate(x, y, verbose=0) == pytest.approx(plain, rel=1e-4)


def test_plain_cross_entropy_at_first():
    moon = kft.callbacks.MOON(
        epochs=8, voting_epochs=1, learn_epochs=6, update_interval=1000
    )
    rigl = kft.callbacks.RigL(update_interval=1000)
    ours = fit(network(), moon, 8).history["loss"]
    plain = fit(network(), rigl, 8).history["loss"]
    np.testing.assert_allclose(ours[:6], plain[:6], rtol=1e-5)
    assert ours[6] > plain[6]


@pytest.mark.parametrize("stop, warns", [(None, True), (19, True), (18, False)])
def test_a_topology_that_moves_while_weights_are_averaged(stop, warns):
    # 3 batches an epoch, averaged from the end of the sixth on.
    cigl = kft.callbacks.CigL(start_epoch=5, update_interval=4, stop_step=stop)
    cigl.set_model(network())
    cigl.set_params({"epochs": 8, "steps": 3})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cigl.on_train_begin()
    found = [w for w in caught if "may change while" in str(w.message)]
    assert bool(found) == warns


def test_more_votes_than_epochs_are_refused():
    with pytest.raises(ValueError, match="`voting_epochs` must be less than"):
        kft.callbacks.MOON(epochs=9)


def test_epochs_must_agree():
    with pytest.raises(
        ValueError, match="`epochs` must be the number of epochs of `fit`"
    ):
        fit(network(), kft.callbacks.MOON(epochs=30), 40)


def test_a_killed_run_goes_on(tmp_path):
    def run(directory, *stops):
        results = None
        for stop in stops:
            model = network()
            moon = kft.callbacks.MOON(
                epochs=8, voting_epochs=3, learn_epochs=2, update_interval=4
            )
            backup = kft.callbacks.Backup(directory, callbacks=[])
            stopper = Stop(stop)
            try:
                model.fit(
                    *data(),
                    batch_size=16,
                    epochs=8,
                    shuffle=False,
                    verbose=0,
                    callbacks=[moon, backup, stopper],
                )
            except KeyboardInterrupt:
                continue
            results = [np.array(w.value) for w in model.weights]
        return results

    whole = run(tmp_path / "whole", 8)
    again = run(tmp_path / "killed", 6, 8)
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def test_a_second_fit_begins_anew():
    model, alphas = network(), []
    for _ in range(2):
        moon = kft.callbacks.MOON(
            epochs=6, voting_epochs=2, learn_epochs=2, update_interval=1000
        )
        alphas.append(np.array(fit(model, moon, 6).history["alpha"]))
    for alpha in alphas:
        assert (alpha[:2] == 0).all() and 0 < alpha[2] < 0.05
        rise = (1 - alpha[2]) / 3
        np.testing.assert_allclose(np.diff(alpha[2:]), rise, rtol=1e-4)


def short_moon(**kwargs):
    return kft.callbacks.MOON(
        epochs=4,
        voting_epochs=1,
        learn_epochs=1,
        update_interval=1000,
        **kwargs,
    )


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_label_of_the_unknown_is_refused_after_an_epoch(one_hot):
    """4 outputs for 4 classes: the last class would be the unknown."""
    model, (x, y) = network(), data()
    y[40] = 3
    if one_hot:
        y = keras.utils.to_categorical(y, 4)
        model.compile("sgd", "categorical_crossentropy")
    ends = []
    counter = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(epoch)
    )
    message = "5 for the labels 0 to 3. Received: a model with 4 outputs"
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, epochs=4, verbose=0, callbacks=[counter, short_moon()])
    assert ends == [0]
    assert model.method is None


def surely_wrong(end, policy="float32"):
    """A network of equal weights whatever its end, wrong by hundreds."""
    keras.utils.set_random_seed(2)
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((6,))
    last = layers.Dense(4, activation="softmax" if end == "dense" else None)
    outputs = last(inputs)
    if end == "activation":
        outputs = layers.Activation("softmax")(outputs)
    elif end == "layer":
        outputs = layers.Softmax()(outputs)
    elif end == "nested":
        inner = keras.Model(inputs, layers.Softmax()(outputs))
        inputs = keras.Input((6,))
        outputs = layers.Identity()(inner(inputs))
    model = kft.sparsify(keras.Model(inputs, outputs), 0.0)
    keras.config.set_dtype_policy("float32")
    (record,) = model.masked_kernels
    record.kernel.assign(100 * record.kernel)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=end is None)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


def trained_by_moon(model):
    moon = kft.callbacks.MOON(
        epochs=4, voting_epochs=0, learn_epochs=1, update_interval=1000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the topology does not rest
        history = fit(model, moon, 4).history
    trained = [np.array(v.value) for v in model.trainable_variables]
    return history, trained


@functools.cache
def trained_on_logits(policy):
    """Kernel before, logs and weights after the training to compare with."""
    model = surely_wrong(None, policy)
    before = np.array(model.masked_kernels[0].kernel.value)
    return before, *trained_by_moon(model)


ENDS = ["dense", "activation", "layer", "nested", "half"]


@pytest.mark.parametrize("end", ENDS)
def test_a_softmax_is_trained_as_its_logits_are(end, tmp_path):
    policy = "mixed_bfloat16" if end == "half" else "float32"
    end = "dense" if end == "half" else end
    before, expected, weights = trained_on_logits(policy)
    model = surely_wrong(end, policy)
    found, ours = trained_by_moon(model)
    for key in ("loss", "alpha", "accuracy"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4)
    assert expected["alpha"][1] > 0.5  # the running loss, of dozens, / 64
    for a, b in zip(ours, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert np.abs(before - weights[0]).max() > 0.1
    # The model is what it was, and is saved as that.
    x, _ = data()
    p = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(p.astype("f").sum(axis=1), 1, rtol=1e-2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again(x)), p)


def test_metrics_of_a_training_on_logits_see_probabilities():
    model = surely_wrong("dense")
    model.compile(keras.optimizers.SGD(0.0), metrics=[SumOfOutputs()])
    history, _ = trained_by_moon(model)
    np.testing.assert_allclose(history["sum_of_outputs"], 1, rtol=1e-5)


class SumOfOutputs(keras.metrics.Mean):
    def __init__(self):
        super().__init__(name="sum_of_outputs")

    def update_state(self, y, y_pred, sample_weight=None):
        return super().update_state(keras.ops.sum(y_pred, axis=-1))


@pytest.mark.parametrize("end", ["sigmoid", "mean", "subclass"])
def test_outputs_without_logits_are_refused(end):
    inputs = keras.Input((6,))
    x = layers.Dense(12, activation="sigmoid" if end == "sigmoid" else None)
    outputs = x(inputs)
    if end == "mean":
        outputs = layers.Softmax()(layers.Reshape((3, 4))(outputs))
        outputs = layers.GlobalAveragePooling1D()(outputs)
    model = kft.sparsify(keras.Model(inputs, outputs), 0.5, seed=1)
    message = "The last layer of the model must be a softmax"
    if end == "subclass":
        model = kft.MIMO(keras.Model(inputs, x(inputs)), 3)
        message = "MOON trains a functional model with one output"
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data()
    x = x[:, :2] if end == "subclass" else x
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, epochs=4, verbose=0, callbacks=[short_moon()])
    assert model.method is None


def test_a_loss_that_nothing_tells_the_epoch_is_refused():
    model = network()
    model.set_objective(kft.losses.MOON(epochs=9))
    with pytest.raises(ValueError, match=r"keras_freetickets.callbacks.MOON"):
        model.fit(*data(), verbose=0)
    assert np.isfinite(model.train_on_batch(*data()))
    model.set_objective(None)
    model.fit(*data(), verbose=0)


def test_several_outputs_are_refused():
    inputs = keras.Input((6,))
    outputs = [layers.Dense(4, name=name)(inputs) for name in ("one", "two")]
    model = kft.sparsify(keras.Model(inputs, outputs), 0.5, seed=1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data()
    with pytest.raises(ValueError, match=r"the outputs \['one', 'two'\]"):
        model.fit(x, [y, y], epochs=4, verbose=0, callbacks=[short_moon()])
