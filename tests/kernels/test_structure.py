import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_freetickets.kernels import CompressedStructure
from keras_freetickets.kernels import compress
from keras_freetickets.kernels import decompress
from keras_freetickets.kernels import mask_of


def test_values_stand_by_output_unit():
    kernel = np.array([[1, 0, 4], [0, 0, 5], [2, 0, 6]], "float32")
    values, structure = compress(kernel, kernel != 0)
    assert values.tolist() == [1, 2, 4, 5, 6]
    assert structure.row_pointers.tolist() == [0, 2, 2, 5]
    assert structure.column_indices.tolist() == [0, 2, 0, 1, 2]
    assert structure.column_indices.dtype == "uint16"
    assert structure.row_indices.tolist() == [0, 0, 2, 2, 2]
    pointers, units = structure.by_input
    assert pointers.tolist() == [0, 2, 3, 5]
    assert units.tolist() == [0, 2, 2, 0, 2]


def test_an_active_zero_is_kept():
    mask = np.array([[True, False], [True, True]])
    values, structure = compress(np.zeros((2, 2), "float32"), mask)
    assert values.tolist() == [0, 0, 0]
    assert (mask_of(structure) == mask).all()


@given(st.integers(1, 40), st.integers(1, 600), st.sampled_from([0, 0.5, 1]))
@settings(max_examples=20, deadline=None)
def test_nothing_is_lost(inputs, outputs, sparsity):
    rng = np.random.default_rng(inputs * outputs)
    mask = rng.random((inputs, outputs)) >= sparsity
    kernel = np.where(mask, rng.standard_normal(mask.shape), 0)
    values, structure = compress(kernel, mask)
    assert structure.active == mask.sum()
    np.testing.assert_array_equal(decompress(values, structure), kernel)
    np.testing.assert_array_equal(mask_of(structure), mask)


@pytest.mark.parametrize(
    ("inputs", "dtype"), [(65_536, "uint16"), (65_537, "int32")]
)
def test_width_of_column_indices(inputs, dtype):
    structure = CompressedStructure([0, 1], [inputs - 1], inputs)
    assert structure.column_indices.dtype == dtype
    assert structure.column_indices[0] == inputs - 1


def test_structures_are_immutable_and_compared_by_value():
    one, same = (CompressedStructure([0, 1], [2], 3) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != CompressedStructure([0, 1], [1], 3)
    with pytest.raises(ValueError, match="read-only"):
        one.column_indices[0] = 1


@pytest.mark.parametrize(
    ("pointers", "columns", "message"),
    [
        ([0, 2], [0], "row_pointers"),
        ([1, 1], [0], "row_pointers"),
        ([0, 2, 1, 3], [0, 1, 2], "row_pointers"),
        ([], [], "row_pointers"),
        ([0, 1], [3], "column_indices from 3 to 3"),
        ([0, 1], [-1], "column_indices from -1"),
        ([0, 2], [1, 1], "must rise"),
        ([0, 1, 3], [2, 2, 1], r"column_indices\[1\]=2 before"),
        ([0, 1], [0.5], "integer array"),
        ([[0, 1]], [0], "integer array"),
    ],
)
def test_bad_structures(pointers, columns, message):
    with pytest.raises(ValueError, match=message):
        CompressedStructure(pointers, columns, 3)


def test_columns_may_fall_from_one_unit_to_the_next():
    CompressedStructure([0, 0, 1, 1, 3], [2, 0, 1], 3)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_inputs=0"):
        CompressedStructure([0], [], 0)
    with pytest.raises(ValueError, match="boolean array"):
        CompressedStructure.from_mask(np.ones((2, 2)))
    with pytest.raises(ValueError, match="the same shape"):
        compress(np.ones((2, 2)), np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="4 weights outside"):
        compress(np.ones((2, 2)), np.zeros((2, 2), bool))
    structure = CompressedStructure([0, 1], [0], 1)
    with pytest.raises(ValueError, match=r"values.shape=\(2,\)"):
        decompress(np.ones(2), structure)


def test_positions_of_a_file_are_checked():
    structure = CompressedStructure([0, 1, 3], [2, 0, 1], 3)
    same = CompressedStructure.from_positions(structure.positions, 3)
    assert same == structure
    units = structure.positions.units.copy()
    units[0] += 1
    with pytest.raises(ValueError, match="of the same weights"):
        CompressedStructure.from_positions(
            structure.positions._replace(units=units), 3
        )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_positions_of_another_structure_are_found(inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    one, other = (
        rng.random((inputs, outputs)) < share for share in rng.random(2)
    )
    kernel = rng.standard_normal(one.shape)
    values, mine = compress(np.where(one, kernel, 0), one)
    its = CompressedStructure.from_mask(other)
    kept, places = mine.find(its)
    moved = np.zeros(its.active)
    moved[kept] = values[places]
    assert (decompress(moved, its) == np.where(one & other, kernel, 0)).all()
    assert mine.has_positions_of(its) == (one == other).all()
    assert mine.has_positions_of(CompressedStructure.from_mask(one))
