"""Pictures of how the members of an ensemble differ."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_freetickets.metrics import arrays
from keras_freetickets.metrics import validation
from keras_freetickets.optional import import_optional
from keras_freetickets.plots import figures
from keras_freetickets.plots.panels import check_panels
from keras_freetickets.plots.panels import legend_below
from keras_freetickets.plots.panels import new_panels
from keras_freetickets.types import PathLike
from keras_freetickets.types import Tensor

# Of a logarithm of probabilities, as Keras clips them.
_LEAST = 1e-7


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
    check_panels("values", values, contents)
    figure, panels = new_panels(len(values))
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
        arrays.check_order(y_true, members[0])
    validation.check_shape(members, members=True, name="members")
    members = validation.two_columns(members, False, backend=np)
    labels, counted = arrays.read_label_array(
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
    figure, panels = new_panels(count, sharex=True, sharey=True)
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
    legend_below(figure, panels[0])
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
