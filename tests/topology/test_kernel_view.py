import functools
import math
from fractions import Fraction

import numpy as np
import pytest
from backends import examples
from backends import in_graph
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_freetickets.topology import Method
from keras_freetickets.topology import distributions
from keras_freetickets.topology import schedules
from keras_freetickets.topology.kernel_view import fraction_of
from keras_freetickets.trainers import update as updates

MASK = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
KERNEL = np.array([0.9, -0.1, 0.05, -0.5, 0, 0, 0, 0], "float32")
GRADIENT = np.array([0.1, 0.2, 9, 0.1, 0.3, -4, 0, 1], "float32")


def update(method, kernel, mask, gradient, number=0, seed=0):
    fraction = method.drop_fraction_at(0)
    inputs = updates.KernelBatch(
        [ops.convert_to_tensor(kernel)],
        [ops.convert_to_tensor(mask)],
        [ops.convert_to_tensor(gradient)],
        [{}],
        fraction,
        ops.convert_to_tensor(0),
        ops.convert_to_tensor(number),
        ops.convert_to_tensor(seed),
    )
    masks, survivors, share, done = updates.new_masks(method, inputs)
    masks = np.asarray(masks[0]), np.asarray(survivors[0])
    return *masks, float(share), bool(done)


def test_worked_example():
    # Dropped: 1 and 2. Eligible: 1, 2, 4 to 7. Steepest: 2 and 5.
    mask, alive, share, done = update(Method(), KERNEL, MASK, GRADIENT)
    np.testing.assert_array_equal(mask, [1, 0, 1, 1, 0, 1, 0, 0])
    # Weight 2 was dropped and grown again: it keeps its value and slots.
    np.testing.assert_array_equal(alive, [1, 0, 1, 1, 0, 0, 0, 0])
    assert (share, done) == (0.25, True)


def test_worked_example_with_reset_values():
    method = Method(regrown="reset")
    mask, alive, _, _ = update(method, KERNEL, MASK, GRADIENT)
    np.testing.assert_array_equal(mask, [1, 0, 1, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(alive, [1, 0, 0, 1, 0, 0, 0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    gradient = GRADIENT.copy()
    gradient[6] = bad
    mask, alive, _share, done = update(Method(), KERNEL, MASK, gradient)
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_array_equal(alive, MASK)
    assert not done


@given(
    size=st.integers(1, 200),
    active=st.integers(1, 200),
    parts=st.integers(0, 10_000),
    growth=st.sampled_from(["gradient", "random"]),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=examples(60), deadline=None)
def test_counts_are_exact_and_the_rest_is_zero(
    size, active, parts, growth, seed
):
    active = min(active, size)
    generator = np.random.default_rng(seed)
    mask = np.zeros(size, bool)
    mask[generator.permutation(size)[:active]] = True
    kernel = np.where(mask, generator.normal(size=size), 0).astype("float32")
    gradient = generator.normal(size=size).astype("float32")
    method = Method(drop_fraction=parts / 10_000, growth=growth)
    new, alive, _share, _ = update(method, kernel, mask, gradient, 3, seed)
    assert new.sum() == active
    assert not (alive & ~(new & mask)).any()
    dropped = math.ceil(Fraction(parts, 10_000) * active)
    # The active - dropped largest weights all stay.
    keep = np.sort(np.abs(kernel[mask]))[::-1][: active - dropped]
    assert np.isin(keep, np.abs(kernel[new & mask])).all()
    projected = updates.projected(
        ops.convert_to_tensor(kernel), alive, new, 0.0
    )
    assert not np.asarray(projected)[~new].any()


SCHEDULES = st.one_of(
    st.builds(schedules.Constant, st.floats(0, 1)),
    st.builds(
        schedules.Cosine, st.floats(0, 1), st.integers(1, 9), st.floats(0, 1)
    ),
    st.builds(
        schedules.InversePower,
        st.floats(0, 1),
        st.integers(1, 9),
        st.floats(0.1, 5),
    ),
)
# Each costs a compilation, and without one an update takes 0.1 s a kernel:
# kernels of unlike sizes and ranks, one of them of one entry, and two alike.
SHAPES = [[(1, 1), (6, 5), (3, 1, 2, 6)], [(5, 4), (5, 4)]]


@functools.cache
def compiled_update(growth):
    """`new_masks` as one program; the fraction is an argument of it."""
    method = Method(growth=growth)

    def new_masks(kernels, masks, gradients, fraction, step):
        states = [{} for _ in kernels]
        inputs = updates.KernelBatch(
            kernels, masks, gradients, states, fraction, step, step
        )
        return updates.new_masks(method, inputs)

    return in_graph(new_masks, jit_compile=True)


@given(
    shapes=st.sampled_from(SHAPES),
    sparsity=st.floats(0, 0.99),
    rule=st.sampled_from(["erk", "er", "uniform"]),
    schedule=SCHEDULES,
    growth=st.sampled_from(["gradient", "random"]),
    initial=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=examples(40), deadline=None)
def test_promises_1_and_2_over_several_updates(
    shapes, sparsity, rule, schedule, growth, initial
):
    """Counts stay those of the distribution; all else is as it began."""
    densities = distributions.get(rule)(shapes, sparsity)
    sizes = [math.prod(shape) for shape in shapes]
    counts = [
        distributions.active_count(n, d)
        for n, d in zip(sizes, densities, strict=True)
    ]
    generator = np.random.default_rng(0)
    masks = [
        generator.permutation(np.arange(n) < k).reshape(shape)
        for n, k, shape in zip(sizes, counts, shapes, strict=True)
    ]
    kernels = [np.where(m, generator.normal(size=m.shape), 0) for m in masks]
    kernels = [kernel.astype("float32") for kernel in kernels]
    slots = [np.where(m, 7.0, initial).astype("float32") for m in masks]
    method = Method(drop_fraction=schedule, growth=growth)
    for step in (0, 3, 20):
        gradients = [generator.normal(size=s).astype("float32") for s in shapes]
        fraction = ops.clip(method.drop_fraction_at(step), 0, 1)
        new, alive, _, done = compiled_update(growth)(
            *(
                [ops.convert_to_tensor(a) for a in group]
                for group in (kernels, masks, gradients)
            ),
            ops.convert_to_tensor(fraction, "float32"),
            ops.convert_to_tensor(step, "int32"),
        )
        assert bool(done)
        new, alive = [[np.asarray(m) for m in group] for group in (new, alive)]
        assert [m.sum() for m in new] == counts
        kernels = [
            np.asarray(updates.projected(ops.convert_to_tensor(k), a, m, 0.0))
            for k, a, m in zip(kernels, alive, new, strict=True)
        ]
        slots = [
            np.asarray(
                updates.projected(ops.convert_to_tensor(v), a, m, initial)
            )
            for v, a, m in zip(slots, alive, new, strict=True)
        ]
        for kernel, slot, mask, old, a in zip(
            kernels, slots, new, masks, alive, strict=True
        ):
            assert not kernel[~mask].any()
            np.testing.assert_array_equal(slot[~mask], np.float32(initial))
            # New connections begin anew, those that stay keep their slots.
            np.testing.assert_array_equal(
                slot[mask & ~old], np.float32(initial)
            )
            np.testing.assert_array_equal(slot[a], 7.0)
        slots = [np.where(m, 7.0, initial).astype("float32") for m in new]
        masks = new


def test_gradient_growth_against_numpy():
    generator = np.random.default_rng(5)
    mask = generator.random((30, 40)) < 0.2
    kernel = np.where(mask, generator.normal(size=(30, 40)), 0)
    kernel = kernel.astype("float32")
    gradient = generator.normal(size=(30, 40)).astype("float32")
    active = mask.sum()
    k = math.ceil(0.3 * active)
    order = np.argsort(np.where(mask, np.abs(kernel), np.inf).ravel())
    kept = mask.copy().ravel()
    kept[order[:k]] = False
    score = np.where(kept, -1, np.abs(gradient).ravel())
    expected = kept.copy()
    expected[np.argsort(-score)[:k]] = True
    new, *_ = update(Method(drop_fraction=0.3), kernel, mask, gradient)
    np.testing.assert_array_equal(new.ravel(), expected)


def test_random_growth_is_keyed_by_seed_and_update():
    method = Method(growth="random")
    kernel = np.zeros(400, "float32")
    kernel[:100] = np.linspace(1, 2, 100)
    mask = kernel > 0
    zero = np.zeros(400, "float32")
    runs = [
        update(method, kernel, mask, zero, number, seed)[0]
        for number, seed in [(0, 0), (0, 0), (1, 0), (0, 1)]
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any() and (runs[0] != runs[3]).any()
    # Growth does not favour positions: half of the new ones, about, lie in
    # each half of the absent range (binomial, five standard deviations).
    grown = np.flatnonzero(runs[0] & ~mask)
    assert abs((grown < 250).mean() - 0.5) < 5 * 0.5 / np.sqrt(len(grown))


@pytest.mark.parametrize(
    "count, fraction, rounding, expected",
    [
        (10, 0.3, "ceil", 3),
        (10, 0.3, "floor", 3),
        (31234, 0.3, "ceil", 9371),
        (31234, 0.3, "floor", 9370),
        (2**31 - 1, 1.0, "ceil", 2**31 - 1),
        (2**24 + 1, 1.0, "floor", 2**24 + 1),
        (7, 0.0, "ceil", 0),
    ],
)
def test_fraction_of(count, fraction, rounding, expected):
    assert int(fraction_of(count, fraction, rounding)) == expected


@given(count=st.integers(0, 2**31 - 1), parts=st.integers(0, 10_000))
@settings(deadline=None)
def test_fraction_of_is_exact(count, parts):
    share = Fraction(parts, 10_000) * count
    assert int(fraction_of(count, parts / 10_000)) == math.ceil(share)
    floor = fraction_of(count, parts / 10_000, "floor")
    assert int(floor) == math.floor(share)


def test_grown_value():
    kernel = ops.convert_to_tensor([1.0, 0.0, 0.0])
    mask = ops.convert_to_tensor([True, True, False])
    alive = ops.convert_to_tensor([True, False, False])
    value = updates.projected(kernel, alive, mask, 0.0, grown=0.5)
    np.testing.assert_array_equal(np.asarray(value), [1.0, 0.5, 0.0])


SCORES = ["constant", "NaN", "infinite", "negative infinite", "mixed"]


def scored(name, generator):
    """A criterion of scores that decide nothing, or mislead."""
    values = {"constant": 2.0, "NaN": np.nan, "infinite": np.inf}
    values["negative infinite"] = -np.inf

    def score(connections):
        shape = tuple(connections.kernel.shape)
        if name == "mixed":
            pick = generator.choice([0.0, -1.0, np.nan, np.inf, 1e30], shape)
            return ops.convert_to_tensor(pick.astype("float32"))
        return ops.full(shape, values[name])

    return score


@given(
    shape=st.sampled_from(
        [(0,), (0, 3), (1, 1), (1,), (2, 3), (1, 1, 1, 1, 1), (2, 1, 3, 2, 2)]
    ),
    sparsity=st.sampled_from([0.0, 1e-9, 0.01, 0.5, 0.99, 1 - 1e-9]),
    parts=st.sampled_from([0, 1, 5000, 9999, 10_000]),
    drop=st.sampled_from(SCORES),
    growth=st.sampled_from(SCORES),
)
@settings(max_examples=50, deadline=None)
def test_counts_stay_exact_at_every_border(
    shape, sparsity, parts, drop, growth
):
    generator = np.random.default_rng(0)
    size = math.prod(shape)
    count = distributions.active_count(size, 1.0 - sparsity)
    mask = generator.permutation(np.arange(size) < count).reshape(shape)
    kernel = np.where(mask, 1.0, 0.0).astype("float32")
    method = Method(
        drop_fraction=parts / 10_000,
        drop=scored(drop, generator),
        growth=scored(growth, generator),
    )
    new, alive, _, done = update(method, kernel, mask, np.ones_like(kernel))
    assert done and new.shape == shape
    assert new.sum() == count
    assert not (alive & ~(new & mask)).any()
    replaced = math.ceil(Fraction(parts, 10_000) * int(count))
    assert (mask & ~new).sum() <= replaced
