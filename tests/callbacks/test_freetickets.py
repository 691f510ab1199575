import itertools
import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets import keras_adapter

# epoch: (phase, factor of the rate, global drop with its first batch)
TABLE = {
    0: (0, 1.0, False),
    1: (0, 1.0, False),
    2: (0, 1.0, False),
    3: (1, 0.1, False),
    4: (1, 0.1, False),
    5: (1, 0.01, False),
    6: (2, 0.1, True),
    7: (2, 0.1, False),
    8: (2, 0.01, False),
    9: (3, 0.1, True),
    10: (3, 0.1, False),
    11: (3, 0.01, False),
}
# What the validation set is made to say, and so the epochs of the tickets.
SCORES = [0.9, 0.9, 0.9, 0.2, 0.5, 0.4, 0.3, 0.3, 0.1, 0.1, 0.2, 0.6]
CHOSEN = {"ticket_0.keras": 4, "ticket_1.keras": 6, "ticket_2.keras": 11}


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 10)).astype("float32")
    return x, generator.integers(0, 4, 64)


def network(run_eagerly=False):
    keras.utils.set_random_seed(1)
    dense = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(30, activation="relu"),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model = kft.sparsify(dense, 0.8, "uniform", seed=2)
    model.compile(
        keras.optimizers.SGD(0.5, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        run_eagerly=run_eagerly,
    )
    return model


class Scores(keras.callbacks.Callback):
    """Puts the made-up score into the logs, before EDST reads them."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_score"] = SCORES[epoch]


class Observer(keras.callbacks.Callback):
    """Notes rates and masks at both ends of every epoch."""

    def __init__(self):
        super().__init__()
        self.begin, self.end, self.rates, self.pending = {}, {}, {}, {}
        self.weights = {}

    def masks(self):
        return [r.mask.numpy().copy() for r in self.model.masked_kernels]

    def on_epoch_begin(self, epoch, logs=None):
        self.begin[epoch] = self.masks()
        self.rates[epoch] = float(self.model.optimizer.learning_rate.numpy())
        self.pending[epoch] = float(self.model.update_state.global_drop.numpy())

    def on_epoch_end(self, epoch, logs=None):
        self.end[epoch] = self.masks()
        self.weights[epoch] = self.model.get_weights()


def make(directory, **arguments):
    settings = {
        "exploration_epochs": 3,
        "refinement_epochs": 3,
        "num_tickets": 3,
        "update_interval": 1000,
        "monitor": "val_score",
        "mode": "max",
        "directory": str(directory),
    }
    return kft.callbacks.EDST(**{**settings, **arguments})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    edst, observer = make(directory), Observer()
    model = network()
    x, y = data()
    history = model.fit(
        x,
        y,
        batch_size=16,
        epochs=edst.epochs,
        verbose=0,
        callbacks=[Scores(), edst, observer],
    )
    return directory, edst, observer, history.history, model


def test_phases_and_rates(run):
    _, edst, observer, history, model = run
    assert edst.epochs == 12
    assert [phase.index for phase in edst.phases] == [0, 1, 2, 3]
    found = [edst.phase_at(epoch).index for epoch in (0, 2, 3, 11, 99)]
    assert found == [0, 0, 1, 3, 3]
    for epoch, (phase, factor, drop) in TABLE.items():
        assert history["phase"][epoch] == phase
        np.testing.assert_allclose(observer.rates[epoch], 0.5 * factor)
        assert observer.pending[epoch] == pytest.approx(0.8 if drop else 0.0)
    assert float(model.optimizer.learning_rate.numpy()) == 0.5


def test_global_drop_only_between_refinements(run):
    _, _, observer, history, _ = run
    for epoch, (_, _, drop) in TABLE.items():
        pairs = list(
            zip(observer.begin[epoch], observer.end[epoch], strict=True)
        )
        for before, after in pairs:
            assert before.sum() == after.sum()
            overlap = (before & after).sum() / before.sum()
            # ceil(0.8 a) drop, and some of those may grow again at once.
            kept = (before.sum() - np.ceil(0.8 * before.sum())) / before.sum()
            if drop:
                assert kept <= overlap < 0.8
            else:
                assert overlap == 1.0
        if drop:
            old = sum(before.sum() for before, _ in pairs)
            new = sum((after & ~before).sum() for before, after in pairs)
            assert history["replaced"][epoch] == pytest.approx(new / old)
    assert history["density"] == [pytest.approx(0.2)] * 12


def test_chosen_epochs(run):
    directory, _edst, observer, _, _ = run
    entries = json.loads((directory / "tickets.json").read_text())["tickets"]
    assert {e["file"]: e["epoch"] for e in entries} == CHOSEN
    assert [e["phase"] for e in entries] == [
        "refinement_1",
        "refinement_2",
        "refinement_3",
    ]
    for entry in entries:
        ticket = keras.saving.load_model(directory / entry["file"])
        expected = observer.weights[entry["epoch"]]
        for mine, other in zip(ticket.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_members_disagree(run):
    _, edst, _, _, _ = run
    ensemble = edst.ensemble()
    x = np.random.default_rng(3).normal(size=(500, 10)).astype("float32")
    members = ensemble.predict_members(x).argmax(-1)
    assert members.shape == (3, 500)
    for i in range(3):
        for j in range(i):
            assert 0 < (members[i] != members[j]).mean() < 1


def test_last_epoch_without_a_monitor(tmp_path):
    edst = make(tmp_path, monitor=None, exploration_epochs=1,
                refinement_epochs=2, num_tickets=2)  # fmt: skip
    x, y = data()
    network().fit(x, y, epochs=5, verbose=0, callbacks=[edst])
    epochs = [entry["epoch"] for entry in edst.store.read().values()]
    assert epochs == [2, 4]


def test_rate_left_alone_or_of_your_own(tmp_path):
    x, y = data()
    for given, expected in [
        (None, [0.5] * 3),
        ((1, 0.5, 0.2), [0.5, 0.25, 0.1]),
    ]:
        observer = Observer()
        edst = make(
            tmp_path,
            learning_rate=given,
            exploration_epochs=1,
            refinement_epochs=2,
            num_tickets=1,
            monitor="loss",
            mode="min",
        )
        callbacks = [edst, observer]
        network(run_eagerly=True).fit(
            x, y, epochs=3, verbose=0, callbacks=callbacks
        )
        np.testing.assert_allclose(list(observer.rates.values()), expected)


def test_second_half_is_rounded_up(tmp_path):
    edst = make(tmp_path, exploration_epochs=1, refinement_epochs=3)
    factors = [edst.learning_rate_factor(epoch) for epoch in range(1, 4)]
    assert factors == [0.1, 0.1, 0.01]


@pytest.mark.parametrize("counters", ["shared", "per_member"])
def test_visits_over_the_tickets(tmp_path, counters):
    model, updates = network(), []

    def note(epoch=None, logs=None):
        keras_adapter.synchronize(model)
        updates.append(int(np.array(model.update_state.update_count.value)))

    edst = kft.callbacks.EDST(
        exploration_epochs=1,
        refinement_epochs=1,
        num_tickets=2,
        monitor=None,
        directory=tmp_path,
        method=kft.topology.DSTEE(update_interval=2),
        counters=counters,
    )
    noting = keras.callbacks.LambdaCallback(
        on_epoch_begin=note, on_train_end=note
    )
    x, y = data()
    model.fit(
        x, y, batch_size=16, epochs=3, verbose=0, callbacks=[edst, noting]
    )
    # Each update is a visit of every active connection, and so is the mask
    # that the count begins with: the first, or that of the ticket before.
    begun = 0 if counters == "shared" else updates[2]
    assert 0 < updates[2] < updates[3]
    for record in model.masked_kernels:
        visits = np.array(record.state["visits"].value).sum()
        active = np.array(record.mask.value).sum()
        assert visits == active * (1 + updates[3] - begun)


def test_schedules_are_refused(tmp_path):
    model = network()
    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    model.compile(keras.optimizers.SGD(rate), "mse")
    with pytest.raises(ValueError, match="EDST sets the optimizer's"):
        make(tmp_path).set_model(model)
    model.detach()  # as `fit` does
    make(tmp_path, learning_rate=None).set_model(model)


def test_too_few_epochs_and_unknown_monitor(tmp_path):
    x, y = data()
    with pytest.raises(ValueError, match="`epochs` must be at least 12"):
        network(run_eagerly=True).fit(
            x, y, epochs=5, verbose=0, callbacks=[make(tmp_path)]
        )
    edst = make(tmp_path, monitor="val_acuracy")
    with pytest.raises(ValueError, match="`monitor` must be one of the epoch"):
        network(run_eagerly=True).fit(
            x, y, epochs=12, verbose=0, callbacks=[edst]
        )
    dense = keras.Sequential([keras.Input((10,)), layers.Dense(4)])
    dense.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="EDST needs a SparseModel"):
        dense.fit(x, y, epochs=12, verbose=0, callbacks=[make(tmp_path)])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"exploration_epochs": 0}, "`exploration_epochs` must be a positive"),
        ({"refinement_epochs": 1.5}, "`refinement_epochs` must be a positive"),
        ({"num_tickets": -1}, "`num_tickets` must be a positive"),
        ({"num_tickets": True}, "`num_tickets` must be a positive"),
        ({"global_drop_fraction": 0.0}, "`global_drop_fraction` must be in"),
        ({"global_drop_fraction": "x"}, "`global_drop_fraction` must be in"),
        ({"global_drop_fraction": True}, "`global_drop_fraction` must be in"),
        ({"stop_step": "x"}, "`stop_step` must be a number"),
        ({"drop_fraction": 2.0}, "`drop_fraction` must be in"),
        ({"learning_rate": "fast"}, "`learning_rate` must be"),
        ({"learning_rate": (1, 2)}, "`learning_rate` must be"),
        ({"learning_rate": (1, 2, np.nan)}, "`learning_rate` must be"),
        ({"mode": "best"}, "`mode` must be one of"),
        ({"growth": "sideways"}, "`growth` must be one of"),
        ({"counters": "mine"}, "`counters` must be"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **arguments)


@pytest.mark.parametrize("name", ["seed_1/ticket", 5])
def test_bad_ticket_name(tmp_path, name):
    with pytest.raises(ValueError, match="`ticket_name` must be a file name"):
        kft.callbacks.DST(tmp_path, ticket_name=name)


def test_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match="`directory` must be a writable directory"
    ):
        make(tmp_path / "file" / "tickets")
    with pytest.raises(
        ValueError, match="`directory` must be a writable directory"
    ):
        kft.callbacks.EDST(1, 1, directory=None)


def test_dst_and_collecting(tmp_path):
    x, y = data()
    folders = []
    for seed in range(2):
        dst = kft.callbacks.DST(
            tmp_path / f"seed_{seed}", monitor="loss", update_interval=3
        )
        network(run_eagerly=True).fit(
            x, y, epochs=3, verbose=0, callbacks=[dst]
        )
        folders.append(dst.directory)
        assert dst.store.read()["ticket_0.keras"]["epoch"] in (0, 1, 2)
    assert kft.EnsembleModel.from_tickets(folders).num_members == 2


def test_ever_active_in_the_logs(tmp_path):
    x, y = data()
    edst = make(
        tmp_path, monitor=None, update_interval=2, track_ever_active=True
    )
    history = network().fit(x, y, epochs=12, verbose=0, callbacks=[edst])
    seen = history.history["ever_active"]
    assert all(a <= b for a, b in itertools.pairwise(seen))
    assert 0.2 < seen[-1] <= 1.0


@pytest.mark.parametrize(
    "metric, best", [("recall", 1), ("mean_squared_error", 0)]
)
def test_auto_mode_is_the_metrics_own_direction(tmp_path, metric, best):
    """Of two epochs with values 0.25 and 0.75, which is the ticket?"""

    class Values(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs[f"val_{metric}"] = [0.25, 0.75][epoch]

    metrics = {
        "recall": keras.metrics.Recall(name="recall"),
        "mean_squared_error": keras.metrics.MeanSquaredError(),
    }
    dense = keras.Sequential(
        [keras.Input((4,)), layers.Dense(1, activation="sigmoid")]
    )
    model = kft.sparsify(dense, 0.5)
    model.compile("sgd", "mse", metrics=[metrics[metric]])
    dst = kft.callbacks.DST(str(tmp_path), monitor=f"val_{metric}")
    x, y = np.ones((8, 4)), np.ones((8, 1))
    model.fit(x, y, epochs=2, verbose=0, callbacks=[Values(), dst])
    assert dst.store.read()["ticket_0.keras"]["epoch"] == best


def test_a_monitor_without_a_direction_needs_a_mode(tmp_path):
    class Values(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["own"] = 1.0

    dense = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model = kft.sparsify(dense, 0.5)
    model.compile("sgd", "mse")
    dst = kft.callbacks.DST(str(tmp_path), monitor="own")
    with pytest.raises(ValueError, match="`mode` must be 'min' or 'max'"):
        model.fit(
            np.ones((8, 4)),
            np.ones((8, 1)),
            verbose=0,
            callbacks=[Values(), dst],
        )


def test_an_interrupted_run_gives_the_rate_back(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    dense = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model = kft.sparsify(dense, 0.5)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    edst = kft.callbacks.EDST(1, 2, 1, monitor=None, directory=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            np.ones((8, 4)),
            np.ones((8, 1)),
            epochs=3,
            verbose=0,
            callbacks=[edst, Stop()],
        )
    assert float(model.optimizer.learning_rate.numpy()) == 0.5


def tiny(metrics=()):
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model = kft.sparsify(dense, 0.5)
    model.compile("sgd", "mse", metrics=list(metrics))
    return model


def fit_tiny(model, epochs, callbacks):
    x, y = np.ones((8, 4)), np.ones((8, 1))
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks)


class Stop(keras.callbacks.Callback):
    """Ends training after an epoch, as EarlyStopping does."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.after:
            self.model.stop_training = True


def test_training_that_stops_early_leaves_a_ticket(tmp_path):
    dst = kft.callbacks.DST(str(tmp_path), monitor=None, update_interval=1)
    fit_tiny(tiny(), 10, [Stop(2), dst])
    assert dst.store.read()["ticket_0.keras"]["epoch"] == 2


def test_missing_tickets_are_told(tmp_path):
    edst = kft.callbacks.EDST(
        1, 2, 3, monitor="loss", directory=str(tmp_path), update_interval=1
    )
    with pytest.warns(UserWarning, match="before all 3 tickets .* holds 2"):
        fit_tiny(tiny(), 7, [Stop(3), edst])


def test_nan_is_worse_than_anything(tmp_path):
    class Values(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["value"] = [float("nan"), 0.3, 0.2, float("nan")][epoch]

    dst = kft.callbacks.DST(
        str(tmp_path), monitor="value", mode="max", update_interval=1
    )
    fit_tiny(tiny(), 4, [Values(), dst])
    entry = dst.store.read()["ticket_0.keras"]
    assert (entry["epoch"], entry["value"]) == (1, 0.3)


def test_the_direction_is_asked_for_after_the_first_epoch(tmp_path):
    class Values(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            logs["own"] = 1.0
            Values.epochs += 1

    edst = kft.callbacks.EDST(3, 1, 1, monitor="own", directory=str(tmp_path))
    with pytest.raises(ValueError, match="`mode` must be 'min' or 'max'"):
        fit_tiny(tiny(), 4, [Values(), edst])
    assert Values.epochs == 1


def test_models_without_a_graph_are_refused(tmp_path):
    class Own(kft.SparseModel):
        def __init__(self):
            super().__init__()
            self.head = kft.layers.Sparse(layers.Dense(1), 0.5)

        def call(self, inputs):
            return self.head(inputs)

    model = Own()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="of functional models"):
        fit_tiny(model, 1, [kft.callbacks.DST(str(tmp_path))])


class Counting(kft.topology.Method):
    """Counts the steps of a training in a scalar."""

    scalar_state = {"seen": 0.0}

    def transform_gradients(self, gradients, context):
        seen = context.state["seen"]
        seen.assign(seen.value + 1.0)
        return gradients


@pytest.mark.parametrize("name", ["DropAndGrow", "DST", "EDST"])
def test_scalar_state_begins_with_each_fit(tmp_path, name):
    method = Counting(update_interval=100)
    make_callback = {
        "DropAndGrow": lambda: kft.callbacks.DropAndGrow(method),
        "DST": lambda: kft.callbacks.DST(tmp_path, monitor=None, method=method),
        "EDST": lambda: kft.callbacks.EDST(
            1, 1, 1, monitor=None, method=method, directory=tmp_path
        ),
    }[name]
    model, seen = tiny(), []
    for _ in range(2):
        fit_tiny(model, 2, [make_callback()])
        seen.append(float(model.update_state.state["seen"].numpy()))
    assert seen == [2.0, 2.0]


def short_edst(directory, **arguments):
    settings = {"monitor": None, "update_interval": 100, **arguments}
    return kft.callbacks.EDST(2, 1, 1, directory=directory, **settings)


class Halves(keras.callbacks.Callback):
    """Sets the rate where a rate scheduler would."""

    def halve(self, *args, **kwargs):
        optimizer = self.model.optimizer
        optimizer.learning_rate = 0.5 * float(optimizer.learning_rate.numpy())


class HalvesAtBegin(Halves):
    on_epoch_begin = Halves.halve


class HalvesAtEnd(Halves):
    on_epoch_end = Halves.halve


SCHEDULERS = {
    "scheduler": lambda: keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: 0.5 * rate
    ),
    "plateau": lambda: keras.callbacks.ReduceLROnPlateau(
        "loss", patience=1, min_delta=1e9
    ),
    "begin": HalvesAtBegin,
    "end": HalvesAtEnd,
}


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("scheduler", True),
        ("scheduler", False),
        ("plateau", True),
        ("plateau", False),
        ("begin", False),
        ("end", True),
    ],
)
def test_another_that_sets_the_rate_is_told(tmp_path, kind, first):
    callbacks = [short_edst(tmp_path), SCHEDULERS[kind]()]
    with pytest.warns(UserWarning, match="Something else sets") as warned:
        fit_tiny(tiny(), 3, callbacks if first else callbacks[::-1])
    told = [w for w in warned if "Something else" in str(w.message)]
    assert len(told) == 1 and "learning_rate='paper'" in str(told[0].message)


def test_a_rate_that_is_left_alone_may_be_set(tmp_path, recwarn):
    edst = short_edst(tmp_path, learning_rate=None)
    fit_tiny(tiny(), 3, [edst, HalvesAtBegin()])
    assert not [w for w in recwarn if "learning rate" in str(w.message)]


def test_an_edst_that_only_drops_between_refinements_is_told(tmp_path):
    edst = kft.callbacks.EDST(
        1, 1, 2, monitor=None, update_interval=100, directory=tmp_path
    )
    model = tiny()
    with pytest.warns(UserWarning, match="EDST never updated the topology"):
        fit_tiny(model, 3, [edst])
    assert int(model.update_state.update_count.numpy()) == 1


@pytest.mark.parametrize("kind", ["edst", "dst"])
def test_agent_corrects_gradients_while_tickets_are_collected(kind, tmp_path):
    """The method's own callback comes along: snapshots, a tau that moves."""
    x, y = data()
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]
    given = {"method": "agent", "data": batches, "update_interval": 3}
    given |= {"monitor": "loss", "directory": tmp_path / "tickets"}
    if kind == "edst":
        callback = kft.callbacks.EDST(
            1, 1, num_tickets=2, learning_rate=None, **given
        )
    else:
        callback = kft.callbacks.DST(**given)
    model = network()
    history = model.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    ).history
    state = model.update_state.state
    assert float(keras.ops.convert_to_numpy(state["snapshots"].value)) == 1.0
    assert history["tau"][1] != history["tau"][2]
    assert float(keras.ops.convert_to_numpy(state["correction"].value)) != 0.0
    assert int(keras.ops.convert_to_numpy(model.update_state.update_count)) > 0
    assert any((tmp_path / "tickets").rglob("*.keras"))
