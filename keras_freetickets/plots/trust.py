"""Pictures of how far a model may be trusted."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_freetickets.metrics import area_under_risk_coverage
from keras_freetickets.metrics import auroc
from keras_freetickets.metrics import reliability_bins
from keras_freetickets.metrics import risk_coverage_curve
from keras_freetickets.metrics import roc_curve
from keras_freetickets.plots import figures
from keras_freetickets.plots.panels import check_nested
from keras_freetickets.plots.panels import check_panels
from keras_freetickets.plots.panels import dashes_of
from keras_freetickets.plots.panels import legend_below
from keras_freetickets.plots.panels import new_panels
from keras_freetickets.types import PathLike
from keras_freetickets.types import Tensor


def _pairs(y_true, y_pred):
    """Dict from a name to `(labels, probabilities)`, however it was given."""
    if isinstance(y_pred, str | os.PathLike):
        raise ValueError(
            "`y_pred` must be probabilities, or a dict of them; a picture is "
            f"written to `path=`. Received: y_pred={y_pred!r}"
        )
    if not isinstance(y_pred, dict):
        if isinstance(y_true, dict):
            raise ValueError(
                "`y_true` must be an array of labels where `y_pred` is one of "
                "probabilities: the order of arguments is (y_true, y_pred). "
                "Received: y_true of type dict"
            )
        return {"": (y_true, y_pred)}
    check_panels("y_pred", y_pred, "a name to what it predicts")
    if not isinstance(y_true, dict):
        return {name: (y_true, p) for name, p in y_pred.items()}
    if set(y_true) != set(y_pred):
        raise ValueError(
            "`y_true` must have the names of `y_pred` where it is a dict. "
            f"Received: y_true of {sorted(y_true)}, y_pred of {sorted(y_pred)}"
        )
    return {name: (y_true[name], p) for name, p in y_pred.items()}


def _named(name, text):
    """A text with the name of a model before it, if it has one."""
    return f"{name}: {text}" if name else text


def reliability_diagram(
    y_true: Any,
    y_pred: Any,
    path: PathLike | None = None,
    num_bins: int = 15,
    ignore_class: int | None = None,
) -> Any:
    """Draws accuracy against confidence, one panel for each model.

    Args:
        y_true: Labels, an integer array `(examples, ...)`, of all models, or
            a dict from a model's name to its labels.
        y_pred: Probabilities `(examples, ..., classes)`, or
            `(examples, ..., 1)` of class 1, or a dict from a model's name to
            them.
        path: The picture to write, e.g. `"picture.png"`; `None` for none.
        num_bins: Integer, as for `ExpectedCalibrationError`.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).

    Returns:
        The matplotlib `Figure`, which a notebook shows.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a model has no labels or no examples, and as
            `reliability_bins`.

    Example:

    ```python
    reliability_diagram(y, p)
    reliability_diagram(y, {"dense": p, "ensemble": q}, "r.png")
    ```
    """
    pairs = _pairs(y_true, y_pred)
    figure, panels = new_panels(len(pairs), sharey=True)
    for axes, (name, given) in zip(panels, pairs.items(), strict=True):
        labels, probabilities = given
        bins = reliability_bins(
            labels, probabilities, num_bins, ignore_class=ignore_class
        )
        confidence, accuracy, count = bins
        if not count.any():
            raise ValueError(
                "`y_pred` must hold one example or more for each name. "
                f"Received: none for {name!r}"
            )
        used = count > 0
        gap = np.abs(accuracy - confidence)[used] * count[used]
        left = np.arange(num_bins) / num_bins
        axes.bar(
            left[used],
            accuracy[used],
            width=1 / num_bins,
            align="edge",
            color="#9ecae1",
            edgecolor="white",
            label="accuracy in a bin",
        )
        axes.scatter(
            confidence[used],
            accuracy[used],
            s=4 + 200 * count[used] / count.sum(),
            color="black",
            clip_on=False,
            zorder=3,
            label="mean confidence there (area: share of examples)",
        )
        axes.plot(
            [0, 1], [0, 1], "--", color="gray", label="perfect calibration"
        )
        error = f"calibration error (ECE) {gap.sum() / count.sum():.4f}"
        axes.set_title(f"{name}\n{error}".strip(), fontsize=11)
        axes.set_xlabel("confidence: probability of the chosen class")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("accuracy: share of examples that are right")
    legend_below(figure, panels[0])
    return figures.save(figure, path)


def risk_coverage_curves(
    y_true: Any,
    y_pred: Any,
    path: PathLike | None = None,
    ignore_class: int | None = None,
) -> Any:
    """Draws the errors among the surest examples against their share.

    Args:
        y_true, y_pred, path, ignore_class: As for `reliability_diagram`.

    Returns:
        The matplotlib `Figure`: all models in one panel.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a model has no labels, and as `risk_coverage_curve`.

    Example:

    ```python
    risk_coverage_curves(y, {"dense": p, "ensemble": q})
    ```
    """
    pairs = _pairs(y_true, y_pred)
    figure, (axes,) = new_panels(1)
    for dashes, (name, given) in zip(
        dashes_of(len(pairs)), pairs.items(), strict=True
    ):
        settings = {"ignore_class": ignore_class}
        coverage, risk = risk_coverage_curve(*given, **settings)
        area = area_under_risk_coverage(*given, **settings)
        label = _named(name, f"area (AURC) {area:.4f}")
        axes.plot(coverage, risk, dashes, label=label)
    axes.set_xlabel("coverage: share of examples answered, the surest first")
    axes.set_ylabel("risk: share of errors among them")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    return figures.save(figure, path)


def score_histograms(
    scores: dict[str, dict[str, Tensor]],
    path: PathLike | None = None,
    label: str = "maximum probability",
    num_bins: int = 30,
) -> Any:
    """Draws how a score is distributed over known and unknown inputs.

    Args:
        scores: Dict from the title of a panel to a dict from the name of a
            set to the array of its scores. The first set, that of known
            inputs, is filled.
        path: As for `reliability_diagram`.
        label: Name of the score.
        num_bins: Positive integer.

    Returns:
        The matplotlib `Figure`, with a panel for each title.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `scores` is not a dict, or is empty.

    Example:

    ```python
    score_histograms({"dense": {"test": known, "noise": unknown}}, "h.png")
    ```
    """
    contents = "a title to a dict from the name of a set to its scores"
    check_nested("scores", scores, contents)
    figure, panels = new_panels(len(scores))
    for axes, (title, sets) in zip(panels, scores.items(), strict=True):
        every = np.concatenate(list(sets.values()))
        edges = np.linspace(every.min(), every.max(), num_bins + 1)
        for i, (name, values) in enumerate(sets.items()):
            # Each set's shares, so that sets of other sizes compare.
            weights = np.full(len(values), 1 / len(values))
            style = {"histtype": "stepfilled", "alpha": 0.3} if i == 0 else {}
            axes.hist(
                values,
                edges,
                weights=weights,
                label=name,
                **{"histtype": "step", "linewidth": 1.5, **style},
            )
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_yscale("log")
    panels[0].set_ylabel("share of the images of a set")
    legend_below(figure, panels[0])
    return figures.save(figure, path)


def roc_curves(
    scores: dict[str, dict[str, tuple[Tensor, Tensor]]],
    path: PathLike | None = None,
) -> Any:
    """Draws known inputs accepted against unknown ones accepted.

    Args:
        scores: Dict from the title of a panel, e.g. a set of unknown inputs,
            to a dict from a model's name to the scores `(known, unknown)`,
            higher for known inputs.
        path: As for `reliability_diagram`.

    Returns:
        The matplotlib `Figure`, with a panel for each set; the legend of each
        tells the areas.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `scores` is not a dict, or is empty.

    Example:

    ```python
    roc_curves({"kmnist": {"dense": (known, unknown)}}, "roc.png")
    ```
    """
    contents = "a title to a dict from a name to scores `(known, unknown)`"
    check_nested("scores", scores, contents)
    figure, panels = new_panels(len(scores), sharex=True, sharey=True)
    for axes, (title, models) in zip(panels, scores.items(), strict=True):
        for dashes, (name, (known, unknown)) in zip(
            dashes_of(len(models)), models.items(), strict=True
        ):
            area = auroc(known, unknown)
            accepted = roc_curve(known, unknown)
            axes.plot(
                *accepted, dashes, label=f"{name}: area (AUROC) {area:.4f}"
            )
        axes.plot([0, 1], [0, 1], "--", color="gray")
        axes.set_title(title)
        axes.set_xlabel("share of unknown images accepted")
        axes.legend(loc="lower right", fontsize=8)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of known images accepted")
    return figures.save(figure, path)


def severity_curves(
    values: dict[str, Tensor],
    path: PathLike | None = None,
    labels: Sequence[str] = ("accuracy",),
) -> Any:
    """Draws scores against the severity of corruptions, a panel for each.

    The line is the mean over corruptions; half of them lie in the band.

    Args:
        values: Dict from a model's name to an array
            `(scores, corruptions, severities + 1)`, the first column that of
            clean images.
        path: As for `reliability_diagram`.
        labels: Names of the scores.

    Returns:
        The matplotlib `Figure`, with one panel for each of the scores and one
        legend below.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `values` is not a dict, or is empty.

    Example:

    ```python
    severity_curves({"dense": accuracies[None]}, "severity.png")
    ```
    """
    contents = "a name to an array (scores, corruptions, severities + 1)"
    check_panels("values", values, contents)
    figure, panels = new_panels(len(labels))
    for i, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        for dashes, (name, scores) in zip(
            dashes_of(len(values)), values.items(), strict=True
        ):
            scores = np.asarray(scores)[i]
            severities = np.arange(scores.shape[-1])
            low, high = np.quantile(scores, [0.25, 0.75], axis=0)
            (line,) = axes.plot(
                severities, scores.mean(axis=0), f"o{dashes}", label=name
            )
            axes.fill_between(
                severities, low, high, alpha=0.12, color=line.get_color()
            )
        axes.set_xlabel("severity (0: clean)")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    legend_below(figure, panels[0])
    return figures.save(figure, path)
