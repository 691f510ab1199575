"""Values and slots of compressed kernels move with their connections."""

import keras
import numpy as np
import pytest
from backends import examples
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_freetickets import kernels
from keras_freetickets.layers import CompressedDense
from keras_freetickets.topology import Method

if keras.backend.backend() == "torch":
    pytest.skip("no training there", allow_module_level=True)

from keras_freetickets.trainers import get_backend
from keras_freetickets.trainers.compressed_update import CompressedUpdate


def case(inputs, outputs, density, rng, room=0):
    """A layer with a random mask, and its dense kernel."""
    mask = rng.random((inputs, outputs)) < density
    mask[0, 0] = True
    structure = kernels.CompressedStructure.from_mask(mask)
    layer = CompressedDense(outputs, structure.active + room)
    layer.build((None, inputs))
    values = np.zeros(layer.active, "float32")
    values[: structure.active] = rng.integers(1, 1000, structure.active)
    layer.set_structure(structure, values)
    return layer, mask


def moved(layer, mask, alive, fill, grown):
    """The update, and what it makes of values and of a slot."""
    (record,) = layer.masked_kernels
    slot = keras.Variable(layer.values * 2 + fill)
    method = Method(grown_value=grown)
    update = CompressedUpdate(record, [(slot, fill)], method, get_backend())
    values = [keras.ops.convert_to_tensor(v) for v in update.variables]
    dense = [keras.ops.convert_to_numpy(a) for a in update.dense(values)]
    found = update.moved(values, mask, alive)
    return dense, [keras.ops.convert_to_numpy(a) for a in found]


def check(inputs, outputs, density, seed, room=0, fill=0.0, grown=0.0):
    rng = np.random.default_rng(seed)
    layer, before = case(inputs, outputs, density, rng, room)
    (record,) = layer.masked_kernels
    kernel = record.kernel_array()
    # As many weights as before at most, some of them those of before.
    count = int(rng.integers(0, before.sum() + 1))
    keys = rng.random(before.shape) + before * rng.random()
    after = np.zeros(before.size, bool)
    after[np.argsort(keys.reshape(-1))[before.size - count :]] = True
    after = after.reshape(before.shape)
    alive = before & after & (rng.random(before.shape) < 0.8)

    dense, found = moved(layer, after, alive, fill, grown)
    np.testing.assert_array_equal(dense[0], kernel)
    np.testing.assert_array_equal(dense[1], before)
    structure = kernels.CompressedStructure.from_mask(after)
    expected = structure.positions_in(layer.active)
    for one, other in zip(found[1:5], expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    wanted = np.where(alive, kernel, np.float32(grown))
    slots = np.where(alive, kernel * 2 + np.float32(fill), np.float32(fill))
    for one, other, rest in (
        (found[0], wanted, 0.0),
        (found[5], slots, fill),
    ):
        np.testing.assert_array_equal(one[:count], other.T[after.T])
        np.testing.assert_array_equal(one[count:], np.float32(rest))


@settings(max_examples=examples(25), deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([0.02, 0.3, 1.0]),
    st.integers(0, 10**6),
)
def test_any_shape(inputs, outputs, density, seed):
    check(inputs, outputs, density, seed)


@pytest.mark.parametrize(
    ("inputs", "outputs", "density"),
    [
        (1, 1, 1.0),
        (7, 700, 0.3),  # two blocks of output units
        (300, 520, 0.5),  # three of them
        (70_000, 3, 0.001),  # columns of 32 bits
    ],
)
def test_blocks_and_many_inputs(inputs, outputs, density):
    check(inputs, outputs, density, 0)


def test_room_initial_values_and_values_of_new_connections():
    check(20, 30, 0.3, 0, room=17)
    check(20, 30, 0.3, 1, room=17, fill=0.5, grown=0.25)
