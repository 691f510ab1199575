"""The connectome of the worm C. elegans, from the package `cect`.

`pip install --no-deps cect==0.3.5` (MIT licence) installs the wiring of the
adult hermaphrodite and lists of cell types (Cook et al., 2019, Nature 571). Its
files are read here; the package itself, which needs others, is not imported.
"""

import ast
import importlib.util
import json
import os
from typing import Any

import numpy as np

import keras_freetickets as kft

# Motor neurons of the head and the sublateral cords: 37 of 302 neurons.
RARE = ("HEAD_MOTORNEURONS_COOK", "SUBLATERAL_MOTORNEURONS_COOK")
_NEURONS = "PREFERRED_HERM_NEURON_NAMES"
_SYNAPSES = ("Generic_CS", "Generic_GJ")  # chemical; gap junctions


def load(seed: int) -> kft.graphs.LabelledGraph:
    """Neurons, their synapses in either direction, and the rare type.

    Features describe the wiring alone: logarithms of the numbers of synapses,
    in and out, and the first 12 singular vectors of both matrices.
    """
    folder = _folder()
    with open(os.path.join(folder, "cache", "Cook2019HermReader.json")) as file:
        content = json.load(file)
    lists = _lists(os.path.join(folder, "Cells.py"))
    place = {name: i for i, name in enumerate(content["nodes"])}
    neurons = [name for name in lists[_NEURONS] if name in place]
    own = [place[name] for name in neurons]
    synapses = [
        np.array(content["connections"][kind])[np.ix_(own, own)]
        for kind in _SYNAPSES
    ]
    pairs = np.argwhere(sum(synapses) > 0)
    graph = kft.graphs.undirected(pairs, len(own), drop_self_loops=True)
    rare = {name for kind in RARE for name in lists[kind]}
    y = np.array([name in rare for name in neurons]).astype("int64")
    return kft.graphs.LabelledGraph(
        graph, _features(synapses), y, *_split(y, seed)
    )


def _folder() -> str:
    found = importlib.util.find_spec("cect")
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            "--dataset=connectome needs: pip install --no-deps cect==0.3.5"
        )
    return next(iter(found.submodule_search_locations))


def _lists(path: str) -> dict[str, Any]:
    """The lists of names that a module defines, without running it."""
    with open(path) as file:
        body = ast.parse(file.read()).body
    found = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id in (*RARE, _NEURONS):
                found[target.id] = ast.literal_eval(node.value)
    return found


def _features(synapses: list[np.ndarray]) -> np.ndarray:
    parts = []
    for counts in synapses:
        logs = np.log1p(counts)
        parts += [np.log1p(counts.sum(axis))[:, None] for axis in (0, 1)]
        left, sizes, right = np.linalg.svd(logs)
        parts += [left[:, :12] * sizes[:12], right[:12].T * sizes[:12]]
    x = np.concatenate(parts, axis=1)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    return x.astype("float32")


def _split(y: np.ndarray, seed: int) -> list[np.ndarray]:
    """A third of each class to train, validate and test."""
    random = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[], [], []]
    for label in (0, 1):
        nodes = random.permutation(np.flatnonzero(y == label))
        for part, some in zip(parts, np.array_split(nodes, 3), strict=True):
            part.append(some)
    return [np.sort(np.concatenate(part)) for part in parts]
