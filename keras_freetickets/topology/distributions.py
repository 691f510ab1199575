"""Distributions of a global sparsity over the layers."""

import math
import typing
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

from keras_freetickets.arguments import is_integer
from keras_freetickets.arguments import is_within
from keras_freetickets.arguments import named_or_callable


def _check(
    shapes: typing.Any, sparsity: typing.Any, custom: typing.Any
) -> None:
    if not is_within(sparsity, "[0, 1)"):
        raise ValueError(
            "`sparsity` must be in [0, 1): the fraction of weights to remove. "
            f"Received: sparsity={sparsity}"
        )
    for shape in shapes:
        sizes = shape if isinstance(shape, (tuple, list)) else ()
        positive = [is_integer(n) and n > 0 for n in sizes]
        if not positive or not all(positive):
            raise ValueError(
                "`shapes` must be a list of kernel shapes, tuples of positive "
                f"integers. Received: shapes={shapes}"
            )
    for place, density in (custom or {}).items():
        known = place in range(len(shapes))
        if not known or not is_within(density, "(0, 1]"):
            raise ValueError(
                "`custom` must map positions in `shapes` to densities in "
                f"(0, 1]. Received: custom={custom} for {len(shapes)} shapes"
            )


def _solve(
    shapes: Sequence[Sequence[int]],
    sparsity: float,
    raw: list[float],
    custom: Mapping[int, float],
) -> list[float]:
    """Densities proportional to `raw`, capped at 1, with the same total."""
    density = 1.0 - sparsity
    sizes = [math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        opened = [
            i for i in range(len(shapes)) if i not in dense and i not in custom
        ]
        if not opened:
            break
        # The budget of the open layers: their own share, minus what dense
        # layers take beyond theirs. It stays positive, because a layer becomes
        # dense only if its share exceeded its size.
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


def uniform(
    shapes: Sequence[Sequence[int]],
    sparsity: float,
    custom: Mapping[int, float] | None = None,
) -> list[float]:
    """Every kernel gets the same density.

    Args:
        shapes: List of kernel shapes.
        sparsity: Float in [0, 1).
        custom: Dict from an index in `shapes` to a fixed density in (0, 1];
            these kernels do not count towards `sparsity`.

    Returns:
        List of densities.

    Raises:
        ValueError: If `sparsity` is outside [0, 1), or `shapes` or `custom`
            is not as described.

    Example:

    >>> uniform([(784, 300), (300, 100), (100, 10)], sparsity=0.75)
    [0.25, 0.25, 0.25]

    Reference:
        Evci et al., 2020, arXiv:1911.11134 (RigL).
    """
    _check(shapes, sparsity, custom)
    custom = custom or {}
    return [custom.get(i, 1.0 - sparsity) for i in range(len(shapes))]


def erdos_renyi(
    shapes: Sequence[Sequence[int]],
    sparsity: float,
    custom: Mapping[int, float] | None = None,
) -> list[float]:
    """Densities proportional to (n_in + n_out) / (n_in * n_out).

    Only the last two dimensions of a convolution kernel count. Kernels that
    would exceed density 1 become dense, and the others become sparser to keep
    the total.

    Args:
        shapes: List of kernel shapes, with input and output dimensions last.
        sparsity: Float in [0, 1), of all kernels together.
        custom: As for `uniform`.

    Returns:
        List of densities.

    Raises:
        ValueError: As for `uniform`.

    Example:

    >>> densities = erdos_renyi([(3, 3, 3, 16), (3, 3, 16, 32)], sparsity=0.7)
    >>> [round(density, 6) for density in densities]
    [0.992537, 0.235075]

    Reference:
        Mocanu et al., 2018, arXiv:1707.04780 (SET); capping as in
        google-research/rigl.
    """
    _check(shapes, sparsity, custom)
    raw = [sum(shape[-2:]) / math.prod(shape[-2:]) for shape in shapes]
    return _solve(shapes, sparsity, raw, custom or {})


def erdos_renyi_kernel(
    shapes: Sequence[Sequence[int]],
    sparsity: float,
    custom: Mapping[int, float] | None = None,
) -> list[float]:
    """Densities proportional to sum(shape) / prod(shape), over all dimensions.

    The rule is the same for every rank: for a projection kernel of an
    attention layer, `(features, heads, key_dim)`, all three dimensions count.

    Args:
        shapes, sparsity, custom: As for `erdos_renyi`.

    Returns:
        List of densities.

    Raises:
        ValueError: As for `uniform`.

    Example:

    >>> shapes = [(784, 300), (300, 100), (100, 10)]
    >>> densities = erdos_renyi_kernel(shapes, sparsity=0.9)
    >>> [round(density, 6) for density in densities]
    [0.079568, 0.230189, 1.0]

    Reference:
        Evci et al., 2020, arXiv:1911.11134 (RigL).
    """
    _check(shapes, sparsity, custom)
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    return _solve(shapes, sparsity, raw, custom or {})


_DISTRIBUTIONS = {
    "uniform": uniform,
    "er": erdos_renyi,
    "erk": erdos_renyi_kernel,
}


def get(identifier: typing.Any) -> Callable[..., list[float]]:
    """Returns the distribution for a name or a callable.

    Args:
        identifier: `"uniform"`, `"er"`, `"erk"`, or a callable
            `(shapes, sparsity) -> densities`.

    Returns:
        Callable `(shapes, sparsity) -> densities`.

    Raises:
        ValueError: If `identifier` is neither a name nor a callable.

    Example:

    ```python
    get("erk")  # erdos_renyi_kernel
    ```
    """
    return named_or_callable("distribution", identifier, _DISTRIBUTIONS)


def active_count(size: int, density: float) -> int:
    """The number of active weights of a kernel, at least one.

    Args:
        size: Non-negative integer, number of entries of the kernel.
        density: Float in [0, 1].

    Returns:
        Integer, `size * density` rounded to the nearest (halves to even).

    Raises:
        ValueError: If `size` is negative or `density` is outside [0, 1].

    Example:

    >>> active_count(30_000, 0.230189)
    6906

    Reference:
        Exact counts with at least one weight as in
        google-research/jaxpruner.
    """
    if not size >= 0 or not 0.0 <= density <= 1.0:
        raise ValueError(
            "`density` must be in [0, 1] and `size` a non-negative integer. "
            f"Received: size={size}, density={density}"
        )
    return int(min(size, max(1, round(size * density)))) if size else 0
