"""Truncated, altered and foreign files given to what reads ours."""

import os
import random
import shutil

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft


def ticket(seed):
    keras.utils.set_random_seed(seed)
    dense = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, activation="softmax")]
    )
    return kft.sparsify(dense, 0.5, seed=seed)


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tickets")
    for i in range(2):
        ticket(i).save(directory / f"ticket_{i}.keras")
    return directory


@pytest.fixture
def copied(tickets, tmp_path):
    return shutil.copytree(tickets, tmp_path / "tickets")


def damages(whole, count):
    """The start, half, all but a byte; and files with a flipped bit."""
    yield from (b"", whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole))
    chance = random.Random(0)
    for _ in range(count):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        yield bytes(flipped)


def same(model, other):
    mine, others = model.get_weights(), other.get_weights()
    return all(np.array_equal(a, b) for a, b in zip(mine, others, strict=True))


def test_damaged_tickets(copied):
    """Refused by name; or the flip was where nothing is read (a date)."""
    path = copied / "ticket_1.keras"
    whole = kft.EnsembleModel.from_tickets(copied)
    refused = 0
    for text in damages(path.read_bytes(), 40):
        path.write_bytes(text)
        try:
            assert same(kft.EnsembleModel.from_tickets(copied), whole)
        except ValueError as error:
            assert "`source` names a ticket that cannot be read" in str(error)
            assert "ticket_1.keras" in str(error)
            refused += 1
    assert refused >= 30


def test_damaged_ensembles(tickets, tmp_path):
    """Keras reads them: an error, or the same model, never another."""
    path = tmp_path / "ensemble.keras"
    whole = kft.EnsembleModel.from_tickets(tickets)
    whole.save(path)
    refused = 0
    for text in damages(path.read_bytes(), 20):
        path.write_bytes(text)
        try:
            loaded = keras.saving.load_model(path)
        except Exception as error:
            assert str(error)
            refused += 1
        else:
            assert same(loaded, whole)
    assert refused >= 15


def test_foreign_tickets(copied):
    path = copied / "ticket_1.keras"
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(5)])
    dense.save(path)
    with pytest.raises(ValueError, match="agree in the shapes"):
        kft.EnsembleModel.from_tickets(copied)
    kft.EnsembleModel([ticket(0)]).save(path)
    with pytest.raises(ValueError, match="models with a graph"):
        kft.EnsembleModel.from_tickets(copied)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"cannot be read: .*ticket_1.keras"):
        kft.EnsembleModel.from_tickets(copied)
    with pytest.raises(ValueError, match="must be a ticket or a directory"):
        kft.EnsembleModel.from_tickets(path)


@pytest.mark.parametrize(
    "index",
    [
        "",
        "[]",
        '{"tickets": 3}',
        '{"tickets": [3]}',
        '{"tickets": [{}]}',
        '{"tickets": [{"file": 3}]}',
        '{"tickets": [{"file": "../ticket_0.keras"}]}',
        '{"tickets": [{"file": "run/../../ticket_0.keras"}]}',
        '{"tickets": [{"file": "/elsewhere/ticket_0.keras"}]}',
        '{"tickets": [{"file": "ticket_0.keras"}], "sha256": "0"}',
        '{"tickets": [{"file": "ticket_7.keras"}]}',
    ],
)
def test_damaged_indexes(copied, index):
    (copied / "tickets.json").write_text(index)
    with pytest.raises(ValueError, match=r"`source` (holds|names|must be)"):
        kft.EnsembleModel.from_tickets(copied)


def bytes_of(directory):
    """Path -> bytes of every file below a directory."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


def leave_half_a_ticket(directory, whole):
    """What a run that is killed while it writes a ticket leaves behind."""
    holder = directory / ".partial-host-1-abc"
    holder.mkdir()
    (holder / "ticket_0.keras").write_bytes(whole[: len(whole) // 2])


def test_a_run_interrupted_before_its_first_ticket(copied):
    whole = (copied / "ticket_0.keras").read_bytes()
    for path in copied.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no ticket is finished there"):
        kft.EnsembleModel.from_tickets(copied)
    (copied / "tickets.json").write_text('{"tickets": []}')
    with pytest.raises(ValueError, match="no ticket is finished there"):
        kft.EnsembleModel.from_tickets(copied)
    leave_half_a_ticket(copied, whole)
    before = bytes_of(copied)
    with pytest.raises(ValueError, match="interrupted before its first ti"):
        kft.EnsembleModel.from_tickets(copied)
    assert bytes_of(copied) == before
    with pytest.raises(
        ValueError, match="the file or directory does not exist"
    ):
        kft.EnsembleModel.from_tickets(copied / "elsewhere")
    assert not (copied / "elsewhere").exists()


def test_a_run_interrupted_after_its_first_ticket(copied):
    """What is finished is read; what is not, is left alone."""
    first = kft.EnsembleModel.from_tickets(copied / "ticket_0.keras")
    leave_half_a_ticket(copied, (copied / "ticket_1.keras").read_bytes())
    (copied / "ticket_1.keras").unlink()
    before = bytes_of(copied)
    assert same(kft.EnsembleModel.from_tickets(copied), first)
    assert bytes_of(copied) == before


def test_an_index_of_a_ticket_that_is_gone(copied):
    index = '{"tickets": [{"file": "ticket_0.keras"}, {"file": "a_1.keras"}]}'
    (copied / "tickets.json").write_text(index)
    before = bytes_of(copied)
    with pytest.raises(ValueError, match=r"cannot be read: .*a_1.keras .File"):
        kft.EnsembleModel.from_tickets(copied)
    with pytest.raises(ValueError, match=r"cannot be read: .*a_1.keras .File"):
        kft.EnsembleModel([ticket(0)]).with_members(copied)
    assert bytes_of(copied) == before


@pytest.mark.parametrize(
    "layer, match",
    [
        (layers.Dense(5, activation="softmax"), "agree in the shapes of their"),
        (layers.Dense(3, activation="sigmoid"), "have the same architecture"),
    ],
    ids=["classes", "architecture"],
)
def test_tickets_that_make_no_ensemble_are_named(copied, layer, match):
    other = keras.Sequential([keras.Input((4,)), layer])
    kft.sparsify(other, 0.5).save(copied / "ticket_1.keras")
    before = bytes_of(copied)
    with pytest.raises(ValueError, match=match) as caught:
        kft.EnsembleModel.from_tickets(copied)
    assert str(copied / "ticket_1.keras") in str(caught.value)
    assert "`source` names tickets that make no ensemble" in str(caught.value)
    with pytest.raises(ValueError, match=match):
        kft.EnsembleModel([ticket(0)]).with_members(copied)
    assert bytes_of(copied) == before


@pytest.mark.parametrize("index", ["", "[]", '{"tickets": [{}]}'])
def test_training_does_not_begin_on_a_damaged_index(tmp_path, index):
    (tmp_path / "tickets.json").write_text(index)
    model = ticket(0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [v.numpy() for v in model.trainable_variables]
    dst = kft.callbacks.DST(str(tmp_path), monitor="loss", update_interval=1)
    with pytest.raises(ValueError, match="`directory` holds an index"):
        model.fit(np.ones((8, 4)), np.zeros(8), verbose=0, callbacks=[dst])
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


@pytest.fixture(scope="module")
def backup(tmp_path_factory):
    directory = tmp_path_factory.mktemp("backup")
    run(directory, epochs=1)
    return directory


def run(directory, epochs):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    callback = kft.callbacks.Backup(directory)
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback])


@pytest.mark.parametrize("name", ["manifest.json", "arrays.npz"])
def test_damaged_backups(backup, tmp_path, name):
    """Passed over with a warning: the run begins anew, wholly."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    fresh = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    path = shutil.copytree(backup, tmp_path / "b") / "epoch_000000" / name
    callback = kft.callbacks.Backup(tmp_path / "b")
    callback.set_model(model)
    callback.set_params({"epochs": 1, "verbose": 0})
    texts = [*damages(path.read_bytes(), 60), b"[]", b"{}", b"PK"]
    for text in texts:
        path.write_bytes(text)
        with pytest.warns(UserWarning, match="is damaged and is skipped"):
            callback.on_train_begin()
        for value, other in zip(model.get_weights(), fresh, strict=True):
            np.testing.assert_array_equal(value, other)
    path.unlink()
    with pytest.warns(UserWarning, match="is damaged and is skipped"):
        callback.on_train_begin()
    os.mkfifo(path)
    with pytest.warns(UserWarning, match="is damaged and is skipped"):
        callback.on_train_begin()
    assert callback.history == {"epoch": []}


def test_a_backup_of_other_callbacks_restores_nothing(backup, tmp_path):
    directory = shutil.copytree(backup, tmp_path / "b")
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    before = model.get_weights()
    stopping = keras.callbacks.EarlyStopping("loss")
    callback = kft.callbacks.Backup(directory, [stopping])
    callback.set_model(model)
    callback.set_params({"epochs": 2, "verbose": 0})
    with pytest.raises(
        ValueError, match="`callbacks` must be the 0 callbacks whose"
    ):
        callback.on_train_begin()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
