"""The paths of the methods on a classic two-dimensional surface."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.demo.methods import Method
from fastopt.demo.training import look_ahead

Array = np.ndarray[Any, np.dtype[Any]]

NAME = "Beale's function"
START = (1.0, 1.5)
MINIMUM = (3.0, 0.5)
STEPS = 400
_C = (1.5, 2.25, 2.625)


def value(x: Array, y: Array) -> Array:
    """Beale's function: the sum of (c_k - x + x*y**k)**2 for k = 1, 2, 3; its minimum is 0 at (3, 0.5)."""
    total: Array = sum((c - x + x * y**k) ** 2 for k, c in enumerate(_C, start=1))
    return total


def gradient(point: Array) -> Array:
    x, y = point
    terms = [(c - x + x * y**k, k) for k, c in enumerate(_C, start=1)]
    dx = sum(2 * term * (y**k - 1) for term, k in terms)
    dy = sum(2 * term * k * x * y ** (k - 1) for term, k in terms)
    return np.array([dx, dy])


def path(method: Method) -> Array:
    """The points that a method visits from START, one a row. There is no data: all methods see the full gradient."""
    point = np.array(START)
    optimizer = method.optimizer(point, **method.surface)
    points = [point.copy()]
    for _ in range(STEPS):
        with look_ahead(optimizer):
            slope = gradient(point)
        optimizer.step(slope)
        points.append(point.copy())
    return np.array(points)
