"""What is drawn is asked of the axes, not of the pixels."""

import numpy as np
import pytest
from sklearn import metrics as reference

from keras_freetickets import plots

GENERATOR = np.random.default_rng(0)
PROBABILITIES = GENERATOR.dirichlet([1, 1, 1], 60)
LABELS = GENERATOR.integers(3, size=60)
BOTH = {"a": PROBABILITIES, "b": PROBABILITIES[::-1]}


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def is_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_reliability_diagram(tmp_path):
    figure = plots.reliability_diagram(
        LABELS, BOTH, path=tmp_path / "r.png", num_bins=5
    )
    assert is_picture(tmp_path / "r.png")
    first, second = panels(figure)
    assert first.get_title().startswith("a\ncalibration error (ECE) 0.")
    confidence = PROBABILITIES.max(axis=1)
    hit = PROBABILITIES.argmax(axis=1) == LABELS
    last = hit[confidence > 0.8].mean()
    assert first.patches[-1].get_height() == pytest.approx(last)
    assert second.get_title().startswith("b\n")


def test_a_diagram_of_no_examples(tmp_path):
    nothing = {"a": BOTH["a"], "empty": np.zeros((0, 3))}
    labels = {"a": LABELS, "empty": np.zeros(0, int)}
    with pytest.raises(ValueError, match=r"`y_pred` .* none for 'empty'"):
        plots.reliability_diagram(labels, nothing, path=tmp_path / "r.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "draw", [plots.reliability_diagram, plots.risk_coverage_curves]
)
def test_labels_that_models_share(draw):
    """Arrays, a dict of them and a dict of labels too; without a file."""

    def drawn(*args):
        axes = draw(*args).axes
        lines = [line.get_xydata() for one in axes for line in one.get_lines()]
        bars = [bar.get_height() for one in axes for bar in one.patches]
        return np.concatenate([np.ravel(lines), bars])

    one = drawn(LABELS, PROBABILITIES)
    np.testing.assert_array_equal(one, drawn(LABELS, {"a": BOTH["a"]}))
    labels = {"b": LABELS, "a": LABELS}
    np.testing.assert_array_equal(drawn(labels, BOTH), drawn(LABELS, BOTH))
    with pytest.raises(ValueError, match="written to `path=`"):
        draw(LABELS, "r.png")
    with pytest.raises(ValueError, match="`y_true` must have the names"):
        draw({"a": LABELS}, BOTH)


@pytest.mark.parametrize(
    "draw", [plots.reliability_diagram, plots.risk_coverage_curves]
)
def test_labels_given_second(draw):
    for predictions in (PROBABILITIES, BOTH):
        with pytest.raises(ValueError, match=r"order .* \(y_true, y_pred\)"):
            draw(predictions, LABELS)
    with pytest.raises(ValueError, match=r"order .* \(y_true, y_pred\)"):
        plots.predictions_in_plane(np.stack([PROBABILITIES] * 2), LABELS)


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda x: plots.score_histograms(x), "scores"),
        (lambda x: plots.score_histograms({"net": x}), "scores"),
        (lambda x: plots.roc_curves(x), "scores"),
        (lambda x: plots.roc_curves({"set": x}), "scores"),
        (lambda x: plots.severity_curves(x), "values"),
        (lambda x: plots.matrices(x), "values"),
    ],
)
def test_what_is_not_a_dict(draw, name):
    for wrong, found in (({}, "{}"), (np.ones((2, 2)), "ndarray")):
        match = f"`{name}` must be a dict .* Received: {name}={found}"
        with pytest.raises(ValueError, match=match):
            draw(wrong)


@pytest.mark.parametrize(
    "draw", [plots.reliability_diagram, plots.risk_coverage_curves]
)
def test_predictions_of_no_model(draw):
    with pytest.raises(ValueError, match="`y_pred` must be a dict of one"):
        draw(LABELS, {})


def test_risk_coverage_curves(tmp_path):
    figure = plots.risk_coverage_curves(LABELS, BOTH, path=tmp_path / "c.png")
    line = figure.axes[0].get_lines()[0]
    risk = np.mean(PROBABILITIES.argmax(axis=1) != LABELS)
    np.testing.assert_allclose(line.get_xydata()[-1], [1, risk])
    assert line.get_label().startswith("a: area (AURC) 0.")


def test_score_histograms(tmp_path):
    scores = {"net": {"known": [0.9, 0.8, 0.1, 0.75], "noise": [0.1, 0.2]}}
    scores["net"] = {k: np.array(v) for k, v in scores["net"].items()}
    figure = plots.score_histograms(scores, tmp_path / "h.png", num_bins=4)
    (axes,) = panels(figure)
    # Bins of 0.2 from 0.1 on: one known image in the first, three on top.
    filled = axes.patches[0].get_xy()
    assert filled[:, 1].max() == pytest.approx(0.75)
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "known",
        "noise",
    ]


def test_roc_curves(tmp_path):
    known, unknown = GENERATOR.normal(1, 1, 50), GENERATOR.normal(size=40)
    figure = plots.roc_curves(
        {"set": {"net": (known, unknown)}}, tmp_path / "o.png"
    )
    (axes,) = panels(figure)
    line = axes.get_lines()[0]
    kinds = np.repeat([1, 0], [50, 40])
    area = reference.roc_auc_score(kinds, np.concatenate([known, unknown]))
    assert line.get_label() == f"net: area (AUROC) {area:.4f}"
    assert np.trapezoid(*line.get_xydata().T[::-1]) == pytest.approx(area)


def test_severity_curves(tmp_path):
    values = np.array([[[1.0, 0.8, 0.6], [1.0, 0.6, 0.0]]])
    figure = plots.severity_curves({"net": values}, tmp_path / "s.png")
    line = figure.axes[0].get_lines()[0]
    expected = [[0, 1.0], [1, 0.7], [2, 0.3]]
    np.testing.assert_allclose(line.get_xydata(), expected)


def test_one_column_and_labels_to_ignore():
    """A column [p] is drawn as [1 - p, p], and -1 is not drawn."""
    p = np.random.default_rng(0).uniform(size=(20, 1))
    labels = np.where(np.arange(20) < 4, -1, np.arange(20) % 2)
    both = np.concatenate([1 - p, p], axis=1)
    for draw in (plots.reliability_diagram, plots.risk_coverage_curves):
        one = draw(labels, p, ignore_class=-1).axes[0]
        two = draw(labels[4:], both[4:]).axes[0]
        for mine, other in zip(one.lines, two.lines, strict=True):
            np.testing.assert_allclose(mine.get_xydata(), other.get_xydata())
    members = np.stack([p, p[::-1]])
    figure = plots.predictions_in_plane(labels, members, ignore_class=-1)
    disputed = np.sum((p > 0.5) != (p[::-1] > 0.5), axis=1)[4:].sum()
    for axes in panels(figure):
        dots, rings = axes.collections
        assert len(dots.get_offsets()) == 16
        assert len(rings.get_offsets()) == disputed
