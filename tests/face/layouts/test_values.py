"""Every value of a stored type, numbers for parameters without dimensions, and the norm of gradients of any type."""

import ctypes
import itertools
import math
import struct

import ml_dtypes
import numpy as np
import pytest
from common import (
    DTYPES,
    ISAS,
    LAYOUTS,
    STORED,
    assert_same_bits,
    laid,
    random_tensor,
    variants_of,
)
from layouts import (
    LARGE,
    SMALL,
    as_mapping,
    assert_same_memory,
    converted,
    every_class,
    every_dtype,
    every_stored,
    gradients,
    random_values,
)

import fastopt
from fastopt import reference
from fastopt._rules import RULES

# ---- The norm. ----


@pytest.mark.parametrize("threads", [1, 3])
def test_clipping(threads, isa):
    """Gradients of every type and layout are scaled and rounded in place."""
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


def test_the_norm_of_broadcast_gradients():
    rng = np.random.default_rng(11)
    for stored, shape in itertools.product(STORED, [(5, 7), (300, 37), (4, 3, 5)]):
        for how, grad in gradients(random_values(rng, shape, stored)):
            assert fastopt.global_norm([grad, grad]) == reference.global_norm([grad, grad]), how


def test_large_gradients_of_a_tiny_norm():
    """By hand: 100 elements of 3e38 have the norm 3e39, beyond float32. A factor in float32 would be 0."""
    grads = np.full(100, 3e38, np.float32)
    assert fastopt.clip_grad_norm(grads, 1e-6) == pytest.approx(3e39, rel=1e-6)
    assert grads == pytest.approx(np.full(100, 1e-7), rel=1e-6)
    p = np.zeros((10, 10), np.float32)
    fastopt.SGD(p, lr=1.0).step(np.full((10, 10), 3e38, np.float32).T, max_norm=1e-6)
    assert p == pytest.approx(np.full((10, 10), -1e-7), rel=1e-6)
    p[:] = 0
    fastopt.kernels.sgd(p, np.full((10, 10), 3e38, np.float32), lr=1.0, grad_scale=1e-45)
    assert p == pytest.approx(np.full((10, 10), -3e-7), rel=1e-6)


def test_the_c_functions_scale_the_gradient_in_float64():
    """The rules' own functions, which take one tensor and no layout, do as the steps of models do."""
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
    """All values of a 16-bit type, computed without NumPy's conversions and ml_dtypes."""
    if stored is np.float16:
        return np.array([struct.unpack("<e", struct.pack("<H", bits))[0] for bits in range(2**16)])
    return np.array([struct.unpack("<f", struct.pack("<I", bits << 16))[0] for bits in range(2**16)])


@every_dtype
@pytest.mark.parametrize("stored", STORED[:2], ids=["float16", "bfloat16"])
def test_gradients_of_every_16_bit_value(stored, dtype, isa):
    """Subnormals, infinities and NaN too: a step with lr 1 shows the value as it was read, in any layout."""
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
    """Doubles: middles between two floats and their neighbours, beyond the largest and smallest float, and specials."""
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
    """They are rounded as C's own conversion does it, one number at a time."""
    values = doubles_near_floats(np.random.default_rng(12))
    wanted = np.array([ctypes.c_float(value).value for value in values.tolist()])
    assert_same_bits(converted(values, np.float32).astype(np.float64), wanted)
    for how in LAYOUTS:
        p = np.zeros(values.size, np.float32)
        fastopt.SGD(p, lr=1.0).step(laid(values, how))
        with np.errstate(invalid="ignore"):
            assert_same_bits(p, (0.0 - wanted).astype(np.float32))


def rounded(value, stored):
    """The bits of the 16-bit value nearest to a float32; of two, the even one."""
    if stored is np.float16:
        return struct.unpack("<H", struct.pack("<e", value))[0]
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


@pytest.mark.parametrize("max_norm", [1e3, 1.0, 1e-3, 2e5 / 3, 1e-36])
@pytest.mark.parametrize("stored", STORED[:2], ids=["float16", "bfloat16"])
def test_scaled_gradients_are_rounded_to_nearest(stored, max_norm):
    """The product is rounded from float64 to float32, then to the gradient's type: every 16-bit value, by hand."""
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
    """By hand: the float nearest to s*g, where float32 does not hold s."""
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
                if not RULES[variant.rule].sums:  # in a rule with sums, one element changes all others
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
            opt.bind([number])  # a number is immutable, so binding it makes no sense
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


def test_a_number_is_refused_where_it_cannot_be_a_gradient():
    p, scalar = np.ones(1), np.array(1.0)
    opt = fastopt.SGD([p, scalar])
    for bad in ([1.0, 1.0], [np.ones(1), "1"], [np.ones(1), None], [np.ones(1), 1j], [np.ones(1), [1.0]]):
        with pytest.raises(TypeError, match=r"grads\[[01]\] is"):
            opt.step(bad)
    with pytest.raises(TypeError, match=r"grads\[1\] is a number of type float"):  # a number cannot be set to zero
        opt.step([np.ones(1), 1.0], zero_grad=True)
    with pytest.raises(ValueError, match=r"grads\[1\] has shape \(1,\), but params\[1\] has \(\)"):
        opt.step([np.ones(1), np.ones(1)])
    with pytest.raises(TypeError, match="p is a number of type float"):
        fastopt.kernels.sgd(1.0, 1.0)
    assert p == 1
    assert scalar == 1
    assert opt.state[1]["step"] == 0
