"""The extras of a step, each bit-equal to a separate operation; and the functions for the global norm."""

import itertools
import math

import numpy as np
import pytest
from common import CLASSES, DTYPES, assert_same_bits, random_tensor

import fastopt
from fastopt import reference
from fastopt._rules import RULES

# "small" is about one vector, "blocks" takes several of the blocks after each of which the gradient is zeroed, and
# "threads" is large enough for several threads.
SIZES = {"small": [5, 1, 0, 17], "blocks": [2047, 2048, 2049, 6000, 3], "threads": [150_000, 7, 90_001]}
every_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
every_class = pytest.mark.parametrize("cls", CLASSES)


def model(cls, sizes, seed=0, threads=None, **hypers):
    """Parameters and gradients of both types, and an optimizer; equal seeds give equal ones."""
    rng = np.random.default_rng(seed)
    params, grads = ([random_tensor(rng, n, DTYPES[i % 2]) for i, n in enumerate(sizes)] for _ in range(2))
    return params, grads, cls(params, threads=threads, **hypers)


def assert_same_model(one, other):
    for i, (found, expected) in enumerate(zip(one.params, other.params, strict=True)):
        assert_same_bits(found, expected, f"parameter {i}")
    for found, expected in zip(one.state.values(), other.state.values(), strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same_bits(np.asarray(found[name]), np.asarray(value), name)


# ---- Steps with extras. ----


@every_size
@every_class
def test_grad_scale_equals_multiplying_before_the_step(cls, sizes):
    _, grads, opt = model(cls, sizes, weight_decay=0.01)
    _, _, expected = model(cls, sizes, weight_decay=0.01)
    for scale in (1 / 3, -2.5, 0.0, 1e-50, 1e40):  # some are beyond float32
        assert opt.step(grads, grad_scale=scale) is None
        with np.errstate(over="ignore"):
            expected.step([(scale * g.astype(np.float64)).astype(g.dtype) for g in grads])
        assert_same_model(opt, expected)


@every_size
@every_class
def test_zero_grad_equals_zeroing_after_the_step(cls, sizes):
    _, grads, opt = model(cls, sizes)
    _, same, expected = model(cls, sizes)
    for _ in range(2):
        assert opt.step(grads, zero_grad=True) is None
        expected.step(same)
        assert_same_model(opt, expected)
        for g, before in zip(grads, same, strict=True):
            assert g.tobytes() == bytes(g.nbytes)
            g[:] = before


@every_size
@every_class
def test_max_norm_equals_clipping_before_the_step(cls, sizes):
    _, grads, opt = model(cls, sizes)
    _, _, expected = model(cls, sizes)
    before = [g.copy() for g in grads]
    for max_norm in (0.37, 1e3, math.inf, 0.0):
        separately = [g.copy() for g in grads]
        norm = opt.step(grads, max_norm=max_norm)
        assert norm == fastopt.clip_grad_norm(separately, max_norm) == reference.global_norm(grads)
        assert norm > 300
        expected.step(separately)
        assert_same_model(opt, expected)
    for g, kept in zip(grads, before, strict=True):
        assert_same_bits(g, kept)


@every_class
def test_all_extras_together(cls):
    """The gradients are scaled by 1/4 (which is exact), clipped, found to be finite, and zeroed."""
    sizes = SIZES["blocks"]
    _, grads, opt = model(cls, sizes)
    _, _, expected = model(cls, sizes)
    separately = [g / 4 for g in grads]
    norm = opt.step(grads, grad_scale=0.25, max_norm=1.5, zero_grad=True, skip_nonfinite=True)
    assert norm == fastopt.clip_grad_norm(separately, 1.5)
    expected.step(separately)
    assert_same_model(opt, expected)
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@every_size
@every_class
def test_a_nonfinite_gradient_skips_the_step(cls, sizes, bad):
    _, grads, opt = model(cls, sizes)
    _, _, expected = model(cls, sizes)
    opt.step(grads)
    expected.step(grads)
    for tensor, place in itertools.product(range(len(sizes)), (0, -1)):
        if sizes[tensor] == 0:
            continue
        ill = [g.copy() for g in grads]
        ill[tensor][place] = bad
        kept = [g.copy() for g in ill]
        norm = opt.step(ill, skip_nonfinite=True, zero_grad=True)
        assert not math.isfinite(norm)
        assert math.isnan(norm) == math.isnan(bad)
        assert_same_model(opt, expected)
        for g, before in zip(ill, kept, strict=True):
            assert_same_bits(g, before)
    norm = opt.step(grads, skip_nonfinite=True)
    expected.step(grads)
    assert norm == reference.global_norm(grads)
    assert_same_model(opt, expected)


def test_without_skip_a_nonfinite_norm_makes_everything_nan():
    params, grads, opt = model(fastopt.SGD, [4, 4])
    grads[1][2] = np.nan
    assert math.isnan(opt.step(grads, max_norm=1.0))
    assert all(np.isnan(p).all() for p in params)
    assert opt.state[0]["step"] == 1


def test_extras_with_bound_gradients():
    _, grads, opt = model(fastopt.Adam, SIZES["blocks"])
    _, same, expected = model(fastopt.Adam, SIZES["blocks"])
    opt.bind(grads)
    for _ in range(3):
        norm = opt.step(max_norm=1.0, zero_grad=True)
        assert norm == expected.step(same, max_norm=1.0)
        assert_same_model(opt, expected)
        for g, value in zip(grads, same, strict=True):
            assert not g.any()
            g[:] = value


def refused(opt, error, words, *arguments, **extras):
    """The step must raise this error and change neither parameters, state, step counts nor gradients."""
    grads = [g for g in (arguments[0] if arguments else []) if isinstance(g, np.ndarray)]
    before, kept = opt.state_dict(), [a.tobytes() for a in (*opt.params, *grads)]
    with pytest.raises(error) as caught:
        opt.step(*arguments, **extras)
    for word in words:
        assert word in str(caught.value)
    assert [a.tobytes() for a in (*opt.params, *grads)] == kept
    assert repr(opt.state_dict()) == repr(before)


def test_bad_extras():
    _, grads, opt = model(fastopt.Adam, [6, 3])
    for bad in (math.nan, math.inf, -math.inf):
        refused(opt, ValueError, ["grad_scale must be a finite number", repr(bad)], grads, grad_scale=bad)
    for bad in (math.nan, -1e-9, -math.inf):
        refused(opt, ValueError, ["max_norm must be a number >= 0", repr(bad)], grads, max_norm=bad)
    for bad in ("1", None, [1.0], 1j):
        refused(opt, TypeError, ["grad_scale must be a number", repr(bad)], grads, grad_scale=bad)
        if bad is not None:
            refused(opt, TypeError, ["max_norm must be a number", repr(bad)], grads, max_norm=bad)
    grads[1].flags.writeable = False
    refused(opt, ValueError, ["grads[1] is read-only"], grads, zero_grad=True)
    opt.step(grads)
    memory = np.ones(8)
    opt = fastopt.SGD([np.ones(5), np.ones(4), np.ones(0)])
    opt.step([np.ones(5), np.ones(4), np.ones(0)], zero_grad=True)  # passed checks must not count for other gradients
    for overlapping in ([memory[:5], memory[4:], memory[2:2]], [memory[3:], memory[:4], memory[:0]]):
        refused(opt, ValueError, ["grads[1] shares memory with grads[0]", "zeroed"], overlapping, zero_grad=True)
        opt.step(overlapping)
        opt.bind(overlapping)
        opt.step()
        refused(opt, ValueError, ["grads[1] shares memory with grads[0]", "zeroed"], zero_grad=True)
    locked = np.ones(5)
    locked.flags.writeable = False
    opt.bind([locked, memory[:4], memory[:0]])
    refused(opt, ValueError, ["grads[0] is read-only"], zero_grad=True)
    opt.bind([np.ones(n) for n in (5, 4, 0)])
    opt.step(zero_grad=True)


# ---- The functions global_norm and clip_grad_norm. ----

LENGTHS = [*range(70), 4095, 4096, 4097, 8192 + 5, 50_001]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_of_every_length_and_alignment(dtype, isa):
    rng = np.random.default_rng(1)
    memory = random_tensor(rng, max(LENGTHS) + 16, dtype)
    for length, offset in itertools.product(LENGTHS, range(0, 16, 3)):
        x = memory[offset : offset + length]
        assert fastopt.global_norm(x) == reference.global_norm(x), (length, offset)
    assert fastopt.global_norm(x) == pytest.approx(np.linalg.norm(x.astype(np.float64)), rel=1e-12)


def cuts(x, rng):
    """The elements of x, in order, cut into tensors in several ways: one, many small ones, some of them empty."""
    yield x
    yield [x[:1], x[1:1], x[1:]]
    yield np.array_split(x, 37)
    places = np.sort(rng.integers(0, x.size + 1, 400))
    yield dict(enumerate(np.split(x, places)))


@pytest.mark.parametrize("size", [1, 1000, 20_000, 700_001, 17_000_003])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_depends_on_the_elements_alone(dtype, size, isa):
    """Neither the cuts into tensors nor the threads matter; the last size is so large that the strips are longer."""
    rng = np.random.default_rng(size)
    x = rng.standard_normal(size).astype(dtype)
    expected = reference.global_norm(x)
    for arrays, threads in itertools.product(cuts(x, rng), (1, 2, 5)):
        assert fastopt.global_norm(arrays, threads=threads) == expected


def test_the_norm_of_both_types_together():
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(n).astype(DTYPES[n % 2]) for n in (5, 40_000, 0, 6, 33_333)]
    assert fastopt.global_norm(arrays) == reference.global_norm(arrays)
    row = np.concatenate([a.astype(np.float64) for a in arrays])
    assert fastopt.global_norm(arrays) == fastopt.global_norm(row)


def test_the_norm_neither_overflows_nor_vanishes():
    for value in (1e308, 1e200, 2.0**-600, 1e-200, 5e-324):
        x = np.array([3 * value, 4 * value]) if value < 1e308 else np.array([value, 0.0])
        assert fastopt.global_norm(x) == reference.global_norm(x)
        assert fastopt.global_norm(x) == pytest.approx(math.hypot(*x), rel=1e-14)
    x = np.full(100, np.finfo(np.float32).max)
    assert fastopt.global_norm(x) == pytest.approx(10 * float(x[0]), rel=1e-14)
    assert fastopt.global_norm(np.full(4, np.finfo(np.float64).max)) == math.inf
    assert fastopt.global_norm([np.zeros(5), np.zeros(0)]) == 0.0
    assert math.isnan(fastopt.global_norm([np.ones(3), np.array([np.nan, np.inf])]))


@every_size
def test_clip_grad_norm(sizes, isa):
    for max_norm, threads in itertools.product((0.2, 2.5, 1e9, 0.0), (1, 2)):
        _, grads, _ = model(fastopt.SGD, sizes)
        expected = [g.copy() for g in grads]
        norm = fastopt.clip_grad_norm(grads, max_norm, threads=threads)
        assert norm == reference.clip_grad_norm(expected, max_norm)
        for found, wanted in zip(grads, expected, strict=True):
            assert_same_bits(found, wanted)
        assert fastopt.global_norm(grads) <= max_norm * (1 + 1e-6)


def test_the_reference_leaves_numpys_warnings_as_they_were():
    """Also where one of the reference's functions calls another."""
    before = np.geterr()
    reference.clip_grad_norm([np.array([np.inf])], 1.0)
    reference.Optimizer("lamb", [np.ones(2)]).step([np.full(2, np.inf)], max_norm=1.0)
    assert np.geterr() == before


def test_clipping_begins_at_the_norm_less_a_millionth():
    """As in PyTorch: the factor is max_norm / (norm + 1e-6) wherever that is less than 1."""
    for max_norm, factor in ((5.0, 5.0 / 5.000001), (5.0000005, 5.0000005 / 5.000001), (5.000001, 1.0), (6.0, 1.0)):
        grads = np.array([3.0, 4.0])
        assert fastopt.clip_grad_norm(grads, max_norm) == 5.0
        assert_same_bits(grads, np.array([3.0, 4.0]) * factor)


def test_clipping_follows_ieee_rules():
    for bad in (np.nan, np.inf):
        grads = [np.array([1.0, bad]), np.array([2.0], np.float32)]
        expected = [g.copy() for g in grads]
        norm = fastopt.clip_grad_norm(grads, 1.0)
        assert repr(norm) == repr(reference.clip_grad_norm(expected, 1.0))
        for found, wanted in zip(grads, expected, strict=True):
            assert_same_bits(found, wanted)


def test_bad_input_of_the_norm():
    good, locked = np.ones(3), np.ones(3)
    locked.flags.writeable = False
    assert fastopt.global_norm([good, locked, good]) == 3.0  # only read
    cases = [
        ([good, locked], ValueError, "grads[1] is read-only"),
        ([good, good[2:]], ValueError, "grads[1] shares memory with grads[0]"),
        ({"w": good, "b": np.ones(2, int)}, TypeError, "grads['b'] has dtype int64"),
        ([good, np.broadcast_to(1.0, 3)], ValueError, "grads[1] is read-only"),
        ([good, np.lib.stride_tricks.as_strided(np.ones(1), (3,), (0,))], ValueError, "grads[1] has several elements"),
        ([None], TypeError, "grads[0] is None"),
        (3.0, TypeError, "grads is a number of type float"),
        ([], ValueError, "grads is empty"),
    ]
    for grads, error, words in cases:
        with pytest.raises(error) as caught:
            fastopt.clip_grad_norm(grads, 0.1)
        assert words in str(caught.value)
        assert (good == 1).all()
    for bad in (math.nan, -1.0):
        with pytest.raises(ValueError, match="max_norm must be a number >= 0"):
            fastopt.clip_grad_norm(good, bad)
    for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)):
        for call in (lambda bad: fastopt.global_norm(good, threads=bad), lambda bad: fastopt.SGD(good, threads=bad)):
            with pytest.raises(error, match="threads must be"):
                call(bad)


def test_the_classes_cover_every_rule():
    assert {cls.rule for cls in CLASSES} == set(RULES)
