"""What the scripts say at the end: scores, costs, tables, files."""

import os

import common
from absl import flags
from absl import logging

FLAGS = flags.FLAGS


def export(model, path):
    logging.set_verbosity(logging.WARNING)  # TensorFlow tells of every file
    model.export(path, verbose=False)


# What training costs, by how connections grow; others do not change.
_COST_OF = {"gradient": "rigl", "random": "set"}


def training_cost(growth, update_interval):
    """The callback that logs seconds and FLOPs, killed runs' included."""
    import keras_freetickets as kft

    kind = _COST_OF.get(growth, "dense")
    return kft.callbacks.TrainingCost(kind, update_interval)


def costs(dense, model, epochs, reference_epochs, growth, update_interval):
    """Parameters, and FLOPs relative to `reference_epochs` of dense."""
    from keras_freetickets.inspection import density_of
    from keras_freetickets.metrics import flops

    whole = flops.forward_flops(dense)
    used = flops.forward_flops(model, density_of(model))
    sample = flops.training_flops_per_sample(
        whole, used, _COST_OF.get(growth, "dense"), update_interval
    )
    reference = flops.training_flops_per_sample(whole, whole, "dense")
    return {
        "parameters": active_parameters(model),
        "inference_flops": used / whole,
        "train_flops": sample * epochs / (reference * reference_epochs),
        "mac_cost": used / whole * epochs / reference_epochs,
    }


def relative_flops(dense, model):
    """Theoretical FLOPs of a prediction, relative to the dense network."""
    from keras_freetickets.inspection import density_of
    from keras_freetickets.metrics import flops

    used = flops.forward_flops(model, density_of(model))
    return used / flops.forward_flops(dense)


def flag_costs(dense, model, epochs, interval):
    """`costs` with the flags of the training scripts."""
    return costs(
        dense,
        model,
        epochs,
        FLAGS.reference_epochs,
        FLAGS.growth,
        interval,
    )


def member_rows(
    ensemble, data, ends, seconds, cost_of, apart=False, names=None
):
    """Rows of each ticket and of the ensemble.

    `ends` are the epochs after which the tickets were there; `seconds` those
    of each epoch of one run or, if the tickets were trained apart, of each
    run; `cost_of` gives the costs of a model after so many epochs.
    """
    labels = labels_of(data.test)
    rows = []
    for i, member in enumerate(ensemble.predict_members(data.test)):
        model = ensemble.member(i)
        cost = {**of_topology(model), **cost_of(model, ends[i])}
        spent = seconds[i] if apart else sum(seconds[: ends[i]])
        name = names[i] if names else f"ticket {i}"
        row = {"model": name, **scores(member, labels), **cost}
        rows.append({**row, "seconds": spent})
    add = sum if apart else max
    rows.append(
        {
            "model": "ensemble",
            **scores(ensemble.predict(data.test, verbose=0), labels),
            "sparsity": sum(row["sparsity"] for row in rows) / len(rows),
            "parameters": sum(row["parameters"] for row in rows),
            "inference_flops": sum(row["inference_flops"] for row in rows),
            "train_flops": add(row["train_flops"] for row in rows),
            "seconds": add(row["seconds"] for row in rows),
        }
    )
    return rows


def finish(rows, history, config):
    """Writes `metrics.json`, the sign that all is done; prints the table."""
    path = os.path.join(FLAGS.output_dir, "metrics.json")
    common.write_json(
        path, {"config": config, "rows": rows, "history": history}
    )
    print(table(rows))
    print(f"Files: {FLAGS.output_dir}")


def write_ensemble(ensemble):
    """The ensemble and one ticket, for Keras and for TF Serving."""
    import keras_freetickets as kft

    folder = FLAGS.output_dir
    ensemble.save(os.path.join(folder, "ensemble.keras"))
    export(ensemble, os.path.join(folder, "saved_model"))
    ticket = ensemble.member(0)
    if isinstance(ticket, kft.SparseModel):
        ticket = kft.strip(ticket)
    export(ticket, os.path.join(folder, "saved_model_ticket"))


def draw(predictions, labels, ensemble, edst, history, reference=None):
    """Pictures of an EDST run, where matplotlib is installed."""
    import importlib.util

    import keras_freetickets as kft

    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install matplotlib")
        return
    from keras_freetickets import plots

    folder = os.path.join(FLAGS.output_dir, "pictures")
    plots.learning_curve(
        history,
        edst.phases,
        os.path.join(folder, "learning_curve.png"),
        reference=reference,
    )
    plots.reliability_diagram(
        labels, predictions, os.path.join(folder, "reliability.png")
    )
    rows = kft.sparsity_summary(ensemble.member(0), print_fn=False)
    plots.density_per_layer(rows, os.path.join(folder, "density.png"))


def of_topology(model):
    """How sparse a model is, and how often its topology was updated."""
    return {
        "sparsity": 1.0 - model.density,
        "updates": int(model.update_state.update_count.numpy()),
    }


def active_parameters(model):
    """Weights in use: active ones of masked kernels, all of the others."""
    import numpy as np

    total = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    for record in getattr(model, "masked_kernels", []):
        total -= record.size - int(record.mask.numpy().sum())
    return total


def scores(probabilities, labels, num_classes=None):
    """Accuracy, negative log-likelihood and calibration error.

    Where there are more outputs than classes, the others are of the unknown
    (MOON): never the predicted class, but part of the distribution.
    """
    import numpy as np

    import keras_freetickets as kft

    ece = kft.metrics.ExpectedCalibrationError(num_bins=15)
    ece.update_state(labels, probabilities)
    nll = kft.metrics.negative_log_likelihood(labels, probabilities)
    predicted = probabilities[:, :num_classes].argmax(-1)
    return {
        "accuracy": float((predicted == labels).mean()),
        "nll": float(np.mean(nll)),
        "ece": float(ece.result()),
    }


def labels_of(dataset):
    import numpy as np

    return np.concatenate([labels.numpy() for _, labels in dataset])


_COLUMNS = [
    ("model", "model", "{}"),
    ("accuracy", "accuracy", "{:.4f}"),
    ("nll", "NLL", "{:.4f}"),
    ("ece", "ECE", "{:.4f}"),
    ("sparsity", "sparsity", "{:.4f}"),
    ("updates", "topology updates", "{:,}"),
    ("parameters", "active parameters", "{:,}"),
    ("train_flops", "train FLOPs x dense", "{:.3f}"),
    ("inference_flops", "inference FLOPs x dense", "{:.3f}"),
    ("seconds", "seconds", "{:.1f}"),
]


def table(rows):
    """Rows of scores as text; of columns those that a row has."""
    columns = [
        column
        for column in _COLUMNS
        if any(row.get(column[0]) is not None for row in rows)
    ]
    cells = [[head for _, head, _ in columns]]
    for row in rows:
        cells.append(
            [
                "" if row.get(key) is None else form.format(row[key])
                for key, _, form in columns
            ]
        )
    note = (
        "FLOPs are theoretical (two a multiply-accumulate) and relative to "
        "the dense model; masks simulate sparsity."
    )
    return f"{aligned(cells)}\n{note}"


def aligned(cells):
    """Lines of cells as text of fixed width, the first one ruled off."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
