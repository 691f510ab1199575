"""What the training scripts write: scores, models, pictures."""

import importlib.util
import os
from typing import Any

import keras
import numpy as np
import run_directory
import tables
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


def write_ensemble(ensemble: kft.EnsembleModel) -> None:
    """Writes the ensemble and one ticket, for Keras and for TF Serving."""
    folder = FLAGS.output_dir
    ensemble.save(os.path.join(folder, "ensemble.keras"))
    ticket = ensemble.member(0)
    if isinstance(ticket, kft.SparseModel):
        ticket = kft.strip(ticket)
    logging.set_verbosity(logging.WARNING)  # TensorFlow names each file
    for name, model in (("", ensemble), ("_ticket", ticket)):
        path = os.path.join(folder, f"saved_model{name}")
        kft.export(model, path, overwrite=True, verbose=False)


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
    print(tables.scores_and_costs(rows))
    print(f"Files: {FLAGS.output_dir}")
