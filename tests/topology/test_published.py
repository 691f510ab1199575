"""Against numbers that the methods' published codes gave on the same arrays.

`tests/golden/published.json` holds them. They were made once, with torch
2.13, by running unchanged functions of

- VITA-Group/FreeTickets e5540d1: `Masking.init("ERK")` on the kernels of three
  networks, `density * size` rounded, as [count, how many layers in a row have
  it]; and `Masking.truncate_weights` on the cases below: how many connections
  there are afterwards, the sum of their positions, and both of those that
  were kept;
- StevenBoys/MOON 863f49a: `extra_c_loss` (see tests/losses/test_moon.py).
"""

import fractions
import json
import math
import pathlib

import numpy as np
import pytest
import updates

from keras_freetickets.topology import Method
from keras_freetickets.topology import RigL
from keras_freetickets.topology import distributions

FILE = pathlib.Path(__file__).parents[1] / "golden" / "published.json"
PUBLISHED = json.loads(FILE.read_text())


def vgg19():
    widths = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    shapes = zip([3, *widths[:-1]], widths, strict=True)
    return [*((3, 3, *shape) for shape in shapes), (512, 10)]


def resnet50():
    shapes, channels = [(7, 7, 3, 64)], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            if block == 0:
                shapes.append((1, 1, channels, 4 * width))
            shapes += [(1, 1, channels, width), (3, 3, width, width)]
            shapes.append((1, 1, width, 4 * width))
            channels = 4 * width
    return [*shapes, (2048, 1000)]


def wide_resnet_28_10():
    shapes, channels = [(3, 3, 3, 16)], 16
    for width in (160, 320, 640):
        shapes.append((1, 1, channels, width))
        for _ in range(4):
            shapes += [(3, 3, channels, width), (3, 3, width, width)]
            channels = width
    return [*shapes, (640, 10)]


NETWORKS = [vgg19, resnet50, wide_resnet_28_10]
SPARSITIES = [0.5, 0.8, 0.9, 0.95, 0.98, 0.99]
every_network = pytest.mark.parametrize("network", NETWORKS)
every_sparsity = pytest.mark.parametrize("sparsity", SPARSITIES)


def counts_of(densities, shapes):
    return [
        distributions.active_count(math.prod(shape), density)
        for shape, density in zip(shapes, densities, strict=True)
    ]


@every_network
@every_sparsity
def test_erk_counts_of_freetickets(network, sparsity):
    shapes = network()
    found = distributions.erdos_renyi_kernel(shapes, sparsity)
    runs = PUBLISHED["erk"][network.__name__][str(sparsity)]
    expected = [count for count, layers in runs for _ in range(layers)]
    assert counts_of(found, shapes) == expected


def exact_counts(shapes, sparsity):
    """Erdos-Renyi in fractions: layers that would overflow are dense."""
    sizes = [math.prod(shape) for shape in shapes]
    raw = [
        fractions.Fraction(sum(shape[-2:]), math.prod(shape[-2:]))
        for shape in shapes
    ]
    budget = (1 - fractions.Fraction(str(sparsity))) * sum(sizes)
    dense = set()
    while True:
        free = [i for i in range(len(shapes)) if i not in dense]
        left = budget - sum(sizes[i] for i in dense)
        scale = left / sum(raw[i] * sizes[i] for i in free)
        most = max(raw[i] for i in free)
        if scale * most <= 1:
            break
        dense |= {i for i in free if raw[i] == most}
    return [
        n if i in dense else round(scale * raw[i] * n)
        for i, n in enumerate(sizes)
    ]


@every_network
@every_sparsity
def test_er_counts_in_exact_arithmetic(network, sparsity):
    shapes = network()
    found = distributions.erdos_renyi(shapes, sparsity)
    assert counts_of(found, shapes) == exact_counts(shapes, sparsity)


def cases():
    """The arrays on which FreeTickets' code was run."""
    generator = np.random.default_rng(11)
    for number in range(24):
        shape = [(7, 9), (3, 3, 4, 5), (40, 3)][number % 3]
        size = math.prod(shape)
        density = generator.uniform(0.1, 0.9)
        mask = np.zeros(size, bool)
        mask[generator.permutation(size)[: round(size * density)]] = True
        mask = mask.reshape(shape)
        kernel = (generator.normal(size=shape) * mask).astype("float32")
        gradient = generator.normal(size=shape).astype("float32")
        yield kernel, mask, gradient, [0.1, 0.3, 0.5, 0.8][number % 4]


def summary(mask):
    return [int(mask.sum()), int(np.flatnonzero(mask).sum())]


def test_drop_and_grow_of_freetickets():
    drawn = list(cases())
    for fraction in (0.1, 0.3, 0.5, 0.8):
        numbers = [i for i, case in enumerate(drawn) if case[3] == fraction]
        arrays = list(zip(*(drawn[i][:3] for i in numbers), strict=True))
        new, kept = updates.run(Method(), *arrays, fraction=fraction)
        for i, mask, old in zip(numbers, new, kept, strict=True):
            found = [*summary(mask), *summary(old)]
            assert found == PUBLISHED["freetickets_updates"][i], i


def rigl_masks(kernel, mask, gradient, fraction):
    """RigL's update as its code describes it, by sorting.

    google-research/rigl d39fc7d, `_get_update_op`: the number to replace is
    rounded down; scores of what is kept are put below all others for growth,
    so that what was dropped may come back.
    """
    active = int(mask.sum())
    replaced = int(np.float32(active) * np.float32(fraction))
    order = np.argsort(-np.abs(kernel).ravel(), kind="stable")
    kept = np.zeros(kernel.size, bool)
    kept[order[: active - replaced]] = True
    score = np.where(kept, -1, np.abs(gradient).ravel())
    grown = np.zeros(kernel.size, bool)
    grown[np.argsort(-score, kind="stable")[:replaced]] = True
    return (kept | grown).reshape(mask.shape), kept.reshape(mask.shape)


def test_drop_and_grow_of_rigl():
    drawn = list(cases())
    method = RigL()
    for fraction in (0.1, 0.3, 0.5, 0.8):
        chosen = [case[:3] for case in drawn if case[3] == fraction]
        new, kept = updates.run(
            method, *zip(*chosen, strict=True), fraction=fraction
        )
        for arrays, mask, old in zip(chosen, new, kept, strict=True):
            expected = rigl_masks(*arrays, fraction)
            np.testing.assert_array_equal(mask, expected[0])
            np.testing.assert_array_equal(old, expected[1])
