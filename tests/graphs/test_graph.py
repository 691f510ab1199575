"""Edges that are read, and the propagation along them."""

import numpy as np
import pytest

from keras_freetickets.graphs import Graph
from keras_freetickets.graphs import undirected

PATH = [[0, 1], [1, 0], [1, 2], [2, 1]]


@pytest.mark.parametrize(
    "edges, kind, message",
    [
        (np.array(PATH, "float32"), TypeError, "of type float32"),
        ([[0, 1, 2]], ValueError, "shape"),
        ([[0, 3], [3, 0]], ValueError, "edges with 3"),
        ([[-1, 0]], ValueError, "edges with -1"),
        ([[0, 0], *PATH], ValueError, "self-loops.*Received: .*0, 0"),
        (PATH[::-1], ValueError, "unsorted edges"),
        ([PATH[0], *PATH], ValueError, "repeated edges"),
        (PATH[:3], ValueError, "both directions.*without"),
    ],
)
def test_wrong_edges_are_named(edges, kind, message):
    with pytest.raises(kind, match=message):
        Graph(edges, 3)


def test_pairs_in_any_order():
    graph = undirected([[2, 1], [1, 0], [1, 2]], 4)
    assert graph.edges.tolist() == PATH
    assert graph.degrees().tolist() == [1, 2, 1, 0]
    with pytest.raises(ValueError, match="self-loops"):
        undirected([[1, 1], [0, 1]], 3)
    dropped = undirected([[1, 1], [0, 1]], 3, drop_self_loops=True)
    assert dropped.edges.tolist() == [[0, 1], [1, 0]]


def test_no_edges():
    graph = undirected([], 2)
    x = np.array([[1.0], [2.0]])
    np.testing.assert_array_equal(graph.propagate(x), x)


def dense(graph):
    """D^-1/2 (A + I) D^-1/2 as a matrix."""
    matrix = np.eye(graph.num_nodes)
    matrix[graph.edges[:, 0], graph.edges[:, 1]] = 1
    scale = 1 / np.sqrt(matrix.sum(axis=1))
    return scale[:, None] * matrix * scale


def test_propagation_is_the_normalized_adjacency():
    random = np.random.default_rng(0)
    pairs = random.integers(0, 30, (50, 2))
    graph = undirected(pairs, 30, drop_self_loops=True)
    rows, columns, values = graph.propagation()
    assert (np.diff(rows) >= 0).all()
    found = np.zeros((30, 30))
    found[rows, columns] = values
    np.testing.assert_allclose(found, dense(graph), atol=1e-6)
    x = random.normal(size=(30, 3))
    expected = dense(graph) @ dense(graph) @ x
    np.testing.assert_allclose(graph.propagate(x, 2), expected, atol=1e-5)
    with pytest.raises(ValueError, match="one row for each of the 30 nodes"):
        graph.propagate(x[:5])


def test_config_round_trip():
    graph = Graph(PATH, 3)
    copy = Graph.from_config(graph.get_config())
    assert copy.edges.tolist() == PATH and copy.num_nodes == 3
