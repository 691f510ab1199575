"""Plots of a training run and of its result."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_freetickets.plots import figures
from keras_freetickets.types import PathLike


def learning_curve(
    history: Any,
    phases: Sequence[Any] = (),
    path: PathLike | None = None,
    metrics: Sequence[str] | None = None,
    reference: Any = None,
) -> Any:
    """Draws metrics by epoch, with the phases of the run marked.

    Args:
        history: Dict from the name of a log to its values, one per epoch, or
            the result of `fit`.
        phases: List of phases with `name`, `index`, `start_epoch` and
            `stop_epoch`, such as `EDST.phases`. None by default.
        path: File to write, for example `"picture.png"`. `None` for no file.
        metrics: Names of logs, one panel each; `val_` + name is also drawn if
            it exists. `None` for accuracy and loss, if they exist.
        reference: Another history, for example that of the dense network,
            whose validation values are drawn for comparison.

    Returns:
        The matplotlib `Figure`, which a notebook shows.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the history is not a dict, or a log in `metrics` does
            not exist.

    Example:

    ```python
    learning_curve(model.fit(x, y, epochs=5))
    learning_curve(backup.history, edst.phases, "curve.png")
    ```
    """
    history, reference = _logs(history), _logs(reference)
    metrics = _shown_metrics(history, metrics)
    figure = figures.new(figsize=(8, 1 + 3 * len(metrics)))
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for axes, metric in zip(panels, metrics, strict=True):
        _curve(axes, history, metric, "training")
        _curve(axes, history, f"val_{metric}", "validation")
        _curve(axes, reference, f"val_{metric}", "validation, dense reference")
        axes.set_ylabel(metric)
        if metric == "loss":
            axes.set_yscale("log")
            axes.set_ylabel("loss (logarithmic)")
        axes.grid(alpha=0.3)
        _shade(axes, phases)
    _name_phases(panels[0], phases)
    panels[0].legend(loc="best")
    panels[-1].set_xlabel("epoch")
    return figures.save(figure, path)


def _logs(history):
    """The dict of logs of a history or a dict; empty for `None`."""
    logs = getattr(history, "history", history)
    if logs is None:
        return {}
    if not isinstance(logs, dict):
        raise ValueError(
            "`history` must be a dict from the name of a log to its values, "
            "or the result of `fit`. "
            f"Received: history of type {type(logs).__name__}"
        )
    return logs


def _shown_metrics(history, metrics):
    if metrics is None:
        metrics = [name for name in ("accuracy", "loss") if name in history]
    missing = [name for name in metrics if name not in history]
    if missing or not metrics:
        raise ValueError(
            "`metrics` must name at least one log of `history`, which has "
            f"{sorted(history)}. Received: metrics={metrics}"
        )
    return metrics


def _curve(axes, history, name, label):
    if name in history:
        epochs = np.arange(1, len(history[name]) + 1)
        axes.plot(epochs, history[name], label=label)


def _shade(axes, phases):
    for phase in phases:
        if phase.index % 2:
            axes.axvspan(
                phase.start_epoch + 0.5, phase.stop_epoch + 0.5, alpha=0.12
            )


def _name_phases(axes, phases):
    for phase in phases:
        axes.text(
            (phase.start_epoch + phase.stop_epoch) / 2 + 0.5,
            1.02,
            phase.name.replace("_", " "),
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize=8,
        )


def density_per_layer(rows: Sequence[Any], path: PathLike | None = None) -> Any:
    """Draws the share of active weights of each masked kernel.

    Args:
        rows: The result of `sparsity_summary`.
        path: File to write, for example `"picture.png"`. `None` for no file.

    Returns:
        The matplotlib `Figure`, which a notebook shows.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If no kernel is masked.

    Example:

    ```python
    density_per_layer(sparsity_summary(model, print_fn=False), "d.png")
    ```
    """
    rows = [row for row in rows if row.shape]
    if not rows:
        raise ValueError(
            "`rows` must be the result of `sparsity_summary` for a sparse "
            "model. Received: no row of a masked kernel"
        )
    figure = figures.new(figsize=(7, 1 + 0.3 * len(rows)))
    axes = figure.add_subplot()
    names = [f"{row.layer}/{row.kernel} {row.shape}" for row in rows]
    places = np.arange(len(rows))
    shares = [row.active / row.total for row in rows]
    axes.barh(places, shares, color="#9ecae1")
    for place, row in zip(places, rows, strict=True):
        axes.text(0.01, place, f"{row.active:,} of {row.total:,}", va="center")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("density: share of the weights that are active")
    return figures.save(figure, path)
