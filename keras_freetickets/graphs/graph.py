"""An undirected graph as sorted edges, and the propagation along them."""

import base64
import zlib

import keras
import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.types import Array
from keras_freetickets.types import Config


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Graph:
    """An undirected graph of nodes 0 to `num_nodes` - 1.

    Args:
        edges: Integer array `(edges, 2)`. Each edge stands in both directions,
            rows are sorted (by the first column, then by the second) and
            different, and there are no self-loops: the propagation adds one to
            every node. `undirected` makes such edges from any list of pairs.
        num_nodes: Positive integer.

    Raises:
        TypeError: If `edges` are not integers.
        ValueError: If `edges` have another shape, are not sorted, occur twice,
            lack their opposite direction, are self-loops, or name nodes
            outside 0 to `num_nodes` - 1.

    Example:

    >>> path = Graph([[0, 1], [1, 0], [1, 2], [2, 1]], num_nodes=3)
    >>> path.degrees().tolist()
    [1, 2, 1]
    """

    def __init__(self, edges: Array, num_nodes: int) -> None:
        check_count("num_nodes", num_nodes)
        self.num_nodes = int(num_nodes)
        self.edges = _read_edges(edges, num_nodes)
        _check_order(self.edges, num_nodes)

    def degrees(self) -> np.ndarray:
        """Number of neighbours of each node, integers `(num_nodes,)`."""
        return np.bincount(self.edges[:, 0], minlength=self.num_nodes)

    def propagation(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The entries of D^-1/2 (A + I) D^-1/2, sorted by row.

        A is the adjacency matrix and D the diagonal matrix of the row sums of
        A + I (Kipf and Welling, 2017, arXiv:1609.02907).

        Returns:
            Tuple of rows and columns, int32 `(entries,)`, and values, float32
            `(entries,)`.
        """
        loops = np.arange(self.num_nodes)
        rows = np.concatenate([self.edges[:, 0], loops])
        columns = np.concatenate([self.edges[:, 1], loops])
        order = np.lexsort((columns, rows))
        rows, columns = rows[order], columns[order]
        scale = 1 / np.sqrt(self.degrees() + 1.0)
        values = scale[rows] * scale[columns]
        return (
            rows.astype("int32"),
            columns.astype("int32"),
            values.astype("float32"),
        )

    def propagate(self, features: Array, steps: int = 1) -> np.ndarray:
        """Features after propagation, as the input of a linear model (SGC).

        Args:
            features: Float array `(num_nodes, features)`.
            steps: Non-negative integer. 2 gives the features of a simplified
                graph convolution of two layers (Wu et al., 2019,
                arXiv:1902.07153).

        Returns:
            Float32 array `(num_nodes, features)`.

        Raises:
            ValueError: If there is not one row for each node.
        """
        check_count("steps", steps, least=0)
        features = np.asarray(features, "float32")
        if features.ndim != 2 or len(features) != self.num_nodes:
            raise ValueError(
                "`features` must have one row for each of the "
                f"{self.num_nodes} nodes. Received: features of shape "
                f"{features.shape}"
            )
        rows, columns, values = self.propagation()
        # Each row has an entry, that of its self-loop.
        starts = np.searchsorted(rows, np.arange(self.num_nodes))
        for _ in range(steps):
            moved = values[:, None] * features[columns]
            features = np.add.reduceat(moved, starts, axis=0)
        return features

    def get_config(self) -> Config:
        """The arguments; edges are compressed to a string."""
        raw = zlib.compress(self.edges.astype("<i4").tobytes())
        return {
            "edges": base64.b64encode(raw).decode("ascii"),
            "num_nodes": self.num_nodes,
        }

    @classmethod
    def from_config(cls, config: Config) -> "Graph":
        """A graph of what `get_config` returned.

        Args:
            config: Dict of arguments.
        """
        raw = zlib.decompress(base64.b64decode(config["edges"]))
        edges = np.frombuffer(raw, "<i4").reshape(-1, 2)
        return cls(edges, config["num_nodes"])


def undirected(
    pairs: Array, num_nodes: int, drop_self_loops: bool = False
) -> Graph:
    """Makes a graph from pairs of nodes in any order and direction.

    Args:
        pairs: Integer array `(pairs, 2)`. A pair may occur several times and
            in one direction or both.
        num_nodes: Positive integer.
        drop_self_loops: Whether pairs of a node with itself are left out. By
            default they are refused, because they usually are a mistake in the
            numbering of nodes.

    Returns:
        `Graph`.

    Raises:
        TypeError: If `pairs` are not integers.
        ValueError: As for `Graph`.

    Example:

    >>> undirected([[2, 1], [0, 1]], num_nodes=3).edges.tolist()
    [[0, 1], [1, 0], [1, 2], [2, 1]]
    """
    check_count("num_nodes", num_nodes)
    pairs = _read_edges(pairs, num_nodes)
    if drop_self_loops:
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return Graph(np.unique(both, axis=0), num_nodes)


def _read_edges(edges, num_nodes):
    edges = np.asarray(edges)
    if edges.size == 0:
        edges = np.zeros((0, 2), "int64")
    if not np.issubdtype(edges.dtype, np.integer):
        raise TypeError(
            "`edges` must be integers, the numbers of nodes. Received: edges "
            f"of type {edges.dtype}"
        )
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise ValueError(
            "`edges` must have the shape (edges, 2). Received: edges of shape "
            f"{edges.shape}"
        )
    outside = (edges < 0) | (edges >= num_nodes)
    if outside.any():
        raise ValueError(
            f"`edges` must name nodes from 0 to {num_nodes - 1}. Received: "
            f"edges with {int(edges[outside][0])}"
        )
    return edges.astype("int64")


def _check_order(edges, num_nodes):
    loops = edges[edges[:, 0] == edges[:, 1]]
    if len(loops):
        raise ValueError(
            "`edges` must have no self-loops, because the propagation adds one "
            "to every node; `undirected(pairs, drop_self_loops=True)` leaves "
            f"them out. Received: edges with {loops[0].tolist()}"
        )
    keys = edges[:, 0] * num_nodes + edges[:, 1]
    steps = np.diff(keys)
    if (steps <= 0).any():
        at = int(np.argmax(steps <= 0))
        kind = "unsorted" if steps[at] < 0 else "repeated"
        raise ValueError(
            "`edges` must be sorted and different; `undirected` makes them so. "
            f"Received: {kind} edges {edges[at].tolist()} and "
            f"{edges[at + 1].tolist()} in rows {at} and {at + 1}"
        )
    opposite = np.sort(edges[:, 1] * num_nodes + edges[:, 0])
    if (opposite != keys).any():
        missing = np.setdiff1d(opposite, keys)[0]
        pair = [int(missing // num_nodes), int(missing % num_nodes)]
        raise ValueError(
            "`edges` must hold each edge in both directions; `undirected` adds "
            f"what is missing. Received: edges without {pair}"
        )
