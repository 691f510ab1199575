import pytest

from keras_freetickets import plots
from keras_freetickets.callbacks.tickets import Phase
from keras_freetickets.models.summary import SummaryRow


def is_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_learning_curve(tmp_path):
    phases = [Phase("exploration", 0, 0, 2), Phase("refinement_1", 1, 2, 4)]
    history = {"accuracy": [0.1, 0.5, 0.6, 0.7], "val_accuracy": [0.1] * 4}
    plots.learning_curve(history, phases, tmp_path / "curve.png")
    assert is_picture(tmp_path / "curve.png")


def test_density_per_layer(tmp_path):
    row = SummaryRow("dense", "kernel", (4, 5), 5, 20, 0.75, 10.0, 40.0, "")
    plots.density_per_layer([row], tmp_path / "d.png")
    assert is_picture(tmp_path / "d.png")


def test_missing_matplotlib_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install 'matplotlib'"):
        plots.learning_curve({}, [], tmp_path / "curve.png")
