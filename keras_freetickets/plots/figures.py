"""Figures of matplotlib, which is imported when one is drawn."""

from keras_freetickets.files import atomic_path
from keras_freetickets.optional import import_optional


def new(**kwargs):
    """A figure that needs no screen."""
    agg = import_optional("matplotlib.backends.backend_agg")
    pictures = import_optional("matplotlib.figure")
    figure = pictures.Figure(layout="constrained", **kwargs)
    agg.FigureCanvasAgg(figure)
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
