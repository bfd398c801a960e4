"""The speed promised for float32 Adam on 50 000 elements in one thread, measured: `python bench/speed.py`.

Every contender steps the same buffers and is first checked to give the bits of `fastopt.reference.adam`. They take
turns for many rounds, so that a noisy machine disturbs all alike; each turn begins with a call that is not timed and
brings the buffers back into the cache, and medians are shown. "In C" and "the loop alone" are called through ctypes,
about a microsecond a call for either; `kernels.adam` is called as users call it, with all of its checks. NumPy in place
allocates nothing and does what the reference and the kernel do, operation by operation; "lean" leaves out the four
operations that change nothing without gradient scale and weight decay.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable

import numpy as np
from cases import AdamInPlace, adam_alone, tensors
from rich.console import Console
from rich.table import Table

import fastopt
from fastopt import _core, kernels, reference

SIZE, STEP, LR = 50_000, 10, 1e-3
AT_LEAST, AT_MOST = 4.0, 1.15  # times faster than NumPy in place; times the loop compiled alone


def contenders(buffers: list[np.ndarray]) -> dict[str, tuple[str, Callable[[], object]]]:
    """{what: (instruction set, one step)}, the arguments of C functions converted beforehand."""
    p, g, m, v = buffers
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in buffers]
    hypers = [ctypes.c_double(value) for value in (STEP, LR, 0.9, 0.999, 1e-8, 0.0, 1.0)]
    core, alone, in_place = (
        ctypes.CDLL(_core.__file__).fastopt_adam_f32,
        adam_alone(),
        AdamInPlace(SIZE, p.dtype, lean=False),
    )
    lean = AdamInPlace(SIZE, p.dtype, lean=True)
    to_core = (ctypes.c_size_t(SIZE), *pointers, None, *hypers, ctypes.c_uint(0))
    to_alone = (SIZE, *pointers, STEP, LR)
    widest = fastopt.isa()
    return {
        **{f"fastopt in C, {isa}": (isa, lambda: core(*to_core)) for isa in fastopt.available_isas()},
        f"kernels.adam, {widest}": (widest, lambda: kernels.adam(p, g, m, v, step=STEP, lr=LR)),
        "the loop alone, -march=native": (widest, lambda: alone(*to_alone)),
        "NumPy in place": (widest, lambda: in_place(p, g, m, v, STEP, LR)),
        "NumPy in place, lean": (widest, lambda: lean(p, g, m, v, STEP, LR)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    rounds = parser.parse_args().rounds

    widest = fastopt.isa()
    start = tensors(4, np.float32, SIZE)
    expected = [array.copy() for array in start]
    reference.adam(*expected, step=STEP, lr=LR)
    buffers = [array.copy() for array in start]
    steps = contenders(buffers)
    for what, (isa, step) in steps.items():
        for array, first in zip(buffers, start, strict=True):
            array[:] = first
        fastopt.use_isa(isa)
        step()
        if any(found.tobytes() != wanted.tobytes() for found, wanted in zip(buffers, expected, strict=True)):
            raise SystemExit(f"{what}: other bits than fastopt.reference.adam")

    times: dict[str, list[float]] = {what: [] for what in steps}
    for _ in range(rounds):
        for what, (isa, step) in steps.items():
            fastopt.use_isa(isa)
            step()
            for _ in range(3):
                begin = time.perf_counter()
                step()
                times[what].append(time.perf_counter() - begin)
    fastopt.use_isa(widest)

    median = {what: 1e6 * statistics.median(values) for what, values in times.items()}
    loop, numpy = median["the loop alone, -march=native"], median["NumPy in place"]
    table = Table("what", title=f"float32 Adam, {SIZE} elements, one thread, {rounds} rounds")
    for heading in ("median us", "times the loop alone", "NumPy takes times as long"):
        table.add_column(heading, justify="right")
    for what, value in median.items():
        table.add_row(what, f"{value:.1f}", f"{value / loop:.2f}", f"{numpy / value:.2f}")
    Console(width=100).print(table)
    in_c = median[f"fastopt in C, {widest}"]
    for ratio, holds, promise in (
        (numpy / in_c, numpy / in_c >= AT_LEAST, f"NumPy in place / fastopt in C: at least {AT_LEAST} promised"),
        (in_c / loop, in_c / loop <= AT_MOST, f"fastopt in C / the loop alone: at most {AT_MOST} promised"),
    ):
        print(f"{promise}, {ratio:.2f} measured: {'holds' if holds else 'MISSED'}")


if __name__ == "__main__":
    main()
