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


def test_a_picture(tmp_path):
    scores = {"a": {"NLL": (0.5, 0.1)}, "b": {"NLL": (0.4, 0.0)}}
    costs = {"a": 1.0, "b": 2.0}
    path = tmp_path / "costs.png"
    plots.scores_against_cost(scores, costs, path, better={"NLL": "min"})
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match="`better` must be"):
        plots.scores_against_cost(scores, costs, path, better={"NLL": "low"})
