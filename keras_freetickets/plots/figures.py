"""Figures of matplotlib, which is imported when one is drawn."""

from keras_freetickets.files import atomic_path


def new(**kwargs):
    """A figure that needs no screen."""
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


def save(figure, path):
    """Writes a picture, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def colors(count):
    """A map of so many colours, one a class."""
    import matplotlib

    name = "tab10" if count <= 10 else "turbo"
    return matplotlib.colormaps[name].resampled(count)
