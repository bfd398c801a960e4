"""Gradients of every type and layout, parameters of every layout: at every door, for every rule, the reference's bits.

The reference gets contiguous copies, converted by NumPy. What lies in the gaps of an array keeps its bytes.
"""

import copy
import ctypes
import itertools
import math
import struct
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from common import (
    CLASSES,
    DTYPES,
    EVERY_STATE,
    ISAS,
    LAYOUTS,
    STORED,
    VARIANTS,
    assert_same_as_reference,
    assert_same_bits,
    laid,
    memory_of,
    random_tensor,
    variants_of,
)

import fastopt
from fastopt import reference
from fastopt._core import RULES

every_class = pytest.mark.parametrize("cls", CLASSES)
every_stored = pytest.mark.parametrize("stored", STORED, ids=lambda dtype: np.dtype(dtype).name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# Whole tiles of a transposed matrix and parts of them, axes of one element, none, and more dimensions than two.
SHAPES = [
    (), (1,), (9,), (300,), (0,), (3, 0), (5, 7), (37, 300), (300, 37), (64, 64), (1, 40), (40, 1), (1, 1, 1),
    (3, 5, 4), (4, 1, 6), (2, 3, 4, 5), (8, 16, 5, 3), (2, 1, 3, 1, 1, 1, 2), (2,) * 6, (16, 8, 33),
    (30, 128), (35, 131),
]  # fmt: skip
# Several of the blocks that are unpacked at once, and pieces of several threads that begin in the middle of a row.
LARGE = [(1031, 257), (18, 5003), (70_001, 3), (3, 90_001), (40, 33, 211), (260_000,)]


def broadcast(values, axis):
    """The values of the first row along an axis, which lie in memory once."""
    view = np.broadcast_to(values.take([0], axis), values.shape)
    assert values.shape[axis] < 2 or not view.strides[axis]
    return view


def gradients(values):
    """These values, or some of them again and again, in all layouts."""
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
    """As NumPy converts it, contiguous."""
    with np.errstate(over="ignore"):
        return np.array(np.asarray(grad, dtype), order="C")


def assert_same_memory(array, like):
    """Equal bits in all the memory that two arrays are parts of: in their elements and in the gaps."""
    assert_same_bits(np.array(array, order="C"), np.array(like, order="C"))
    assert_same_bits(memory_of(array), memory_of(like), "elements or gaps")


# ---- One tensor: kernels. ----


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
    """Of gradients beside a contiguous parameter, and of both."""
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
def test_as_many_dimensions_as_there_can_be(layout):
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


def test_large_with_every_instruction_set(isa):
    """Blocks and tiles at every one of their ends."""
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


# ---- Many tensors: step, bind, and what they can do besides. ----


def twin_of(opt):
    """The reference's optimizer at the start, with contiguous copies of the parameters."""
    groups = [{**group, "params": [np.array(p, order="C") for p in group["params"]]} for group in opt.param_groups]
    return reference.Optimizer(opt.rule, groups)


def check(opt, model, layouts):
    """The optimizer is what the reference's is, and what lies around its parameters has the bits of the start."""
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
    """Of types and layouts at random, each in memory of its own."""
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


@pytest.mark.parametrize("structure", [list, as_mapping, as_groups], ids=["list", "mapping", "groups"])
@pytest.mark.parametrize("hypers", [False, True], ids=["plain", "optional states"])
@every_class
def test_steps(cls, hypers, structure):
    """Fresh gradients at each step, of other types and layouts than before; then the same, bound."""
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
def test_more_than_a_cache_holds(shape):
    """So large that what comes next is fetched ahead: the last tile has none after it."""
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
    """On several threads, and on one."""
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
    """Zeros where the gradient's elements are, and nothing where they are not."""
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
    """One such element anywhere, and nothing is written: parameters, state, count, gradients to be zeroed."""
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
    """It is the gradient of the step that must be finite, which is the converted one."""
    p, q = np.ones(3, np.float32), np.ones(3)
    opt = fastopt.SGD([p, q], lr=1.0)
    grads = [np.array([1e300, 0.0, 0.0]), np.array([1e300, 0.0, 0.0])]
    assert opt.step(grads, skip_nonfinite=True) == math.inf
    assert (p == 1).all()
    assert (q == 1).all()
    assert opt.step([np.zeros(3), grads[1]], skip_nonfinite=True) == 1e300
    assert q[0] == -1e300


# ---- The norm. ----


@pytest.mark.parametrize("threads", [1, 3])
def test_clipping(threads, isa):
    """Read, scaled and rounded in place, wherever the elements lie."""
    rng = np.random.default_rng(10)
    shapes = [*SMALL, *(LARGE[:2] if threads > 1 else [(300, 37), (8, 16, 5, 3)])]
    for shift, max_norm in enumerate((0.5, 1e-3, 0.0, math.inf, 1e9, 3e4, 1e-40)):
        layouts = [[*LAYOUTS][(k + shift) % len(LAYOUTS)] for k in range(len(shapes))]
        values = [random_values(rng, s, STORED[(k + shift // 2) % 4]) for k, s in enumerate(shapes)]
        grads = list(map(laid, values, layouts))
        assert fastopt.global_norm(as_mapping(grads), threads=threads) == reference.global_norm(values)
        norm = fastopt.clip_grad_norm(grads, max_norm, threads=threads)
        assert norm == reference.clip_grad_norm(values, max_norm)
        for found, wanted, layout in zip(grads, values, layouts, strict=True):
            assert_same_memory(found, laid(wanted, layout))


def test_the_norm_of_gradients_that_lie_in_memory_once():
    rng = np.random.default_rng(11)
    for stored, shape in itertools.product(STORED, [(5, 7), (300, 37), (4, 3, 5)]):
        for how, grad in gradients(random_values(rng, shape, stored)):
            assert fastopt.global_norm([grad, grad]) == reference.global_norm([grad, grad]), how


def test_large_gradients_of_a_tiny_norm():
    """By hand: 100 elements of 3e38 have the norm 3e39, which float32 has not. A factor in float32 would be 0."""
    grads = np.full(100, 3e38, np.float32)
    assert fastopt.clip_grad_norm(grads, 1e-6) == pytest.approx(3e39, rel=1e-6)
    assert grads == pytest.approx(np.full(100, 1e-7), rel=1e-6)
    p = np.zeros((10, 10), np.float32)
    fastopt.SGD(p, lr=1.0).step(np.full((10, 10), 3e38, np.float32).T, max_norm=1e-6)
    assert p == pytest.approx(np.full((10, 10), -1e-7), rel=1e-6)
    p[:] = 0
    fastopt.kernels.sgd(p, np.full((10, 10), 3e38, np.float32), lr=1.0, grad_scale=1e-45)
    assert p == pytest.approx(np.full((10, 10), -3e-7), rel=1e-6)


def test_the_functions_of_the_rules_form_the_product_in_float64_too():
    """Those of C, which take one tensor and no layout."""
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_size_t, *[ctypes.c_void_p] * 3, *[ctypes.c_double] * 6, ctypes.c_uint
    )
    sgd = kind(fastopt.capi_address("fastopt_sgd_f32"))
    for slope, scale in ((3e38, 1e-45), (1e-40, -1e45), (1.0, 1 / 3), (7.7, 1 + 2.0**-40)):
        p, g = np.zeros(9, np.float32), np.full(9, slope, np.float32)
        assert sgd(9, p.ctypes.data, g.ctypes.data, None, 1.0, 1.0, 0.0, 0.0, 0.0, scale, 0) == 0
        assert (p == ctypes.c_float(-scale * float(g[0])).value).all()


# ---- Values. ----


def every_pattern(stored):
    return np.arange(2**16, dtype=np.uint16).view(stored)


def exactly(stored):
    """All values of a type of 16 bits, worked out by hand: neither by NumPy's conversions nor by ml_dtypes."""
    if stored is np.float16:
        return np.array([struct.unpack("<e", struct.pack("<H", bits))[0] for bits in range(2**16)])
    return np.array([struct.unpack("<f", struct.pack("<I", bits << 16))[0] for bits in range(2**16)])


@every_dtype
@pytest.mark.parametrize("stored", STORED[:2], ids=["float16", "bfloat16"])
def test_every_value_of_16_bits(stored, dtype, isa):
    """Subnormals, infinities, NaN: p - 1*g is the value itself, whichever way it was read."""
    grad = every_pattern(stored)
    wanted = exactly(stored)
    with np.errstate(invalid="ignore"):
        assert_same_bits(converted(grad, np.float64), wanted)
    for how in ("C", "every third column", "reversed"):
        p = np.zeros(grad.size, dtype)
        fastopt.SGD(p, lr=1.0).step(laid(grad, how))
        with np.errstate(invalid="ignore"):
            assert_same_bits(p, (0.0 - wanted).astype(dtype))
    p = np.zeros((256, 256), dtype)
    fastopt.SGD(p, lr=1.0).step(grad.reshape(256, 256).T)
    with np.errstate(invalid="ignore"):
        assert_same_bits(p, (0.0 - wanted.reshape(256, 256).T).astype(dtype))


def doubles_near_floats(rng):
    """Between two floats the middle and its neighbours; above the largest, below the smallest, and special ones."""
    bits = rng.integers(0, 0x7F800000, 3000, dtype=np.uint32)
    bits = np.append(bits, [0, 1, 2, 0x7FFFFF, 0x800000, 0x800001, 0x7F7FFFFE, 0x7F7FFFFF]).astype(np.uint32)
    low = bits.view(np.float32).astype(np.float64)
    high = np.where(bits == 0x7F7FFFFF, 2.0**128, (bits + 1).astype(np.uint32).view(np.float32).astype(np.float64))
    middle = (low + high) / 2
    near = [low, middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf)]
    special = [0.0, 1e300, 5e-324, 2.0**-1022, np.inf, np.nan, 1.7976931348623157e308]
    values = np.concatenate([*near, special])
    return np.concatenate([values, -values])


def test_float64_gradients_are_rounded_to_nearest(isa):
    """As C's own conversion rounds, one number at a time."""
    values = doubles_near_floats(np.random.default_rng(12))
    wanted = np.array([ctypes.c_float(value).value for value in values.tolist()])
    assert_same_bits(converted(values, np.float32).astype(np.float64), wanted)
    for how in LAYOUTS:
        p = np.zeros(values.size, np.float32)
        fastopt.SGD(p, lr=1.0).step(laid(values, how))
        with np.errstate(invalid="ignore"):
            assert_same_bits(p, (0.0 - wanted).astype(np.float32))


def rounded(value, stored):
    """A float32's nearest value of a type of 16 bits, the even one of two, as bits."""
    if stored is np.float16:
        return struct.unpack("<H", struct.pack("<e", value))[0]
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


@pytest.mark.parametrize("max_norm", [1e3, 1.0, 1e-3, 2e5 / 3, 1e-36])
@pytest.mark.parametrize("stored", STORED[:2], ids=["float16", "bfloat16"])
def test_scaled_gradients_are_rounded_to_nearest(stored, max_norm):
    """In float64 to float32 and from there to their own type: every value of 16 bits, by hand."""
    grad = every_pattern(stored)
    with np.errstate(invalid="ignore"):
        grad = grad[np.isfinite(grad)]
    values = grad.astype(np.float64)
    norm = fastopt.global_norm(grad)
    assert norm == pytest.approx(math.sqrt(math.fsum((values * 2.0**-100) ** 2)) * 2.0**100, rel=1e-12)
    factor = min(1.0, max_norm / (norm + 1e-6))
    wanted = [rounded(ctypes.c_float(factor * value).value, stored) for value in values.tolist()]
    before = fastopt.isa()
    try:
        for name, how in itertools.product(ISAS, ("C", "reversed", "gaps")):
            fastopt.use_isa(name)
            scaled = laid(grad, how)
            assert fastopt.clip_grad_norm(scaled, max_norm) == norm
            assert np.array_equal(np.array(scaled).view(np.uint16), wanted), (name, how)
    finally:
        fastopt.use_isa(before)


def test_the_factor_is_applied_in_float64_and_rounded_once():
    """By hand: the float nearest to s*g, where s is no float."""
    rng = np.random.default_rng(13)
    g = random_tensor(rng, 2000, np.float32)
    for scale in (1 / 3, -0.1, 1e-40, 1e39, 2.0**-140 / 3, 1 + 2.0**-40):
        for stored in (np.float16, ml_dtypes.bfloat16, np.float32):
            grad = g.astype(stored)
            wanted = [ctypes.c_float(-(scale * value)).value for value in grad.astype(np.float64).tolist()]
            p, q = np.zeros(g.size, np.float32), np.zeros(g.size, np.float32)
            fastopt.SGD(p, lr=1.0).step(grad, grad_scale=scale)
            fastopt.kernels.sgd(q, laid(grad, "gaps"), lr=1.0, grad_scale=scale)
            for found in (p, q):
                assert np.array_equal(found, np.array(wanted, np.float32))


@every_stored
def test_nan_and_infinity_follow_ieee_rules(stored):
    for variant in [next(variants_of(rule)) for rule in RULES]:
        for value in (np.nan, np.inf, -np.inf):
            grad = np.linspace(-1, 1, 15).reshape(3, 5).astype(stored)
            grad[1, 2] = value
            for dtype, layout in itertools.product(DTYPES, ("C", "F", "gaps")):
                expected = [np.ones((3, 5), dtype) for _ in range(1 + len(variant.states))]
                p, *states = (laid(array, layout) for array in expected)
                arguments = variant.arguments(dict.fromkeys(RULES[variant.rule].hypers, 0.5), 1)
                variant.kernel(p, laid(grad, "F"), states, arguments)
                variant.reference(expected[0], converted(grad, dtype), expected[1:], arguments)
                for found, wanted in zip((p, *states), expected, strict=True):
                    assert_same_bits(np.array(found, order="C"), wanted)
                if not RULES[variant.rule].sums:  # one number for all elements
                    assert np.isfinite(np.delete(p, 7)).all()


# ---- Numbers for parameters without dimensions. ----


@every_class
def test_a_number_is_a_gradient_of_a_parameter_without_dimensions(cls):
    for dtype, number in itertools.product(DTYPES, (0.1, -3, 2**53 + 1, 1e300, math.nan, math.inf, 0)):
        p, expected = np.array(1.5, dtype), np.array(1.5, dtype)
        opt, other = cls([p]), cls([expected])
        with np.errstate(over="ignore"):
            same = np.asarray(number, dtype)
        opt.step([number])
        other.step([same])
        assert_same_bits(p, expected)
        with pytest.raises(TypeError, match=r"grads\[0\] is a number of type .* np.array\(x\) makes one"):
            opt.bind([number])  # nobody could change it
        with pytest.raises(TypeError, match="no gradients are bound"):
            opt.step()
        with pytest.raises(TypeError, match=r"grads\[0\] is a number of type"):
            opt.step([number], zero_grad=True)
        assert_same_bits(p, expected)
    for scalar in (np.int64(3), np.uint8(3)):
        p = np.array(1.0, np.float32)
        fastopt.SGD([p], lr=1.0).step([scalar])
        assert p == -2.0
    for scalar in (np.float16(0.25), ml_dtypes.bfloat16(0.25), np.float32(0.25), np.float64(0.25)):
        p = np.array(1.0, np.float32)
        opt = fastopt.SGD([p], lr=1.0)
        opt.step([scalar])
        opt.step([scalar], grad_scale=2.0)
        assert p == 0.25
    with pytest.raises(ValueError, match=r"grads\[0\] must be a number that float64 holds"):
        opt.step([10**400])
    alone = np.array(1.0)
    opt = fastopt.SGD(alone, lr=0.5)
    opt.step(1)
    opt.step(0.25)
    assert alone == 0.375
    fastopt.kernels.sgd(alone, 0.375, lr=1.0)
    assert alone == 0


def test_a_number_is_no_gradient_of_anything_else():
    p, scalar = np.ones(1), np.array(1.0)
    opt = fastopt.SGD([p, scalar])
    for bad in ([1.0, 1.0], [np.ones(1), "1"], [np.ones(1), None], [np.ones(1), 1j], [np.ones(1), [1.0]]):
        with pytest.raises(TypeError, match=r"grads\[[01]\] is"):
            opt.step(bad)
    with pytest.raises(TypeError, match=r"grads\[1\] is a number of type float"):  # there is no place for the zero
        opt.step([np.ones(1), 1.0], zero_grad=True)
    with pytest.raises(ValueError, match=r"grads\[1\] has shape \(1,\), but params\[1\] has \(\)"):
        opt.step([np.ones(1), np.ones(1)])
    with pytest.raises(TypeError, match="p is a number of type float"):
        fastopt.kernels.sgd(1.0, 1.0)
    assert p == 1
    assert scalar == 1
    assert opt.state[1]["step"] == 0


# ---- Parameters in memory. ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_lies_in_the_order_of_its_parameter(layout):
    """In the same order, and without the gaps."""
    for shape in SHAPES:
        p = laid(np.zeros(shape), layout)
        for buffer in list(fastopt.Adam(p, amsgrad=True).state[0].values())[1:]:
            assert buffer.shape == p.shape
            assert not buffer.any()
            axes = [axis for axis in range(p.ndim) if p.shape[axis] > 1]
            if p.flags.c_contiguous or not p.size:
                assert buffer.flags.c_contiguous
                continue
            order = sorted(axes, key=lambda axis: -abs(p.strides[axis]))
            assert order == sorted(axes, key=lambda axis: -abs(buffer.strides[axis]))
            assert [p.strides[axis] < 0 for axis in axes] == [buffer.strides[axis] < 0 for axis in axes]
            step = 8
            for axis in reversed(order):
                assert abs(buffer.strides[axis]) == step
                step *= p.shape[axis]


@every_class
def test_parameters_in_the_gaps_of_each_other(cls):
    """Columns of one matrix, and rows of which each lies between two of another's: no memory is shared."""
    for cut in (
        lambda m: [m[:, :2], m[:, 2:5], m[:, 5:]],
        lambda m: [m[::2], m[1::2]],
        lambda m: [m[:, ::3], m[:, 1::3], m[:, 2::3].T],
        lambda m: [m[::-1, ::-2], m[:, :-1:2]],
        lambda m: [m[:4, :3], m[4:, 3:], m[4:, :3].T, m[:4, 3:]],
    ):
        matrix = np.random.default_rng(14).standard_normal((9, 8)).astype(np.float32)
        params = cut(matrix)
        assert len(params) == 2 or sum(p.size for p in params) == matrix.size
        opt = cls(params)
        rest = matrix.copy()
        twin, rng = twin_of(opt), np.random.default_rng(15)
        for _ in range(2):
            grads = some_gradients(rng, params)
            opt.step(grads, max_norm=1.0)
            twin.step(grads, max_norm=1.0)
        for part, wanted in zip(cut(rest), twin.params, strict=True):
            part[...] = wanted
        assert_same_bits(matrix, rest)


@every_class
def test_parameters_that_share_memory_are_refused(cls):
    matrix = np.ones((6, 8))
    for params in (
        [matrix[:, :4], matrix[:, 3:]],
        [matrix[::2], matrix[2]],
        [matrix[:, ::3], matrix[3:, 5:7], matrix[:3, 6:7]],
        [matrix.T, matrix[5:, 7:]],
        [matrix[::-1, ::-1], matrix[0, :1]],
        [matrix[:, 0], matrix[:, 0]],
        [matrix[:, 1], np.ones(3), matrix[2:3, 1:2]],
        [matrix[:, 0], matrix[0, 1:3], matrix[4:, 0]],
        [matrix[:, ::7], matrix[1:4, 2:4], matrix[5, 6:]],
    ):
        before = matrix.tobytes()
        with pytest.raises(ValueError, match=r"params\[[12]\] shares memory with params\[0\]; every parameter needs"):
            cls(params)
        with pytest.raises(ValueError, match=r"params\['w[12]'\] shares memory with params\['w0'\]"):
            cls(as_mapping(params))
        assert matrix.tobytes() == before


def test_a_gradient_may_lie_in_the_gaps_of_a_parameter():
    """And not on one of its elements, nor on the state's."""
    matrix = np.arange(48.0).reshape(6, 8)
    p, expected = matrix[:, ::2], matrix[:, ::2].copy()
    opt, other = fastopt.Momentum([p]), fastopt.Momentum([expected])
    for grad in (matrix[:, 1::2], matrix[::-1, 1::2], matrix[:, 7::-2]):
        opt.step([grad])
        other.step([grad.copy()])
        assert_same_bits(p.copy(), expected)
    state = opt.state[0]["momentum_buffer"]
    before, kept = matrix.tobytes(), state.tobytes()
    for bad in (p, p[::-1], matrix[:, :4], matrix[:, 3:7], np.broadcast_to(matrix[:, 2:3], (6, 4)), state, state[::-1]):
        for zero in (False, True):
            with pytest.raises(ValueError, match=r"shares memory with params\[0\] or its state|read-only"):
                opt.step([bad], zero_grad=zero)
        with pytest.raises(ValueError, match=r"grads\[0\] shares memory with params\[0\] or its state"):
            opt.bind([bad])
        with pytest.raises(ValueError, match=r"g shares memory with p|g shares memory|momentum_buffer shares memory"):
            fastopt.kernels.momentum(p, bad, state)
    assert matrix.tobytes() == before
    assert state.tobytes() == kept
    assert opt.state[0]["step"] == 3


def test_a_gradient_is_held_against_all_parameters_that_lie_in_each_other():
    """Also against one that begins before others which end before the gradient does."""
    matrix = np.ones((6, 8))
    params = [matrix[:, 0], matrix[0, 1:3], matrix[2, 4:6], matrix[3:5, 1]]
    opt = fastopt.SGD(params, lr=1.0)
    for k, bad in enumerate((matrix[5, 0:1], matrix[0, 2:3], matrix[2, 4:5], matrix[4, 1:2])):
        for place in range(4):
            grads = [np.ones(p.shape) for p in params]
            grads[place] = np.broadcast_to(bad, params[place].shape)
            with pytest.raises(ValueError, match=rf"grads\[{place}\] shares memory with params\[{k}\]"):
                opt.step(grads)
    assert (matrix == 1).all()
    opt.step([matrix[:, 3], matrix[5, 1:3], matrix[5, 4:6], matrix[:2, 7]])
    assert matrix.sum() == 48 - 12


def test_gradients_that_are_zeroed_may_not_share_memory():
    matrix = np.ones((4, 6), np.float32)
    opt = fastopt.SGD([np.ones((4, 3)), np.ones((4, 3))], lr=1.0)
    opt.step([matrix[:, ::2], matrix[:, 1::2]], zero_grad=True)
    assert not matrix.any()
    matrix[:] = 1
    with pytest.raises(ValueError, match=r"grads\[1\] shares memory with grads\[0\]"):
        opt.step([matrix[:, :3], matrix[:, 2:5]], zero_grad=True)
    assert (matrix == 1).all()
    assert opt.state[0]["step"] == 1
    with pytest.raises(ValueError, match=r"grads\[1\] shares memory with grads\[0\]"):
        fastopt.clip_grad_norm([matrix[:, :3], matrix[:, 2:5]], 1.0)
    assert (matrix == 1).all()
    opt.step([matrix[:, :3], matrix[:, 2:5]])  # only read
    fastopt.clip_grad_norm([matrix[:, ::2], matrix[:, 1::2]], 1.0)
    assert matrix == pytest.approx(np.full((4, 6), 24**-0.5), rel=1e-6)


def test_read_only_memory_is_refused_at_any_strides():
    memory = np.ones((4, 6))
    memory.flags.writeable = False
    for bad in (memory.T, memory[:, ::2], memory[::-1], np.broadcast_to(1.0, (4, 6))):
        with pytest.raises(ValueError, match="params is read-only"):
            fastopt.SGD(bad)
        with pytest.raises(ValueError, match="p is read-only"):
            fastopt.kernels.sgd(bad, np.ones(bad.shape))
        with pytest.raises(ValueError, match="momentum_buffer is read-only"):
            fastopt.kernels.momentum(np.ones(bad.shape), np.ones(bad.shape), bad)
        with pytest.raises(ValueError, match="grads is read-only"):
            fastopt.clip_grad_norm(bad, 1.0)
        opt = fastopt.SGD(np.ones(bad.shape))
        with pytest.raises(ValueError, match="grads is read-only"):
            opt.step(bad, zero_grad=True)
        opt.step(bad)


# ---- One step after the other. The engine remembers what it has checked. ----


def sources(memory, n):
    """Gradients of n elements in one piece of memory, many of which begin at the same place."""
    floats, doubles = memory.view(np.float32), memory.view(np.float64)
    yield from (memory.view(stored)[:n] for stored in STORED)
    yield from (memory.view(stored)[: 2 * n : 2] for stored in STORED)
    yield floats[n - 1 :: -1]
    yield doubles[: 3 * n : 3]
    yield np.broadcast_to(floats[0], (n,))
    yield np.broadcast_to(doubles[:1], (n,))
    yield np.lib.stride_tricks.as_strided(floats, (n,), (0,))


@pytest.mark.parametrize("layout", ["C", "gaps"])
@every_dtype
def test_gradients_that_change_between_steps(dtype, layout):
    """Type and strides may be others every time, also where the pointer stays: each pair of them in a row."""
    n = 6
    memory = np.random.default_rng(16).uniform(0.5, 1, 4 * n).view(np.uint8)
    pairs = itertools.product(range(len(list(sources(memory, n)))), repeat=2)
    opt = fastopt.SGD([laid(np.ones(n, dtype), layout), laid(np.ones(2), "C")], momentum=0.5)
    twin, last = twin_of(opt), np.ones(2, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for pair in pairs:
            for k in pair:
                grads = [list(sources(memory, n))[k], last]
                opt.step(grads)
                twin.step(grads)
            opt.bind(grads)
            opt.step()
            twin.step(grads)
            opt.step([list(sources(memory, n))[pair[0]], last])
            twin.step([list(sources(memory, n))[pair[0]], last])
            opt.step()
            twin.step(grads)
            check(opt, twin, [layout, "C"])


def test_overlap_is_found_where_only_the_strides_are_new():
    """What begins where the last gradient began may end in the parameter."""
    memory = np.ones(12, np.float32)
    p = memory[6:]
    opt = fastopt.SGD([p], lr=0.25)
    good = memory[:6]
    reaching = [
        np.lib.stride_tricks.as_strided(memory, (6,), (8,)), memory[:12:2], memory[2:8], memory[11:5:-1],
        memory[10::-2], np.broadcast_to(memory[6:7], (6,)), memory.view(np.float64), memory.view(np.float16)[7:13],
    ]  # fmt: skip
    taken = 0
    for bad, bound in itertools.product(reaching, (False, True)):
        for before in (good, good[::-1], np.broadcast_to(memory[:1], (6,)), memory.view(np.float64)[:3].repeat(2)):
            p[:] = 1
            opt.step([before])
            taken += 1
            kept = p.copy()
            with pytest.raises(ValueError, match=r"grads\[0\] shares memory with params\[0\]"):
                (opt.bind if bound else opt.step)([bad])
            assert_same_bits(p, kept)
            opt.step([before])
            taken += 1
    assert opt.state[0]["step"] == taken


def test_a_binding_of_staged_gradients_is_kept():
    """Through steps with others, errors, new state and loading."""
    p = laid(np.ones((4, 5), np.float32), "F")
    bound = laid(np.full((4, 5), 0.5, np.float16), "columns")
    opt = fastopt.SGD([p], lr=0.5)
    twin = twin_of(opt)
    opt.bind([bound])
    for k in range(4):
        opt.step()
        twin.step([bound])
        opt.step([np.full((5, 4), k, ml_dtypes.bfloat16).T])
        twin.step([np.full((4, 5), k)])
        with pytest.raises(TypeError, match="dtype"):
            opt.step([np.ones((4, 5), int)])
        with pytest.raises(ValueError, match="shares memory"):
            opt.step([p])
        opt.step()
        twin.step([bound])
        bound += np.float16(0.25)
        check(opt, twin, ["F"])
    opt.load_state_dict(opt.state_dict())
    opt.step()
    twin.step([bound])
    check(opt, twin, ["F"])


@pytest.mark.filterwarnings("ignore:Setting the (shape|strides|dtype):DeprecationWarning")
def test_what_changes_after_it_was_bound_does_no_harm():
    """Shape, strides and type of an array can be set; a step goes by those that were bound, or is an error."""
    memory = np.full(40, 7.0, np.float32)
    p, grad = memory[8:32].reshape(4, 6), np.arange(24, dtype=np.float16).reshape(6, 4).T
    opt = fastopt.Momentum(p, lr=1.0)
    opt.bind(grad)
    twin = twin_of(opt)
    values = np.array(grad)
    for change in (lambda: setattr(grad, "strides", (0, 2)), lambda: setattr(grad, "shape", (2, 2, 6))):
        try:
            change()
        except (AttributeError, ValueError):
            continue
        opt.step(zero_grad=False)
        twin.step([values])
    for shape in ((6, 4), (24,), (2, 2, 6)):
        p.shape = shape
        for bad in (np.ones(shape[::-1]).T, np.ones((*shape, 2), np.float32)[..., 0], np.ones(shape, np.float16)[::-1]):
            if bad.flags.c_contiguous:
                continue
            with pytest.raises(ValueError, match=r"params has become float32 of shape .* since it was bound"):
                opt.step(bad)
        opt.step(np.ones(shape))  # nothing but the elements in their order matters here
        twin.step([np.ones((4, 6))])
        with pytest.raises(ValueError, match="grads has shape"):
            opt.step()
    p.shape = (4, 6)
    opt.step()
    twin.step([values])
    p.dtype = np.int32
    with pytest.raises(ValueError, match="params has become int32 of shape"):
        opt.step(np.ones((4, 6), np.float32))
    p.dtype = np.float32
    state = opt.state[0]["momentum_buffer"]
    state.shape = (24,)
    opt.step(np.ones((6, 4)).T)
    twin.step([np.ones((4, 6))])
    state.shape = (4, 6)
    assert_same_bits(p, twin.params[0])
    assert_same_bits(state, twin.state[0]["momentum_buffer"])
    assert (memory[:8] == 7).all()
    assert (memory[32:] == 7).all()


@pytest.mark.filterwarnings("ignore:Setting the (shape|strides):DeprecationWarning")
def test_a_strided_parameter_whose_strides_are_set_is_stepped_where_it_was():
    memory = np.ones((4, 12), np.float32)
    p = memory[:, ::2]
    opt = fastopt.Momentum([p], lr=1.0)
    grad = np.ones((4, 6), np.float32)
    p.strides = (0, 0)
    opt.step([grad])
    state = opt.state[0]["momentum_buffer"]
    state.strides = (0, 0)
    opt.step([grad])
    opt.lr = 0.5
    opt.momentum = 0.0
    opt.step([grad])
    assert memory[:, ::2] == pytest.approx(np.full((4, 6), 1 - 1 - 1.9 - 0.5))
    assert (memory[:, 1::2] == 1).all()


def test_a_gradient_is_let_go_of():
    """Whatever it was: neither it nor a view of it is kept, after a step or an error."""
    opt = fastopt.Adam([np.ones((3, 4), np.float32), np.ones(2)])
    for grad in (np.ones((4, 3)), np.ones((4, 3), np.float16), np.ones((4, 3), ml_dtypes.bfloat16)):
        references = sys.getrefcount(grad)
        opt.step([grad.T, np.ones(2)])
        assert sys.getrefcount(grad) == references
        with pytest.raises(ValueError, match="shape"):
            opt.step([grad.T, np.ones(3)])
        assert sys.getrefcount(grad) == references
        fastopt.clip_grad_norm([grad.T], 1.0)
        fastopt.kernels.sgd(opt.params[0], grad.T)
        assert sys.getrefcount(grad) == references
        opt.bind([grad.T, np.ones(2)])
        assert sys.getrefcount(grad) > references
        opt.step()
        opt.bind(None)
        assert sys.getrefcount(grad) == references


# ---- Memory. ----


def peak(act):
    """What Python and NumPy had at most while it ran beyond what they had before."""
    act()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("threads", [1, 3])
@every_stored
def test_nothing_is_copied_whole(stored, threads):
    """Not even one row of it: what a step takes does not grow with the arrays."""
    for layout in LAYOUTS:
        peaks = []
        for size in (20, 300):
            p = laid(np.ones((size, size), np.float32), layout)
            grad = laid(np.ones((size, size), stored), "F")
            opt = fastopt.Adam([p], threads=threads)
            given = [grad]
            opt.bind(given)
            ways = [
                lambda opt=opt, given=given: opt.step(given),
                opt.step,
                lambda opt=opt: opt.step(max_norm=1.0, zero_grad=True),
                lambda opt=opt, given=given: opt.step(given, grad_scale=0.3, skip_nonfinite=True),
                lambda given=given, threads=threads: fastopt.clip_grad_norm(given, 1.0, threads=threads),
                lambda given=given, threads=threads: fastopt.global_norm(given, threads=threads),
                lambda p=p, given=given: fastopt.kernels.sgd(p, given[0]),
            ]
            peaks.append(list(map(peak, ways)))
        for small, large in zip(*peaks, strict=True):
            assert large <= small + 512
            assert large < 4000


# ---- Copies. ----


@every_class
def test_copies_and_saved_state_of_strided_parameters(cls):
    """A copy steps as the original; what was saved fits a parameter in any other layout."""
    opt, layouts = model(cls, SMALL, 5)
    rng = np.random.default_rng(17)
    opt.step(some_gradients(rng, opt.params))
    twin, saved = copy.deepcopy(opt), opt.state_dict()
    params = [laid(np.array(p, order="C"), [*LAYOUTS][(k + 7) % len(LAYOUTS)]) for k, p in enumerate(opt.params)]
    other = cls(params)
    other.load_state_dict(saved)
    grads = some_gradients(rng, opt.params)
    for each in (opt, twin, other):
        each.step(grads)
    for k, p in enumerate(opt.params):
        for each in (twin, other):
            assert_same_bits(np.array(each.params[k], order="C"), np.array(p, order="C"))
    for name, value in opt.state[0].items():
        assert np.array_equal(value, other.state[0][name])
    assert layouts


def test_a_look_ahead_of_strided_parameters_comes_back():
    opt, layouts = model(fastopt.NAG, SMALL, 9)
    twin, rng = twin_of(opt), np.random.default_rng(18)
    for _ in range(2):
        grads = some_gradients(rng, opt.params)
        opt.step(grads)
        twin.step(grads)
        with opt.lookahead():
            for p, wanted, states in zip(opt.params, twin.params, twin.state, strict=True):
                ahead = wanted - p.dtype.type(0.9) * states["momentum_buffer"]
                assert_same_bits(np.array(p, order="C"), ahead)
        check(opt, twin, layouts)


def test_every_rule_is_here():
    assert {cls.rule for cls in CLASSES} == set(RULES)
