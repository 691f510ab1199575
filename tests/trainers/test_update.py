"""Kernels of one shape share a program, and nothing else."""

import keras
import numpy as np
import pytest
import updates
from backends import in_graph
from keras import ops

from keras_freetickets.topology import DSTEE
from keras_freetickets.topology import GMP
from keras_freetickets.topology import NDSNN
from keras_freetickets.topology import NM
from keras_freetickets.topology import SET
from keras_freetickets.topology import SNFS
from keras_freetickets.topology import RigL
from keras_freetickets.topology import SRigL
from keras_freetickets.topology.methods import is_kernelwise
from keras_freetickets.trainers import update

# One shape twice, and one that stands alone.
SHAPES = [(8, 6), (4, 9), (8, 6)]
KERNELWISE = {
    "RigL": lambda: RigL(),
    "reset": lambda: RigL(regrown="reset"),
    "SET": lambda: SET(),
    "SET, both signs": lambda: SET(drop="magnitude"),
    "DST-EE": lambda: DSTEE(0.1, score_norm="layer"),
    "SNFS": lambda: SNFS(redistribution=False),
    "GMP": lambda: GMP(0.8, end_step=1000),
    "NDSNN": lambda: NDSNN(0.8, end_step=2000, update_interval=500),
    "N:M": lambda: NM(2, 4),
}


def arrays(name):
    kernels, masks, gradients = updates.network(SHAPES, [0.5] * len(SHAPES))
    if name == "N:M":
        masks = [_two_of_four(mask) for mask in masks]
        kernels = [
            np.where(*both, 0.3) for both in zip(masks, gradients, strict=True)
        ]
        kernels = [
            np.where(m, k, 0) for m, k in zip(masks, kernels, strict=True)
        ]
    states = None
    if name in ("DST-EE", "SNFS"):
        made = {"DST-EE": ("visits", "int32"), "SNFS": ("momentum", "float32")}
        key, dtype = made[name]
        states = [{key: (10 * g).astype(dtype)} for g in gradients]
    return kernels, masks, gradients, states


def _two_of_four(mask):
    rows = np.arange(mask.shape[0]) % 4 < 2
    return np.broadcast_to(rows[:, None], mask.shape).copy()


def chosen(method, inputs):
    masks, survivors, share, done = update.new_masks(method, inputs)
    lists = [[np.array(a) for a in one] for one in (masks, survivors)]
    return *lists, float(share), bool(done)


@pytest.mark.parametrize("name", KERNELWISE)
def test_kernels_of_one_shape_are_updated_as_each_alone(name):
    method = KERNELWISE[name]()
    kernels, masks, gradients, states = arrays(name)
    updates.begin(method, kernels, masks)
    inputs = updates.inputs_of(
        kernels, masks, gradients, states, update=3, seed=7
    )
    new, alive, share, done = chosen(method, inputs)
    assert done
    born = sum(int((n & ~m).sum()) for n, m in zip(new, masks, strict=True))
    assert share == pytest.approx(born / sum(int(n.sum()) for n in new))
    for i in range(len(SHAPES)):
        one = inputs.part([i])  # with the kernel's place in the model
        (mask,), (kept,), _, _ = chosen(method, one)
        np.testing.assert_array_equal(new[i], mask)
        np.testing.assert_array_equal(alive[i], kept)
        if name != "GMP":
            assert (mask != masks[i]).any()


def test_stacks_of_a_limited_size_choose_the_same(monkeypatch):
    kernels, masks, gradients, _ = arrays("RigL")
    inputs = updates.inputs_of(kernels, masks, gradients)
    one_stack = chosen(RigL(), inputs)
    monkeypatch.setattr(update, "_LARGEST_STACK", 8 * 6)
    several = chosen(RigL(), inputs)
    for a, b in zip(one_stack[0], several[0], strict=True):
        np.testing.assert_array_equal(a, b)


class Counted(RigL):
    """Counts how often its hook is traced."""

    def __init__(self):
        super().__init__()
        self.traced = 0

    def grow_score(self, connections):
        self.traced += 1
        return super().grow_score(connections)


def test_a_hook_is_traced_for_each_shape_not_for_each_layer():
    method = Counted()
    kernels, masks, gradients, _ = arrays("RigL")
    inputs = updates.inputs_of(kernels, masks, gradients)
    program = in_graph(
        lambda: update.new_masks(method, inputs)[0], jit_compile=True
    )
    new = [np.array(mask) for mask in program()]
    assert method.traced == 2
    for a, b in zip(new, chosen(RigL(), inputs)[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_type_makes_another_program():
    kernels, masks, gradients = updates.network([(6, 5)] * 3, [0.5] * 3)
    inputs = updates.inputs_of(kernels, masks, gradients)
    expected = chosen(RigL(), inputs)[0]
    inputs.kernels[1] = ops.cast(inputs.kernels[1], "bfloat16")
    got = chosen(RigL(), inputs)[0]
    for i in (0, 2):
        np.testing.assert_array_equal(got[i], expected[i])
    assert got[1].sum() == masks[1].sum()


@pytest.mark.parametrize("spoiled", ["own", "other"])
def test_one_gradient_that_is_not_finite_changes_no_mask(spoiled):
    kernels, masks, gradients, _ = arrays("RigL")
    others = [np.ones(3, "float32"), np.ones(3, "float32")]
    if spoiled == "own":
        gradients[2][0, 0] = np.inf
    else:
        others[1][2] = np.nan
    inputs = updates.inputs_of(kernels, masks, gradients)
    inputs.others = [ops.convert_to_tensor(a) for a in others]
    new, alive, share, done = chosen(RigL(), inputs)
    assert not done
    assert share == 0.0
    for old, a, b in zip(masks, new, alive, strict=True):
        np.testing.assert_array_equal(old, a)
        np.testing.assert_array_equal(old, b)


class SameBudget(RigL):
    """All kernels drop as many connections as the first: they are coupled."""

    def budget(self, connections, fraction):
        dropped, _ = super().budget(connections, fraction)
        dropped = [dropped[0]] * len(dropped)
        return dropped, dropped


class OwnBudget(RigL):
    kernelwise = True

    def budget(self, connections, fraction):
        ones = [ops.cast(1, "int32") for _ in connections]
        return ones, ones


def test_a_hook_that_is_given_all_kernels_couples_them():
    assert is_kernelwise(RigL())
    assert not is_kernelwise(RigL(scope="global"))
    assert not is_kernelwise(SRigL())
    assert not is_kernelwise(SNFS())
    assert not is_kernelwise(SameBudget())
    assert is_kernelwise(OwnBudget())

    class Derived(OwnBudget):
        def grow(self, connections, kept, grow_counts):
            return super().grow(connections, kept, grow_counts)

    assert not is_kernelwise(Derived())


def test_coupled_kernels_see_each_other():
    kernels, masks, gradients = updates.network([(6, 5)] * 2, [0.2, 0.8])
    inputs = updates.inputs_of(kernels, masks, gradients, fraction=0.5)
    new, _alive, _, _ = chosen(SameBudget(), inputs)
    # A half of the 6 connections of the first is 3, also in the second.
    assert [int(m.sum()) for m in new] == [6, 24]
    born = [int((n & ~m).sum()) for n, m in zip(new, masks, strict=True)]
    assert all(0 < b <= 3 for b in born)


def test_a_place_may_be_a_tensor():
    kernels, masks, gradients = updates.network([(30, 20)], [0.3])
    expected = updates.inputs_of(kernels, masks, gradients)
    expected.kernel_indices = [5]
    inputs = updates.inputs_of(kernels, masks, gradients)
    inputs.kernel_indices = [keras.ops.convert_to_tensor(np.int32(5))]
    np.testing.assert_array_equal(
        chosen(SET(), inputs)[0][0], chosen(SET(), expected)[0][0]
    )
