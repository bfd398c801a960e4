"""What the benchmarks share: data that stays ordinary, the NumPy baseline, and the C loop compiled alone."""

from __future__ import annotations

import ctypes
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastopt import reference

CSRC = Path(__file__).resolve().parent.parent / "csrc"
Array = np.ndarray[Any, np.dtype[Any]]


def tensors(count: int, dtype: Any, size: int) -> list[Array]:
    """Arrays with values between 0.1 and 1: no zeros, nothing that decays to subnormals where it is read again."""
    rng = np.random.default_rng(size)
    return [rng.uniform(0.1, 1.0, size).astype(dtype) for _ in range(count)]


class AdamInPlace:
    """`fastopt.reference.adam` as one writes it for speed: in place, every temporary allocated once.

    It does what the reference does, operation by operation; `lean` leaves out those that change nothing without
    gradient scale and weight decay.
    """

    def __init__(self, size: int, dtype: Any, lean: bool) -> None:
        self.a, self.b, self.g, self.lean = np.empty(size, dtype), np.empty(size, dtype), np.empty(size, dtype), lean

    def __call__(self, p: Array, g: Array, m: Array, v: Array, step: int, lr: float) -> None:
        a, b, real = self.a, self.b, p.dtype.type
        beta1, beta2, scale, decay, keep = 0.9, 0.999, 1.0, 0.0, 1.0
        if not self.lean:
            np.multiply(g, real(scale), out=self.g)
            np.multiply(p, real(decay), out=a)
            g = np.add(self.g, a, out=self.g)
        np.multiply(g, real(1 - beta1), out=a)
        np.multiply(m, real(beta1), out=m)
        np.add(m, a, out=m)
        np.multiply(g, real(1 - beta2), out=a)
        np.multiply(a, g, out=a)
        np.multiply(v, real(beta2), out=v)
        np.add(v, a, out=v)
        np.sqrt(v, out=a)
        np.multiply(a, real(1 / np.sqrt(1 - reference._power(beta2, step))), out=a)
        np.add(a, real(1e-8), out=a)
        np.multiply(m, real(lr / (1 - reference._power(beta1, step))), out=b)
        np.divide(b, a, out=b)
        if not self.lean:
            np.multiply(p, real(keep), out=p)
        np.subtract(p, b, out=p)


LOOP_ALONE = """
#include "internal.h"
#define FASTOPT_SET alone
#define FASTOPT_TARGET
#include "instantiate.h"
int adam_alone(size_t n, float *p, const float *g, float *m, float *v, double step, double lr)
{
    const struct hyper_adam hyper = {step, lr, 0.9, 0.999, 1e-8, 0.0, 1.0};
    void *const state[FASTOPT_MAX_STATES] = {m, v, NULL};
    fastopt_coefficients coefficients;
    const int error = entries_f32_alone[RULE_adam].prepare(&hyper, 0, state, &coefficients);
    if (!error)
        entries_f32_alone[RULE_adam].run(n, p, g, state, &coefficients, 0);
    return error;
}
"""


def adam_alone() -> Callable[..., int]:
    """The loop of csrc/rules/adam.h compiled for this very machine, without dispatch, called through ctypes."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    flags = [
        "-std=c11",
        "-O3",
        "-march=native",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fPIC",
        "-shared",
    ]
    folder = Path(tempfile.mkdtemp(prefix="fastopt-bench-"))
    source, library = folder / "alone.c", folder / "alone.so"
    source.write_text(LOOP_ALONE)
    subprocess.run([*compiler, *flags, f"-I{CSRC}", str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).adam_alone
    function.argtypes = [ctypes.c_size_t, *[ctypes.c_void_p] * 4, ctypes.c_double, ctypes.c_double]
    function.restype = ctypes.c_int
    loop: Callable[..., int] = function
    return loop
