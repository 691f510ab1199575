"""How a global sparsity is spread over the layers."""

import math


def _check_sparsity(sparsity):
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(
            "`sparsity` must be in [0, 1): the fraction of weights to remove. "
            f"Received: sparsity={sparsity}"
        )


def _solve(shapes, sparsity, raw, custom):
    """Densities proportional to `raw`, those above 1 capped, sum conserved."""
    density = 1.0 - sparsity
    sizes = [math.prod(shape) for shape in shapes]
    dense = set()
    while True:
        opened = [
            i for i in range(len(shapes)) if i not in dense and i not in custom
        ]
        if not opened:
            break
        # What the open layers may keep: their own share less what the layers
        # that are dense take beyond theirs. It stays positive, as a layer is
        # only made dense if its share exceeded its size.
        budget = sum(sizes[i] for i in opened) * density
        budget -= sum(sizes[i] for i in dense) * sparsity
        scale = budget / sum(raw[i] * sizes[i] for i in opened)
        largest = max(raw[i] for i in opened)
        if scale * largest <= 1.0:
            break
        dense.update(i for i in opened if raw[i] == largest)
    return [
        custom[i] if i in custom else 1.0 if i in dense else scale * raw[i]
        for i in range(len(shapes))
    ]


def uniform(shapes, sparsity, custom=None):
    """Every kernel gets the same density.

    Args:
        shapes: List of kernel shapes.
        sparsity: Float in [0, 1).
        custom: Dict from a position in `shapes` to a density in (0, 1] that
            is given; such kernels do not count towards `sparsity`.

    Returns:
        List of densities.
    """
    _check_sparsity(sparsity)
    custom = custom or {}
    return [custom.get(i, 1.0 - sparsity) for i in range(len(shapes))]


def erdos_renyi(shapes, sparsity, custom=None):
    """Densities proportional to (n_in + n_out) / (n_in * n_out).

    Of a convolution kernel only the last two dimensions count. Kernels that
    would exceed density 1 become dense and the others make up for it.

    Args:
        shapes: List of kernel shapes, input and output dimensions last.
        sparsity: Float in [0, 1), over all kernels together.
        custom: As in `uniform`.

    Returns:
        List of densities.

    Reference:
        Mocanu et al., 2018, arXiv:1707.04780 (SET); capping as in
        google-research/rigl.
    """
    _check_sparsity(sparsity)
    raw = [sum(shape[-2:]) / math.prod(shape[-2:]) for shape in shapes]
    return _solve(shapes, sparsity, raw, custom or {})


def erdos_renyi_kernel(shapes, sparsity, custom=None):
    """Densities proportional to sum(shape) / prod(shape), over all dimensions.

    The rule is the same for every rank: a projection kernel of an attention
    layer, `(features, heads, key_dim)`, counts its three dimensions.

    Args:
        shapes: List of kernel shapes.
        sparsity: Float in [0, 1), over all kernels together.
        custom: As in `uniform`.

    Returns:
        List of densities.

    Example:

    ```python
    erdos_renyi_kernel([(784, 300), (300, 100), (100, 10)], sparsity=0.9)
    # [0.079568, 0.230189, 1.0]
    ```

    Reference:
        Evci et al., 2020, arXiv:1911.11134 (RigL).
    """
    _check_sparsity(sparsity)
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    return _solve(shapes, sparsity, raw, custom or {})


_DISTRIBUTIONS = {
    "uniform": uniform,
    "er": erdos_renyi,
    "erk": erdos_renyi_kernel,
}


def get(identifier):
    """Returns the distribution for a name or a callable.

    Args:
        identifier: `"uniform"`, `"er"`, `"erk"`, or a callable
            `(shapes, sparsity) -> densities`.
    """
    if callable(identifier):
        return identifier
    if identifier in _DISTRIBUTIONS:
        return _DISTRIBUTIONS[identifier]
    raise ValueError(
        f"`distribution` must be one of {sorted(_DISTRIBUTIONS)} or a "
        f"callable. Received: distribution={identifier}"
    )


def active_count(size, density):
    """The integer number of active weights of a kernel, at least one.

    Args:
        size: Integer, number of entries of the kernel.
        density: Float in [0, 1].
    """
    return int(min(size, max(1, round(size * density)))) if size else 0
