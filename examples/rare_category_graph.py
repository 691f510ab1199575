r"""Finds a rare class of nodes, and how sure of each node it may be (CaliRare).

    python examples/rare_category_graph.py
    python examples/rare_category_graph.py --dataset=connectome
    python examples/rare_category_graph.py --dataset=cora --rare_class=0 \
        --data_dir=planetoid/data

Trains a graph network and tickets of it, whose feature transforms are masked
(RigL) and whose edges stay. Every test node gets an interval for its
probability of being rare, in two ways: from leave-one-out models by influence
functions (jackknife+), and from the tickets with their residuals on validation
nodes, without any Hessian. A second phase then trains on validation nodes with
the error of individual calibration (EICE); its rival trains on the same nodes
without that term. The table shows errors of the rare class apart, because a
pooled figure hides them. The picture is the graph with its uncertain nodes.

The default is a random graph of two classes and takes about a minute.
`connectome` is the wiring of C. elegans (pip install --no-deps cect==0.3.5),
the rare class its motor neurons of the head; any other name is read from files
in Planetoid's format in --data_dir.
"""

import os
from typing import Any

import connectome
import keras
import numpy as np
import run_directory
import tables
from absl import app
from absl import flags
from keras import ops

import keras_freetickets as kft
from keras_freetickets import metrics

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/rare_graph", "Where all files go.")
flags.DEFINE_string(
    "dataset", "blocks", "blocks, connectome, or a name of Planetoid's files."
)
flags.DEFINE_string("data_dir", ".", "Folder of Planetoid's files.")
flags.DEFINE_integer("rare_class", 0, "Rare label in Planetoid's files.", 0)
flags.DEFINE_integer("steps", 200, "Steps of the first phase.", 1)
flags.DEFINE_integer("second_steps", 60, "Steps of the second phase.", 1)
flags.DEFINE_integer("every", 20, "Steps until intervals are renewed.", 1)
flags.DEFINE_float("eice_weight", 0.1, "Weight of EICE in phase two.", 0, 1)
flags.DEFINE_integer("members", 3, "Tickets of the ensemble.", 2)
flags.DEFINE_float("sparsity", 0.5, "Sparsity of the tickets.", 0.01, 0.99)
flags.DEFINE_float("coverage", 0.9, "Share of labels in intervals.", 0.5, 0.99)
flags.DEFINE_float("damping", 0.01, "Damping of the Hessian.", 0.0)
flags.DEFINE_integer("seed", 0, "Seed of everything.", 0, 2**31 - 1)


def load() -> kft.graphs.LabelledGraph:
    if FLAGS.dataset == "blocks":
        return kft.graphs.block_model(seed=FLAGS.seed)
    if FLAGS.dataset == "connectome":
        return connectome.load(FLAGS.seed)
    with run_directory.naming(f"--dataset={FLAGS.dataset}"):
        data = kft.graphs.load_planetoid(FLAGS.data_dir, FLAGS.dataset)
    data.y = (data.y == FLAGS.rare_class).astype("int64")
    return data


def network(data: kft.graphs.LabelledGraph, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return kft.graphs.graph_network(data.graph, data.x.shape[1])


def fit(
    model: keras.Model,
    data: kft.graphs.LabelledGraph,
    nodes: np.ndarray,
    steps: int,
    targets: np.ndarray | None = None,
    **settings: Any,
) -> keras.Model:
    """Trains on the whole graph, weighted nodes of which have a label."""
    weights = kft.graphs.class_weights(data.y, nodes)
    targets = data.y if targets is None else targets
    model.fit(
        data.x[None],
        targets[None],
        sample_weight=weights[None],
        epochs=steps,
        verbose=0,
        **settings,
    )
    return model


def first_phase(
    model: keras.Model, data: kft.graphs.LabelledGraph, **settings: Any
) -> keras.Model:
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01, weight_decay=5e-4), entropy)
    return fit(model, data, data.train, FLAGS.steps, **settings)


def ticket(data: kft.graphs.LabelledGraph, seed: int) -> keras.Model:
    sparse = kft.sparsify(network(data, seed), FLAGS.sparsity, seed=seed)
    rigl = kft.callbacks.RigL(update_interval=10)
    return first_phase(sparse, data, callbacks=[rigl])


def left_out(
    model: keras.Model, data: kft.graphs.LabelledGraph
) -> kft.graphs.LeaveOneOut:
    """Influence of each training node on the last layer."""
    weights = kft.graphs.class_weights(data.y, data.train)
    return kft.graphs.LeaveOneOut(
        model,
        data.x[None],
        data.y[None],
        weights[None],
        variables=model.layers[-1].trainable_variables,
        damping=FLAGS.damping,
    )


def second_phase(
    dense: keras.Model,
    influence: kft.graphs.LeaveOneOut,
    data: kft.graphs.LabelledGraph,
    weight: float,
) -> tuple[keras.Model, np.ndarray]:
    """A copy trained on validation nodes, and its intervals at the end."""
    state = dense.get_weights()
    loss = kft.graphs.IndividualCalibrationLoss(weight)
    dense.compile(keras.optimizers.Adam(1e-3), loss)
    for start in range(0, FLAGS.second_steps, FLAGS.every):
        steps = min(FLAGS.every, FLAGS.second_steps - start)
        # The changes of the first phase, at the weights of now.
        ends = influence.intervals(FLAGS.coverage)
        targets = kft.graphs.with_intervals(data.y, ends)
        fit(dense, data, data.validation, steps, targets)
    found = keras.models.clone_model(dense)
    found.set_weights(dense.get_weights())
    ends = influence.intervals(FLAGS.coverage)
    dense.set_weights(state)
    return found, ends


def probabilities(model: keras.Model, x: np.ndarray) -> np.ndarray:
    logits = model(x[None], training=False)
    return ops.convert_to_numpy(ops.softmax(logits))[0]


def row(
    name: str, data: kft.graphs.LabelledGraph, p: np.ndarray, ends: np.ndarray
) -> dict[str, Any]:
    """Scores on the test nodes."""
    y, p, ends = data.y[data.test], p[data.test], ends[data.test]
    said = p.argmax(axis=-1)
    hits = [(said == k) & (y == k) for k in (0, 1)]
    f1 = [
        2 * hit.sum() / max(1, (said == k).sum() + (y == k).sum())
        for k, hit in enumerate(hits)
    ]
    width = metrics.calibration_errors_by_label(y, p, 20)
    ace = metrics.calibration_errors_by_label(y, p, 20, "equal_mass")
    eice = metrics.ExpectedIndividualCalibrationError()(ends, p)
    inside = metrics.IntervalCoverage()(y, ends)
    nll = metrics.negative_log_likelihood(y, p)
    return {
        "model": name,
        "accuracy": float(np.mean(said == y)),
        "recall_rare": float(hits[1].sum() / max(1, (y == 1).sum())),
        "macro_f1": float(np.mean(f1)),
        "nll": float(ops.mean(nll)),
        "ece": metrics.expected_calibration_error(y, p, 20),
        "ace": metrics.expected_calibration_error(y, p, 20, "equal_mass"),
        "ece_rare": float(width[1]),
        "ace_rare": float(ace[1]),
        "ace_other": float(ace[0]),
        "eice": float(eice),
        "coverage": float(inside),
        "width": float(np.mean(ends[:, 1] - ends[:, 0])),
    }


def layout(graph: kft.graphs.Graph, rounds: int = 80) -> np.ndarray:
    """Places where edges pull and nodes push (Fruchterman and Reingold)."""
    place = np.random.default_rng(0).uniform(-1, 1, (graph.num_nodes, 2))
    distance = 1 / np.sqrt(graph.num_nodes)
    ends = graph.edges.T
    for step in np.linspace(0.1, 0.003, rounds):
        move = np.zeros_like(place)
        for axis in (0, 1):
            gaps = place[:, axis, None] - place[None, :, axis]
            other = place[:, 1 - axis, None] - place[None, :, 1 - axis]
            squares = np.maximum(gaps**2 + other**2, 1e-4)
            move[:, axis] = (gaps * distance**2 / squares).sum(axis=1)
        pull = place[ends[1]] - place[ends[0]]
        pull *= np.linalg.norm(pull, axis=1, keepdims=True) / distance
        for axis in (0, 1):
            move[:, axis] += np.bincount(
                ends[0], pull[:, axis], graph.num_nodes
            )
        length = np.linalg.norm(move, axis=1, keepdims=True)
        place += move / np.maximum(length, 1e-9) * np.minimum(length, step)
    return place


def draw(
    data: kft.graphs.LabelledGraph, p: np.ndarray, ends: np.ndarray
) -> None:
    """The graph; the larger a node, the less certain."""
    try:
        from matplotlib import collections
        from matplotlib import figure
    except ImportError:
        print("No picture: pip install matplotlib")
        return
    place = layout(data.graph)
    picture = figure.Figure(figsize=(8, 6), layout="constrained")
    axes = picture.subplots()
    lines = place[data.graph.edges[:20000]]
    axes.add_collection(
        collections.LineCollection(
            lines, colors="0.8", linewidths=0.2, zorder=0
        )
    )
    width = ends[:, 1] - ends[:, 0]
    for label, marker, name in ((0, "o", "other"), (1, "^", "rare")):
        own = data.y == label
        dots = axes.scatter(
            place[own, 0],
            place[own, 1],
            s=10 + 90 * width[own] / max(width.max(), 1e-6),
            c=p[own, 1],
            marker=marker,
            cmap="coolwarm",
            vmin=0,
            vmax=1,
            edgecolors="0.3",
            linewidths=0.4,
            label=name,
        )
    unsure = np.argsort(-width)[:10]
    axes.scatter(
        place[unsure, 0],
        place[unsure, 1],
        s=220,
        facecolors="none",
        edgecolors="black",
        linewidths=1.2,
        label="the ten longest intervals",
    )
    picture.colorbar(dots, label="probability of the rare class")
    axes.set_title(
        f"Size: length of a node's interval, at most {width.max():.2f}"
    )
    axes.set_axis_off()
    picture.legend(loc="outside lower center", ncols=3)
    picture.savefig(os.path.join(FLAGS.output_dir, "graph.png"), dpi=150)


def evaluate(data: kft.graphs.LabelledGraph) -> list[dict[str, Any]]:
    print("Phase one: a graph network", flush=True)
    dense = first_phase(network(data, FLAGS.seed), data)
    influence = left_out(dense, data)
    print(
        f"Influence of {len(influence.examples)} nodes: "
        f"{influence.num_iterations} steps of conjugate gradients",
        flush=True,
    )
    ends, p = influence.intervals(FLAGS.coverage), probabilities(dense, data.x)
    rows = [row("phase one, influence", data, p, ends)]
    draw(data, p, ends)
    for name, weight in (
        ("phase two", FLAGS.eice_weight),
        ("phase two without EICE", 0.0),
    ):
        print(f"P{name[1:]}", flush=True)
        model, ends = second_phase(dense, influence, data, weight)
        rows.append(row(name, data, probabilities(model, data.x), ends))
    tickets = []
    for i in range(FLAGS.members):
        print(f"Ticket {i + 1} of {FLAGS.members}", flush=True)
        tickets.append(ticket(data, 100 * FLAGS.seed + i))
    members = np.stack([probabilities(one, data.x) for one in tickets])
    held_out = members[:, data.validation, 1] - data.y[data.validation]
    ends = metrics.jackknife_intervals(
        members[..., 1], np.abs(held_out), FLAGS.coverage
    )
    pooled = members.mean(axis=0)
    rows.append(row("ticket ensemble, residuals", data, pooled, ends))
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    keys = list(rows[0])
    cells = [[r["model"], *(f"{r[key]:.3f}" for key in keys[1:])] for r in rows]
    print(tables.aligned([keys, *cells]))
    print(f"Files: {FLAGS.output_dir}")


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    path = os.path.join(FLAGS.output_dir, "metrics.json")
    run_directory.check_directory(FLAGS.output_dir, run_directory.config())
    done = run_directory.read_json(path)
    if done is None:
        data = load()
        run_directory.claim_directory(FLAGS.output_dir, run_directory.config())
        rows = evaluate(data)
        done = {"config": run_directory.config(), "rows": rows}
        run_directory.write_json(path, done)
    show(done["rows"])


if __name__ == "__main__":
    app.run(main)
