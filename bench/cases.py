"""What the benchmarks share: data that stays ordinary, the NumPy baseline, and the C loop compiled alone."""

from __future__ import annotations

import ctypes
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastopt import reference
from fastopt._core import RULES

CSRC = Path(__file__).resolve().parent.parent / "csrc"
SIZES = [16, 1_000, 50_000, 1_000_000]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Case:
    """One rule with all its optional state buffers or with none, on tensors of one type and size."""

    rule: str
    full: bool
    dtype: type[np.floating[Any]]
    size: int

    @property
    def group(self) -> str:
        return f"{self.rule}{' (all options)' if self.full else ''} {np.dtype(self.dtype).name} {self.size}"

    def call(self, module: Any) -> Callable[[], None]:
        """A step of this rule as `module` has it, on data of its own."""
        table = RULES[self.rule]
        names = table.states if self.full else table.states[: table.required_states]
        p, g, *states = tensors(2 + len(names), self.dtype, self.size)
        # A learning rate of 0 keeps p where it is, so that any number of rounds sees ordinary values.
        keywords: dict[str, Any] = {"lr": 0.0, **dict(zip(names, states, strict=True))}
        if "momentum_buffer" in names:
            keywords["momentum"] = 0.9
        if "step" in table.hypers:
            keywords["step"] = 10
        function = getattr(module, self.rule)
        return lambda: function(p, g, **keywords)


def cases() -> Iterator[Case]:
    """Every rule of the package's table, so that a new one is measured without being told."""
    for rule, table in RULES.items():
        for full in [False, True] if len(table.states) > table.required_states else [False]:
            for dtype in (np.float32, np.float64):
                for size in SIZES:
                    yield Case(rule, full, dtype, size)


def tensors(count: int, dtype: Any, size: int) -> list[Array]:
    """Arrays with values between 0.1 and 1: no zeros, nothing that decays to subnormals where it is read again."""
    rng = np.random.default_rng(size)
    return [rng.uniform(0.1, 1.0, size).astype(dtype) for _ in range(count)]


class AdamInPlace:
    """Adam as one writes it in NumPy for speed: in place, every temporary allocated once."""

    def __init__(self, size: int, dtype: Any) -> None:
        self.a, self.b = np.empty(size, dtype), np.empty(size, dtype)

    def __call__(self, p: Array, g: Array, m: Array, v: Array, step: int, lr: float) -> None:
        a, b, real = self.a, self.b, p.dtype.type
        beta1, beta2 = 0.9, 0.999
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
