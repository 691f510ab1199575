"""Systems of equations with one matrix, of which only products are known."""

import warnings
from collections.abc import Callable

import numpy as np


def conjugate_gradients(
    product: Callable[[np.ndarray], np.ndarray],
    right: np.ndarray,
    tolerance: float = 1e-4,
    max_iterations: int = 500,
) -> tuple[np.ndarray, int]:
    """Solves systems with one positive definite matrix, all at once.

    Args:
        product: Function from vectors `(systems, size)` to the products of the
            matrix with each.
        right: Float array `(systems, size)`, the right sides.
        tolerance: Float; each residual becomes this part of its right side.
        max_iterations: Positive integer.

    Returns:
        Tuple of the solutions `(systems, size)` and the number of steps.

    Raises:
        ValueError: If the matrix is not positive definite.

    Example:

    >>> matrix = np.array([[2.0, 0.0], [0.0, 4.0]])
    >>> solved, steps = conjugate_gradients(
    ...     lambda v: v @ matrix, np.array([[2.0, 4.0]])
    ... )
    >>> solved.round(6).tolist(), steps
    ([[1.0, 1.0]], 2)
    """
    right = np.asarray(right, "float64")
    solution, residual = np.zeros_like(right), right.copy()
    direction = residual.copy()
    squares = np.sum(residual**2, axis=-1)
    goal = tolerance**2 * squares
    for step in range(max_iterations):
        active = squares > goal
        if not active.any():
            return solution, step
        moved = product(direction)
        curvature = np.sum(direction * moved, axis=-1)
        _check_curvature(curvature, direction, active)
        size = np.where(active, squares / np.where(active, curvature, 1), 0)
        solution += size[:, None] * direction
        residual -= size[:, None] * moved
        old, squares = squares, np.sum(residual**2, axis=-1)
        ratio = np.where(active, squares / np.where(active, old, 1), 0)
        direction = residual + ratio[:, None] * direction
    if (squares > goal).any():
        worst = float(np.sqrt((squares / np.where(goal, goal, 1)).max()))
        warnings.warn(
            f"Conjugate gradients stopped after {max_iterations} steps with a "
            f"residual of {worst * tolerance:.2g} of the right side, above "
            f"tolerance={tolerance}. Give more steps or more damping.",
            stacklevel=2,
        )
    return solution, max_iterations


def _check_curvature(curvature, direction, active):
    wrong = active & ~(curvature > 0)
    if wrong.any():
        at = np.argmax(wrong)
        found = curvature[at] / np.sum(direction[at] ** 2)
        raise ValueError(
            "The Hessian with damping must be positive definite: train to a "
            "minimum, give more `damping`, or take the variables of the last "
            f"layer only. Received: a curvature of {found:.3g}"
        )
