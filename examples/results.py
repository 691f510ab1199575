"""What the training scripts leave: scores, tables, models and pictures."""

import importlib.util
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import costs
import keras
import numpy as np
import run_directory
from absl import flags
from absl import logging

import keras_freetickets as kft
from keras_freetickets import metrics

FLAGS = flags.FLAGS
Row = dict[str, Any]


def labels_of(dataset: Any) -> np.ndarray:
    return np.concatenate([labels.numpy() for _, labels in dataset])


def scores(
    probabilities: np.ndarray,
    labels: np.ndarray,
    num_classes: int | None = None,
) -> dict[str, float]:
    """Accuracy, negative log-likelihood and calibration error.

    Outputs beyond `num_classes` belong to the unknown class (MOON): it is
    never predicted, but it is part of the distribution.
    """
    nll = metrics.negative_log_likelihood(labels, probabilities)
    predicted = probabilities[:, :num_classes].argmax(-1)
    return {
        "accuracy": float((predicted == labels).mean()),
        "nll": float(np.mean(nll)),
        "ece": metrics.expected_calibration_error(labels, probabilities),
    }


def member_rows(
    ensemble: kft.EnsembleModel,
    data: kft.datasets.Datasets,
    cost_of: Callable[[kft.SparseModel, int], dict[str, float]],
    stop_epochs: Sequence[int],
    seconds: Sequence[float],
    names: Sequence[str] = (),
) -> list[Row]:
    """Rows of each ticket and of the ensemble.

    Args:
        ensemble: The ensemble.
        data: Its dataset.
        cost_of: Function from a ticket and its epochs to its costs.
        stop_epochs: For each ticket the epochs after which it was written.
        seconds: The seconds in which each ticket was ready.
        names: Names of tickets that were trained independently: the costs of
            their ensemble are the sum of theirs. Without names all tickets
            are of one run.
    """
    labels = labels_of(data.test)
    rows: list[Row] = []
    for i, member in enumerate(ensemble.predict_members(data.test)):
        model = ensemble.member(i)
        row: Row = {"model": names[i] if names else f"ticket {i}"}
        row |= scores(member, labels) | costs.of_topology(model)
        row |= cost_of(model, stop_epochs[i]) | {"seconds": seconds[i]}
        rows.append(row)
    total = sum if names else max
    whole: Row = {"model": "ensemble"}
    whole |= scores(ensemble.predict(data.test, verbose=0), labels)
    whole["sparsity"] = sum(row["sparsity"] for row in rows) / len(rows)
    for key in ("parameters", "inference_flops"):
        whole[key] = sum(row[key] for row in rows)
    for key in ("train_flops", "seconds"):
        whole[key] = total(row[key] for row in rows)
    return [*rows, whole]


def edst_member_rows(
    edst: kft.callbacks.EDST,
    ensemble: kft.EnsembleModel,
    data: kft.datasets.Datasets,
    cost_of: Callable[[kft.SparseModel, int], dict[str, float]],
    seconds: Sequence[float],
) -> list[Row]:
    """`member_rows` of an EDST run, from the seconds of its epochs."""
    ends = [phase.stop_epoch for phase in edst.phases[1:]]
    spent = [sum(seconds[:end]) for end in ends]
    return member_rows(ensemble, data, cost_of, ends, spent)


def write_ensemble(ensemble: kft.EnsembleModel) -> None:
    """Writes the ensemble and one ticket, for Keras and for TF Serving."""
    folder = FLAGS.output_dir
    ensemble.save(os.path.join(folder, "ensemble.keras"))
    ticket = ensemble.member(0)
    if isinstance(ticket, kft.SparseModel):
        ticket = kft.strip(ticket)
    logging.set_verbosity(logging.WARNING)  # TensorFlow names each file
    ensemble.export(os.path.join(folder, "saved_model"), verbose=False)
    ticket.export(os.path.join(folder, "saved_model_ticket"), verbose=False)


def draw(
    predictions: dict[str, np.ndarray],
    labels: np.ndarray,
    ticket: keras.Model,
    edst: kft.callbacks.EDST,
    history: dict[str, list[Any]],
    reference: dict[str, list[Any]] | None = None,
) -> None:
    """Draws an EDST run, if matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install matplotlib")
        return
    folder = os.path.join(FLAGS.output_dir, "pictures")
    kft.plots.learning_curve(
        history,
        edst.phases,
        os.path.join(folder, "learning_curve.png"),
        reference=reference,
    )
    kft.plots.reliability_diagram(
        labels, predictions, os.path.join(folder, "reliability.png")
    )
    rows = kft.sparsity_summary(ticket, print_fn=False)
    kft.plots.density_per_layer(rows, os.path.join(folder, "density.png"))


def finish(rows: list[Row], history: Any, config: dict[str, Any]) -> None:
    """Prints the table; writes `metrics.json`, which marks the run complete."""
    path = os.path.join(FLAGS.output_dir, "metrics.json")
    run_directory.write_json(
        path, {"config": config, "rows": rows, "history": history}
    )
    show(rows)


def show(rows: list[Row]) -> None:
    print(table(rows))
    print(f"Files: {FLAGS.output_dir}")


_COLUMNS = {
    "model": ("model", "{}"),
    "accuracy": ("accuracy", "{:.4f}"),
    "nll": ("NLL", "{:.4f}"),
    "ece": ("ECE", "{:.4f}"),
    "sparsity": ("sparsity", "{:.4f}"),
    "updates": ("topology updates", "{:,}"),
    "parameters": ("active parameters", "{:,}"),
    "train_flops": ("train FLOPs x dense", "{:.3f}"),
    "inference_flops": ("inference FLOPs x dense", "{:.3f}"),
    "seconds": ("seconds", "{:.1f}"),
}


def table(rows: list[Row]) -> str:
    """The rows as text, with the columns that at least one row has."""
    keys = [key for key in _COLUMNS if any(key in row for row in rows)]
    heads = [_COLUMNS[key][0] for key in keys]
    lines = [
        [
            _COLUMNS[key][1].format(row[key]) if key in row else ""
            for key in keys
        ]
        for row in rows
    ]
    return (
        f"{aligned([heads, *lines])}\n"
        "FLOPs are theoretical (two a multiply-accumulate) and relative to "
        "the dense model; masks simulate sparsity."
    )


def aligned(cells: Iterable[Sequence[str]]) -> str:
    """Columns of fixed width, with a line below the first row."""
    rows = list(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
