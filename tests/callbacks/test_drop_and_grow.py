import csv

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft


def network():
    dense = keras.Sequential([keras.Input((6,)), layers.Dense(8)])
    model = kft.sparsify(dense, 0.5, seed=0)
    model.compile("sgd", "mse")
    return model


def test_epoch_logs_reach_later_callbacks(tmp_path):
    model = network()
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    callback = kft.callbacks.SET(2, 0.25, track_ever_active=True)
    history = model.fit(
        np.ones((32, 6)),
        np.ones((32, 8)),
        batch_size=8,
        epochs=3,
        verbose=0,
        callbacks=[callback, log],
    ).history
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    for name in ("phase", "density", "replaced", "ever_active"):
        assert [float(row[name]) for row in rows] == history[name]
    assert history["density"] == [0.5] * 3
    # A quarter of either sign is dropped, each rounded up: 6 or 7 of 24. At
    # most as many are new.
    assert all(0 < share <= 7 / 24 for share in history["replaced"])
    first, *_, last = history["ever_active"]
    assert 0.5 < first < last <= 1.0


def test_a_plain_model_is_refused():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="RigL needs a SparseModel"):
        model.fit(
            np.ones((8, 6)),
            np.ones((8, 8)),
            verbose=0,
            callbacks=[kft.callbacks.RigL()],
        )


def test_method_must_be_one():
    with pytest.raises(ValueError, match="`method` must be a keras_freetick"):
        kft.callbacks.DropAndGrow(5)
    with pytest.raises(ValueError, match=r"`method` must be .*mean 'rigl'\?"):
        kft.callbacks.DropAndGrow("riggl")
    with pytest.raises(TypeError, match="RigL has no argument `interval`"):
        kft.callbacks.DropAndGrow("rigl", interval=3)
    method = kft.callbacks.DropAndGrow("rigl", update_interval=3).method
    assert type(method) is kft.topology.RigL and method.update_interval == 3


def test_rigl_grows_towards_the_gradient():
    """The only useful inputs, absent at first, are found."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(256, 40)).astype("float32")
    y = x[:, :4].sum(axis=1, keepdims=True)
    dense = keras.Sequential(
        [keras.Input((40,)), layers.Dense(1, use_bias=False)]
    )
    model = kft.sparsify(dense, 0.8, seed=1)
    model.masked_kernels[0].mask.assign((np.arange(40) >= 32)[:, None])
    model.project()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    callback = kft.callbacks.RigL(update_interval=5, drop_fraction=0.5)
    model.fit(x, y, batch_size=64, epochs=10, verbose=0, callbacks=[callback])
    assert model.masked_kernels[0].mask.numpy()[:4].all()


def test_the_first_epoch_of_every_fit_of_agent_is_rigl():
    """In it there is no snapshot of this training to correct by."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(16, 6)).astype("float32")
    y = generator.normal(size=(16, 8)).astype("float32")
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    own = {"rounding": "ceil", "regrown": "reset"}
    kernels = []
    for preset in (
        lambda: kft.callbacks.AGENT(batches, scale=1.0, update_interval=3),
        lambda: kft.callbacks.RigL(update_interval=3, **own),
    ):
        keras.utils.set_random_seed(0)
        model = network()
        for _ in range(2):
            history = model.fit(
                x,
                y,
                batch_size=8,
                shuffle=False,
                verbose=0,
                callbacks=[preset()],
            )
        assert history.history.get("tau", [0.1]) == [pytest.approx(0.1)]
        kernels.append(model.masked_kernels[0].kernel.numpy())
    np.testing.assert_allclose(*kernels, atol=1e-6)


def fit(model, callbacks, steps=4):
    x, y = np.ones((2 * steps, 6)), np.ones((2 * steps, 8))
    model.fit(x, y, batch_size=2, verbose=0, callbacks=callbacks)


NEVER = "never updated the topology"


def told(recwarn):
    found = [str(w.message) for w in recwarn if NEVER in str(w.message)]
    recwarn.clear()
    return found


def test_a_training_without_an_update_is_told(recwarn):
    """Of each training, whatever was before it."""
    model = network()
    fit(model, [kft.callbacks.SET(update_interval=3)])
    assert not told(recwarn)
    # Steps 5 to 8 hold no multiple of 10 either, though 10 > 8 is no longer
    # than the whole.
    fit(model, [kft.callbacks.SET(update_interval=10)])
    (message,) = told(recwarn)
    assert "SET never" in message
    assert "4 optimizer updates, and `update_interval` is 10. Train" in message
    fit(model, [kft.callbacks.SET(update_interval=2, start_step=100)])
    (message,) = told(recwarn)
    assert "`update_interval` is 2 from update 100 on" in message


def test_a_training_that_no_update_was_due_in_is_not_told(recwarn):
    model = network()
    fit(model, [kft.callbacks.SET(update_interval=2, stop_step=4)])
    fit(model, [kft.callbacks.SET(update_interval=2, stop_step=4)])  # is over
    dense = kft.sparsify(
        keras.Sequential([keras.Input((6,)), layers.Dense(8)]), 0.0
    )
    dense.compile("sgd", "mse")
    fit(dense, [kft.callbacks.SET(update_interval=100)])
    assert not told(recwarn)


TWO = {
    "methods": (
        lambda path: kft.callbacks.RigL(),
        lambda path: kft.callbacks.GMP(0.9, end_step=400),
        "lets a method change the topology.*RigL and GMP",
    ),
    "collectors": (
        lambda path: kft.callbacks.DST(path / "a"),
        lambda path: kft.callbacks.TicketCheckpoint(path / "b" / ".." / "a"),
        "writes tickets to .*DST with Method and Ticket",
    ),
    "rates": (
        lambda path: kft.callbacks.EDST(1, 1, 1, directory=path / "a"),
        lambda path: kft.callbacks.Snapshot(path / "b", 1, 1),
        "sets the learning rate.*EDST with Method and Snapshot",
    ),
    "backups": (
        lambda path: kft.callbacks.Backup(path / "a"),
        lambda path: kft.callbacks.Backup(path / "b"),
        "restores and writes a backup.*Backup and Backup",
    ),
    "averages": (
        lambda path: kft.callbacks.CigL(0, stop_step=0),
        lambda path: kft.callbacks.WeightAveraging(0),
        "averages the weights.*CigL and WeightAveraging",
    ),
    "costs": (
        lambda path: kft.callbacks.TrainingCost(),
        lambda path: kft.callbacks.TrainingCost("rigl", 100),
        "logs what a training costs.*TrainingCost and TrainingCost",
    ),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("case", TWO)
def test_two_callbacks_with_one_task_are_refused(tmp_path, case, turned):
    one, other, message = TWO[case]
    callbacks = [one(tmp_path), other(tmp_path)]
    if turned:
        callbacks.reverse()
        message = message.split(".*")[0]
    model = network()
    with pytest.raises(ValueError, match=f"(?s)at most one that {message}"):
        fit(model, callbacks)
    assert model.method is None
    assert int(model.optimizer.iterations.numpy()) == 0


def test_a_method_that_is_attached_already_is_refused():
    model = network()
    model.attach(kft.topology.SET())
    with pytest.raises(ValueError, match=r"SET attached, and RigL$"):
        fit(model, [kft.callbacks.RigL()])
    model.detach()
    fit(model, [kft.callbacks.RigL(update_interval=1)], steps=2)
