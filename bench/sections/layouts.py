"""(i) Gradients of other types and layouts than their parameters, against converting them with NumPy first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from measure import Contender, Timings, looped, round_robin
from models import Array, Case
from report import Promise, Section, Table, count, factor, seconds
from roofline import LABEL, roofline
from settings import Settings

SHAPES = ((4, 4), (64, 64), (200, 250), (1000, 1000), (5000, 6000))
QUICK = ((4, 4), (64, 64))
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}  # of an element
STATE_TRAFFIC = 24  # bytes of parameter and states that an Adam step reads and writes for an element
OF_TRAFFIC, OF_PLAIN, UNDER_COPY = 1.25, 3.0, 2.0

TEXT = """Adam, one float32 matrix, one thread; each step is handed its gradient in a list. *Plain*: float32 in C order.
*Transposed*: float32 in Fortran order. "First" means what users write without fastopt's conversion: the gradient is
converted into an array of the parameter's type and order (`np.copyto` into one that is kept, or `astype` and
`np.ascontiguousarray` into a new one), and then stepped. Multiples are of the plain step in the same rounds."""


def gradients(grad: Array) -> dict[str, Array]:
    """The same numbers in every type and layout."""
    found = {"plain": grad, "float64": grad.astype(np.float64), "float16": grad.astype(np.float16)}
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        pass
    else:
        found["bfloat16"] = grad.astype(bfloat16)
    return {**found, "transposed": np.asfortranarray(grad)}


def steps(case: Case) -> dict[str, Callable[[], Any]]:
    step, buffer = case.opt.step, np.empty_like(case.grads[0])
    given = gradients(case.grads[0])

    def copied(grad: Array) -> None:
        np.copyto(buffer, grad, casting="same_kind")
        step([buffer])

    found: dict[str, Callable[[], Any]] = {name: lambda grad=grad: step([grad]) for name, grad in given.items()}
    for name in ("float64", "transposed"):
        found[f"{name}, copied first"] = lambda grad=given[name]: copied(grad)
        found[f"{name}, converted first"] = lambda grad=given[name]: step(
            [np.ascontiguousarray(grad, dtype=np.float32)]
        )
    found["a factor that float32 cannot hold"] = lambda: step([given["plain"]], grad_scale=1 / 3)
    return found


def run(settings: Settings) -> Section:
    section = Section("(i) Types and layouts", " ".join(TEXT.split()))
    results: dict[int, Timings] = {}
    for shape in QUICK if settings.quick else SHAPES:
        case = Case.of_shapes([shape])
        case.opt.threads = 1
        made = [Contender(name, 1, looped(step)) for name, step in steps(case).items()]
        results[case.elements] = round_robin(
            [roofline(case, 1), *made], settings.seconds(40 if case.elements > 10_000_000 else 8), settings.rounds()
        )
    table = Table("A step", ("gradient", *map(count, results)))
    for key in results[min(results)]:
        cells = (f"{seconds(t[key])} ({factor(t[key] / t['plain', 1])})" for t in results.values())
        table.rows.append((key[0], *cells))
    section.tables.append(table)
    section.promises = promises(results)
    return section


def promises(results: dict[int, Timings]) -> list[Promise]:
    largest = max(results)
    timings = results[largest]
    plain = timings["plain", 1]
    traffic = timings[LABEL, 1] / (STATE_TRAFFIC + BYTES["float32"])  # seconds a byte
    found = []
    wide = timings["float64", 1] / (traffic * (STATE_TRAFFIC + BYTES["float64"]))
    text = f"{count(largest)} elements, float64 gradient: at most {OF_TRAFFIC}x what its bytes take at the roofline"
    found.append(Promise(text, factor(wide), wide <= OF_TRAFFIC))
    if ("bfloat16", 1) in timings:
        narrow = timings["bfloat16", 1] / plain
        text = f"{count(largest)} elements, bfloat16 gradient: not slower than a float32 one (3 % for noise)"
        found.append(Promise(text, factor(narrow), narrow <= 1.03))
    across = timings["transposed", 1] / plain
    text = f"{count(largest)} elements, transposed gradient: at most {OF_PLAIN:g}x a plain step"
    found.append(Promise(text, factor(across), across <= OF_PLAIN))
    copied = timings["transposed, copied first", 1] / timings["transposed", 1]
    text = f"{count(largest)} elements, transposed gradient: at least {UNDER_COPY:g}x as fast as np.copyto and a step"
    found.append(Promise(text, factor(copied), copied >= UNDER_COPY))
    ratios = {
        f"{name}, {count(size)}": t[f"{name}, {how}", 1] / t[name, 1]
        for size, t in results.items()
        for name in ("float64", "transposed")
        for how in ("copied first", "converted first")
    }
    worst = min(ratios, key=lambda name: ratios[name])
    text = "Every size: faster than converting with NumPy first"
    found.append(Promise(text, f"{factor(ratios[worst])} the least ({worst})", ratios[worst] > 1))
    return found
