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
from keras_freetickets.metrics import validation
from keras_freetickets.optional import import_optional
from keras_freetickets.plots import figures
from keras_freetickets.types import PathLike
from keras_freetickets.types import Tensor

_COLUMNS = 3
# Lines that lie on each other stay apart to the eye.
_DASHES = ("-", "--", "-.", ":")
# Of a logarithm of probabilities, as Keras clips them.
_LEAST = 1e-7


def _panels(count, columns=_COLUMNS, **kwargs):
    """A figure of at most so many columns, and its axes, one a panel."""
    columns = max(1, min(count, columns))
    rows = max(1, -(-count // columns))
    figure = figures.new(figsize=(max(5, 4.2 * columns), 4.2 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def _dashes(count):
    return [_DASHES[i % len(_DASHES)] for i in range(count)]


def _legend_below(figure, axes):
    """The legend of one panel, which is that of all, below them."""
    handles, labels = axes.get_legend_handles_labels()
    # As many columns as there is room for: a letter takes .07 inches.
    longest = 0.5 + 0.07 * max(map(len, labels), default=1)
    columns = max(1, int(figure.get_size_inches()[0] / longest))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=8
    )


def _check_panels(name, values, contents):
    """Raises unless `values` is a dict with something to draw."""
    if not isinstance(values, dict) or not values:
        found = "{}" if isinstance(values, dict) else type(values).__name__
        raise ValueError(
            f"`{name}` must be a dict of one entry or more, from {contents}. "
            f"Received: {name}={found}"
        )


def _check_nested(name, values, contents):
    """As `_check_panels`, also of the dicts within."""
    _check_panels(name, values, contents)
    for inner in values.values():
        _check_panels(name, inner, contents)


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
    _check_panels("y_pred", y_pred, "a name to what it predicts")
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
    figure, panels = _panels(len(pairs), sharey=True)
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
    _legend_below(figure, panels[0])
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
    figure, (axes,) = _panels(1)
    for dashes, (name, given) in zip(
        _dashes(len(pairs)), pairs.items(), strict=True
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
    _check_nested("scores", scores, contents)
    figure, panels = _panels(len(scores))
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
    _legend_below(figure, panels[0])
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
    _check_nested("scores", scores, contents)
    figure, panels = _panels(len(scores), sharex=True, sharey=True)
    for axes, (title, models) in zip(panels, scores.items(), strict=True):
        for dashes, (name, (known, unknown)) in zip(
            _dashes(len(models)), models.items(), strict=True
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
    _check_panels("values", values, contents)
    figure, panels = _panels(len(labels))
    for i, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        for dashes, (name, scores) in zip(
            _dashes(len(values)), values.items(), strict=True
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
    _legend_below(figure, panels[0])
    return figures.save(figure, path)


def matrices(
    values: dict[str, Tensor],
    path: PathLike | None = None,
    names: Sequence[str] | None = None,
) -> Any:
    """Draws square matrices of members against members.

    Args:
        values: Dict from a title to an array `(members, members)`. The
            diagonal is left blank: a member agrees with itself.
        path: As for `reliability_diagram`.
        names: List of the members' names, numbers if `None`.

    Returns:
        The matplotlib `Figure`; a panel has a scale of colors of its own.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `values` is not a dict, or is empty.

    Example:

    ```python
    matrices({"disagreement": disagreement_matrix(members)}, "m.png")
    ```
    """
    contents = "a title to an array (members, members)"
    _check_panels("values", values, contents)
    figure, panels = _panels(len(values))
    for axes, (title, matrix) in zip(panels, values.items(), strict=True):
        matrix = np.array(matrix, "float64")
        count = len(matrix)
        others = np.where(np.eye(count, dtype=bool), np.nan, matrix)
        image = axes.imshow(others, cmap="Blues", vmin=0)
        middle = image.get_clim()[1] / 2
        for i, j in zip(*np.nonzero(~np.isnan(others)), strict=True):
            color = "white" if others[i, j] > middle else "black"
            text = f"{others[i, j]:.3f}"
            axes.text(j, i, text, ha="center", va="center", color=color)
        axes.set_xticks(range(count), names)
        axes.set_yticks(range(count), names)
        axes.set_title(title)
        figure.colorbar(image, ax=axes, shrink=0.8)
    return figures.save(figure, path)


def predictions_in_plane(
    y_true: Tensor,
    members: Tensor,
    path: PathLike | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    ignore_class: int | None = None,
) -> Any:
    """Draws the predictions of members in the plane, by t-SNE.

    All members' log-probabilities are laid out together: an image's points
    lie in the same place in all panels where the members agree. Colours are
    labels; images that some member reads otherwise than others are ringed.

    Args:
        y_true: Labels, an integer array `(examples, ...)`, or one-hot.
        members: Probabilities `(members, examples, ..., classes)`, or
            `(members, examples, ..., 1)` of class 1. A few hundred examples
            are enough, and thousands slow.
        path: As for `reliability_diagram`.
        names: List of the members' names, numbers if `None`.
        seed: Integer, of t-SNE.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).

    Returns:
        The matplotlib `Figure`, one panel for each member.

    Raises:
        ImportError: If matplotlib or scikit-learn is not installed.
        ValueError: If there are fewer than 4 predictions, or there is not one
            label for each example, a class.

    Example:

    ```python
    members = ensemble.predict_members(x[:300])
    predictions_in_plane(y[:300], members, "tsne.png")
    ```

    Reference:
        van der Maaten and Hinton, 2008, JMLR 9.
    """
    y_true, members = np.asarray(y_true), np.asarray(members)
    if members.ndim and len(members):
        validation.check_order(y_true, members[0])
    validation.check_shape(members, members=True, name="members")
    members = validation.two_columns(members, False, backend=np)
    labels, counted = validation.read_label_array(
        y_true, members.shape[1:], ignore_class
    )
    members, labels = members[:, counted], labels[counted]
    count = len(members)
    points = _embed(members.reshape(-1, members.shape[-1]), seed)
    points = points.reshape(count, -1, 2)
    chosen = members.argmax(axis=-1)
    disputed = (chosen != chosen[0]).any(axis=0)
    classes = members.shape[-1]
    colors = {"cmap": figures.colors(classes), "vmin": 0, "vmax": classes}
    figure, panels = _panels(count, sharex=True, sharey=True)
    for i, (axes, place) in enumerate(zip(panels, points, strict=True)):
        dots = axes.scatter(*place.T, c=labels, s=9, **colors)
        axes.scatter(
            *place[disputed].T,
            s=36,
            facecolors="none",
            edgecolors="black",
            linewidths=0.7,
            label="members choose differently",
        )
        axes.set_title(names[i] if names else str(i))
        axes.set_xticks([])
        axes.set_yticks([])
    _legend_below(figure, panels[0])
    bar = figure.colorbar(
        dots, ax=list(panels), label="class (label)", shrink=0.8
    )
    ticks = np.unique(np.linspace(0, classes - 1, min(classes, 10)).astype(int))
    bar.set_ticks(ticks + 0.5, labels=ticks)
    return figures.save(figure, path)


def _embed(probabilities, seed):
    manifold = import_optional("sklearn.manifold")
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    if len(probabilities) < 4:
        raise ValueError(
            "`members` must hold 4 predictions or more for t-SNE. "
            f"Received: {len(probabilities)} predictions"
        )
    logs = np.log(np.maximum(probabilities, _LEAST))
    # scikit-learn's own default, less where there are few.
    perplexity = min(30.0, (len(logs) - 1) / 3)
    layout = manifold.TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # Its threads wait for each other thousands of times, in a spin: on a busy
    # machine two take many times as long as one.
    with threadpool_limits(1):
        return layout.fit_transform(logs.astype("float32"))
