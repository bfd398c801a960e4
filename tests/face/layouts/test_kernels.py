"""The kernels take gradients of every type and layout, and parameters of every layout, with the reference's bits."""

import itertools

import numpy as np
import pytest
from common import (
    DTYPES,
    LAYOUTS,
    STORED,
    VARIANTS,
    laid,
)
from layouts import LARGE, SHAPES, assert_same_memory, converted, every_dtype, every_stored, gradients, random_values

import fastopt
from fastopt import reference


@every_dtype
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_kernels(variant, dtype, tried):
    """Every type and layout of the gradient, with parameter and states each in a layout of its own."""
    rng = np.random.default_rng([*map(ord, str(variant)), np.dtype(dtype).itemsize])
    names, cases = list(LAYOUTS), 0
    for stored in STORED:
        values = random_values(rng, [(5, 7), (3, 5, 4), (13, 11)][cases % 3], stored)
        for how, grad in gradients(values):
            layouts = [names[k] for k in rng.integers(0, len(names), 1 + len(variant.states))]
            expected = [random_values(rng, values.shape, dtype) for _ in layouts]
            expected = [array if k == 0 else np.abs(array) for k, array in enumerate(expected)]
            p, *states = map(laid, expected, layouts)
            for step in (1, 2)[: 1 + cases % 2]:
                arguments = variant.draw(rng, step)
                before = grad.tobytes()
                variant.kernel(p, grad, states, arguments)
                variant.reference(expected[0], converted(grad, dtype), expected[1:], arguments)
                for found, wanted, layout in zip((p, *states), expected, layouts, strict=True):
                    assert_same_memory(found, laid(wanted, layout))
                assert grad.tobytes() == before, how
            cases += 1
    tried(cases, "rule x option x type of the gradient x layouts, bit-equal to the reference")


@every_dtype
@every_stored
def test_every_shape(stored, dtype):
    """Every shape of the gradient, beside a contiguous parameter and beside one of another layout."""
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        values = random_values(rng, shape, stored)
        start = random_values(rng, shape, dtype)
        for k, (how, grad) in enumerate(gradients(values)):
            expected, m = start.copy(), np.zeros_like(start)
            reference.momentum(expected, converted(grad, dtype), m)
            for layout in ("C", [*LAYOUTS][k % len(LAYOUTS)]):
                p, found = laid(start, layout), laid(np.zeros_like(start), layout)
                fastopt.kernels.momentum(p, grad, found)
                assert_same_memory(p, laid(expected, layout))
                assert_same_memory(found, laid(m, layout))
            assert fastopt.global_norm(grad) == reference.global_norm(grad), (shape, how)


@pytest.mark.parametrize("layout", ["C", "F", "reversed", "every third column"])
def test_arrays_of_the_most_dimensions(layout):
    rng, most = np.random.default_rng(1), 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    shape = ((2, 1) * (most // 2))[:10] + (1,) * (most - 12) + (3, 2)
    start, values = random_values(rng, shape, np.float32), random_values(rng, shape, np.float16)
    p, expected = laid(start, layout), start.copy()
    opt = fastopt.SGD([p], lr=0.5)
    for k, of_grad in enumerate(("C", "F", "reversed")):
        grad = laid(values, of_grad)
        opt.step([grad])
        fastopt.kernels.sgd(p, grad, lr=0.5)
        for _ in range(2):
            reference.sgd(expected, converted(values, np.float32), lr=0.5)
        assert_same_memory(p, laid(expected, layout))
        assert fastopt.global_norm(grad) == reference.global_norm(values)
        assert opt.state[0]["step"] == k + 1


@every_dtype
def test_every_pair_of_layouts(dtype):
    rng = np.random.default_rng(2)
    for shape, of_param, of_grad in itertools.product([(37, 21), (4, 3, 5)], LAYOUTS, LAYOUTS):
        start, values = random_values(rng, shape, dtype), random_values(rng, shape, dtype)
        p, states = laid(start, of_param), [laid(np.zeros_like(start), of_grad) for _ in range(3)]
        expected = [start, *(np.zeros_like(start) for _ in states)]
        fastopt.kernels.adam(p, laid(values, of_grad), *states[:2], max_exp_avg_sq=states[2], step=1)
        reference.adam(expected[0], values, *expected[1:3], max_exp_avg_sq=expected[3], step=1)
        assert_same_memory(p, laid(expected[0], of_param))
        for found, wanted in zip(states, expected[1:], strict=True):
            assert_same_memory(found, laid(wanted, of_grad))


def test_large_arrays_with_every_instruction_set(isa):
    """Arrays of many blocks and tiles, with partial ones at every end."""
    rng = np.random.default_rng(3)
    for k, shape in enumerate([*LARGE, (2048, 3), (3, 2049), (129, 65)]):
        for stored in STORED:
            dtype = DTYPES[k % 2]
            values, start = random_values(rng, shape, stored), random_values(rng, shape, dtype)
            layout = [*LAYOUTS][(k + 3) % len(LAYOUTS)]
            expected = start.copy()
            reference.sgd(expected, converted(values, dtype))
            for of_grad in ("C", "F", "gaps"):
                p = laid(start, layout)
                fastopt.kernels.sgd(p, laid(values, of_grad))
                assert_same_memory(p, laid(expected, layout))
