import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft


def network(sparse=False):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((4,)), layers.Dense(3, activation="softmax")]
    model = keras.Sequential(stack)
    if sparse:
        model = kft.sparsify(model, 0.5, seed=0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def fit(model, callbacks, epochs=4, **kwargs):
    x = np.eye(4, dtype="float32")
    y = np.array([0, 1, 2, 0])
    kwargs = {"validation_data": (x, y), "verbose": 0, **kwargs}
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **kwargs)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_best_epoch_of_a_run(tmp_path, sparse):
    model = network(sparse)
    losses = []

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["made_up"] = [3.0, 1.0, 2.0, 1.0][epoch]
            losses.append(logs["val_loss"])

    ticket = kft.callbacks.TicketCheckpoint(
        tmp_path, "mine", "made_up", mode="min"
    )
    fit(model, [Note(), ticket])
    with open(tmp_path / "tickets.json") as file:
        (entry,) = json.load(file)["tickets"]
    assert entry["epoch"] == 1 and entry["value"] == 1.0
    assert entry["file"] == "mine.keras" and entry["phase"] == "run"
    ensemble = ticket.ensemble()
    x, y = np.eye(4, dtype="float32"), np.array([0, 1, 2, 0])
    loss = ensemble.evaluate(x, y, verbose=0)[0]
    assert loss == pytest.approx(losses[1], rel=1e-6)


def test_the_last_epoch(tmp_path):
    model = network()
    ticket = kft.callbacks.TicketCheckpoint(tmp_path, monitor=None)
    fit(model, [ticket])
    saved = keras.saving.load_model(tmp_path / "ticket_0.keras")
    for one, other in zip(
        saved.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_training_that_a_later_callback_ends(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    model = network()
    ticket = kft.callbacks.TicketCheckpoint(tmp_path, monitor=None)
    fit(model, [ticket, Stop()])
    saved = keras.saving.load_model(tmp_path / "ticket_0.keras")
    for one, other in zip(
        saved.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert ticket.store.read()["ticket_0.keras"]["epoch"] == 1


def test_a_network_that_predicts_as_another(tmp_path):
    keras.utils.set_random_seed(0)
    body = keras.Sequential([keras.Input((8,)), layers.Dense(6)])
    mimo = kft.MIMO(body, 2)
    mimo.compile("sgd", "sparse_categorical_crossentropy")
    ticket = kft.callbacks.TicketCheckpoint(tmp_path, monitor="val_loss")
    fit(mimo, [ticket], epochs=1)
    x = np.eye(4, dtype="float32")
    np.testing.assert_allclose(
        ticket.ensemble().predict(x, verbose=0),
        mimo.predict(x, verbose=0),
        rtol=1e-6,
    )


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="`ticket_name` must be a file name"):
        kft.callbacks.TicketCheckpoint(tmp_path, "folder/name")
    with pytest.raises(ValueError, match="`ticket_name` must be a file name"):
        kft.callbacks.TicketCheckpoint(tmp_path, "")
    with pytest.raises(ValueError, match="`mode` must be one of"):
        kft.callbacks.TicketCheckpoint(tmp_path, mode="best")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match="`directory` must be a writable directory"
    ):
        kft.callbacks.TicketCheckpoint(tmp_path / "file")
    ticket = kft.callbacks.TicketCheckpoint(tmp_path, monitor="val_accuracy")
    with pytest.raises(ValueError, match="monitor='val_accuracy'"):
        fit(network(), [ticket])
    layer = layers.Dense(3)

    class Subclass(keras.Model):
        def call(self, x):
            return layer(x)

    model = Subclass()
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="of functional models"):
        fit(model, [ticket])
