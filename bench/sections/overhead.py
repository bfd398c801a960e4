"""(a) What a call costs: one tensor of 16 elements, where the arithmetic takes hardly any time."""

from __future__ import annotations

import time
from itertools import repeat

import plots
from measure import Contender, Timings, looped, round_robin
from models import Case, optimizer_classes
from report import Plot, Promise, Section, Table, factor, seconds, threads
from settings import FASTOPT, Settings

from sections.common import each

SIZE = 16
AT_MOST = {"bound": 150e-9, "same array": 250e-9, "fresh array": 400e-9}
UNDER_NUMBA = 25.0

TEXT = f"""One step of one float32 tensor of {SIZE} elements on one thread. *Bound*: `opt.bind([g])` once, then
`opt.step()`. *Same array*: `opt.step([g])`. *Fresh array*: the same with another array each time, made outside of the
timed part. Times include the measuring loop, as `timeit`'s do."""


def run(settings: Settings) -> Section:
    section = Section(f"(a) Per-call overhead: {SIZE} elements", " ".join(TEXT.split()))
    case = Case.of_shapes([(SIZE,)])
    timings = round_robin(
        [*calls(case), *settings.checked(case, settings.peers, f"{SIZE} elements")],
        settings.seconds(15),
        settings.rounds(),
    )
    timings = Timings(
        {(f"{FASTOPT}, {label}" if label in AT_MOST else label, n): value for (label, n), value in timings.items()}
    )
    bound = timings[f"{FASTOPT}, bound", 1]
    table = Table("Adam", ("contender", "threads", "a step", f"times {FASTOPT}, bound"))
    for (label, number), value in timings.items():
        table.rows.append((label, threads(number), seconds(value), factor(value / bound)))
    rules = Table("Every optimizer of fastopt, as it is by default", ("optimizer", *AT_MOST))
    of_class: dict[str, dict[str, float]] = {kind: {} for kind in AT_MOST}
    for optimizer in optimizer_classes():
        case = Case.of_shapes([(SIZE,)], optimizer)
        found = round_robin(calls(case), settings.seconds(2), settings.rounds())
        rules.rows.append((optimizer.__name__, *(seconds(found[kind, 1]) for kind in AT_MOST)))
        for kind in AT_MOST:
            of_class[kind][optimizer.__name__] = found[kind, 1]
    for kind, limit in AT_MOST.items():
        value = timings[f"{FASTOPT}, {kind}", 1]
        text = f"Adam, {SIZE} elements, {kind}: at most {seconds(limit)}"
        section.promises.append(Promise(text, seconds(value), value <= limit))
    if ("numba", 1) in timings:
        ratio = timings["numba", 1] / bound
        text = f"Adam, {SIZE} elements, bound: at least {UNDER_NUMBA:.0f}x under numba's loop"
        section.promises.append(Promise(text, factor(ratio), ratio >= UNDER_NUMBA))
    for kind, limit in AT_MOST.items():
        section.promises.append(each(f"Every optimizer, {SIZE} elements, {kind}", of_class[kind], limit, seconds))
    section.tables = [table, rules]
    section.plots = [Plot("overhead.png", "A step of 16 elements", lambda path: plots.overhead(timings, path))]
    return section


def calls(case: Case) -> list[Contender]:
    """Contenders for the three ways to call a step, each as a user's loop does."""
    grad = case.grads[0]
    step = case.opt.step

    def enter() -> None:
        case.opt.threads = 1
        case.opt.bind([grad])

    def same(calls: int) -> float:
        start = time.perf_counter()
        for _ in repeat(None, calls):
            step([grad])
        return time.perf_counter() - start

    def fresh(calls: int) -> float:
        grads = [grad.copy() for _ in range(calls)]
        start = time.perf_counter()
        for one in grads:
            step([one])
        return time.perf_counter() - start

    timed = dict(zip(AT_MOST, (looped(step), same, fresh), strict=True))
    return [Contender(kind, 1, function, enter) for kind, function in timed.items()]
