"""Plots of scores against their cost."""

from typing import Any

import numpy as np

from keras_freetickets.plots import figures
from keras_freetickets.types import PathLike


def scores_against_cost(
    scores: dict[str, dict[str, tuple[float, float]]],
    costs: dict[str, float],
    better: dict[str, str],
    path: PathLike | None = None,
    label: str = "cost",
) -> Any:
    """Draws scores against a cost, one panel per score, with Pareto fronts.

    A line joins the methods that no other method beats in both score and cost
    (the Pareto front). Error bars are standard deviations; a deviation of 0
    has no bar.

    Args:
        scores: Dict from a method's name to a dict from a score's name to
            `(mean, standard deviation)`.
        costs: Dict from a method's name to its cost, a positive float, drawn
            on a logarithmic axis with base 2.
        better: Dict from a score's name to `"max"` or `"min"`.
        path: File to write, for example `"picture.png"`. `None` for no file.
        label: Label of the cost axis.

    Returns:
        The matplotlib `Figure`, which a notebook shows.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `better` is not a dict of `"max"` and `"min"`.

    Example:

    ```python
    scores = {"dense": {"accuracy": (0.9, 0.01)}}
    scores_against_cost(scores, {"dense": 1.0}, {"accuracy": "max"})
    ```
    """
    _check_directions(better)
    figure = figures.new(figsize=(5.2 * len(better), 4.6))
    panels = figure.subplots(1, len(better), squeeze=False)[0]
    for axes, (name, direction) in zip(panels, better.items(), strict=True):
        values = {method: one[name] for method, one in scores.items()}
        _points(axes, values, costs)
        means = {method: mean for method, (mean, _) in values.items()}
        front = pareto_front(means, costs, direction)
        axes.plot(
            [costs[m] for m in front],
            [means[m] for m in front],
            color="grey",
            linewidth=1,
            zorder=0,
            label="front: no other is both better and cheaper",
        )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.18, y=0.12)
        _name_points(axes, means, costs)
        axes.set_xlabel(label)
        axes.set_ylabel(f"{name} ({_WORDS[direction]})")
        axes.grid(alpha=0.3)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize=8,
    )
    return figures.save(figure, path)


_WORDS = {"max": "higher is better", "min": "lower is better"}


def _check_directions(better):
    listed = isinstance(better, dict) and better
    if not listed or not set(better.values()) <= set(_WORDS):
        raise ValueError(
            "`better` must be a dict from the name of a score to "
            f'"max" or "min". Received: better={better!r}'
        )


def _points(axes, values, costs):
    """Draws a dot with an error bar for each method."""
    for method, (mean, deviation) in values.items():
        first = method == next(iter(values))
        axes.errorbar(
            costs[method],
            mean,
            deviation or None,
            fmt="o",
            capsize=2,
            label="mean ± standard deviation" if first else None,
        )


# Possible places of a name: offset from its dot in points, and alignment.
_PLACES = [(6, 4, "left"), (6, -12, "left"), (-6, 4, "right")]
_PLACES += [(-6, -12, "right"), (6, 14, "left"), (-6, 14, "right")]


def _name_points(axes, means, costs):
    """Writes each method's name where it overlaps no other name or dot.

    If there is such a place within the axes, it is there.
    """
    axes.get_xlim(), axes.get_ylim()  # scales the axes if necessary
    points = 72 / axes.figure.dpi
    dots = {
        method: points * axes.transData.transform((costs[method], mean))
        for method, mean in means.items()
    }
    edges = [points * axes.bbox.x0, points * axes.bbox.x1]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots.values()]
    for method, (x, y) in dots.items():
        boxes = {place: _text_box(method, x, y, place) for place in _PLACES}
        free = [
            place
            for place, box in boxes.items()
            if not any(_overlap(box, other) for other in taken)
        ]
        inside = [
            place
            for place in free
            if edges[0] < boxes[place][0] and boxes[place][2] < edges[1]
        ]
        dx, dy, side = place = (inside or free or _PLACES)[0]
        taken.append(boxes[place])
        axes.annotate(
            method,
            (costs[method], means[method]),
            xytext=(dx, dy),
            textcoords="offset points",
            ha=side,
            fontsize=8,
        )


def _text_box(text, x, y, place):
    """Approximate left, lower, right and upper edge of a text of size 8."""
    dx, dy, side = place
    width = 4.6 * len(text)
    left = x + dx - (width if side == "right" else 0)
    return left, y + dy, left + width, y + dy + 9


def _overlap(one, other):
    return (
        one[0] < other[2]
        and other[0] < one[2]
        and one[1] < other[3]
        and other[1] < one[3]
    )


def pareto_front(
    values: dict[str, float], costs: dict[str, float], direction: str
) -> list[str]:
    """The methods that no other method beats in both value and cost.

    Args:
        values: Dict from a method's name to a float.
        costs: Dict from a method's name to a float; lower is better.
        direction: `"max"` if higher values are better, or `"min"`.

    Returns:
        List of names, the cheapest first.

    Example:

    >>> pareto_front({"a": 1, "b": 2, "c": 2}, {"a": 1, "b": 2, "c": 3}, "max")
    ['a', 'b']
    """
    sign = 1.0 if direction == "max" else -1.0
    order = sorted(values, key=lambda m: (costs[m], -sign * values[m]))
    front, best = [], -np.inf
    for method in order:
        if sign * values[method] > best:
            front.append(method)
            best = sign * values[method]
    return front
