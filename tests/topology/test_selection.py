import keras
import numpy as np
import pytest
from backends import examples
from backends import in_graph
from backends import one_by_one
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

from keras_freetickets.topology import random_bits
from keras_freetickets.topology import select
from keras_freetickets.topology import selection
from keras_freetickets.topology.randomness import random_keys


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@given(
    scores=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=5, min_side=1, max_side=5),
        elements=st.floats(width=32),
    ),
    data=st.data(),
)
@settings(max_examples=examples(60), deadline=None)
def test_selects_the_k_best(scores, data):
    k = data.draw(st.integers(0, scores.size))
    mask = to_numpy(select(scores, k))
    assert mask.sum() == k
    # NumPy's sort as the oracle; NaN and infinity lose against all.
    ranked = np.where(np.isfinite(scores), scores, -np.inf).ravel()
    best = np.sort(ranked)[::-1][:k]
    np.testing.assert_array_equal(np.sort(ranked[mask.ravel()])[::-1], best)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("k", [0, 1, 500, 2000, 4999, 5000])
def test_same_in_a_graph(jit_compile, k):
    scores = np.random.default_rng(0).normal(size=5000).astype("float32")
    scores[:900] = 0.25
    function = in_graph(select, jit_compile)
    k = keras.ops.cast(k, "int32")
    mask = to_numpy(function(keras.ops.convert_to_tensor(scores), k))
    np.testing.assert_array_equal(mask, to_numpy(select(scores, k)))
    assert mask.sum() == int(k)


def test_negative_zero_equals_zero():
    scores = np.array([0.0, -0.0] * 50, "float32")
    mask = to_numpy(select(scores, 50))
    # Ties are broken by the hash and not by sign or position.
    assert 0 < mask[0::2].sum() < 50
    assert 0 < mask[:50].sum() < 50


def test_ties_follow_the_seed():
    scores = np.ones(1000, "float32")
    masks = [
        to_numpy(select(scores, 300, ties=random_bits((1000,), seed)))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_groups():
    scores = np.array([[4, 3, 2, 1], [1, 2, 3, 4]], "float32")
    mask = to_numpy(select(scores, 2, groups=2))
    np.testing.assert_array_equal(
        mask, [[True, True, False, False], [False, False, True, True]]
    )
    with pytest.raises(ValueError, match="`groups` must divide"):
        select(scores, 1, groups=3)


def test_several_arrays_are_ranked_together():
    first = np.array([5.0, 1.0], "float32")
    second = np.array([[4.0], [3.0], [0.0]], "float32")
    masks = select([first, second], 3)
    np.testing.assert_array_equal(to_numpy(masks[0]), [True, False])
    np.testing.assert_array_equal(to_numpy(masks[1]), [[True], [True], [False]])


def test_ineligible_entries_lose_against_nan():
    scores = np.array([9.0, np.nan, 1.0], "float32")
    mask = select(scores, 2, eligible=np.array([False, True, True]))
    np.testing.assert_array_equal(to_numpy(mask), [False, True, True])


def test_empty():
    assert to_numpy(select(np.zeros((0, 3), "float32"), 0)).shape == (0, 3)


def oracle(keys, count, ties):
    """Mask of the `count` largest by key, then tie, of one row, by sorting."""
    mask = np.zeros(keys.shape, bool)
    mask[np.lexsort((ties, keys))[len(keys) - count :]] = True
    return mask


def assert_selects(arrays, run=selection.select_rows):
    """Compares `select_rows` of `(keys, counts, ties)` with the oracle."""
    columns = [
        list(map(keras.ops.convert_to_tensor, c))
        for c in zip(*arrays, strict=True)
    ]
    for (keys, counts, ties), mask in zip(arrays, run(*columns), strict=True):
        wanted = list(map(oracle, keys, counts, ties))
        np.testing.assert_array_equal(to_numpy(mask), wanted)


def tie_bits(rng, rows, size):
    bits = rng.integers(0, 2**32, 2 * size + 8, dtype=np.uint32)
    bits = np.unique(bits)
    return np.stack([rng.permutation(bits)[:size] for _ in range(rows)])


def keys_of(scores):
    return to_numpy(selection.sort_keys(scores))


# Few distinct keys and many, with both ends of the range.
KEYS = st.one_of(
    st.integers(-(2**31), 2**31 - 1),
    st.sampled_from([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 2, 2**31 - 1]),
)


# Rows and entries in a row; each combination costs a compilation.
ROWS = [
    [(1, 1)],
    [(1, 70)],
    [(70, 3)],
    [(4, 32), (1, 33)],
    [(2, 31), (2, 31)],
    [(1, 2), (5, 64), (3, 1)],
    [(9, 9), (1, 65), (2, 17)],
]


@given(data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_rows_of_several_arrays_against_sorting(data):
    arrays = []
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    for shape in data.draw(st.sampled_from(ROWS)):
        keys = data.draw(hnp.arrays(np.int32, shape, elements=KEYS))
        counts = st.integers(0, shape[1])
        counts = data.draw(hnp.arrays(np.int32, shape[:1], elements=counts))
        arrays.append((keys, counts, tie_bits(rng, *shape)))
    assert_selects(arrays)


def spread(rng, size):
    """Scores that mislead a sample or an interpolation, by name."""
    normal = rng.normal(size=size)
    return {
        "normal": normal,
        "sorted": np.sort(normal),
        "all equal": np.full(size, 0.5),
        "one outlier": np.where(np.arange(size) == size // 3, 1e30, 1.0),
        "an outlier at each end": np.r_[-3e38, normal[2:] * 1e-30, 3e38],
        "two values": np.where(normal > 0, 1.0, -2.0),
        "half zeros": np.maximum(normal, 0),
        "signed zeros": np.where(normal > 0, 0.0, -0.0),
        "geometric": np.sign(normal) * 2.0 ** rng.uniform(-140, 120, size),
        "denormal": normal * 1e-42,
        "few bits": normal.astype("float16"),
        "hundredths": np.round(normal, 2),
        "not finite": np.where(normal > 0.5, [[np.nan], [np.inf]], normal)[
            np.arange(size) % 2, np.arange(size)
        ],
        "all NaN": np.full(size, np.nan),
        "periodic": np.tile(rng.normal(size=8) ** 5, size)[:size],
    }


SPREADS = sorted(spread(np.random.default_rng(0), 8))


@pytest.mark.parametrize("name", SPREADS)
def test_misleading_scores(name, monkeypatch):
    rng = np.random.default_rng(1)
    scores = spread(rng, 40_000)[name].astype("float32")
    keys = keys_of(scores)[None]
    ties = tie_bits(rng, *keys.shape)
    passes = []

    def count(thresholds, values):
        passes.append(values.shape)
        return original(thresholds, values)

    original = selection._count
    monkeypatch.setattr(selection, "_count", count)
    for wanted in (0, 1, 2, 399, 20_000, 36_001, 39_999, 40_000):
        passes.clear()
        with one_by_one():
            assert_selects([(keys, np.array([wanted], "int32"), ties)])
        # At most one for each bit of a key, then of the random bits.
        assert passes.count(keys.shape) <= 33 + 33
    if name in ("normal", "sorted", "all equal", "two values", "half zeros"):
        assert passes.count(keys.shape) <= 20


@pytest.fixture
def compiled_apart(monkeypatch):
    """Selections in graphs are compiled by themselves, however small."""
    monkeypatch.setattr(selection, "_LEAST_COMPILED", 0)


@pytest.mark.usefixtures("compiled_apart")
@pytest.mark.parametrize("mode", ["plain graph", "graph", "XLA"])
def test_arrays_of_very_different_sizes(mode):
    rng = np.random.default_rng(2)
    arrays = []
    for rows, size in [(1, 1), (3, 31), (1, 32), (2, 33), (1, 100_003), (7, 5)]:
        for scores in spread(rng, max(rows * size, 8)).values():
            scores = scores[: rows * size].astype("float32")
            keys = keys_of(scores).reshape(rows, size)
            counts = rng.integers(0, size + 1, rows, dtype=np.int32)
            arrays.append((keys, counts, tie_bits(rng, rows, size)))
    function = selection.select_rows
    if mode == "plain graph":
        function = function.__wrapped__
    run = in_graph(function, jit_compile=mode == "XLA")
    # The same programs for all spreads: one array of each size at a time.
    spreads = len(SPREADS)
    for i in range(spreads):
        assert_selects(arrays[i::spreads], run)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="about TensorFlow's graphs"
)
@pytest.mark.parametrize("size, compiled", [(1000, False), (200_000, True)])
def test_large_selections_are_compiled_apart(size, compiled):
    """Keys and the ranks of equal ones count."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        keys, ranks = (tf.zeros((1, size), k) for k in ("int32", "uint32"))
        selection.select_rows([keys], [tf.ones((1,), "int32")], [ranks])
    functions = graph.as_graph_def().library.function
    found = [f for f in functions if f.attr["_XlaMustCompile"].b]
    assert bool(found) == compiled


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="about TensorFlow's graphs"
)
def test_small_selections_are_traced_once_for_a_shape():
    """Each graph that selects so calls the same function."""
    import tensorflow as tf

    def in_a_new_graph(size):
        @tf.function
        def run(keys, ranks):
            return selection.select_rows([keys], [tf.ones(2, "int32")], [ranks])

        shape = (2, size)
        specs = [tf.TensorSpec(shape, kind) for kind in ("int32", "uint32")]
        graph = run.get_concrete_function(*specs).graph.as_graph_def()
        return {
            node.attr["f"].func.name
            for node in graph.node
            if "PartitionedCall" in node.op
        }

    first, again, other = map(in_a_new_graph, (1013, 1013, 1019))
    assert len(first) == 1 and again == first and not other & first


def test_keys_rise_with_scores():
    tiny = np.float32(1e-45)
    rising = [-np.inf, -3e38, -1, -1e-40, -tiny, -0.0, tiny, 1e-40, 1, 3e38]
    keys = keys_of(np.array(rising, "float32"))
    assert (np.diff(keys) > 0).all()
    zero, negative, nan, inf, ninf = keys_of(
        np.array([0.0, -0.0, np.nan, np.inf, -np.inf], "float32")
    )
    assert zero == negative
    assert nan == inf == ninf == keys[0]


def test_nothing_to_rank_takes_no_pass_over_the_random_bits(monkeypatch):
    counted = []
    original = selection._count

    def count(thresholds, values):
        counted.extend(np.unique(to_numpy(values)))
        return original(thresholds, values)

    monkeypatch.setattr(selection, "_count", count)
    scores = np.r_[np.zeros(500), np.ones(500)].astype("float32")
    with one_by_one():
        assert to_numpy(select(scores, 500))[500:].all()
        assert set(counted) == set(keys_of(scores))
        select(scores, 499)
        assert len(set(counted)) > 500


@pytest.mark.usefixtures("compiled_apart")
@pytest.mark.parametrize("mode", ["one by one", "graph", "XLA"])
def test_ties_may_be_given_as_the_key_of_their_bits(mode):
    keys = [np.repeat([[3, 7]], 50, axis=1), np.full((1, 333), -4)]
    keys = [np.asarray(k, "int32") for k in keys]
    counts = [np.array([60], "int32"), np.array([100], "int32")]
    numbers = random_keys(5, 6, [0, 4])
    # The same bits, entry by entry.
    ties = [random_bits(k.shape, 5, 6, 4 * i) for i, k in enumerate(keys)]
    wanted = [
        oracle(k[0], n[0], to_numpy(tie)[0])
        for k, n, tie in zip(keys, counts, ties, strict=True)
    ]
    run = selection.select_rows
    if mode != "one by one":
        run = in_graph(run, jit_compile=mode == "XLA")
    columns = [list(map(ops.convert_to_tensor, c)) for c in (keys, counts)]
    masks = run(*columns, [numbers[0], numbers[1]])
    for mask, expected in zip(masks, wanted, strict=True):
        np.testing.assert_array_equal(to_numpy(mask)[0], expected)


@pytest.mark.usefixtures("compiled_apart")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_groups_in_a_graph(jit_compile):
    rng = np.random.default_rng(3)
    scores = np.round(rng.normal(size=(64, 50)), 1).astype("float32")
    function = in_graph(lambda s, k: select(s, k, groups=64), jit_compile)
    k = keras.ops.cast(20, "int32")
    mask = to_numpy(function(keras.ops.convert_to_tensor(scores), k))
    np.testing.assert_array_equal(mask, to_numpy(select(scores, 20, groups=64)))
    assert (mask.sum(axis=1) == 20).all()
    for row, chosen in zip(scores, mask, strict=True):
        assert row[chosen].min() >= row[~chosen].max()


@pytest.mark.parametrize("k", [-1, 4, 1.5, "x", None, np.array([1, 4])])
def test_counts_that_cannot_be_met(k):
    groups = 2 if isinstance(k, np.ndarray) else None
    scores = ops.ones(6 if groups else 3)
    with pytest.raises(ValueError, match="`k` must be an integer in"):
        select(scores, k, groups=groups)


def test_more_than_are_eligible():
    scores = ops.arange(6, dtype="float32")
    eligible = ops.array([True, True, False, True, False, False])
    chosen = select(scores, 3, eligible=eligible)
    np.testing.assert_array_equal(chosen, eligible)
    with pytest.raises(ValueError, match=r"smallest group has 3 .*k=4"):
        select(scores, 4, eligible=eligible)
    with pytest.raises(ValueError, match=r"smallest group has 1 .*k=2"):
        select(scores, 2, groups=2, eligible=eligible)


@pytest.mark.parametrize(
    "scores, arguments, message",
    [
        ([], {}, "`scores` must be"),
        ([0.5, 1.0], {}, "`scores` must be"),
        (ops.ones(4), {"groups": 3}, "`groups` must divide"),
        (ops.ones(4), {"groups": "x"}, "`groups` must divide"),
        (
            ops.ones(4),
            {"eligible": ops.ones(3, "bool")},
            "`eligible` must have",
        ),
        (ops.ones(4), {"ties": ops.ones((2, 2))}, "`ties` must have"),
    ],
)
def test_bad_arguments(scores, arguments, message):
    with pytest.raises(ValueError, match=message):
        select(scores, 1, **arguments)


@pytest.mark.parametrize("groups", [1, 5])
def test_sorting_as_on_pytorch_selects_the_same(groups):
    rng = np.random.default_rng(3)
    scores = np.round(rng.normal(size=(10, 6)), 1).astype("float32")
    scores[0, :3] = [np.nan, np.inf, -np.inf]
    scores[1, :2] = [0.0, -0.0]
    eligible = rng.random((10, 6)) < 0.8
    ties = random_bits((10, 6), seed=4)
    for k in (0, 1, 4, 7):
        x, some = (ops.convert_to_tensor(a) for a in (scores, eligible))
        expected = select(x, k, groups, some, ties)
        got = selection._select_by_sorting(x, k, groups, some, ties)
        np.testing.assert_array_equal(got, ops.convert_to_numpy(expected))


def test_sorting_without_ties_takes_the_first_of_equal_scores():
    scores = ops.convert_to_tensor(np.array([1.0, 2.0, 2.0, 2.0], "float32"))
    got = selection._select_by_sorting(scores, 2, 1, None, None)
    np.testing.assert_array_equal(got, [False, True, True, False])
