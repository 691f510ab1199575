"""Pictures of a training run and of what it leaves."""

import numpy as np

from keras_freetickets.plots import figures


def learning_curve(
    history, phases, path, metrics=("accuracy", "loss"), reference=None
):
    """Draws metrics by epoch, with the phases of the run marked.

    Args:
        history: Dict from the name of a log to its values, one an epoch.
        phases: List of records with `name`, `begin` and `end`, as
            `EDST.phases`; may be empty.
        path: The picture to write, e.g. `"curve.png"`.
        metrics: Names of logs, a panel each; `val_` + name is drawn as well
            if there.
        reference: Another history, e.g. the dense network's, of which the
            validation values are drawn for comparison.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    learning_curve(backup.history, edst.phases, "curve.png")
    ```
    """
    figure = figures.new(figsize=(8, 1 + 3 * len(metrics)))
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)
    for axes, metric in zip(panels[:, 0], metrics):
        _curve(axes, history, metric, "training")
        _curve(axes, history, f"val_{metric}", "validation")
        if reference is not None:
            _curve(axes, reference, f"val_{metric}", "validation, reference")
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
        _mark(axes, phases)
    if "loss" in metrics:
        panels[list(metrics).index("loss"), 0].set_yscale("log")
    panels[0, 0].legend(loc="lower right")
    panels[-1, 0].set_xlabel("epoch")
    figures.save(figure, path)


def _curve(axes, history, name, label):
    if name in history:
        epochs = np.arange(1, len(history[name]) + 1)
        axes.plot(epochs, history[name], label=label)


def _mark(axes, phases):
    for phase in phases:
        if phase.index % 2:
            axes.axvspan(phase.begin + 0.5, phase.end + 0.5, alpha=0.12)
        axes.text(
            (phase.begin + phase.end) / 2 + 0.5,
            1.02,
            phase.name.replace("_", " "),
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize=8,
        )


def density_per_layer(rows, path):
    """Draws the share of active weights of each masked kernel.

    Args:
        rows: What `sparsity_summary` returns.
        path: The picture to write.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    density_per_layer(sparsity_summary(model, print_fn=False), "d.png")
    ```
    """
    rows = [row for row in rows if row.shape]
    figure = figures.new(figsize=(7, 1 + 0.3 * len(rows)))
    axes = figure.add_subplot()
    names = [f"{row.layer}/{row.kernel} {row.shape}" for row in rows]
    places = np.arange(len(rows))
    shares = [row.active / row.total for row in rows]
    axes.barh(places, shares, color="#9ecae1")
    for place, row in zip(places, rows):
        axes.text(0.01, place, f"{row.active:,} of {row.total:,}", va="center")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("density (active / all weights)")
    figures.save(figure, path)
