"""Figures of matplotlib, which is imported when a figure is drawn."""

import functools
import io
from typing import Any

from keras_freetickets.files import atomic_path
from keras_freetickets.optional import import_optional
from keras_freetickets.types import PathLike

# Dots per inch, in files and notebooks: twice the usual 100, for sharp screens.
_DPI = 200


@functools.cache
def _shown_in_notebooks(figure_class: type) -> type:
    class Picture(figure_class):
        """A figure that notebooks show, even if pyplot is not imported."""

        def _repr_png_(self):
            data = io.BytesIO()
            self.savefig(data, format="png", dpi=_DPI)
            width, height = (int(100 * size) for size in self.get_size_inches())
            return data.getvalue(), {"width": width, "height": height}

    return Picture


def new(**kwargs: Any) -> Any:
    """Makes a figure that does not need a display."""
    agg = import_optional("matplotlib.backends.backend_agg")
    pictures = import_optional("matplotlib.figure")
    picture_class = _shown_in_notebooks(pictures.Figure)
    figure = picture_class(layout="constrained", **kwargs)
    agg.FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: PathLike | None) -> Any:
    """Writes a figure atomically if `path` is not `None`; returns it."""
    if path is not None:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=_DPI)
    return figure


def colors(count: int) -> Any:
    """A color map with one color for each class."""
    import matplotlib

    name = "tab10" if count <= 10 else "turbo"
    return matplotlib.colormaps[name].resampled(count)
