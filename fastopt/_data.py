"""Mini-batches: their size is the difference between batch, mini-batch and stochastic gradient descent."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def minibatches(
    *arrays: Array,
    batch_size: int | None,
    shuffle: bool = True,
    drop_last: bool = False,
    rng: np.random.Generator | int | None = None,
) -> Iterator[tuple[Array, ...]]:
    """One epoch of the data in batches: batch, mini-batch and stochastic gradient descent in one loop.

    Batch gradient descent is `batch_size=None` (everything), stochastic gradient descent `batch_size=1`, mini-batch
    gradient descent whatever lies between.

    Parameters
    ----------
    *arrays : array
        One or more arrays with the samples along their first axis, of the same length.
    batch_size : int or None
        Samples in a batch, at least 1; None takes them all. The last batch is smaller if they do not divide evenly.
    shuffle : bool
        Take the samples in a new random order. Each batch is then a copy. Without `shuffle`, and where one batch holds
        everything, batches are views of the arrays.
    drop_last : bool
        Leave out a last batch that is smaller than the others.
    rng : numpy.random.Generator, int or None
        The source of the random order: a generator (whose state advances, so that each epoch has an order of its own),
        or a seed for one. None: a new, randomly seeded generator.

    Yields
    ------
    tuple of array
        One batch of each array.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; raised by the call, not at the first batch. The message names it.

    Notes
    -----
    A batch of everything comes in the order of the arrays also under `shuffle`, since the order within a batch does not
    matter to its gradient.

    Examples
    --------
    >>> x, y = np.arange(10).reshape(5, 2), np.arange(5)
    >>> for xb, yb in fastopt.minibatches(x, y, batch_size=2, shuffle=False):
    ...     print(xb.shape, yb)
    (2, 2) [0 1]
    (2, 2) [2 3]
    (1, 2) [4]
    """
    if not arrays:
        raise ValueError("arrays: give at least one array")
    for i, array in enumerate(arrays):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"arrays[{i}] must be a NumPy array, got {type(array).__name__}")
        if array.ndim == 0:
            raise ValueError(f"arrays[{i}] must have samples along its first axis, got a 0-d array")
        if len(array) != len(arrays[0]):
            raise ValueError(f"arrays[{i}] has {len(array)} samples, but arrays[0] has {len(arrays[0])}")
    count = len(arrays[0])
    if batch_size is None:
        size = max(count, 1)
    else:
        if isinstance(batch_size, bool):
            raise TypeError("batch_size must be an int or None, got a bool")
        try:
            size = operator.index(batch_size)
        except TypeError:
            raise TypeError(f"batch_size must be an int or None, got {batch_size!r}") from None
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, got {size}")
    return _batches(arrays, count, size, shuffle, drop_last, np.random.default_rng(rng))


def _batches(
    arrays: tuple[Array, ...], count: int, size: int, shuffle: bool, drop_last: bool, rng: np.random.Generator
) -> Iterator[tuple[Array, ...]]:
    order = rng.permutation(count) if shuffle and size < count else None
    stop = count - count % size if drop_last else count
    for start in range(0, stop, size):
        rows = slice(start, start + size) if order is None else order[start : start + size]
        yield tuple(array[rows] for array in arrays)
