"""Each method on a network so small that its runs can be made by hand."""

import dataclasses
import functools
import json
import shutil
import typing

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets import recipes
from keras_freetickets.recipes.workspace import Workspace
from keras_freetickets.topology import schedules

RNG = np.random.default_rng(0)
Y = RNG.integers(3, size=48)
CENTRES = 2.0 * np.repeat(np.eye(3), 2, axis=1)
X = (CENTRES[Y] + 0.3 * RNG.normal(size=(48, 6))).astype("float32")
RATE = 0.2


def make_model(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )


def make_body(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(8, activation="relu"),
            layers.Dense(6),
        ]
    )


def compile_model(model):
    model.compile(
        keras.optimizers.SGD(RATE, momentum=0.9),
        "sparse_categorical_crossentropy",
        run_eagerly=True,  # a compilation costs more than these steps
    )


def data(seed):
    order = np.random.default_rng(seed).permutation(48)
    return {
        "x": X[order],
        "y": Y[order],
        "batch_size": 16,
        "shuffle": False,
    }


def validated(seed):
    """Epochs of one batch, with logs of a validation."""
    return {**data(seed), "batch_size": 48, "validation_data": (X, Y)}


def fit(method, directory, **kwargs):
    arguments = {
        "make_model": make_body
        if isinstance(method, recipes.MIMO)
        else make_model,
        "compile_model": compile_model,
        "data": data,
        "verbose": 0,
        **kwargs,
    }
    return method.fit(directory=directory, **arguments)


ALIKE = {"num_members": 2, "epochs": 4, "monitor": None}
SPARSE = {"sparsity": 0.5, **ALIKE}
METHODS = {
    "dense": recipes.Dense(**ALIKE),
    "static": recipes.Static(**SPARSE),
    "dst": recipes.DST(update_interval=3, **SPARSE),
    "edst": recipes.EDST(
        sparsity=0.5,
        num_members=2,
        exploration_epochs=2,
        refinement_epochs=1,
        update_interval=3,
        monitor=None,
    ),
    "snapshot": recipes.Snapshot(num_members=2, cycle_epochs=2),
    "mimo": recipes.MIMO(num_members=2, epochs=4, batch_repetitions=2),
    "sparse_mimo": recipes.MIMO(
        num_members=2,
        epochs=8,
        batch_repetitions=2,
        sparsity=0.5,
        update_interval=3,
    ),
    "pf": recipes.PruneAndFinetune(fine_tuning_epochs=2, **SPARSE),
    "ltr": recipes.LotteryTicketRewinding(rounds=2, **SPARSE),
}


@dataclasses.dataclass
class Trained:
    """What the whole training of a method has left."""

    ensemble: kft.EnsembleModel
    folder: typing.Any
    runs: list
    flops: float


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains a method of `METHODS` once for all tests that only look."""

    @functools.cache
    def once(name):
        method, folder = METHODS[name], tmp_path_factory.mktemp(name)
        ensemble = fit(method, folder)
        return Trained(ensemble, folder, method.runs, method.training_flops())

    return once


def test_every_recipe_is_among_them():
    kinds = {type(method) for method in METHODS.values()}
    assert kinds >= {
        recipes.class_of(name)
        for name in recipes.names()
        if recipes.class_of(name).__module__.startswith("keras_freetickets.")
    }


@pytest.mark.parametrize("name", METHODS)
def test_an_ensemble_that_has_learned(trained, name):
    method, whole = METHODS[name], trained(name)
    ensemble, folder = whole.ensemble, whole.folder
    assert ensemble.num_members == (1 if "mimo" in name else 2)
    probabilities = keras.ops.convert_to_numpy(ensemble(X))
    assert (probabilities.argmax(axis=-1) == Y).mean() > 0.6  # chance: 1/3
    assert whole.flops > 0
    for run in whole.runs:
        assert len(run.history["seconds"]) == len(run.history["epoch"])
    # The folder stands for the ensemble, in another process too.
    opened = kft.EnsembleModel.from_tickets(folder)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(opened(X)), probabilities
    )
    weights = ensemble.get_weights()
    for one, other in zip(opened.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)
    wider = opened.with_members(folder)
    assert wider.num_members == 2 * opened.num_members
    # What is finished is not made again.
    written = {p: p.stat().st_mtime_ns for p in folder.rglob("ticket*.keras")}
    again = fit(method, folder)
    for one, other in zip(again.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)
    for path, when in written.items():
        assert path.stat().st_mtime_ns == when
    assert not list(folder.rglob("backup"))


def by_hand(model, rates, seed):
    compile_model(model)
    for rate in rates:
        model.optimizer.learning_rate = rate
        model.fit(**data(seed), verbose=0)
    return model


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_members_of_seeds_and_rates(tmp_path, sparsity):
    rates = [RATE, RATE, 0.1 * RATE, 0.01 * RATE]
    method = METHODS["static"] if sparsity else METHODS["dense"]
    ensemble = fit(method, tmp_path, seed=3)
    for i, seed in enumerate([3, 1003]):
        model = make_model(seed)
        if sparsity:
            model = kft.sparsify(model, sparsity, seed=seed)
        model = by_hand(model, rates, seed)
        for one, other in zip(
            ensemble.member(i).trainable_variables,
            model.trainable_variables,
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_member_of_dst(tmp_path, trained):
    ensemble = trained("dst").ensemble
    model = kft.sparsify(make_model(1000), 0.5, seed=1000)
    compile_model(model)
    dst = kft.callbacks.DST(
        tmp_path / "hand", update_interval=3, monitor=None, seed=1000
    )
    factors = keras.callbacks.LearningRateScheduler(
        lambda epoch: RATE * [1.0, 1.0, 0.1, 0.01][epoch]
    )
    model.fit(**data(1000), epochs=4, verbose=0, callbacks=[dst, factors])
    found = ensemble.member(1).masked_kernels
    for one, other in zip(found, model.masked_kernels, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_allclose(one.kernel, other.kernel, rtol=1e-4)


def test_pruned_and_fine_tuned(trained):
    ensemble, folder = trained("pf").ensemble, trained("pf").folder
    for i, seed in enumerate([0, 1000]):
        dense = keras.saving.load_model(
            folder / f"dense_{i}" / "ticket_0.keras"
        )
        model = kft.prune(dense, 0.5)
        masks = [np.array(c.mask) for c in model.masked_kernels]
        model = by_hand(model, [0.01 * RATE] * 2, seed)
        for connection, other, mask in zip(
            ensemble.member(i).masked_kernels,
            model.masked_kernels,
            masks,
            strict=True,
        ):
            np.testing.assert_array_equal(connection.mask, mask)
            np.testing.assert_allclose(
                connection.kernel, other.kernel, rtol=1e-4, atol=1e-6
            )


def test_lottery_tickets(trained):
    """Two rounds: 1 - sqrt(1/2) of all weights, then half of them."""
    ensemble, folder = trained("ltr").ensemble, trained("ltr").folder

    def ticket(name):
        return keras.saving.load_model(folder / name / "ticket_0.keras")

    early = keras.saving.load_model(folder / "dense" / "early.keras")
    between = ticket("round_1")
    kept = sum(int(np.sum(c.mask)) for c in between.masked_kernels)
    assert kept == int(72 * 0.5**0.5)
    wanted = kft.prune(between, 0.5, rewind_to=early)
    masks = [np.array(c.mask) for c in wanted.masked_kernels]
    for i, seed in enumerate([0, 1000]):
        start = kft.prune(between, 0.5, rewind_to=early)
        model = by_hand(start, [RATE, 0.1 * RATE, 0.01 * RATE], seed)
        for connection, other, mask in zip(
            ensemble.member(i).masked_kernels,
            model.masked_kernels,
            masks,
            strict=True,
        ):
            np.testing.assert_array_equal(connection.mask, mask)
            np.testing.assert_allclose(
                connection.kernel, other.kernel, rtol=1e-4, atol=1e-6
            )


def test_costs_by_hand(trained):
    """72 multiply-accumulates, 36 in a sparse network."""
    dense, sparse = 2 * 72, 2 * 36
    assert trained("pf").flops == 2 * 3 * (4 * dense + 2 * sparse)
    step = (3 * sparse * 3 + 2 * sparse + dense) / 4
    assert trained("edst").flops == pytest.approx(4 * step)
    body = 2 * (12 * 8 + 8 * 8 + 8 * 6)
    assert trained("mimo").flops == 4 * 3 * body * 2


def test_both_ends_of_a_sparse_body_stay_dense(trained):
    member = trained("sparse_mimo").ensemble.member(0)
    (connection,) = member.masked_kernels
    assert tuple(connection.kernel.shape) == (8, 8)
    assert int(np.sum(connection.mask)) == 32


def test_a_body_without_a_middle_is_not_made_sparse(tmp_path):
    method = recipes.MIMO(num_members=2, epochs=1, sparsity=0.5)

    def two_kernels(seed):
        return keras.Sequential(
            [keras.Input((12,)), layers.Dense(8), layers.Dense(6)]
        )

    with pytest.raises(ValueError, match="a body of three or more kernels"):
        fit(method, tmp_path, make_model=two_kernels)


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_goes_on(tmp_path, trained, name):
    """Killed after half of all epochs, it ends as if nothing had happened."""
    method, whole = METHODS[name], trained(name)
    epochs = [len(run.history["epoch"]) for run in whole.runs]
    left = sum(epochs) // 2

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

    def mortal(seed):
        return {**data(seed), "callbacks": [Kill()]}

    with pytest.raises(KeyboardInterrupt):
        fit(method, tmp_path, data=mortal)
    resumed = fit(method, tmp_path)
    for one, other in zip(
        whole.ensemble.get_weights(), resumed.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert [len(run.history["epoch"]) for run in method.runs] == epochs


def test_callbacks_that_remember_go_on_where_they_were(tmp_path):
    # With such patience both act in the second half of the epochs, by what
    # they saw in the first.
    def patient(seed, left=99):
        count = {"left": left}

        def epoch_begin(epoch, logs):
            count["left"] -= 1
            if count["left"] < 0:
                raise KeyboardInterrupt

        scheduled = keras.callbacks.ReduceLROnPlateau(
            "val_loss", factor=0.5, patience=2, min_delta=10.0
        )
        stopping = keras.callbacks.EarlyStopping(
            "val_loss", patience=5, min_delta=10.0
        )
        kill = keras.callbacks.LambdaCallback(on_epoch_begin=epoch_begin)
        return {**validated(seed), "callbacks": [scheduled, stopping, kill]}

    method = recipes.Dense(
        num_members=1, epochs=8, learning_rate=None, monitor=None
    )
    whole = fit(method, tmp_path / "whole", data=patient)
    # The first epoch counts as better than none, five do not.
    (run,) = method.runs
    assert len(run.history["epoch"]) == 6
    with pytest.raises(KeyboardInterrupt):
        fit(method, tmp_path / "parts", data=lambda s: patient(s, left=3))
    resumed = fit(method, tmp_path / "parts", data=patient)
    (run,) = method.runs
    assert len(run.history["epoch"]) == 6
    for one, other in zip(
        whole.get_weights(), resumed.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_the_best_epoch_by_a_log(tmp_path):
    method = recipes.Dense(num_members=1, epochs=3, monitor="val_loss")
    fit(method, tmp_path, data=validated)
    with open(tmp_path / "member_0" / "tickets.json") as file:
        (entry,) = json.load(file)["tickets"]
    losses = method.runs[0].history["val_loss"]
    assert entry["epoch"] == int(np.argmin(losses))


def test_a_rate_of_your_own(tmp_path):
    seen = []

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rate = self.model.optimizer.learning_rate
            seen.append(float(keras.ops.convert_to_numpy(rate)))

    def noted(seed):
        return {**data(seed), "callbacks": [Note()]}

    halved = recipes.Dense(
        num_members=1,
        epochs=3,
        learning_rate=lambda epoch: 0.5**epoch,
        monitor=None,
    )
    fit(halved, tmp_path / "a", data=noted)
    np.testing.assert_allclose(seen, [RATE, RATE / 2, RATE / 4], rtol=1e-6)
    seen.clear()
    left = recipes.Dense(
        num_members=1, epochs=2, learning_rate=None, monitor=None
    )
    fit(left, tmp_path / "b", data=noted)
    np.testing.assert_allclose(seen, [RATE, RATE], rtol=1e-6)


def test_rates_of_mimo_s_recipe():
    """x 0.2 at 100, 200 and 225 of 250 epochs."""
    factor = recipes.MIMO()._paper_factor
    drops = [e for e in range(1, 250) if factor(e) != factor(e - 1)]
    assert drops == [1, 100, 200, 225]
    assert factor(0) == 0.5 and factor(249) == pytest.approx(0.008)


ONE = {"num_members": 1, "epochs": 1, "monitor": None}


@pytest.mark.parametrize(
    "one, other",
    [
        (recipes.Dense(**ONE), recipes.Dense(**{**ONE, "epochs": 2})),
        (recipes.Dense(**ONE), recipes.Static(**ONE)),
        (
            recipes.Dense(learning_rate=lambda epoch: 1.0, **ONE),
            recipes.Dense(learning_rate=lambda epoch: 0.5, **ONE),
        ),
        (
            recipes.DST(drop_fraction=schedules.Cosine(0.5, 10), **ONE),
            recipes.DST(drop_fraction=schedules.Cosine(0.1, 10), **ONE),
        ),
        (
            recipes.EDST(learning_rate=[1.0, 0.1, 0.01]),
            recipes.EDST(learning_rate=[1.0, 1.0, 1.0]),
        ),
        (
            recipes.Dense(num_members=np.int64(1), epochs=1),
            recipes.Dense(num_members=np.int64(2), epochs=1),
        ),
    ],
)
def test_a_directory_of_another_ensemble(tmp_path, one, other):
    Workspace(None, None, None, tmp_path, 0, 0).claim(one.settings())
    Workspace(None, None, None, tmp_path, 0, 0).claim(one.settings())
    before = (tmp_path / "ensemble.json").read_bytes()
    for settings, seed in ((other.settings(), 0), (one.settings(), 1)):
        with pytest.raises(ValueError, match="hold this very ensemble"):
            Workspace(None, None, None, tmp_path, seed, 0).claim(settings)
    assert (tmp_path / "ensemble.json").read_bytes() == before


def test_files_of_others_are_left_alone(tmp_path):
    mine = tmp_path / "member_0"
    mine.mkdir()
    (mine / "ticket_0.keras").write_text("mine")
    with pytest.raises(ValueError, match="with \\['member_0'\\]"):
        fit(METHODS["dense"], tmp_path)
    assert (mine / "ticket_0.keras").read_text() == "mine"


def test_what_is_damaged_or_lost_is_named(tmp_path):
    method = recipes.PruneAndFinetune(fine_tuning_epochs=1, **{**SPARSE, **ONE})
    fit(method, tmp_path)
    record = tmp_path / "member_0" / "run.json"
    whole = record.read_text()
    record.write_text(whole[:-20])
    with pytest.raises(ValueError, match="`directory` holds a damaged record"):
        fit(method, tmp_path)
    record.write_text(whole)
    (tmp_path / "member_0" / "ticket_0.keras").unlink()
    with pytest.raises(ValueError, match="`directory` holds tickets that make"):
        fit(method, tmp_path)
    shutil.rmtree(tmp_path / "member_0")
    (tmp_path / "dense_0" / "ticket_0.keras").write_text("")
    with pytest.raises(ValueError, match="`directory` has lost a ticket of"):
        fit(method, tmp_path)
    shutil.rmtree(tmp_path / "dense_0")
    assert fit(method, tmp_path).num_members == 1


def test_a_kill_between_record_and_backup_costs_nothing(tmp_path, monkeypatch):
    method = recipes.Dense(**ONE)

    def delete(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(kft.callbacks.Backup, "delete", delete)
        with pytest.raises(KeyboardInterrupt):
            fit(method, tmp_path)
    written = (tmp_path / "member_0" / "ticket_0.keras").stat().st_mtime_ns
    fit(method, tmp_path)
    now = (tmp_path / "member_0" / "ticket_0.keras").stat().st_mtime_ns
    assert now == written and not (tmp_path / "member_0" / "backup").exists()


def test_lottery_tickets_need_an_order_each(tmp_path):
    with pytest.raises(ValueError, match="`data` must be a function from a"):
        fit(METHODS["ltr"], tmp_path, data=data(0))


def test_costs_of_nothing():
    with pytest.raises(ValueError, match="`fit` must be called first"):
        recipes.Dense().training_flops()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"make_model": None}, "`make_model` must be a function"),
        ({"compile_model": 1}, "`compile_model` must be a function"),
        ({"compile_model": lambda model: None}, "must compile the model"),
        ({"data": lambda seed: X}, "Received: a function to array"),
        ({"data": {"y": Y}}, "`data` must give `x`"),
        ({"data": {"x": X, "lables": Y}}, "Received: \\['lables'\\]"),
        ({"data": {"x": X, "y": Y, "epochs": 3}}, "epochs and verbose are"),
        ({"make_model": lambda seed: None}, "`make_model` must return"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
        ({"data": [X, Y]}, "`data` must be a dict"),
        ({"data": {"x": X, "callbacks": []}}, "must be a function from a seed"),
    ],
)
def test_bad_arguments_of_fit(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(METHODS["dense"], tmp_path, **arguments)


def test_a_schedule_is_not_overwritten(tmp_path):
    def scheduled(model):
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
        model.compile(
            keras.optimizers.SGD(rate), "sparse_categorical_crossentropy"
        )

    with pytest.raises(ValueError, match="learning_rate=None to keep"):
        fit(METHODS["dense"], tmp_path / "a", compile_model=scheduled)
    kept = recipes.Dense(
        num_members=1, epochs=1, learning_rate=None, monitor=None
    )
    fit(kept, tmp_path / "b", compile_model=scheduled)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: recipes.Dense(num_members=0),
            "`num_members` must be a positive",
        ),
        (lambda: recipes.Dense(epochs=0), "`epochs` must be a positive"),
        (lambda: recipes.Dense(learning_rate="slow"), "`learning_rate` must"),
        (lambda: recipes.Static(sparsity=1.0), "`sparsity` must be in"),
        (lambda: recipes.DST(growth="up"), "`growth` must be"),
        (lambda: recipes.DST(update_interval=0), "`update_interval` must"),
        (lambda: recipes.DST(drop_fraction=3), "`drop_fraction` must"),
        (lambda: recipes.Static(distribution="zzz"), "`distribution` must"),
        (lambda: recipes.EDST(refinement_epochs=0), "`refinement_epochs`"),
        (lambda: recipes.EDST(global_drop_fraction=2), "`global_drop_frac"),
        (lambda: recipes.EDST(learning_rate="x"), "`learning_rate` must"),
        (lambda: recipes.MIMO(input_repetition=3), "`input_repetition`"),
        (lambda: recipes.MIMO(drop_fraction=3), "`drop_fraction` must"),
        (lambda: recipes.Snapshot(cycle_epochs=0), "`cycle_epochs` must be"),
        (lambda: recipes.MIMO(batch_repetitions=0), "`batch_repetitions`"),
        (
            lambda: recipes.PruneAndFinetune(fine_tuning_rate=0),
            "`fine_tuning_rate` must",
        ),
        (
            lambda: recipes.LotteryTicketRewinding(epochs=1),
            "`epochs` must be an integer of at least 2",
        ),
        (
            lambda: recipes.LotteryTicketRewinding(rounds=0),
            "`rounds` must be a positive",
        ),
        (
            lambda: recipes.LotteryTicketRewinding(epochs=5, rewind_epochs=5),
            "`rewind_epochs`",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
