"""(g) The speed of the loop itself: float32 Adam on 50 000 elements, in one thread."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from compiled import shared_library
from measure import Contender, looped, round_robin
from models import Case
from peers import AdamInPlace, differs
from report import Promise, Section, Table, factor, seconds
from settings import Settings

import fastopt
from fastopt import kernels

SIZE, QUICK = 50_000, 5_000
STEP, LR = 1, 1e-3
AT_LEAST, AT_MOST = 4.0, 1.15  # times faster than NumPy in place; times the loop compiled alone
ALONE, IN_PLACE = "the loop alone, -march=native", "NumPy in place"

TEXT = """float32 Adam in one thread. "In C" and "the loop alone" are called through ctypes, about a microsecond a call
for either; the latter is the rule's file compiled for this machine, without dispatch. `kernels.adam` is called as users
call it, with all of its checks. NumPy in place allocates nothing and does what the reference and the kernel do,
operation by operation; "lean" leaves out the four operations that change nothing without gradient scale and weight
decay. All give the reference's bits."""

LOOP_ALONE = """
#include "internal.h"

/* What rules.c and loops.h define for a rule's file. */
#define FASTOPT_IN_DOUBLE(name) double name;
#define FASTOPT_IN_REAL(name) float name;
#define FASTOPT_ROUND(name) rounded.name = (float)exact.name;
#define T(name) alone_##name
#define LOOP static inline __attribute__((always_inline)) void
#define ENTRY static void
#define real float
#define real_sqrt sqrtf
#define FASTOPT_COEFFICIENTS
#define FASTOPT_LOOPS
#include "rules/adam.h"

int adam_alone(size_t n, float *p, const float *g, float *m, float *v, double step, double lr)
{
    const struct adam_hypers hyper = {
        .step = step, .lr = lr, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.0, .grad_scale = 1.0};
    const struct adam_states state = {m, v, NULL};
    struct adam_coefficients exact;
    alone_adam_coefficients rounded;
    const int error = adam_prepare(&hyper, &state, 0, &exact);

    ADAM_COEFFICIENTS(FASTOPT_ROUND)
    if (!error)
        alone_adam(n, p, g, (void *const *)&state, &rounded, 0);
    return error;
}
"""


def run(settings: Settings) -> Section:
    size = QUICK if settings.quick else SIZE
    case = Case.of_shapes([(size,)], lr=LR)
    section = Section(f"(g) The loop: {size} elements", " ".join(TEXT.split()))
    widest = fastopt.isa()
    expected = case.expected(1)
    contenders = []
    try:
        for label, (isa, step) in steps(case).items():
            fastopt.use_isa(isa)
            case.reset()
            step()
            if difference := differs(case, expected, exact=True):
                settings.dropped[label] = difference
            else:
                contenders.append(Contender(label, 1, looped(step), lambda isa=isa: fastopt.use_isa(isa)))
        case.settle()
        timings = round_robin(contenders, settings.seconds(15), settings.rounds())
    finally:
        fastopt.use_isa(widest)
    of = {label: value for (label, _), value in timings.items()}
    table = Table("", ("how", "a step", "times the loop alone", "NumPy in place takes"))
    for label, value in of.items():
        table.rows.append((label, seconds(value), factor(value / of[ALONE]), factor(of[IN_PLACE] / value)))
    section.tables.append(table)
    ours = of[in_c(widest)]
    for ratio, holds, text in (
        (of[IN_PLACE] / ours, of[IN_PLACE] / ours >= AT_LEAST, f"NumPy in place / fastopt in C: at least {AT_LEAST}"),
        (ours / of[ALONE], ours / of[ALONE] <= AT_MOST, f"fastopt in C / the loop alone: at most {AT_MOST}"),
    ):
        section.promises.append(Promise(f"Adam, {size} elements, {text}", f"{ratio:.2f}", holds))
    return section


def in_c(isa: str) -> str:
    return f"fastopt in C, {isa}"


def steps(case: Case) -> dict[str, tuple[str, Callable[[], object]]]:
    """{what: (instruction set, one step)}, the arguments of C functions converted beforehand."""
    (p,), (g,), ((m,), (v,)) = case.params, case.grads, case.states.values()
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (p, g, m, v)]
    hypers = [ctypes.c_double(value) for value in (STEP, LR, 0.9, 0.999, 1e-8, 0.0, 1.0)]
    core = ctypes.CFUNCTYPE(ctypes.c_int)(fastopt.capi_address("fastopt_adam_f32"))
    alone = shared_library(LOOP_ALONE, "alone").adam_alone
    alone.argtypes = [ctypes.c_size_t, *[ctypes.c_void_p] * 4, ctypes.c_double, ctypes.c_double]
    to_core = (ctypes.c_size_t(p.size), *pointers, None, *hypers, ctypes.c_uint(0))
    to_alone = (p.size, *pointers, STEP, LR)
    scratch = [np.empty_like(p) for _ in range(3)]
    in_place, lean = AdamInPlace(scratch, lean=False), AdamInPlace(scratch, lean=True)
    widest = fastopt.isa()
    return {
        **{in_c(isa): (isa, lambda: core(*to_core)) for isa in fastopt.available_isas()},
        f"kernels.adam, {widest}": (widest, lambda: kernels.adam(p, g, m, v, step=STEP, lr=LR)),
        ALONE: (widest, lambda: alone(*to_alone)),
        IN_PLACE: (widest, lambda: in_place(p, g, m, v, STEP, LR)),
        f"{IN_PLACE}, lean": (widest, lambda: lean(p, g, m, v, STEP, LR)),
    }
