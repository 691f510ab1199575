import numpy as np
import pytest
import updates

from keras_freetickets.topology import Method
from keras_freetickets.topology import RigL


def joined(arrays):
    return np.concatenate([array.ravel() for array in arrays])


def best_of_each(kernels, masks):
    """The mask of the largest active weight of each kernel."""
    sizes = [
        np.where(m, np.abs(k), -1.0)
        for k, m in zip(kernels, masks, strict=True)
    ]
    return joined([size == size.max() for size in sizes])


def network():
    """Three kernels; the weights of the last are the smallest of all."""
    shapes, densities = [(40, 30), (30, 20), (20, 10)], [0.2, 0.3, 0.4]
    kernels, masks, gradients = updates.network(shapes, densities)
    kernels[2] = kernels[2] * 1e-3
    gradients[1] = gradients[1] * 2
    return kernels, masks, gradients


@pytest.mark.parametrize(
    "method, dropped",
    [
        (RigL(scope="global"), 72 + 54 + 24),
        (Method(scope="global"), 72 + 54 + 24),
        (RigL(scope="global"), 120 + 90 + 40),
    ],
)
def test_drop_and_grow_across_layers_against_numpy(method, dropped):
    kernels, masks, gradients = network()
    fraction = dropped / (240 + 180 + 80)
    new, kept = updates.run(
        method, kernels, masks, gradients, fraction=fraction
    )
    active, size = joined(masks), np.abs(joined(kernels))
    # Dropped: the smallest of all layers, but for the best of each.
    rank = np.where(best_of_each(kernels, masks), np.inf, size)
    order = np.argsort(np.where(active, rank, np.inf))
    expected = active.copy()
    expected[order[:dropped]] = False
    np.testing.assert_array_equal(joined(kept), expected)
    # Grown: where the gradients of all layers are the largest.
    steepness = np.where(expected, -1.0, np.abs(joined(gradients)))
    expected[np.argsort(-steepness)[:dropped]] = True
    np.testing.assert_array_equal(joined(new), expected)
    assert expected.sum() == active.sum() == 500
    # Nearly all of the small weights went; the steep kernel gained.
    assert kept[2].sum() <= 8 and new[1].sum() > masks[1].sum()


def test_each_kernel_keeps_its_best_when_all_are_to_be_dropped():
    kernels, masks, gradients = updates.network(
        [(30, 20), (20, 10)], [0.4, 0.43]
    )
    gradients[1] = gradients[1] * 0  # nothing grows there
    new, kept = updates.run(
        RigL(scope="global"), kernels, masks, gradients, fraction=1.0
    )
    np.testing.assert_array_equal(joined(kept), best_of_each(kernels, masks))
    # All others, 240 + 86 - 2, grow in the first kernel.
    assert [m.sum() for m in new] == [325, 1]


def test_many_small_kernels_keep_one_each():
    shapes = [(5, 2)] + [(2, 1)] * 6
    kernels, masks, gradients = updates.network(shapes, [1.0] * 7)
    kernels[1:] = [kernel * 1e-3 for kernel in kernels[1:]]
    gradients[1:] = [gradient * 0 for gradient in gradients[1:]]
    # Rounded up layer by layer 9 + 6 * 2 of 22 would go: 1 for 7 kernels.
    new, kept = updates.run(
        Method(scope="global"), kernels, masks, gradients, fraction=0.9
    )
    assert [k.sum() for k in kept] == [1] * 7
    assert sum(m.sum() for m in new) == 22


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_kernel_of_bad_scores_keeps_one(bad):
    kernels, masks, gradients = updates.network([(30, 20), (4, 5)], [0.4] * 2)

    def score(connections):
        weight = abs(connections.kernel)
        return weight if connections.kernel_index == 0 else weight * 0 + bad

    method = RigL(scope="global", drop=score)
    _, kept = updates.run(method, kernels, masks, gradients, fraction=0.9)
    # Counted by layer and rounded down: 216 of 240 and 7 of 8 go.
    assert [k.sum() for k in kept] == [24, 1]
