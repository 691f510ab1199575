"""Graphs to learn from: files in Planetoid's format, and a block model."""

import dataclasses
import io
import os
import pickle
from typing import Any

import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.graphs.graph import Graph
from keras_freetickets.graphs.graph import undirected
from keras_freetickets.types import Array
from keras_freetickets.types import PathLike

_PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph")
# What files of Planetoid refer to, under old and new names of the modules.
_MODULES = {
    "numpy.core.multiarray": "numpy._core.multiarray",
    "scipy.sparse.csr": "scipy.sparse",
    "scipy.sparse._csr": "scipy.sparse",
    "copy_reg": "copyreg",
    "__builtin__": "builtins",
}
_NAMES = {
    ("_codecs", "encode"),  # bytes, in pickles that Python 3 wrote
    ("builtins", "int"),
    ("builtins", "list"),
    ("builtins", "object"),
    ("collections", "defaultdict"),
    ("copyreg", "_reconstructor"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("scipy.sparse", "csr_matrix"),
}


@dataclasses.dataclass
class LabelledGraph:
    """A graph with features, labels and a split of its nodes.

    Args:
        graph: `Graph`.
        x: Float32 features `(nodes, features)`.
        y: Integer labels `(nodes,)`.
        train: Integer indices of the labelled nodes to train on.
        validation: The same of nodes to calibrate and select with.
        test: The same of nodes that only scores are computed from.

    Example:

    ```python
    data = kft.graphs.block_model()
    model = kft.graphs.graph_network(data.graph, data.x.shape[1])
    ```
    """

    graph: Graph
    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class _Unpickler(pickle.Unpickler):
    """Reads arrays, sparse matrices and dicts, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        module = _MODULES.get(module, module)
        if (module, name) not in _NAMES:
            raise ValueError(
                "Files of Planetoid hold arrays, sparse matrices and dicts of "
                f"lists only. Received: a pickle that names {module}.{name}"
            )
        return super().find_class(module, name)


def load_planetoid(folder: PathLike, name: str) -> LabelledGraph:
    """Reads a citation graph from files in Planetoid's format.

    These are `ind.<name>.x`, `.y`, `.tx`, `.ty`, `.allx`, `.ally`, `.graph`
    and `.test.index`, as in kimiyoung/planetoid. They are not part of this
    package. Pickles are read without running what they contain. Test nodes
    that the files do not describe (in CiteSeer) get zeros as features and the
    label 0, and are in no split. Self-loops are left out. Needs SciPy.

    Args:
        folder: Directory of the files.
        name: Such as `"cora"`, `"citeseer"` or `"pubmed"`.

    Returns:
        `LabelledGraph` with the public split: the nodes of `x` for training,
        the 500 after them for validation (fewer in a smaller graph), those of
        `test.index` for the test.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file holds something else, or sizes disagree.

    Example:

    ```python
    cora = kft.graphs.load_planetoid("planetoid/data", "cora")
    rare = (cora.y == 0).astype("int32")
    ```

    Reference:
        Yang et al., 2016, arXiv:1603.08861.
    """
    folder = os.fspath(folder)
    stem = os.path.join(folder, f"ind.{name}.")
    parts = {part: _unpickled(stem + part) for part in _PARTS}
    test = np.loadtxt(f"{stem}test.index", dtype="int64", ndmin=1)
    features = {k: _dense(parts[k]) for k in ("x", "tx", "allx")}
    labels = {k: np.asarray(parts[k]) for k in ("y", "ty", "ally")}
    known = len(features["allx"])
    fits = (
        len(features["x"]) == len(labels["y"])
        and len(features["tx"]) == len(labels["ty"]) == len(test)
        and known == len(labels["ally"])
        and len(test) > 0
        and test.min() >= known
    )
    if not fits:
        sizes = {k: len(v) for k, v in {**features, **labels}.items()}
        raise ValueError(
            "Files of Planetoid must agree in their numbers of nodes. "
            f"Received: {sizes}, {len(test)} indices of the test"
        )
    num_nodes = max(int(test.max()) + 1, len(parts["graph"]))
    x = np.zeros((num_nodes, features["allx"].shape[1]), "float32")
    y = np.zeros(num_nodes, "int64")
    x[:known], x[test] = features["allx"], features["tx"]
    y[:known] = labels["ally"].argmax(axis=-1)
    y[test] = labels["ty"].argmax(axis=-1)
    pairs = [(a, b) for a, found in parts["graph"].items() for b in found]
    num_train = len(features["x"])
    return LabelledGraph(
        undirected(np.array(pairs), num_nodes, drop_self_loops=True),
        x,
        y,
        np.arange(num_train),
        np.arange(num_train, min(num_train + 500, known)),
        np.sort(test),
    )


def _unpickled(path):
    with open(path, "rb") as file:
        data = io.BytesIO(file.read())
    return _Unpickler(data, encoding="latin1").load()


def _dense(matrix):
    return np.asarray(
        matrix.todense() if hasattr(matrix, "todense") else matrix
    )


def block_model(
    num_nodes: int = 300,
    rare_share: float = 0.12,
    inside: float = 0.06,
    across: float = 0.01,
    num_features: int = 16,
    shifted: int = 4,
    shift: float = 1.0,
    num_rare_train: int = 15,
    num_other_train: int = 45,
    seed: int = 0,
) -> LabelledGraph:
    """A random graph of two classes, one of them rare (label 1).

    Features are standard normal; the first few of rare nodes are shifted. Half
    of the nodes outside the training split are for validation, half to test.
    The defaults are a small problem that trains in a second.

    Args:
        num_nodes: Integer, at least 2.
        rare_share: Float in (0, 1), share of the rare class.
        inside: Float in [0, 1], probability of an edge between two nodes of
            the same class.
        across: Float in [0, 1], the same of different classes.
        num_features: Positive integer.
        shifted: Integer in [0, `num_features`], features that differ.
        shift: Float, by how much, in standard deviations.
        num_rare_train: Positive integer, training nodes of the rare class.
        num_other_train: Positive integer, training nodes of the other class.
        seed: Non-negative integer.

    Returns:
        `LabelledGraph`.

    Raises:
        ValueError: If a number is out of range, or a class has fewer nodes
            than are to train.

    Example:

    >>> data = block_model()
    >>> int(data.y.sum()), len(data.train), len(data.test)
    (36, 60, 120)
    """
    check_count("num_nodes", num_nodes, least=2)
    check_number("rare_share", rare_share, "(0, 1)")
    check_number("inside", inside)
    check_number("across", across)
    check_count("num_features", num_features)
    check_count("shifted", shifted, least=0)
    check_count("seed", seed, least=0)
    check_count("num_rare_train", num_rare_train)
    check_count("num_other_train", num_other_train)
    random = np.random.default_rng(seed)
    y = np.zeros(num_nodes, "int64")
    y[: round(rare_share * num_nodes)] = 1
    random.shuffle(y)
    split = _split(y, num_rare_train, num_other_train, random)
    x = random.normal(size=(num_nodes, num_features)).astype("float32")
    x[y == 1, :shifted] += shift
    graph = undirected(_random_pairs(y, inside, across, random), num_nodes)
    return LabelledGraph(graph, x, y, *split)


def _random_pairs(y, inside, across, random):
    """Pairs with a probability for each kind; memory grows with the edges."""
    groups = [np.flatnonzero(y == label) for label in (0, 1)]
    pairs = []
    for i, a in enumerate(groups):
        for j, b in enumerate(groups[i:], i):
            chance = inside if i == j else across
            possible = len(a) * (len(a) - 1) // 2 if i == j else len(a) * len(b)
            missing, found = random.binomial(possible, chance), set()
            if missing > possible // 2 and possible > 0:
                found = _dense_pairs(a, b, missing, random)
            while len(found) < missing:
                left = random.choice(a, missing)
                right = random.choice(b, missing)
                for one in zip(left.tolist(), right.tolist(), strict=True):
                    if one[0] != one[1] and len(found) < missing:
                        found.add((min(one), max(one)))
            pairs += sorted(found)
    return np.array(pairs, "int64").reshape(-1, 2)


def _dense_pairs(a, b, count, random):
    every = {(min(s, t), max(s, t)) for s in a for t in b if s != t}
    listed = sorted((int(s), int(t)) for s, t in every)
    chosen = random.choice(len(listed), count, replace=False)
    return {listed[k] for k in chosen}


def _split(y, num_rare, num_other, random):
    chosen = []
    for label, count in ((1, num_rare), (0, num_other)):
        nodes = np.flatnonzero(y == label)
        if len(nodes) < count:
            raise ValueError(
                f"Class {label} must have at least as many nodes as are to "
                f"train, {count}. Received: {len(nodes)} nodes of it"
            )
        chosen.append(random.choice(nodes, count, replace=False))
    train = np.sort(np.concatenate(chosen))
    rest = random.permutation(np.setdiff1d(np.arange(len(y)), train))
    half = len(rest) // 2
    return train, np.sort(rest[:half]), np.sort(rest[half:])


def class_weights(
    y: Array, train: Array, rare_class: int = 1, weight: float | None = None
) -> np.ndarray:
    """Weights of the nodes in training: 0 outside the training split.

    A node of the rare class weighs `weight` times as much as another. The mean
    over all nodes is 1: Keras divides a loss by the number of all nodes, so it
    becomes the weighted mean over the training nodes.

    Args:
        y: Integer labels `(nodes,)`.
        train: Integer indices of the training nodes.
        rare_class: Integer, the label of the rare class.
        weight: Positive float. `None` (default) for the ratio of the other
            training nodes to the rare ones, which is about the 5.4 of
            wulongfeng/CaliRare for Cora.

    Returns:
        Float32 array `(nodes,)`, a `sample_weight`.

    Raises:
        TypeError: If `train` are not integers.
        ValueError: If `train` has no node of the rare class, none of another
            class, repeats a node or names nodes that do not exist.

    Example:

    >>> class_weights([0, 0, 1, 0], train=[0, 1, 2]).tolist()
    [1.0, 1.0, 2.0, 0.0]
    """
    y, train = np.asarray(y), np.asarray(train)
    check_split(train, len(y))
    is_rare = y[train] == rare_class
    if not is_rare.any() or is_rare.all():
        raise ValueError(
            "`train` must have nodes of the rare class and others. Received: "
            f"{int(is_rare.sum())} of {len(train)} training nodes have the "
            f"label rare_class={rare_class}"
        )
    if weight is None:
        weight = (~is_rare).sum() / is_rare.sum()
    check_number("weight", float(weight), "(0, inf)")
    weights = np.where(is_rare, weight, 1.0)
    found = np.zeros(len(y), "float32")
    found[train] = weights * (len(y) / weights.sum())
    return found


def check_split(nodes: Array, num_nodes: int, name: str = "train") -> None:
    """Raises unless an array holds different nodes of a graph.

    Args:
        nodes: The array.
        num_nodes: Number of nodes of the graph.
        name: Name of the argument.

    Raises:
        TypeError: If it holds no integers.
        ValueError: If it is empty, repeats a node or names one outside.
    """
    nodes = np.asarray(nodes)
    if not np.issubdtype(nodes.dtype, np.integer) and nodes.size:
        raise TypeError(
            f"`{name}` must be integers, the numbers of nodes. Received: "
            f"{name} of type {nodes.dtype}"
        )
    if nodes.ndim != 1 or not nodes.size or len(set(nodes)) != len(nodes):
        raise ValueError(
            f"`{name}` must be a list of different nodes, at least one. "
            f"Received: {name} of shape {nodes.shape} with "
            f"{len(np.unique(nodes))} different nodes"
        )
    if nodes.min() < 0 or nodes.max() >= num_nodes:
        raise ValueError(
            f"`{name}` must name nodes from 0 to {num_nodes - 1}. Received: "
            f"{name} from {nodes.min()} to {nodes.max()}"
        )
