"""Updates of compressed kernels against the selection of masks, bit for bit."""

import keras
import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_freetickets import kernels
from keras_freetickets.kernels import structure as structures
from keras_freetickets.kernels import update_settings
from keras_freetickets.topology import SET
from keras_freetickets.topology import Method
from keras_freetickets.topology.methods.method import named_criteria
from keras_freetickets.trainers import update as updates
from keras_freetickets.trainers.compressed_update import settings_of

if keras.backend.backend() == "torch":
    pytest.skip("no compressed kernels there", allow_module_level=True)

drop_and_grow = pytest.importorskip("keras_freetickets.kernels.drop_and_grow")


def case(inputs, outputs, batch, density, levels, rng):
    """A kernel of few values, so of many ties, its mask and a batch.

    Sums of products of small integers are exact in any order.
    """
    mask = rng.random((inputs, outputs)) < density
    kernel = np.where(mask, rng.integers(-levels, levels + 1, mask.shape), 0)
    x = rng.integers(-levels, levels + 1, (batch, inputs))
    dy = rng.integers(-levels, levels + 1, (batch, outputs))
    return [
        one if one.dtype == bool else one.astype("float32")
        for one in (kernel, mask, x, dy)
    ]


def updated(method, kernel, mask, x, dy, fraction, index=0, room=0):
    """New mask, kernel, positions and report of a compressed update."""
    values, structure = kernels.compress(kernel, mask)
    size = structure.active + room
    values = np.pad(values, (0, room))
    pointers, columns, by_input, units = structure.positions_in(size)
    names = named_criteria(method)
    told = settings_of(method, names, fraction, method.seed, 3, index)
    found = [np.full_like(one, 7) for one in (pointers, columns)]
    found += [np.full_like(one, 7) for one in (by_input, units)]
    source, report = np.empty(size, "int32"), np.empty(3, "int32")
    drop_and_grow.update(
        *(values, pointers.copy(), columns),
        *(x.reshape(-1), dy.reshape(-1), keras.ops.convert_to_numpy(told)),
        *(*found, source, report, len(x), structure.num_inputs),
    )
    positions = structures.Positions(*found)
    new = structures.CompressedStructure.from_positions(
        positions, structure.num_inputs
    )
    assert (source[new.active :] == update_settings.SPARE).all()
    source = source[: new.active]
    moved = np.where(
        source >= 0, values[source], np.float32(method.grown_value)
    )
    return kernels.mask_of(new), kernels.decompress(moved, new), report


def of_masks(method, kernel, mask, gradient, fraction, index=0):
    """The same by masks."""
    batch = updates.KernelBatch(
        [keras.ops.convert_to_tensor(kernel)],
        [keras.ops.convert_to_tensor(mask)],
        [keras.ops.convert_to_tensor(gradient)],
        [{}],
        fraction=fraction,
        update=3,
        seed=method.seed,
        kernel_indices=[index],
    )
    (new,), (alive,), counts, done = updates.masks_and_counts(method, batch)
    new, alive, *counts, done = map(
        keras.ops.convert_to_numpy, (new, alive, *counts, done)
    )
    moved = np.where(alive, kernel, np.where(new, method.grown_value, 0))
    return new, moved.astype("float32"), [*counts, done]


METHODS = {
    "magnitude, gradient": lambda **kwargs: Method(**kwargs),
    "magnitude, random": lambda **kwargs: Method(growth="random", **kwargs),
    "random, gradient": lambda **kwargs: Method(drop="random", **kwargs),
    "by sign": lambda **kwargs: SET(**kwargs),
    "by sign, gradient": lambda **kwargs: SET(growth="gradient", **kwargs),
}


def check(name, shape, batch, density, levels, fraction, seed, **kwargs):
    rng = np.random.default_rng(seed)
    arrays = case(*shape, batch, density, levels, rng)
    kernel, mask, x, dy = arrays
    method = METHODS[name](seed=seed, **kwargs)
    room = int(rng.integers(0, 3))
    index = int(rng.integers(0, 4))
    found = updated(method, *arrays, fraction, index, room)
    expected = of_masks(method, kernel, mask, x.T @ dy, fraction, index)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(METHODS)),
    st.tuples(st.integers(1, 12), st.integers(1, 9)),
    st.integers(0, 5),
    st.floats(0.0, 0.9),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]),
    st.integers(0, 2**20),
    st.sampled_from(["ceil", "floor", "nearest"]),
    st.sampled_from(["keep", "reset"]),
)
# Whole tiles of 4 units and 64 inputs, and a list of the best that fills up.
@example("magnitude, gradient", (200, 70), 9, 0.2, 3, 0.3, 1, "ceil", "keep")
@example("by sign, gradient", (130, 9), 4, 0.5, 1, 0.5, 2, "floor", "reset")
def test_the_connections_of_masks(
    name, shape, batch, density, levels, fraction, seed, rounding, regrown
):
    check(
        *(name, shape, batch, density, levels, fraction, seed),
        rounding=rounding,
        regrown=regrown,
        grown_value=0.5,
    )


def test_many_blocks_of_units_and_more_inputs_than_a_block():
    check("magnitude, gradient", (300, 400), 3, 0.05, 2, 0.3, 0)
    check("magnitude, random", (40_000, 5), 3, 0.05, 2, 0.3, 0)


def test_weights_that_are_not_finite_are_dropped_first():
    rng = np.random.default_rng(0)
    kernel, mask, x, dy = case(20, 10, 4, 0.3, 3, rng)
    places = np.argwhere(mask)[:4]
    kernel[tuple(places.T)] = [np.nan, np.inf, -np.inf, -0.0]
    for name in METHODS:
        method = METHODS[name]()
        # Two of the halves by sign have one that is not finite.
        found = updated(method, kernel, mask, x, dy, 0.1)
        expected = of_masks(method, kernel, mask, x.T @ dy, 0.1)
        np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_reported(bad):
    rng = np.random.default_rng(0)
    kernel, mask, x, dy = case(20, 10, 4, 0.3, 3, rng)
    x[2, 7] = bad
    *_, report = updated(Method(), kernel, mask, x, dy, 0.3)
    assert report[2] == 0
    # Random growth reads none.
    *_, report = updated(Method(growth="random"), kernel, mask, x, dy, 0.3)
    assert report[2] == 1


def test_gradients_by_blocks_are_the_whole():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 150)).astype("float32")
    dy = rng.standard_normal((7, 11)).astype("float32")
    from keras_freetickets.kernels.dense_gradient import gradient_block

    for begin, end in ((0, 11), (3, 9), (10, 11)):
        found = np.empty((end - begin, 150), "float32")
        gradient_block(
            *(x.reshape(-1), dy.reshape(-1), 7, 150, 11, begin, end),
            found.reshape(-1),
        )
        exact = kernels.dense_gradient_block(
            x.astype("float64"), dy.astype("float64"), slice(begin, end)
        )
        np.testing.assert_allclose(found.T, exact, rtol=1e-5, atol=1e-5)
