"""The rows of an ensemble and its members in the table of results."""

import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import costs
import keras
import numpy as np
import results
import training
from absl import flags

import keras_freetickets as kft
from keras_freetickets import metrics
from keras_freetickets.metrics import flops

FLAGS = flags.FLAGS
Row = results.Row


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
    labels = results.labels_of(data.test)
    rows: list[Row] = []
    for i, member in enumerate(ensemble.predict_members(data.test)):
        model = ensemble.member(i)
        row: Row = {"model": names[i] if names else f"ticket {i}"}
        row |= results.scores(member, labels) | costs.of_topology(model)
        row |= cost_of(model, stop_epochs[i]) | {"seconds": seconds[i]}
        rows.append(row)
    total = sum if names else max
    whole: Row = {"model": "ensemble"}
    whole |= results.scores(ensemble.predict(data.test, verbose=0), labels)
    whole["sparsity"] = sum(row["sparsity"] for row in rows) / len(rows)
    for key in ("parameters", "inference_flops"):
        whole[key] = sum(row[key] for row in rows)
    for key in ("train_flops", "seconds"):
        whole[key] = total(row[key] for row in rows)
    return [*rows, whole]


def edst_rows(
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


def predict_members(ensemble: kft.EnsembleModel, images: Any) -> np.ndarray:
    """Probabilities of each member; of MIMO, whose mean is one, each head's."""
    if FLAGS.method != "mimo":
        return ensemble.predict_members(images)
    member = ensemble.member(0)
    heads = keras.Model(member.inputs, member.layers[-2].output)
    return np.moveaxis(heads.predict(images, verbose=0), 1, 0)


def recipe_rows(
    recipe: kft.recipes.Recipe,
    ensemble: kft.EnsembleModel,
    data: kft.datasets.Datasets,
) -> list[Row]:
    """Scores of each member; scores and costs of the ensemble."""
    labels = results.labels_of(data.test)
    members = predict_members(ensemble, data.test)
    found = [
        {"model": f"member {i}", **results.scores(member, labels)}
        for i, member in enumerate(members)
    ]
    whole: Row = {"model": FLAGS.method}
    whole |= results.scores(np.mean(members, axis=0), labels)
    whole |= {"disagreement": None, "kl": None}
    if len(members) > 1:
        whole["disagreement"] = float(np.mean(metrics.disagreement(members)))
        whole["kl"] = float(np.mean(metrics.pairwise_kl(members)))
    dense = training.network(data.input_shape, data.num_classes)
    reference = 3.0 * flops.forward_flops(dense) * FLAGS.reference_epochs
    models = [ensemble.member(i) for i in range(ensemble.num_members)]
    file = os.path.join(FLAGS.output_dir, "ensemble.npz")
    images = next(iter(data.test))[0]
    whole |= {
        "parameters": sum(costs.active_parameters(m) for m in models),
        "file_bytes": os.path.getsize(file),
        "train_flops": recipe.training_flops() / reference,
        "seconds": sum(sum(r.history["seconds"]) for r in recipe.runs),
        "inference_flops": sum(costs.relative_flops(dense, m) for m in models),
        "inference_ms": costs.milliseconds(ensemble, images),
    }
    return [*found, whole]
