"""Optimizers take gradients of every type and layout, and parameters of every layout, with the reference's bits."""

import math

import numpy as np
import pytest
from common import (
    CLASSES,
    EVERY_STATE,
    LAYOUTS,
    assert_same_bits,
    laid,
    memory_of,
)
from layouts import (
    EXTRAS,
    LARGE,
    SMALL,
    as_groups,
    as_mapping,
    assert_same_memory,
    check,
    converted,
    every_class,
    every_stored,
    model,
    random_values,
    some_gradients,
    twin_of,
)

import fastopt
from fastopt import reference


@pytest.mark.parametrize("structure", [list, as_mapping, as_groups], ids=["list", "mapping", "groups"])
@pytest.mark.parametrize("hypers", [False, True], ids=["plain", "optional states"])
@every_class
def test_steps(cls, hypers, structure):
    """Each step has gradients of new types and layouts; some are then bound, too."""
    hypers = (EVERY_STATE[cls] or {"weight_decay": 0.1}) if hypers else {}
    opt, layouts = model(cls, SMALL, len(cls.__name__), structure=structure, **hypers)
    twin, rng = twin_of(opt), np.random.default_rng(4)
    for extras in EXTRAS:
        grads = some_gradients(rng, opt.params)
        before = [g.tobytes() for g in grads]
        norm = opt.step(structure(grads), **extras)
        assert repr(norm) == repr(twin.step(grads, **extras))
        check(opt, twin, layouts)
        assert [g.tobytes() for g in grads] == before
        if rng.integers(2):
            opt.bind(structure(grads))
            assert opt.step() is None
            twin.step(grads)
            check(opt, twin, layouts)


@pytest.mark.parametrize("shape", [(1031, 517), (517, 1031), (64, 91, 95)])
def test_arrays_larger_than_the_caches(shape):
    """Arrays so large that the next tile is prefetched: after the last tile there is none."""
    rng = np.random.default_rng(19)
    for stored, of_param, of_grad in (
        (np.float32, "C", "F"),
        (np.float16, "F", "C"),
        (np.float64, "gaps", "columns of F"),
    ):
        values, start = random_values(rng, shape, stored), random_values(rng, shape, np.float32)
        p, m = laid(start, of_param), laid(np.zeros_like(start), "C")
        fastopt.kernels.momentum(p, laid(values, of_grad), m)
        expected = [start, np.zeros_like(start)]
        reference.momentum(expected[0], converted(values, np.float32), expected[1])
        assert_same_memory(p, laid(expected[0], of_param))
        assert_same_bits(m.copy(), expected[1])


@pytest.mark.parametrize(("cls", "threads"), [*((cls, 3) for cls in CLASSES), (fastopt.Adam, 1)])
def test_large_steps(cls, threads):
    """Steps of large tensors, by every class on several threads and by Adam also on one."""
    first = len(cls.__name__) % 3
    opt, layouts = model(cls, LARGE[first : first + 3], 3 + len(cls.__name__), threads)
    twin, rng = twin_of(opt), np.random.default_rng(5)
    for extras in EXTRAS[2:4]:
        grads = some_gradients(rng, opt.params)
        assert repr(opt.step(grads, **extras)) == repr(twin.step(grads, **extras))
    check(opt, twin, layouts)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("how", ["given", "bound"])
@every_stored
def test_zero_grad(stored, how, threads):
    """The gradient's elements become zeros, and the gaps between them keep their bytes."""
    opt, layouts = model(fastopt.Adam, [*SMALL, *(LARGE[:2] if threads > 1 else [(300, 37)])], 6, threads)
    twin, rng = twin_of(opt), np.random.default_rng(7)
    values = [random_values(rng, p.shape, stored) for p in opt.params]
    for shift in range(3):
        of_grads = [[*LAYOUTS][(2 * k + shift) % len(LAYOUTS)] for k in range(len(values))]
        grads = list(map(laid, values, of_grads))
        if how == "bound":
            opt.bind(grads)
        norm = opt.step(*([grads] if how == "given" else []), zero_grad=True, max_norm=1.0)
        assert norm == twin.step(values, max_norm=1.0)
        check(opt, twin, layouts)
        for grad, layout in zip(grads, of_grads, strict=True):
            assert_same_memory(grad, laid(np.zeros_like(grad, order="C"), layout))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@every_stored
def test_skip_nonfinite(stored, bad):
    """With one nonfinite element nothing is written: parameters, state, step count, gradients to be zeroed."""
    opt, layouts = model(fastopt.RMSprop, [(5, 7), (37, 300)], 8)
    twin, rng = twin_of(opt), np.random.default_rng(9)
    values = [random_values(rng, p.shape, stored) for p in opt.params]
    for layout in LAYOUTS:
        for tensor, place in ((0, (0, 0)), (0, (4, 6)), (1, (36, 299)), (1, (17, 31))):
            grads = [laid(g, layout) for g in values]
            grads[tensor][place] = bad
            before = [memory_of(g).tobytes() for g in grads]
            norm = opt.step(grads, skip_nonfinite=True, zero_grad=True)
            assert math.isnan(norm) if np.isnan(bad) else norm == math.inf
            assert [memory_of(g).tobytes() for g in grads] == before
        twin.step(values)
        opt.step(grads := [laid(g, layout) for g in values], skip_nonfinite=True, zero_grad=True)
        assert not any(g.any() for g in grads)
        check(opt, twin, layouts)


def test_a_float64_gradient_beyond_float32_is_infinite_and_skipped():
    """`skip_nonfinite` looks at the gradient that the step uses, which is the converted one."""
    p, q = np.ones(3, np.float32), np.ones(3)
    opt = fastopt.SGD([p, q], lr=1.0)
    grads = [np.array([1e300, 0.0, 0.0]), np.array([1e300, 0.0, 0.0])]
    assert opt.step(grads, skip_nonfinite=True) == math.inf
    assert (p == 1).all()
    assert (q == 1).all()
    assert opt.step([np.zeros(3), grads[1]], skip_nonfinite=True) == 1e300
    assert q[0] == -1e300
