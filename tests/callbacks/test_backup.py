import os

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets import files
from keras_freetickets import keras_adapter

EPOCHS = 5


class Killed(BaseException):
    """Stands for a SIGKILL: no handler of ours may catch it and go on."""


def network(units=12):
    keras.utils.set_random_seed(3)
    dense = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.RandomTranslation(0.2, 0.2, seed=1),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.3, seed=2),
            layers.Dense(units, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model = kft.sparsify(dense, 0.7, seed=4)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def run(directory, model=None):
    """One start of the same command; returns everything that it made."""
    model = network() if model is None else model
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 6, 6, 1)).astype("float32")
    y = generator.integers(0, 3, 32)
    edst = kft.callbacks.EDST(
        exploration_epochs=1,
        refinement_epochs=2,
        num_tickets=2,
        update_interval=3,
        monitor="loss",
        directory=os.path.join(directory, "tickets"),
    )
    backup = kft.callbacks.Backup(os.path.join(directory, "backup"))
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[edst, backup],
    )
    tickets = [
        keras.saving.load_model(path).get_weights()
        for path in sorted(
            os.path.join(edst.directory, name) for name in edst.store.read()
        )
    ]
    values = [v.numpy() for v in model.variables + model.optimizer.variables]
    seeds = [s.numpy() for s in keras_adapter.seed_states(model)]
    return values + seeds, tickets, history.history, edst.store.read()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(str(tmp_path_factory.mktemp("whole")))


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


@pytest.mark.parametrize("call", [0, 1, 2, 3, 4, 5, 7, 9, 11, 13, 15, 17, 19])
def test_killed_between_writes(tmp_path, whole, monkeypatch, call):
    """Dies before the n-th rename, the moment that decides."""
    real, count = os.replace, [0]

    def replace(*args):
        if count[0] == call:
            raise Killed
        count[0] += 1
        return real(*args)

    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(files, "_remove", lambda path: None)
    try:
        run(str(tmp_path))
    except Killed:
        pass
    monkeypatch.undo()
    check_no_half_files(tmp_path)
    check_equal(run(str(tmp_path)), whole)


def test_killed_in_the_middle_of_an_epoch(tmp_path, whole, monkeypatch):
    model = network()
    step, count = model.make_train_function, [0]

    def make(force=False):
        step(force)
        function = model.train_function

        def counted(iterator):
            count[0] += 1
            if count[0] == 11:
                raise Killed
            return function(iterator)

        model.train_function = counted

    monkeypatch.setattr(model, "make_train_function", make)
    with pytest.raises(Killed):
        run(str(tmp_path), model)
    check_equal(run(str(tmp_path)), whole)


def test_a_finished_run_is_not_run_again(tmp_path, whole):
    run(str(tmp_path))
    check_equal(run(str(tmp_path)), whole)


def test_damaged_backup_is_passed_over(tmp_path, whole):
    run(str(tmp_path))
    newest = sorted(os.listdir(tmp_path / "backup"))[-1]
    path = tmp_path / "backup" / newest / "arrays.npz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="is damaged and passed over"):
        check_equal(run(str(tmp_path)), whole)


def test_backup_of_another_model(tmp_path):
    run(str(tmp_path))
    with pytest.raises(ValueError, match="backup of another model"):
        run(str(tmp_path), network(units=13))


def test_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`directory` must be a directory"):
        kft.callbacks.Backup(tmp_path / "file" / "backup")


def test_delete(tmp_path):
    run(str(tmp_path))
    backup = kft.callbacks.Backup(tmp_path / "backup")
    backup.delete()
    assert not (tmp_path / "backup").exists()


def test_model_that_is_not_built(tmp_path):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("sgd", "mse")
    backup = kft.callbacks.Backup(tmp_path)
    with pytest.raises(ValueError, match="must be built before a backup"):
        model.fit(np.ones((4, 2)), np.ones((4, 3)), callbacks=[backup])
