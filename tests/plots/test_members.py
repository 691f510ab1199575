"""What is drawn is asked of the axes, not of the pixels."""

import numpy as np
import pytest

from keras_freetickets import plots


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def test_matrices_leave_the_diagonal_blank(tmp_path):
    matrix = [[0.0, 0.25], [0.5, 0.0]]
    figure = plots.matrices({"share": matrix}, tmp_path / "m.png", ["x", "y"])
    (axes,) = panels(figure)
    assert {text.get_text() for text in axes.texts} == {"0.250", "0.500"}
    shown = axes.images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), np.eye(2))


@pytest.mark.parametrize("classes", [3, 12])
def test_predictions_in_plane(tmp_path, classes):
    members = np.random.default_rng(1).dirichlet(np.ones(classes), (2, 20))
    labels = np.arange(20) % classes
    figure = plots.predictions_in_plane(labels, members, tmp_path / "t.png")
    chosen = members.argmax(axis=-1)
    for axes in panels(figure):
        dots, rings = axes.collections
        assert len(dots.get_offsets()) == 20
        assert len(rings.get_offsets()) == np.sum(chosen[0] != chosen[1])
        colors = dots.to_rgba(dots.get_array())
        assert len(np.unique(colors, axis=0)) == classes


def test_too_few_predictions_for_a_plane(tmp_path):
    with pytest.raises(ValueError, match="`members` must hold 4 predictions"):
        plots.predictions_in_plane([0], np.ones((3, 1, 2)) / 2, tmp_path / "t")


def test_missing_scikit_learn_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    labels = np.arange(60) % 3
    with pytest.raises(ImportError, match="pip install 'scikit-learn'"):
        plots.predictions_in_plane(labels, np.ones((3, 60, 3)) / 3, tmp_path)
