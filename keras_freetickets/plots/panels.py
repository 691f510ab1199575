"""Figures of several panels, and the dicts that fill them."""

from typing import Any

from keras_freetickets.plots import figures

_COLUMNS = 3
# Lines that lie on each other stay apart to the eye.
_DASHES = ("-", "--", "-.", ":")


def new_panels(
    count: int, columns: int = _COLUMNS, **kwargs: Any
) -> tuple[Any, Any]:
    """A figure of at most so many columns, and its axes, one a panel."""
    columns = max(1, min(count, columns))
    rows = max(1, -(-count // columns))
    figure = figures.new(figsize=(max(5, 4.2 * columns), 4.2 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def dashes_of(count: int) -> list[str]:
    """Styles for so many lines."""
    return [_DASHES[i % len(_DASHES)] for i in range(count)]


def legend_below(figure: Any, axes: Any) -> None:
    """The legend of one panel, which is that of all, below them."""
    handles, labels = axes.get_legend_handles_labels()
    # As many columns as there is room for: a letter takes .07 inches.
    longest = 0.5 + 0.07 * max(map(len, labels), default=1)
    columns = max(1, int(figure.get_size_inches()[0] / longest))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=8
    )


def check_panels(name: str, values: Any, contents: str) -> None:
    """Raises unless `values` is a dict with something to draw."""
    if not isinstance(values, dict) or not values:
        found = "{}" if isinstance(values, dict) else type(values).__name__
        raise ValueError(
            f"`{name}` must be a dict of one entry or more, from {contents}. "
            f"Received: {name}={found}"
        )


def check_nested(name: str, values: Any, contents: str) -> None:
    """As `check_panels`, also of the dicts within."""
    check_panels(name, values, contents)
    for inner in values.values():
        check_panels(name, inner, contents)
