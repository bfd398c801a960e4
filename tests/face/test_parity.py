"""The kernels give the bits of the reference: every rule, type, instruction set, option, size and alignment."""

import itertools

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from common import DTYPES, ISAS, VARIANTS, assert_same_bits, random_tensor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastopt
from fastopt._rules import RULES

STEPS = 4
LINE = 64  # bytes of the widest vector and of a cache line
CANARY = 12345.0


class Place:
    """Memory that starts at a cache line; an array can be put at any offset in it, with canaries around."""

    def __init__(self, dtype, room):
        size = np.dtype(dtype).itemsize
        memory = np.empty(room + 3 * (LINE // size), dtype)
        first = (-memory.ctypes.data % LINE) // size
        self.memory = memory[first:]
        assert self.memory.ctypes.data % LINE == 0

    def put(self, values, offset):
        self.start, self.end = offset + 1, offset + 1 + len(values)
        self.memory[:] = CANARY
        self.view = self.memory[self.start : self.end]
        self.view[:] = values
        return self.view

    def assert_untouched_around(self):
        assert (self.memory[: self.start] == CANARY).all()
        assert (self.memory[self.end :] == CANARY).all()


def histories(variant, dtype, count):
    """Starting values, gradients and arguments of each step, and the reference's results after each."""
    rng = np.random.default_rng([count, *map(ord, str(variant)), np.dtype(dtype).itemsize])
    start = [random_tensor(rng, count, dtype)] + [np.zeros(count, dtype) for _ in variant.states]
    grads = [random_tensor(rng, count, dtype) for _ in range(STEPS)]
    arguments = [variant.draw(rng, step + 1) for step in range(STEPS)]
    p, *states = (array.copy() for array in start)
    after = []
    for g, keywords in zip(grads, arguments, strict=True):
        variant.reference(p, g, states, keywords)
        after.append([array.copy() for array in (p, *states)])
    assert all(np.isfinite(array).all() for arrays in after for array in arrays)
    assert not (count and any((arrays[0] == start[0]).all() for arrays in after))
    return start, grads, arguments, after


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_size_and_alignment(variant, dtype, isa, tried):
    """From 0 elements to 4 vectors and 1 element, at every alignment, which differs between the buffers."""
    lanes = LINE // np.dtype(dtype).itemsize
    start, grads, arguments, after = histories(variant, dtype, 4 * lanes + 1)
    places = [Place(dtype, 5 * lanes) for _ in start]
    grad = Place(dtype, 5 * lanes)
    cases = 0
    for count, offset in itertools.product(range(4 * lanes + 2), range(lanes)):
        if RULES[variant.rule].sums and offset == 0:  # each element depends on all others
            start, grads, arguments, after = histories(variant, dtype, count)
        p, *states = (
            place.put(array[:count], (offset * (1 + 2 * k) + k) % lanes)
            for k, (place, array) in enumerate(zip(places, start, strict=True))
        )
        for g, keywords, expected in zip(grads, arguments, after, strict=True):
            variant.kernel(p, grad.put(g[:count], (offset * 5 + 3) % lanes), states, keywords)
            for found, wanted in zip((p, *states), expected, strict=True):
                assert_same_bits(found, wanted[:count], f"{count} elements, offset {offset}")
        assert_same_bits(grad.view, g[:count], "the gradient")
        for place in (*places, grad):
            place.assert_untouched_around()
        cases += 1
    assert cases == (4 * lanes + 2) * lanes
    tried(cases, "rule x option x type x size x alignment x instruction set, bit-equal to the reference over 4 steps")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_large(variant, dtype, isa):
    for shape in [(1000,), (37, 113), (3, 5, 7, 41), (70001,)]:
        start, grads, arguments, after = histories(variant, dtype, int(np.prod(shape)))
        p, *states = (array.copy().reshape(shape) for array in start)
        for g, keywords, expected in zip(grads, arguments, after, strict=True):
            variant.kernel(p, g.reshape(shape), states, keywords)
            for found, wanted in zip((p, *states), expected, strict=True):
                assert_same_bits(found, wanted.reshape(shape), str(shape))


def test_bias_corrections_at_all_magnitudes():
    """Steps from the first to those at which a power of beta no longer changes 1 - power, or is subnormal."""
    for exponent in (0.01, 0.15, 0.5, 1.0, 1.28, 2.6, 5.1, 10.2, 20.3, 30.0, 41.0, 53.0, 54.0, 63.0, 64.0, 65.0, 600.0):
        beta = 2.0**-exponent
        last = int(70 / exponent) + 2
        steps = {*range(1, min(last, 150)), *range(max(1, last - 40), last), 2**20, 2**53}
        for step in steps:
            (p, g), m, v = np.array([[1.5], [0.7]]), np.array([0.1]), np.array([0.2])
            expected = [array.copy() for array in (p, g, m, v)]
            keywords = {"step": step, "betas": (beta, 1 - 2**-20 if exponent < 1 else beta), "lr": 1.0}
            fastopt.kernels.adam(p, g, m, v, **keywords)
            fastopt.reference.adam(*expected, **keywords)
            assert_same_bits(p, expected[0], f"beta 2**-{exponent}, step {step}")


# ---- Any values and hyperparameters. ----

UNIT = st.floats(0, 1, exclude_max=True, width=32)
POSITIVE = st.one_of(st.floats(0, 10, width=32), st.floats(0, 2**127, width=32))
ANY = {
    "lr": POSITIVE,
    "momentum": UNIT,
    "dampening": st.one_of(st.floats(2**-149, 1), st.just(0.0)),  # a nonzero number must not round to 0 in float32
    "lr_decay": POSITIVE,
    "rho": UNIT,
    "alpha": UNIT,
    "beta1": UNIT,
    "beta2": UNIT,
    "eps": POSITIVE,
    "weight_decay": POSITIVE,
    "grad_scale": st.floats(allow_nan=False, allow_infinity=False),
}
STEP_NUMBERS = st.one_of(st.integers(1, 5), st.integers(1, 2**53))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_any_values(rule, dtype, data):
    """Subnormals, infinities, NaN and hyperparameters at the ends of their ranges, on all instruction sets."""
    variant = data.draw(st.sampled_from([v for v in VARIANTS if v.rule == rule]))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=9))
    element = st.one_of(
        st.floats(width=np.dtype(dtype).itemsize * 8),
        st.floats(-10, 10, width=np.dtype(dtype).itemsize * 8),
    )
    array = hnp.arrays(dtype, shape, elements=element, fill=st.nothing())
    start = [data.draw(array) for _ in range(1 + len(variant.states))]
    steps = [
        (data.draw(array), variant.arguments({name: data.draw(ANY[name]) for name in ANY}, data.draw(STEP_NUMBERS)))
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    if variant.options.get("nesterov"):
        steps = [(g, {**keywords, "momentum": keywords["momentum"] or 0.5}) for g, keywords in steps]

    expected = [array.copy() for array in start]
    for g, keywords in steps:
        variant.reference(expected[0], g, expected[1:], keywords)
    before = fastopt.isa()
    try:
        for isa in ISAS:
            fastopt.use_isa(isa)
            found = [array.copy() for array in start]
            for g, keywords in steps:
                variant.kernel(found[0], g, found[1:], keywords)
            for array_found, array_expected in zip(found, expected, strict=True):
                assert_same_bits(array_found, array_expected, isa)
    finally:
        fastopt.use_isa(before)
