"""Pictures of what scores cost."""

import numpy as np

from keras_freetickets.plots import figures


def scores_against_cost(scores, costs, path, better, label="cost"):
    """Draws scores against a cost, a panel for each, with what none beats.

    The line joins the methods that no other one beats in both score and
    cost (the Pareto front). Bars are standard deviations.

    Args:
        scores: Dict from a method's name to a dict from a score's name to
            `(mean, standard deviation)`.
        costs: Dict from a method's name to its cost, a positive float; drawn
            to the base of two.
        path: The picture to write.
        better: Dict from a score's name to `"max"` or `"min"`.
        label: What the cost is.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a direction is neither `"max"` nor `"min"`.

    Example:

    ```python
    scores = {"dense": {"accuracy": (0.9, 0.01)}}
    better = {"accuracy": "max"}
    scores_against_cost(scores, {"dense": 1.0}, "costs.png", better)
    ```
    """
    for name, direction in better.items():
        if direction not in ("max", "min"):
            raise ValueError(
                '`better` must be "max" or "min" for each score. '
                f"Received: {direction!r} for {name!r}"
            )
    figure = figures.new(figsize=(5.2 * len(better), 4.2))
    panels = figure.subplots(1, len(better), squeeze=False)[0]
    for axes, (name, direction) in zip(panels, better.items()):
        means = {method: one[name][0] for method, one in scores.items()}
        for method, mean in means.items():
            axes.errorbar(
                costs[method], mean, scores[method][name][1], fmt="o", capsize=2
            )
            axes.annotate(
                method,
                (costs[method], mean),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=8,
            )
        front = pareto_front(means, costs, direction)
        axes.plot(
            [costs[m] for m in front],
            [means[m] for m in front],
            color="grey",
            linewidth=1,
            zorder=0,
        )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.18, y=0.12)
        axes.set_xlabel(label)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    figures.save(figure, path)


def pareto_front(values, costs, direction):
    """The methods that no other one beats in both value and cost.

    Args:
        values: Dict from a method's name to a float.
        costs: Dict from a method's name to a float; less is better.
        direction: `"max"` or `"min"`, which values are better.

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
