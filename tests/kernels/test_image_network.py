"""Convolutional networks beside sums in float64, term by term."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_freetickets import kernels
from keras_freetickets.kernels import image_layout
from keras_freetickets.kernels import strips
from keras_freetickets.kernels import threads
from keras_freetickets.kernels.geometry import Geometry
from keras_freetickets.kernels.image_fusion import fused
from keras_freetickets.kernels.image_nodes import Activation
from keras_freetickets.kernels.image_nodes import Affine
from keras_freetickets.kernels.image_nodes import Convolution
from keras_freetickets.kernels.image_nodes import Flatten
from keras_freetickets.kernels.image_nodes import GlobalPool
from keras_freetickets.kernels.image_nodes import Input
from keras_freetickets.kernels.image_nodes import Pool
from keras_freetickets.kernels.image_nodes import Product
from keras_freetickets.kernels.image_nodes import Relu
from keras_freetickets.kernels.image_nodes import Sum
from keras_freetickets.kernels.image_nodes import in_order


def image(height, width, channels):
    ones = np.ones(channels)
    return Input(size=(height, width, channels), factor=ones, offset=0 * ones)


def sparse(inputs, outputs, seed, density=0.3):
    rng = np.random.default_rng(seed)
    mask = rng.random((inputs, outputs)) < density
    values, structure = kernels.compress(
        np.where(mask, rng.standard_normal(mask.shape), 0), mask
    )
    bias = rng.standard_normal(outputs)
    return {"values": values, "structure": structure, "bias": bias}


def convolution(source, outputs, kernel=3, strides=1, padding="same", seed=0):
    kernel, strides = (
        (one, one) if isinstance(one, int) else one for one in (kernel, strides)
    )
    geometry = Geometry.of(source.shape, kernel, strides, padding)
    inputs = kernel[0] * kernel[1] * source.shape[-1]
    return Convolution(
        source=source, geometry=geometry, **sparse(inputs, outputs, seed)
    )


def affine(source, seed=0):
    rng = np.random.default_rng(seed)
    factor, offset = rng.uniform(0.5, 1.5, (2, source.shape[-1]))
    return Affine(source=source, factor=factor, offset=offset)


def pool(source, size, strides, padding, is_max):
    size, strides = ((n, n) for n in (size, strides))
    geometry = Geometry.of(source.shape, size, strides, padding)
    return Pool(source=source, geometry=geometry, is_max=is_max)


def windows(x, geometry, fill):
    """`(out_height, out_width, kernel height, kernel width, channels)`."""
    height, width, channels = x.shape
    (kernel_h, kernel_w), (down, right) = geometry.kernel, geometry.strides
    made = geometry.out_height, geometry.out_width
    found = np.full((*made, kernel_h, kernel_w, channels), fill)
    for r, c, i, j in np.ndindex(*made, kernel_h, kernel_w):
        row = r * down + i - geometry.top
        column = c * right + j - geometry.left
        if 0 <= row < height and 0 <= column < width:
            found[r, c, i, j] = x[row, column]
    return found


def by_numpy(node, x):
    """What a node is for an image, in float64."""
    if isinstance(node, Input):
        return x.astype("float64") * node.factor + node.offset
    first, *others = (by_numpy(one, x) for one in node.sources)
    if isinstance(node, Product):
        if isinstance(node, Convolution):
            parts = windows(first, node.geometry, 0.0)
            first = parts.reshape(*parts.shape[:2], -1)
        y = first @ kernels.decompress(node.values, node.structure)
        first = sum(others, y + node.bias)
    elif isinstance(node, Affine):
        first = first * node.factor + node.offset
    elif isinstance(node, Sum):
        first = first + others[0]
    elif isinstance(node, Activation):
        node.function(first, -1)
    elif isinstance(node, Pool):
        parts = windows(first, node.geometry, np.nan)
        reduce = np.nanmax if node.is_max else np.nanmean
        first = reduce(parts, axis=(2, 3))
    elif isinstance(node, GlobalPool):
        first = (np.max if node.is_max else np.mean)(first, axis=(0, 1))
    elif isinstance(node, Flatten):
        first = first.reshape(-1)
    if isinstance(node, Relu) or getattr(node, "relu", False):
        first = np.maximum(first, 0)
    return first


def check(outputs, batch=2, seed=5):
    inputs = [n for n in in_order(outputs) if isinstance(n, Input)]
    shape = inputs[0].shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, *shape)).astype("float32")
    network = kernels.ImageNetwork(outputs)
    for _ in range(2):  # what one call leaves behind changes nothing
        found = network.predict_members(x.reshape(batch, network.num_inputs))
        for node, y in zip(outputs, found, strict=True):
            wanted = np.array([by_numpy(node, one) for one in x])
            wanted = wanted.reshape(y.shape)
            np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=3e-5)
    return network


@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("strides", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_one_convolution(kernel, strides, padding):
    source = image(9, 11, 3)
    node = convolution(source, 5, kernel, strides, padding, seed=kernel)
    check([Flatten(source=node)])


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 3)),
    outputs=st.integers(1, 4),
    kernels_of=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3
    ),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["same", "valid"]),
    seed=st.integers(0, 1000),
)
def test_convolutions_in_a_row(
    size, outputs, kernels_of, strides, padding, seed
):
    """Grids suffice for whatever reads them; gaps stay zero."""
    node = image(*size)
    for i, kernel in enumerate(kernels_of):
        if padding == "valid" and any(
            k > n for k, n in zip(kernel, node.shape[:2], strict=True)
        ):
            break
        step = strides if i == 1 else 1
        node = convolution(node, outputs, kernel, step, padding, seed + i)
        node = Relu(source=affine(node, seed))
    check([Flatten(source=node)], seed=seed)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("is_max", [True, False])
def test_pooling(size, strides, padding, is_max):
    source = affine(image(7, 10, 2))
    node = pool(source, size, strides, padding, is_max)
    check([Flatten(source=node)])
    again = convolution(node, 3)
    check([GlobalPool(source=again, is_max=is_max)])


def test_largest_of_negative_pixels():
    """What is beyond the image counts for nothing, by numbers."""
    node = pool(image(2, 2, 1), 3, 1, "same", True)
    network = kernels.ImageNetwork([Flatten(source=node)])
    x = -np.array([[1, 2, 3, 4]], "float32")
    np.testing.assert_array_equal(network.predict_members(x)[0], [[-1.0] * 4])
    mean = pool(image(2, 2, 1), 3, 1, "same", False)
    network = kernels.ImageNetwork([Flatten(source=mean)])
    np.testing.assert_allclose(network.predict_members(x)[0], [[-2.5] * 4])


def halved(x, axis):
    x /= 2
    x -= x.mean(axis, keepdims=True)


def residual_network(source, seed, outputs=4):
    """Pre-activation, then post-activation, with and without a shortcut."""
    x = convolution(source, 6, seed=seed)
    y = Relu(source=affine(x, seed))
    shortcut = convolution(y, 8, 1, 2, seed=seed + 1)
    y = convolution(y, 8, 3, 2, seed=seed + 2)
    y = convolution(Relu(source=affine(y, seed)), 8, seed=seed + 3)
    x = Sum(source=y, other=shortcut)
    y = convolution(Relu(source=affine(x, seed + 1)), 8, seed=seed + 4)
    x = Relu(source=Sum(source=x, other=y))
    x = Sum(source=x, other=Activation(source=x, function=halved))
    x = Relu(source=affine(x, seed + 2))
    x = GlobalPool(source=x, is_max=False)
    return Product(source=x, **sparse(8, outputs, seed, 0.7))


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_members_share_an_image(batch):
    """The second scales the images in another way than the others."""
    source = image(9, 12, 3)
    members = [
        residual_network(source, 0),
        residual_network(affine(source), 10),
        residual_network(image(9, 12, 3), 20),
    ]
    network = check(members, batch)
    assert (network.num_inputs, network.num_outputs) == (9 * 12 * 3, 4)
    assert network.active == sum(
        len(node.values)
        for node in in_order(members)
        if isinstance(node, Product)
    )
    packed = [
        f for f, _ in network._program.steps if f.__name__ == "pack_image"
    ]
    assert len(packed) == 2


def test_what_becomes_one():
    """Normalization, ReLU and the shortcut cost no step of their own."""
    node = fused(residual_network(affine(image(8, 8, 3)), 0))
    kinds = [type(one).__name__ for one in in_order([node])]
    assert kinds.count("Convolution") == 5
    # After a sum that goes on, and after one that no convolution computes.
    assert kinds.count("Affine") == 2
    assert kinds.count("Sum") == 1  # of two that no convolution computes
    assert "Relu" not in kinds


def test_units_on_vectors():
    """Steps between dense layers."""
    x = Flatten(source=image(3, 4, 2))
    x = Product(source=affine(x), **sparse(24, 6, 1))
    x = Sum(source=Relu(source=x), other=x)
    x = affine(Activation(source=x, function=halved))
    check([Product(source=Relu(source=x), **sparse(6, 3, 2))])


@pytest.mark.parametrize("longest", [1, 2, 5])
def test_strips_of_any_length(longest, monkeypatch):
    monkeypatch.setattr(strips, "longest", lambda: longest)
    check([residual_network(image(11, 13, 1), 3)])


def test_neighbours_of_infinity_and_nan():
    """They reach the outputs that read them, and no others."""
    node = convolution(image(6, 6, 1), 1, seed=1)
    full = kernels.compress(np.ones((9, 1)), np.ones((9, 1), bool))
    node = Convolution(
        source=convolution_of_ones(image(6, 6, 1), full),
        geometry=node.geometry,
        values=full[0],
        structure=full[1],
        bias=np.zeros(1),
    )
    network = kernels.ImageNetwork([Flatten(source=node)])
    for value in (np.nan, np.inf):
        x = np.zeros((6, 6), "float32")
        x[2, 5] = value
        y = network.predict_members(x.reshape(1, -1)).reshape(6, 6)
        expected = np.zeros((6, 6), bool)
        expected[:5, 3:] = True  # within two pixels
        np.testing.assert_array_equal(~np.isfinite(y), expected)
    x = np.ones((6, 6), "float32").reshape(1, -1)
    assert np.isfinite(network.predict_members(x)).all()


def convolution_of_ones(source, full):
    return Convolution(
        source=source,
        geometry=Geometry.of(source.shape, (3, 3), (1, 1), "same"),
        values=full[0],
        structure=full[1],
        bias=np.zeros(1),
    )


def test_two_threads_of_one_call(monkeypatch):
    network = kernels.ImageNetwork([residual_network(image(8, 8, 3), 0)])
    x = np.random.default_rng(0).standard_normal((9, 192)).astype("float32")
    expected = network.predict_members(x)
    monkeypatch.setattr(threads, "_WORK_OF_A_CORE", 1)
    monkeypatch.setattr(threads, "get_num_threads", lambda: 3)
    np.testing.assert_array_equal(network.predict_members(x), expected)


@pytest.mark.parametrize(
    "x, message",
    [
        (
            np.zeros((1, 191), "float32"),
            r"`x` must have the shape \(batch, 192",
        ),
        (np.zeros((1, 192)), "`x` must be float32"),
    ],
)
def test_refused_inputs(x, message):
    network = kernels.ImageNetwork([residual_network(image(8, 8, 3), 0)])
    with pytest.raises(ValueError, match=message):
        network.predict_members(x)


def test_grids():
    """32 x 32 pixels and a kernel of 3: rows of 33, 66 vectors, 6 strips."""
    grid = image_layout.Grid(32, 32, gap=1, reach=34, longest=12)
    assert (grid.columns, grid.lead) == (33, 48)
    assert grid.strips == (6, 11)
    assert grid.covered == 6 * 11 * 16
    # 48 + 1056 = 69 lines, an odd number.
    assert grid.plane == 1104
    bits = grid.pixels()
    assert (bits == -1).sum() == 32 * 32
    assert bits[31] == -1
    assert bits[32] == 0


@pytest.mark.parametrize(
    "size, kernel, strides",
    list(itertools.product([(9, 12), (8, 8)], [1, 2, 3, 5], [1, 2, 3])),
)
def test_phases_hold_what_windows_read(size, kernel, strides):
    """Of every window the last pixel is within its phase."""
    geometry = Geometry.of((*size, 2), (kernel,) * 2, (strides,) * 2, "valid")
    gap, *_ = image_layout.grid_needs(geometry, False)
    made = geometry.out_height, geometry.out_width
    grid = image_layout.Grid(*made, gap, reach=0, longest=12)
    phases = image_layout.Phases(geometry, grid)
    offsets = phases.offsets(geometry.kernel)
    assert len(offsets) == kernel * kernel * 2
    assert phases.width <= grid.columns
    # A strip that begins at the last offset ends within the memory.
    assert offsets.max() + grid.covered <= phases.floats()
