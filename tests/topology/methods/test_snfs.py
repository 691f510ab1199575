import numpy as np
import pytest
import updates
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_freetickets.topology import SNFS
from keras_freetickets.topology import RigL
from keras_freetickets.topology.methods.snfs import allocate


def test_allocation_by_hand():
    # 100 in parts of .6, .3, .1; the first has room for 40, of which 39 (99 %)
    # are given at first. 21 are left, 10 for each of the others, and 1 for
    # the first of them.
    shares = np.array([0.6, 0.3, 0.1], "float32")
    room = np.array([40, 500, 500], "int32")
    given_ = np.asarray(allocate(np.int32(100), shares, room))
    np.testing.assert_array_equal(given_, [39, 41, 20])


@given(
    rooms=st.lists(st.integers(0, 5_000_000), min_size=1, max_size=8),
    part=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_allocation_is_exact(rooms, part, seed):
    room = np.array(rooms, "int32")
    total = np.int32(room.sum() * part)
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(rooms)))
    found = np.asarray(allocate(total, shares.astype("float32"), room))
    assert found.sum() == total
    assert (found >= 0).all() and (found <= room).all()


def momentum(kernels, seed=4):
    generator = np.random.default_rng(seed)
    scales = (1.0, 3.0, 0.5)[: len(kernels)]
    return [
        {"momentum": generator.normal(size=k.shape).astype("float32") * scale}
        for k, scale in zip(kernels, scales, strict=True)
    ]


def test_connections_move_to_where_the_momentum_is():
    shapes, densities = [(40, 30), (30, 20), (20, 10)], [0.2, 0.2, 0.2]
    kernels, masks, gradients = updates.network(shapes, densities)
    states = momentum(kernels)
    new, kept = updates.run(
        SNFS(), kernels, masks, gradients, states, fraction=0.5
    )
    assert sum(m.sum() for m in new) == sum(m.sum() for m in masks)
    # Dropped: half of each. Grown: by the mean momentum of active weights.
    means = [
        np.abs(s["momentum"][m]).mean()
        for s, m in zip(states, masks, strict=True)
    ]
    shares = np.array(means) / sum(means)
    total = sum(int(np.ceil(0.5 * m.sum())) for m in masks)
    for i, (mask, after, k) in enumerate(zip(masks, new, kept, strict=True)):
        assert k.sum() == mask.sum() - int(np.ceil(0.5 * mask.sum()))
        grown = after & ~k
        # Shares are counted in steps of 1/10,000, and what is left is spread.
        assert abs(grown.sum() - shares[i] * total) <= 3
        chosen = np.abs(states[i]["momentum"])[grown]
        others = np.abs(states[i]["momentum"])[~k & ~grown]
        assert chosen.min() >= others.max()
    assert new[1].sum() > masks[1].sum() > new[1].sum() * 0.3
    assert new[2].sum() < masks[2].sum()


def test_momentum_is_an_average_of_dense_gradients():
    kernels, masks, gradients = updates.network([(6, 5)], [0.5])
    states = [{"momentum": np.full((6, 5), 2.0, "float32")}]
    inputs = updates.inputs_of(kernels, masks, gradients, states)
    (state,) = SNFS(momentum=0.8).observe(inputs.views())
    expected = 0.8 * 2.0 + 0.2 * gradients[0]
    np.testing.assert_allclose(state["momentum"], expected, rtol=1e-5)


def test_a_layer_keeps_a_connection():
    kernels, masks, gradients = updates.network([(4, 3), (50, 4)], [0.1, 0.5])
    states = [{"momentum": np.zeros(k.shape, "float32")} for k in kernels]
    states[1]["momentum"] += 1
    new, _ = updates.run(
        SNFS(), kernels, masks, gradients, states, fraction=1.0
    )
    assert new[0].sum() >= 1
    assert sum(m.sum() for m in new) == sum(m.sum() for m in masks)


def test_it_differs_from_rigl_without_redistribution():
    kernels, masks, gradients = updates.network([(40, 30)], [0.2])
    states = momentum(kernels)
    method = SNFS(redistribution=False, rounding="floor")
    ours, _ = updates.run(method, kernels, masks, gradients, states)
    rigl, _ = updates.run(RigL(), kernels, masks, gradients)
    assert ours[0].sum() == rigl[0].sum() == masks[0].sum()
    assert (ours[0] != rigl[0]).any()


def test_bad_momentum():
    with pytest.raises(ValueError, match="`momentum` must be"):
        SNFS(momentum=1.0)
