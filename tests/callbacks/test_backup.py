import hashlib
import os
import pathlib
import random
import shutil
import sys

import keras
import killable
import numpy as np
import pytest
from keras import layers
from killable import network
from killable import run

import keras_freetickets as kft


class Killed(BaseException):
    """Stands for a SIGKILL: no handler of ours may catch it and go on."""


@pytest.fixture(scope="module")
def whole_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(whole_directory):
    return run(str(whole_directory))


@pytest.fixture
def finished(tmp_path, whole, whole_directory):
    """A copy of what a whole run leaves."""
    return shutil.copytree(whole_directory, tmp_path / "finished")


def check_equal(result, whole):
    for mine, other in zip(result[0], whole[0], strict=True):
        np.testing.assert_array_equal(mine, other)
    for mine, other in zip(result[1], whole[1], strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert result[2] == whole[2]
    assert result[3] == whole[3]


def check_no_half_files(directory):
    for root, _, names in os.walk(directory):
        for name in names:
            if name.endswith(".keras") and ".partial-" not in root:
                keras.saving.load_model(os.path.join(root, name))


class Moments:
    """Copies a directory before every operation on a file in it.

    Each copy is what a kill at that moment leaves. Copies that differ in
    nothing that a resumed run could see are made once.
    """

    WRITES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}

    def __init__(self, directory, copies):
        self.directory = str(directory)
        self.copies = copies
        self.found = []
        self.seen = set()
        self.active = False
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if not self.active or event not in self.WRITES | {"open"}:
            return
        name = str(arguments[0])
        reads = event == "open" and not set(arguments[1] or "w") & set("wax+")
        elsewhere = reads or not name.startswith(self.directory)
        # Within `rmtree` names are relative to an open folder.
        if elsewhere and event not in ("os.remove", "os.rmdir"):
            return
        self.active = False
        self.copy()
        self.active = True

    def copy(self):
        key = digest_of(self.directory)
        if key not in self.seen:
            self.seen.add(key)
            path = os.path.join(self.copies, str(len(self.found)))
            shutil.copytree(self.directory, path)
            self.found.append(path)


def digest_of(directory):
    """Names and contents of all files but those that are half written."""
    found = hashlib.sha256()
    for root, folders, names in os.walk(directory):
        folders[:] = sorted(f for f in folders if ".partial-" not in f)
        for name in sorted(names):
            path = os.path.join(root, name)
            found.update(os.path.relpath(path, directory).encode())
            found.update(pathlib.Path(path).read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    "every, first",
    [(4, 0), *(pytest.param(4, i, marks=pytest.mark.slow) for i in (1, 2, 3))],
)
def test_killed_between_any_two_writes(tmp_path, whole, every, first):
    (tmp_path / "run").mkdir()
    (tmp_path / "copies").mkdir()
    moments = Moments(tmp_path / "run", tmp_path / "copies")
    moments.active = True
    run(str(tmp_path / "run"))
    moments.active = False
    # Each epoch: the backup; from the third on, an old one goes in steps;
    # two tickets and their index, at least once.
    assert len(moments.found) >= 5 + 3 * 2 + 2 * 2
    for path in moments.found[first::every]:
        check_no_half_files(path)
        check_equal(run(path), whole)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_at_a_random_step(tmp_path, whole, monkeypatch, seed):
    model = network()
    make, count = model.make_train_function, [0]
    last = random.Random(seed).randint(1, killable.EPOCHS * 4)

    def make_counted(force=False):
        make(force)
        function = model.train_function

        def counted(*arguments):
            count[0] += 1
            if count[0] == last:
                raise Killed
            return function(*arguments)

        model.train_function = counted

    monkeypatch.setattr(model, "make_train_function", make_counted)
    with pytest.raises(Killed):
        run(str(tmp_path), model)
    check_equal(run(str(tmp_path)), whole)


def test_a_finished_run_is_not_run_again(finished, whole):
    check_equal(run(str(finished)), whole)


def test_damaged_backup_is_passed_over(finished, whole):
    newest = sorted(os.listdir(finished / "backup"))[-1]
    path = finished / "backup" / newest / "arrays.npz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="is damaged and is skipped"):
        check_equal(run(str(finished)), whole)


def test_backup_of_another_model(finished):
    with pytest.raises(ValueError, match="backup of another model"):
        run(str(finished), network(units=13))


def test_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match="`directory` must be a writable directory"
    ):
        kft.callbacks.Backup(tmp_path / "file" / "backup")
    with pytest.raises(
        ValueError, match="`directory` must be a writable directory"
    ):
        kft.callbacks.Backup(None)


def test_delete(finished):
    assert (finished / "backup").exists()
    backup = kft.callbacks.Backup(finished / "backup")
    backup.delete()
    assert not (finished / "backup").exists()


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX's trainer builds it first"
)
def test_model_that_is_not_built(tmp_path):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("sgd", "mse")
    backup = kft.callbacks.Backup(tmp_path)
    with pytest.raises(ValueError, match="must be built before a backup"):
        model.fit(np.ones((4, 2)), np.ones((4, 3)), callbacks=[backup])


def stopping_run(directory, epochs, killed_after=None):
    """EarlyStopping and ReduceLROnPlateau on a loss that only rises."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")

    class Rising(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["rising"] = float(epoch)

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == killed_after:
                raise Killed

    stopping = keras.callbacks.EarlyStopping(
        "rising", patience=5, mode="min", restore_best_weights=True
    )
    plateau = keras.callbacks.ReduceLROnPlateau(
        "rising", patience=2, mode="min"
    )
    backup = kft.callbacks.Backup(directory, [stopping, plateau])
    history = model.fit(
        np.ones((4, 2), "float32"),
        np.ones((4, 1), "float32"),
        epochs=epochs,
        verbose=0,
        callbacks=[Rising(), stopping, plateau, backup, Kill()],
    )
    rate = float(model.optimizer.learning_rate.numpy())
    return model.get_weights(), rate, history.history["loss"]


@pytest.mark.parametrize("killed_after", [0, 2, 4, 5])
def test_callbacks_with_a_memory(tmp_path, killed_after):
    whole = stopping_run(tmp_path / "whole", 20)
    assert len(whole[2]) == 6  # best at the first, then patience of five
    with pytest.raises(Killed):
        stopping_run(tmp_path / "killed", 20, killed_after)
    weights, rate, losses = stopping_run(tmp_path / "killed", 20)
    for mine, other in zip(weights, whole[0], strict=True):
        np.testing.assert_array_equal(mine, other)
    assert (rate, losses) == whole[1:]


def test_callbacks_that_are_none(tmp_path):
    for callbacks in (["EarlyStopping"], 5, keras.callbacks.EarlyStopping()):
        with pytest.raises(ValueError, match="`callbacks` must be a list"):
            kft.callbacks.Backup(tmp_path, callbacks=callbacks)


def test_a_later_fit_begins_at_its_own_first_epoch(tmp_path, capsys):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2)), np.ones((4, 1))
    for _ in range(2):
        model.fit(
            x,
            y,
            epochs=3,
            verbose=2,
            callbacks=[kft.callbacks.Backup(tmp_path)],
        )
    assert "after 3 epochs; nothing is left to do" in capsys.readouterr().out
    assert model.fit(x, y, epochs=2, verbose=0).epoch == [0, 1]
