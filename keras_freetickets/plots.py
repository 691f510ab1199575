"""Pictures of a run. Needs matplotlib: the extra `plots`."""

import numpy as np

from keras_freetickets.files import atomic_path
from keras_freetickets.metrics import reliability_bins


def _figure(**kwargs):
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "keras_freetickets.plots needs matplotlib: "
            "pip install keras_freetickets[plots]"
        ) from error
    figure = Figure(layout="constrained", **kwargs)
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


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
    figure = _figure(figsize=(8, 1 + 3 * len(metrics)))
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
    _save(figure, path)


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


def reliability_diagram(predictions, path, num_bins=15):
    """Draws accuracy against confidence, one panel for each model.

    Args:
        predictions: Dict from a name to `(probabilities, labels)`.
        path: The picture to write.
        num_bins: Integer, as for `ExpectedCalibrationError`.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    reliability_diagram({"dense": (p, y), "ensemble": (q, y)}, "r.png")
    ```
    """
    figure = _figure(figsize=(4 * len(predictions), 4))
    panels = figure.subplots(1, len(predictions), sharey=True, squeeze=False)
    for axes, (name, (probabilities, labels)) in zip(
        panels[0], predictions.items()
    ):
        bins = reliability_bins(probabilities, labels, num_bins)
        confidence, accuracy, count = bins
        used = count > 0
        gap = np.abs(accuracy - confidence)[used] * count[used]
        left = np.arange(num_bins) / num_bins
        axes.bar(
            left[used],
            accuracy[used],
            width=1 / num_bins,
            align="edge",
            edgecolor="white",
            label="accuracy",
        )
        # The area of a dot is the share of images in its bin.
        axes.scatter(
            confidence[used],
            accuracy[used],
            s=4 + 200 * count[used] / count.sum(),
            color="black",
            clip_on=False,
            zorder=3,
            label="mean (area: images)",
        )
        axes.plot([0, 1], [0, 1], "--", color="gray", label="perfect")
        axes.set_title(f"{name}: ECE {gap.sum() / count.sum():.4f}")
        axes.set_xlabel("confidence")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
    panels[0][0].set_ylabel("accuracy")
    panels[0][0].legend(loc="upper left", fontsize=8)
    _save(figure, path)


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
    figure = _figure(figsize=(7, 1 + 0.3 * len(rows)))
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
    _save(figure, path)
