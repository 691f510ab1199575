"""The block model, files of Planetoid, and the weights of rare nodes."""

import collections
import pickle

import numpy as np
import pytest

from keras_freetickets.graphs import block_model
from keras_freetickets.graphs import class_weights
from keras_freetickets.graphs import load_planetoid

sparse = pytest.importorskip("scipy.sparse")


def test_the_block_model_has_what_it_says():
    data = block_model(num_nodes=1000, seed=3)
    assert data.y.sum() == 120
    assert data.y[data.train].sum() == 15 and len(data.train) == 60
    split = np.concatenate([data.train, data.validation, data.test])
    assert sorted(split) == list(range(1000))
    a, b = data.graph.edges.T
    same = data.y[a] == data.y[b]
    possible = 120 * 119 + 880 * 879
    assert same.sum() / possible == pytest.approx(0.06, rel=0.1)
    assert (~same).sum() / (2 * 120 * 880) == pytest.approx(0.01, rel=0.1)
    means = data.x[data.y == 1].mean(axis=0)
    assert means[:4].min() > 0.6 and abs(means[4:]).max() < 0.4
    again = block_model(num_nodes=1000, seed=3)
    assert (again.graph.edges == data.graph.edges).all()


def test_edges_of_every_pair():
    data = block_model(20, 0.5, 1.0, 1.0, num_rare_train=2, num_other_train=2)
    assert len(data.graph.edges) == 20 * 19


def test_wrong_blocks_are_named():
    with pytest.raises(ValueError, match="Class 1 must have at least"):
        block_model(50, rare_share=0.1)
    with pytest.raises(ValueError, match="`inside` must be in"):
        block_model(inside=2.0)


@pytest.mark.parametrize(
    "train, kind, message",
    [
        ([0, 1], ValueError, "0 of 2 training nodes have the label"),
        ([2], ValueError, "1 of 1 training nodes"),
        ([0.0, 2.0], TypeError, "`train` must be integers"),
        ([0, 0], ValueError, "different nodes"),
        ([0, 4], ValueError, "from 0 to 3"),
        ([], ValueError, "at least one"),
    ],
)
def test_wrong_splits_are_named(train, kind, message):
    with pytest.raises(kind, match=message):
        class_weights([0, 0, 1, 0], train)


def test_a_weight_of_ones_own():
    found = class_weights([0, 1, 0], [0, 1], weight=3.0)
    np.testing.assert_allclose(found, [0.75, 2.25, 0.0])


def files_of_planetoid(folder, **changes):
    """A graph of six nodes, of which number 5 is described nowhere."""
    x = np.arange(8.0).reshape(4, 2)
    y = np.eye(2, dtype="int32")[[0, 1, 0, 1]]
    graph = collections.defaultdict(list, {0: [1, 0], 1: [0], 4: [6], 6: [4]})
    parts = {
        "x": sparse.csr_matrix(x[:2]),
        "y": y[:2],
        "allx": sparse.csr_matrix(x),
        "ally": y,
        "tx": sparse.csr_matrix([[8.0, 9.0], [6.0, 7.0]]),
        "ty": y[:2],
        "graph": graph,
        **changes,
    }
    for name, part in parts.items():
        with open(folder / f"ind.tiny.{name}", "wb") as file:
            pickle.dump(part, file, protocol=2)
    (folder / "ind.tiny.test.index").write_text("6\n4\n")


def test_planetoid(tmp_path):
    files_of_planetoid(tmp_path)
    data = load_planetoid(tmp_path, "tiny")
    assert data.x.tolist() == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
        [6, 7],
        [0, 0],
        [8, 9],
    ]
    assert data.y.tolist() == [0, 1, 0, 1, 1, 0, 0]
    assert data.graph.edges.tolist() == [[0, 1], [1, 0], [4, 6], [6, 4]]
    assert data.train.tolist() == [0, 1] and data.test.tolist() == [4, 6]
    assert data.validation.tolist() == [2, 3]


class Attack:
    def __reduce__(self):
        return print, ("run",)


def test_wrong_files_are_named(tmp_path, capsys):
    with pytest.raises(FileNotFoundError):
        load_planetoid(tmp_path, "tiny")
    files_of_planetoid(tmp_path, ally=np.eye(2)[[0]])
    with pytest.raises(ValueError, match="must agree in their numbers"):
        load_planetoid(tmp_path, "tiny")
    files_of_planetoid(tmp_path, graph=Attack())
    with pytest.raises(ValueError, match=r"pickle that names builtins\.print"):
        load_planetoid(tmp_path, "tiny")
    assert "run" not in capsys.readouterr().out
