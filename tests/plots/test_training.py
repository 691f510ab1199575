import struct
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_freetickets import plots
from keras_freetickets.callbacks.freetickets import Phase
from keras_freetickets.inspection.summary import SummaryRow


def is_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_learning_curve(tmp_path):
    phases = [Phase("exploration", 0, 0, 2), Phase("refinement_1", 1, 2, 4)]
    history = {"accuracy": [0.1, 0.5, 0.6, 0.7], "val_accuracy": [0.1] * 4}
    figure = plots.learning_curve(history, phases, tmp_path / "curve.png")
    assert is_picture(tmp_path / "curve.png")
    (axes,) = figure.axes  # no loss in the history, no panel for it
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert set(lines) == {"training", "validation"}
    expected = [[1, 0.1], [2, 0.5], [3, 0.6], [4, 0.7]]
    np.testing.assert_allclose(lines["training"], expected)
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["exploration", "refinement 1"]


def test_curve_of_what_fit_returns():
    history = keras.callbacks.History()
    history.history = {"loss": [2.0, 1.0], "mae": [1.0, 0.5]}
    figure = plots.learning_curve(history, reference={"val_loss": [3.0]})
    (axes,) = figure.axes
    assert len(axes.get_lines()) == 2 and axes.get_yscale() == "log"
    (axes,) = plots.learning_curve(history, metrics=["mae"]).axes
    assert axes.get_ylabel() == "mae"
    with pytest.raises(ValueError, match=r"`metrics` .* \['loss', 'mae'\]"):
        plots.learning_curve(history, metrics=["mae", "auc"])
    with pytest.raises(ValueError, match="`metrics` must name at least one"):
        plots.learning_curve({"mae": [1.0]})
    with pytest.raises(
        ValueError, match=r"`history` must be a dict .* ndarray"
    ):
        plots.learning_curve(np.ones(3))


def test_density_per_layer(tmp_path):
    row = SummaryRow("dense", "kernel", (4, 5), 5, 20, 0.75, 10.0, 40.0, "")
    figure = plots.density_per_layer([row], tmp_path / "d.png")
    assert is_picture(tmp_path / "d.png")
    assert figure.axes[0].patches[0].get_width() == 0.25
    with pytest.raises(ValueError, match="`rows` must be the result of"):
        plots.density_per_layer([])


def test_a_figure_shows_itself_in_a_notebook():
    """As PNG of twice the size it takes, also without pyplot."""
    data, size = plots.learning_curve({"loss": [1.0, 2.0]})._repr_png_()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert (size["width"], size["height"]) == (800, 400)
    assert (width, height) == (1600, 800)


def test_plots_need_matplotlib_only_to_draw(tmp_path):
    """`kft.plots` is there without it; drawing names the extra."""
    code = """
import sys
sys.modules["matplotlib"] = None
import keras_freetickets as kft
try:
    kft.plots.learning_curve({"loss": [1.0]})
except ImportError as error:
    assert "pip install 'matplotlib'" in str(error)
    print("named")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stdout == "named\n", done.stderr[-500:]


def test_missing_matplotlib_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install 'matplotlib'"):
        plots.learning_curve({"loss": [1.0]}, [], tmp_path / "curve.png")
