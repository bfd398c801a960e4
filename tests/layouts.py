"""What the tests of types and layouts share: arrays and models in every layout, and how they are compared.

The reference gets contiguous copies, converted by NumPy. The gaps of an array must keep their bytes.
"""

import math

import numpy as np
import pytest
from common import (
    CLASSES,
    DTYPES,
    LAYOUTS,
    STORED,
    assert_same_as_reference,
    assert_same_bits,
    laid,
    memory_of,
    random_tensor,
)

from fastopt import reference

every_class = pytest.mark.parametrize("cls", CLASSES)
every_stored = pytest.mark.parametrize("stored", STORED, ids=lambda dtype: np.dtype(dtype).name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# Shapes of whole tiles of a transposed matrix and of parts of tiles; of axes with one element or none; of no dimensions
# and of more than two.
SHAPES = [
    (), (1,), (9,), (300,), (0,), (3, 0), (5, 7), (37, 300), (300, 37), (64, 64), (1, 40), (40, 1), (1, 1, 1),
    (3, 5, 4), (4, 1, 6), (2, 3, 4, 5), (8, 16, 5, 3), (2, 1, 3, 1, 1, 1, 2), (2,) * 6, (16, 8, 33),
    (30, 128), (35, 131),
]  # fmt: skip
# Shapes that take several of the blocks in which tensors are unpacked; some threads' pieces begin amid a row.
LARGE = [(1031, 257), (18, 5003), (70_001, 3), (3, 90_001), (40, 33, 211), (260_000,)]


def broadcast(values, axis):
    """An array of which all entries along an axis are the first, which lies in memory once."""
    view = np.broadcast_to(values.take([0], axis), values.shape)
    assert values.shape[axis] < 2 or not view.strides[axis]
    return view


def gradients(values):
    """Pairs of a layout's name and a gradient: these values in each layout, or some of them broadcast."""
    yield from ((name, laid(values, name)) for name in LAYOUTS)
    for axis in range(values.ndim if values.size else 0):
        yield f"broadcast {axis}", broadcast(values, axis)
        yield f"broadcast {axis} of F", broadcast(laid(values, "F"), axis)
    if values.size:
        yield "one for all", np.broadcast_to(values.reshape(-1)[:1].reshape((1,) * values.ndim), values.shape)


def random_values(rng, shape, dtype):
    with np.errstate(over="ignore"):
        return random_tensor(rng, math.prod(shape), dtype).reshape(shape)


def converted(grad, dtype):
    """A contiguous copy of the gradient, which NumPy has converted to this dtype."""
    with np.errstate(over="ignore"):
        return np.array(np.asarray(grad, dtype), order="C")


def assert_same_memory(array, like):
    """Two arrays and all the memory that they are parts of have equal bits, in the elements and in the gaps."""
    assert_same_bits(np.array(array, order="C"), np.array(like, order="C"))
    assert_same_bits(memory_of(array), memory_of(like), "elements or gaps")


def twin_of(opt):
    """The reference's optimizer before its first step, with contiguous copies of the parameters of `opt`."""
    groups = [{**group, "params": [np.array(p, order="C") for p in group["params"]]} for group in opt.param_groups]
    return reference.Optimizer(opt.rule, groups)


def check(opt, model, layouts):
    """The optimizer equals the reference's, and the gaps between its parameters' elements have their first bits."""
    assert_same_as_reference(opt, model)
    for found, wanted, layout in zip(opt.params, model.params, layouts, strict=True):
        assert_same_memory(found, laid(wanted, layout))


def model(cls, shapes, seed, threads=1, structure=list, **hypers):
    """An optimizer of parameters of both types and all layouts, and the layouts."""
    rng = np.random.default_rng(seed)
    names = [*LAYOUTS]
    layouts = [names[(seed + k) % len(names)] for k in range(len(shapes))]
    params = [laid(random_values(rng, s, DTYPES[k % 2]), layouts[k]) for k, s in enumerate(shapes)]
    return cls(structure(params), threads=threads, **hypers), layouts


def some_gradients(rng, params):
    """Gradients of random types and layouts, each in memory of its own."""
    grads = []
    for p in params:
        choices = list(gradients(random_values(rng, p.shape, STORED[rng.integers(4)])))
        grads.append(choices[rng.integers(len(choices))][1])
    return grads


def as_mapping(arrays):
    return {f"w{k}": array for k, array in enumerate(arrays)}


def as_groups(arrays):
    return [{"params": arrays[:2]}, {"params": as_mapping(arrays[2:])}]


EXTRAS = [
    {},
    {"grad_scale": -1 / 3},
    {"grad_scale": 1e-42, "max_norm": 1e-45},
    {"max_norm": 0.37},
    {"grad_scale": 2.0**-160},
    {"max_norm": 1e30, "skip_nonfinite": True},
    {"skip_nonfinite": True},
]
SMALL = [(5, 7), (), (3, 0), (2, 3, 4), (130,), (37, 12), (6, 5)]
