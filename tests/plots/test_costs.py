import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_freetickets import plots
from keras_freetickets.plots.costs import pareto_front

POINTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    min_size=1,
)


@given(POINTS, st.sampled_from(["max", "min"]))
def test_what_none_beats(points, direction):
    values = {name: value for name, (value, _) in points.items()}
    costs = {name: cost for name, (_, cost) in points.items()}
    sign = 1 if direction == "max" else -1
    wanted = {
        (values[m], costs[m])
        for m in points
        if not any(
            sign * values[o] >= sign * values[m]
            and costs[o] <= costs[m]
            and (values[o], costs[o]) != (values[m], costs[m])
            for o in points
        )
    }
    front = pareto_front(values, costs, direction)
    assert {(values[m], costs[m]) for m in front} == wanted
    assert len(front) == len(wanted)
    assert [costs[m] for m in front] == sorted(costs[m] for m in front)


SCORES = {"a": {"NLL": (0.5, 0.1)}, "b": {"NLL": (0.4, 0.0)}}
COSTS = {"a": 1.0, "b": 2.0}


def test_a_picture(tmp_path):
    path = tmp_path / "costs.png"
    figure = plots.scores_against_cost(SCORES, COSTS, {"NLL": "min"}, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["a", "b"]
    (front,) = [line for line in axes.get_lines() if line.get_zorder() == 0]
    np.testing.assert_array_equal(front.get_xydata(), [[1, 0.5], [2, 0.4]])
    # A bar for the one that has a deviation.
    bars = [box.has_yerr for box in axes.containers]
    assert bars == [True, False]
    assert axes.get_ylabel() == "NLL (lower is better)"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(legend) == [
        "front: no other is both better and cheaper",
        "mean ± standard deviation",
    ]


@pytest.mark.parametrize("better", [{"NLL": "low"}, "min", {}, None])
def test_bad_directions(better, tmp_path):
    with pytest.raises(ValueError, match="`better` must be a dict"):
        plots.scores_against_cost(SCORES, COSTS, better, tmp_path / "c.png")
    assert not list(tmp_path.iterdir())


def test_names_of_methods_that_are_alike_stay_apart():
    scores = {name: {"NLL": (0.5, 0.0)} for name in ("first", "second", "far")}
    costs = {"first": 1.0, "second": 1.02, "far": 8.0}
    figure = plots.scores_against_cost(scores, costs, {"NLL": "min"})
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 3
    assert not any(
        one.overlaps(other)
        for i, one in enumerate(boxes)
        for other in boxes[:i]
    )


def test_a_long_name_at_the_edge_is_within_the_axes():
    scores = {name: {"NLL": (0.5, 0.0)} for name in ("a", "x" * 40)}
    costs = {"a": 1.0, "x" * 40: 8.0}
    figure = plots.scores_against_cost(scores, costs, {"NLL": "min"})
    figure.canvas.draw()
    (axes,) = figure.axes
    edge = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert edge.x0 < box.x0 and box.x1 < edge.x1
