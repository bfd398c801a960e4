"""Extreme numbers: the largest step counts, betas next to 1, division by zero, and hosts with other rounding modes."""

import itertools
import math
import platform

import numpy as np
import pytest
from commands import CSRC, STRICT, build_core, compiler
from commands import run_well as run
from common import DTYPES, VARIANTS, assert_same_bits, paired, random_tensor

from fastopt import kernels
from fastopt._rules import RULES

N = 37
COUNTING = [rule for rule in RULES if "step" in RULES[rule].hypers]

# The largest doubles that are in range before and after rounding; for float32 just below the middle of two floats.
LARGEST = {
    np.float32: {"lr": float.fromhex("0x1.fffffefffffffp127"), "betas": float.fromhex("0x1.fffffefffffffp-1")},
    np.float64: {"lr": np.finfo(np.float64).max, "betas": float(np.nextafter(1.0, 0.0))},
}


def both(variant, dtype, arguments, p, grads, states):
    """Steps of kernel and reference from the same start; the bits must be the same."""
    found, expected = ([p.copy(), [state.copy() for state in states]] for _ in range(2))
    with np.errstate(all="ignore"):
        for step, g in enumerate(grads, start=arguments.get("step", 1)):
            given = {**arguments, **({"step": step} if "step" in arguments else {})}
            variant.kernel(found[0], g, found[1], given)
            variant.reference(expected[0], g, expected[1], given)
    for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert_same_bits(a, b, str(variant))
    return found


def arguments_of(variant, rng, **changes):
    arguments = variant.draw(rng, 1)
    return {**arguments, **{name: value for name, value in changes.items() if name in arguments}}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", [each for each in VARIANTS if each.rule in COUNTING], ids=str)
def test_step_counts_to_the_end(variant, dtype):
    rng = np.random.default_rng(0)
    for step in (1, 2, 2**31, 2**32 + 1, 2**53 - 1, 2**53):
        p, g, *states = (random_tensor(rng, N, dtype) for _ in range(2 + len(variant.states)))
        states = [np.abs(state) for state in states]
        both(variant, dtype, arguments_of(variant, rng, step=step), p, [g], states)


@pytest.mark.parametrize("rule", COUNTING)
def test_there_is_no_step_after_the_last(rule):
    arrays = [np.ones(3) for _ in range(2 + RULES[rule].required_states)]
    for step in (2**53 + 2, 2.0**60, 0, -1, 1.5):
        with pytest.raises(ValueError, match=r"step must be a whole number from 1 to 2\*\*53, got"):
            getattr(kernels, rule)(*arrays, step=step)
    assert all((array == 1).all() for array in arrays)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_betas_next_to_1_and_lr_0_and_the_largest(variant, dtype):
    rng = np.random.default_rng(1)
    p, g, *states = (random_tensor(rng, N, dtype) for _ in range(2 + len(variant.states)))
    states, last = [np.abs(state) for state in states], LARGEST[dtype]["betas"]
    for lr, most in itertools.product((0.0, 1e-3, LARGEST[dtype]["lr"]), (0.0, last)):
        pair = (most, most)
        changes = {"lr": lr, "betas": pair, "rho": most, "alpha": most, "weight_decay": 0.0, "step": 3}
        if "momentum_buffer" in variant.states and not variant.options.get("nesterov"):
            changes["momentum"] = most
        found, _ = both(variant, dtype, arguments_of(variant, rng, **changes), p, [g, -g], states)
        if lr == 0.0 and variant.rule not in ("momentum", "nag"):  # their velocity still moves the parameters
            assert_same_bits(found, p, "lr 0 leaves the parameters alone")


MAX, LAST = float(np.finfo(np.float64).max), float(np.nextafter(1.0, 0.0))
BELOW_INFINITY = float.fromhex("0x1.ffffffp127")  # half way between the largest float32 and the next: rounds up
# For each kind of hyperparameter a test of what is in range, and numbers at the ends of the range.
RANGES = {
    "step": (lambda x: 1 <= x <= 2**53 and x == int(x), [1.0, 2.0, 2.0**53 - 1, 2.0**53]),
    "finite": (lambda x: -np.inf < x < np.inf, [-MAX, MAX, -BELOW_INFINITY, BELOW_INFINITY]),
    "not negative": (lambda x: 0 <= x < np.inf, [0.0, MAX, BELOW_INFINITY]),
    "below 1": (lambda x: 0 <= x < 1, [0.0, 1.0, 1 - 2.0**-25, 1 - 2.0**-24]),
    "up to 1": (lambda x: 0 <= x <= 1, [0.0, 1.0, 1 + 2.0**-25, 1 + 2.0**-24]),
}
KINDS = {"step": "step", "grad_scale": "finite", "dampening": "up to 1"}
KINDS |= dict.fromkeys(("momentum", "rho", "alpha", "beta1", "beta2"), "below 1")
KINDS |= dict.fromkeys(("lr", "lr_decay", "eps", "weight_decay"), "not negative")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_the_ends_of_every_range(rule, dtype):
    """To the last bit: a number is accepted if it is in range both as it is and rounded to the dtype."""
    table = RULES[rule]
    good = {name: 1.0 if name in ("step", "grad_scale") else 0.5 for name in table.hypers}
    for name in table.hypers:
        within, ends = RANGES[KINDS[name]]
        for value in {x for end in ends for x in (math.nextafter(end, -math.inf), end, math.nextafter(end, math.inf))}:
            hypers = paired({**good, name: float(value)})
            arrays = [np.ones(3, dtype) for _ in range(2 + len(table.states))]
            states = dict(zip(table.states, arrays[2:], strict=True))
            with np.errstate(all="ignore"):
                rounded = value if name in ("step", "grad_scale") else float(dtype(value))
            accepted = np.isfinite(value) and within(value) and within(rounded) and (rounded != 0) == (value != 0)
            try:
                getattr(kernels, rule)(*arrays[:2], **states, **hypers)
                found = True
            except ValueError:
                found = False
            assert found == accepted, (name, float(value).hex())


def test_the_step_number_is_not_rounded_to_float32():
    """A step number that float32 does not hold is used exactly."""
    for step in (2**24 + 1, 2**31 - 1, 2**53 - 1):
        p, g, m = (np.array([x], np.float32) for x in (1.0, 0.5, 0.0))
        kernels.adagrad(p, g, m, step=step, lr=1.0, lr_decay=0.5, eps=0.0)
        assert p[0] == np.float32(1) - np.float32(1 / (1 + (step - 1) * 0.5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_lr_and_beta(dtype):
    """The next larger double would leave the range when it is rounded, and is refused."""
    arrays = [np.ones(3, dtype) for _ in range(4)]
    for name, value in LARGEST[dtype].items():
        more = float(np.nextafter(value, np.inf)) if value < np.finfo(np.float64).max else float("inf")
        for given, works in ((value, True), (more, False)):
            hypers = {name: (given, 0.9) if name == "betas" else given}
            if works:
                with np.errstate(all="ignore"):
                    kernels.adam(*arrays, step=1, **hypers)
            else:
                with pytest.raises(ValueError, match=r"lr must be a finite|betas\[0\] must be a number in"):
                    kernels.adam(*arrays, step=1, **hypers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_subnormal_numbers(variant, dtype):
    rng, tiny = np.random.default_rng(2), np.finfo(dtype).smallest_subnormal
    p, g, *states = ((rng.integers(1, 1000, N) * tiny).astype(dtype) for _ in range(2 + len(variant.states)))
    found, states = both(variant, dtype, arguments_of(variant, rng, weight_decay=0.5), p, [g, g, -g], states)
    assert any((np.abs(array[array != 0]) < np.finfo(dtype).tiny).any() for array in (found, *states))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", [each for each in VARIANTS if "eps" in RULES[each.rule].hypers], ids=str)
def test_division_by_zero(variant, dtype):
    """With eps 0, gradients of zero give 0/0, which is NaN by IEEE 754 and the docs; with eps > 0 they give 0."""
    p, g, *states = (np.zeros(N, dtype) for _ in range(2 + len(variant.states)))
    p[:] = 1
    rng = np.random.default_rng(3)
    changes = {"weight_decay": 0.0, "step": 1, "momentum": 0.5 if "momentum_buffer" in variant.states else 0.0}
    found, _ = both(variant, dtype, arguments_of(variant, rng, eps=0.0, **changes), p, [g], states)
    assert np.isnan(found).all()
    found, _ = both(variant, dtype, arguments_of(variant, rng, eps=1e-8, **changes), p, [g], states)
    assert_same_bits(found, p)


# ---- A host program that has set another floating-point mode. ----

# Sets every mode in turn and steps on several threads, which start in the first mode. Prints an error where a call
# changes the mode, and where several threads give other bits than one.
MODES = r"""
#include "fastopt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1500000 };
static float p[2][N], g[N], m[2][N], v[2][N];

#if defined(__SSE2__)
static unsigned mode(void) { return __builtin_ia32_stmxcsr() & 0xffc0u; }
static void set(unsigned x) { __builtin_ia32_ldmxcsr(x); }
static const unsigned modes[] = {0x9fc0, 0x1f80, 0x3f80, 0x5f80, 0x7f80, 0x1f80}; /* flush to zero, nearest, others */
#else
static unsigned mode(void) { unsigned long long x; __asm__ volatile("mrs %0, fpcr" : "=r"(x)); return (unsigned)x; }
static void set(unsigned x) { __asm__ volatile("msr fpcr, %0" : : "r"((unsigned long long)x)); }
static const unsigned modes[] = {1u << 24, 0, 1u << 22, 2u << 22, 3u << 22, 0};
#endif

int main(void)
{
    static unsigned char first[sizeof p[0]];
    for (size_t k = 0; k < sizeof modes / sizeof *modes; k++) {
        for (size_t i = 0; i < N; i++) {
            g[i] = (float)(i % 1999) * 1e-42f + (i % 3 ? 0.0f : 0.1f);
            p[0][i] = p[1][i] = (float)(i % 1009) * 1e-41f;
            m[0][i] = m[1][i] = v[0][i] = v[1][i] = (float)(i % 997) * 1e-43f;
        }
        for (int turn = 0; turn < 2; turn++) { /* several threads, then one */
            fastopt_tensor tensor = {.size = sizeof tensor, .n = N, .p = p[turn], .g = g, .state = {m[turn], v[turn]}};
            fastopt_group group;
            fastopt_model model;
            int error = fastopt_group_init(&group, sizeof group, "adam", FASTOPT_F32);
            error |= fastopt_model_init(&model, sizeof model);
            group.hyper[FASTOPT_ADAM_STEP] = 1;
            group.tensors = &tensor;
            group.count = model.count = 1;
            model.groups = &group;
            model.threads = turn ? 1 : 4;
            set(modes[k]);
            error |= fastopt_step(&model);
            error |= fastopt_adam_f32(1, p[turn], g, m[turn], v[turn], NULL, 2, 1, 0, 0, 0, 0, 1, 0);
            if (error || mode() != modes[k])
                printf("mode %x: error %d, left as %x\n", modes[k], error, mode());
            set(modes[1]);
        }
        if (memcmp(p[0], p[1], sizeof p[0]) || memcmp(m[0], m[1], sizeof m[0]) || memcmp(v[0], v[1], sizeof v[0]))
            printf("mode %x: the bits depend on the threads\n", modes[k]);
        if (k == 1)
            memcpy(first, m[0], sizeof first);
        if (k == 0 || k == 2) /* the modes must make a difference at all */
            printf("%d ", k && memcmp(first, m[0], sizeof first) != 0);
    }
    if (memcmp(first, m[0], sizeof first))
        printf("the mode of nearest is not what it was");
    return 0;
}
"""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64"),
    reason="sets the floating-point mode of x86-64 and arm64: run it there",
)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_the_floating_point_mode_is_kept_and_used_by_all_threads(name, tmp_path):
    cc = compiler(name)
    objects = build_core(cc, ["-O3"], tmp_path)
    (tmp_path / "modes.c").write_text(MODES, encoding="utf-8")
    run(cc, "-O1", "-std=gnu11", *STRICT, "-I", CSRC, "modes.c", *objects, "-pthread", "-o", "modes", cwd=tmp_path)
    assert run(tmp_path / "modes") == "0 1 "
