"""(h) The doors to the core: what a call costs through each of them, over the loop itself."""

from __future__ import annotations

import ctypes
import functools
import importlib
import subprocess
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import compiled
import numpy as np
from compiled import CSRC
from measure import Contender, round_robin
from models import Array, ordinary
from report import Promise, Section, Table, seconds
from settings import Settings

import fastopt
from fastopt import kernels, reference
from fastopt._memory import zeros_like

DOORS_C = Path(__file__).resolve().parent.parent / "doors.c"
SIZE = 16
HYPERS = (1e-3, 0.9, 0.999, 1e-8, 0.0, 1.0)  # as in doors.c: lr, beta1, beta2, eps, weight_decay, grad_scale
FIRST = 1_000  # the step number at the beginning of a sample
CHECKED_STEPS = 300
KERNEL, ANEW = "the kernel: the loop alone, in C", "the kernel, its coefficients computed every step"
C, CYTHON, CAPSULE = "C: fastopt_adam_f32()", "Cython: adam_f32() of fastopt.capi", "C: the capsule's adam_f32()"
AT_MOST = {C: (30e-9, "from C"), CYTHON: (30e-9, "from Cython"), CAPSULE: (60e-9, "through the capsule")}

TEXT = f"""float32 Adam on {SIZE} elements in one thread. *The kernel* is the loop alone, called in C through its
pointer with coefficients that stay as they are. A call also checks its arguments and computes the coefficients of its
step number, which grows from {FIRST} on in every sample. From C, Cython and numba the calls are made in a compiled
loop; "from Python" means in a loop of Python's, the loop included. The core beside the C code has the package's flags.
All give the reference's bits."""

CYTHON_LOOP = """
from fastopt.capi cimport adam_f32

def steps(Py_ssize_t calls, double step, size_t n, size_t p, size_t g, size_t m, size_t v):
    cdef int error = 0
    cdef Py_ssize_t i
    with nogil:
        for i in range(calls):
            error |= adam_f32(n, <float *>p, <const float *>g, <float *>m, <float *>v, NULL,
                              step, 1e-3, 0.9, 0.999, 1e-8, 0.0, 1.0, 0)
            step += 1
    return error
"""

PROTOTYPE = """int (*)(size_t, float *, const float *, float *, float *, float *,
                        double, double, double, double, double, double, double, unsigned)"""

# A function of the number of calls and the first step number: takes the steps, and returns an error if there was one.
Steps = Callable[[int, int], object]


class Data:
    """One tensor with its gradient under an optimizer; all doors share its buffers, which can be reset."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.start, grad = (ordinary(rng, (SIZE,)) for _ in range(2))
        # On cache lines, as the states are, so that every run has the same alignment.
        self.p, self.g = zeros_like([self.start, grad])
        self.p[...], self.g[...] = self.start, grad
        self.opt = fastopt.Adam([self.p], lr=HYPERS[0])
        self.opt.bind([self.g])
        self.opt.step()
        self.begin = self.opt.state_dict()
        states = self.begin["state"][0]
        states.update(step=FIRST - 1, exp_avg=np.zeros_like(self.p), exp_avg_sq=np.zeros_like(self.p))
        self.reset()
        self.m, self.v = (self.opt.state[0][name] for name in ("exp_avg", "exp_avg_sq"))

    def reset(self) -> None:
        self.p[...] = self.start
        self.opt.load_state_dict(self.begin)

    @property
    def buffers(self) -> tuple[Array, ...]:
        return self.p, self.g, self.m, self.v

    @property
    def addresses(self) -> tuple[int, ...]:
        return tuple(array.ctypes.data for array in self.buffers)

    def bits(self) -> list[bytes]:
        return [array.tobytes() for array in self.buffers]

    def expected(self, growing: bool) -> list[bytes]:
        """The bits that the reference gives; `growing`: the step number, and with it the coefficients, grow."""
        self.reset()
        for i in range(CHECKED_STEPS):
            reference.adam(*self.buffers, step=FIRST + growing * i, lr=HYPERS[0])
        return self.bits()


def run(settings: Settings) -> Section:
    section = Section(f"(h) The doors: a call on {SIZE} elements", " ".join(TEXT.split()))
    data = Data()
    growing, fixed = data.expected(growing=True), data.expected(growing=False)
    contenders = []
    for label, make in DOORS.items():
        try:
            steps = make(data)
        except ImportError as error:
            section.remarks.append(f"Not measured: {label}. {error}.")
            continue
        except subprocess.CalledProcessError as error:
            section.remarks.append(f"Not measured: {label}. It does not compile: {error.stderr.strip()}")
            continue
        data.reset()
        returned = steps(CHECKED_STEPS, FIRST)
        if returned:
            settings.dropped[label] = f"error {returned}"
        elif data.bits() != (fixed if label == KERNEL else growing):
            settings.dropped[label] = "other bits than fastopt.reference"
        else:
            contenders.append(contender(label, steps, data))
    timings = round_robin(contenders, settings.seconds(20), settings.rounds())
    of = {label: value for (label, _), value in timings.items()}
    table = Table("", ("through", "a call", "over the kernel"))
    for label, value in of.items():
        table.rows.append((label, seconds(value), "" if label == KERNEL else seconds(value - of[KERNEL])))
    section.tables.append(table)
    for label, (limit, words) in AT_MOST.items():
        text = f"A call on {SIZE} elements {words}: at most {seconds(limit)} over the kernel"
        if label in of:
            over = of[label] - of[KERNEL]
            section.promises.append(Promise(text, seconds(over), over <= limit))
        else:
            section.promises.append(Promise(text, "not measured", None))
    return section


def contender(label: str, steps: Steps, data: Data) -> Contender:
    """Every turn begins with the same numbers, and every sample with the same step number."""

    def timed(calls: int) -> float:
        start = time.perf_counter()
        steps(calls, FIRST)
        return time.perf_counter() - start

    return Contender(label, 1, timed, data.reset)


# ---- The doors. Each is made with the data that it steps; ImportError says that something is not installed. ----


def from_c(name: str) -> Callable[[Data], Steps]:
    """A function of doors.c, which is compiled together with the core's sources."""

    def make(data: Data) -> Steps:
        function = getattr(_vendored(), name)
        function.argtypes = [ctypes.c_size_t, ctypes.c_double, ctypes.c_size_t, *[ctypes.c_void_p] * 4]
        return lambda calls, step: function(calls, step, SIZE, *data.addresses)

    return make


@functools.cache
def _vendored() -> ctypes.CDLL:
    hidden = ["-fvisibility=hidden", "-DFASTOPT_API="]
    return compiled.shared_library(DOORS_C.read_text(), "doors", [*compiled.PACKAGE, *hidden], sorted(CSRC.glob("*.c")))


def capsule(data: Data) -> Steps:
    flags = [*compiled.PACKAGE, "-DFASTOPT_CAPSULE"]
    module = compiled.extension_module(DOORS_C.read_text(), "doors_capsule", flags)
    return lambda calls, step: module.steps(calls, step, SIZE, *data.addresses)


def cython(data: Data) -> Steps:
    need("Cython")
    module = compiled.cython_module(CYTHON_LOOP, "doors_cython")
    return lambda calls, step: module.steps(calls, step, SIZE, *data.addresses)


def by_ctypes(data: Data) -> Steps:
    return looped(prototype()(fastopt.capi_address("fastopt_adam_f32")), SIZE, *data.addresses, None)


def by_cffi(data: Data) -> Steps:
    ffi = need("cffi").FFI()
    adam = ffi.cast(PROTOTYPE, fastopt.capi_address("fastopt_adam_f32"))
    return looped(adam, SIZE, *(ffi.cast("float *", address) for address in data.addresses), ffi.NULL)


def by_numba(data: Data) -> Steps:
    numba = need("numba")
    adam = prototype(pointer=ctypes.c_size_t)(fastopt.capi_address("fastopt_adam_f32"))
    lr, beta1, beta2, eps, weight_decay, grad_scale = HYPERS

    @numba.njit  # type: ignore[untyped-decorator]
    def loop(calls: int, step: float, n: int, p: int, g: int, m: int, v: int) -> int:
        error = 0
        for i in range(calls):
            error |= adam(n, p, g, m, v, 0, step + i, lr, beta1, beta2, eps, weight_decay, grad_scale, 0)
        return error

    return lambda calls, step: loop(calls, step, SIZE, *data.addresses)


def by_kernels(data: Data) -> Steps:
    p, g, m, v = data.buffers
    adam, lr = kernels.adam, HYPERS[0]

    def steps(calls: int, step: int) -> None:
        for number in range(step, step + calls):
            adam(p, g, m, v, step=number, lr=lr)

    return steps


def by_optimizer(data: Data) -> Steps:
    """opt.step() with a bound gradient: the optimizer counts the steps itself."""
    take = data.opt.step

    def steps(calls: int, step: int) -> None:
        for _ in repeat(None, calls):
            take()

    return steps


def looped(adam: Callable[..., int], *arguments: Any) -> Steps:
    """Calls from Python; the arguments before the step number are converted beforehand."""

    def steps(calls: int, step: int) -> int:
        error = 0
        for number in range(step, step + calls):
            error |= adam(*arguments, number, *HYPERS, 0)
        return error

    return steps


def prototype(pointer: Any = ctypes.c_void_p) -> Any:
    """The prototype of fastopt_adam_f32() for ctypes and, with pointers as integers, for numba."""
    return ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_size_t, *[pointer] * 5, *[ctypes.c_double] * (1 + len(HYPERS)), ctypes.c_uint
    )


def need(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is not installed") from error


DOORS: dict[str, Callable[[Data], Steps]] = {
    KERNEL: from_c("kernel"),
    ANEW: from_c("coefficients"),
    C: from_c("function"),
    "C: fastopt_step(), a model of one tensor": from_c("model"),
    CAPSULE: capsule,
    CYTHON: cython,
    "numba: the address": by_numba,
    "from Python: opt.step(), bound": by_optimizer,
    "from Python: kernels.adam()": by_kernels,
    "from Python: cffi": by_cffi,
    "from Python: ctypes": by_ctypes,
}
