"""Times contenders in turns over many rounds, so that a noisy machine disturbs all alike, and takes medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat

SAMPLE = 100e-6  # seconds that a sample should take: shorter steps are repeated within it
SAMPLES = 3  # in a turn
READY = 3e-3  # seconds of untimed steps at the start of a turn, to fill caches, raise clocks and wake threads
WARM = 50e-3  # seconds: a longer step needs no untimed ones
PAUSE = 20e-3  # seconds before a turn, in which the last contender's threads stop spinning (OpenMP's: 15 ms)


def looped(step: Callable[[], object]) -> Callable[[int], float]:
    """A function of `calls` that returns the seconds of so many steps, the loop included, as `timeit` counts."""

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in repeat(None, calls):
            step()
        return time.perf_counter() - start

    return timed


def prepared(step: Callable[[], object], prepare: Callable[[], object]) -> Callable[[int], float]:
    """As `looped`, for a step that spoils its input: `prepare` is called before each step and not timed."""

    def timed(calls: int) -> float:
        total = 0.0
        for _ in repeat(None, calls):
            prepare()
            start = time.perf_counter()
            step()
            total += time.perf_counter() - start
        return total

    return timed


@dataclass(frozen=True)
class Contender:
    """A way to take a step: `timed(calls)` returns seconds, `enter` is called at the beginning of each turn.

    `threads` is None where the contender's threads cannot be chosen.
    """

    label: str
    threads: int | None
    timed: Callable[[int], float]
    enter: Callable[[], object] = lambda: None
    sample: float = SAMPLE

    @property
    def key(self) -> tuple[str, int | None]:
        return self.label, self.threads


class Timings(dict[tuple[str, "int | None"], float]):
    """{(label, threads): median seconds of a step}."""

    def best(self, labels: Sequence[str]) -> tuple[tuple[str, int | None], float] | None:
        """The fastest of these contenders, whatever its threads, and its time."""
        found = [(key, value) for key, value in self.items() if key[0] in labels]
        return min(found, key=lambda item: item[1], default=None)

    def of(self, label: str) -> dict[int | None, float]:
        """{threads: seconds} of one contender."""
        return {threads: value for (name, threads), value in self.items() if name == label}


def round_robin(contenders: Sequence[Contender], seconds: float, rounds: tuple[int, int] = (5, 1000)) -> Timings:
    """Medians over rounds in which every contender takes a turn.

    The rounds end with `seconds`, but there are `rounds[0]` of them at least and `rounds[1]` at most. A contender that
    has used twice its share of the time sits out the rounds after the first few, so that slow ones do not starve
    those between which the differences are small.
    """
    calls = {contender.key: _calls(contender) for contender in contenders}
    samples: dict[tuple[str, int | None], list[float]] = {key: [] for key in calls}
    spent = dict.fromkeys(calls, 0.0)
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        for number in range(rounds[1]):
            if number >= rounds[0] and time.perf_counter() - begin > seconds:
                break
            for contender in contenders:
                key = contender.key
                if number >= rounds[0] and spent[key] > 2 * seconds / len(contenders):
                    continue
                turn = time.perf_counter()
                samples[key] += _turn(contender, calls[key])
                spent[key] += time.perf_counter() - turn
    finally:
        gc.enable()
    return Timings({key: statistics.median(values) for key, values in samples.items()})


def _calls(contender: Contender) -> int:
    """The number of steps in a sample."""
    contender.enter()
    contender.timed(1)
    calls = 1
    # The least of three, so that a disturbance does not look like a long step.
    while (taken := min(contender.timed(calls) for _ in range(3))) < contender.sample / 2 and calls < 1_000_000:
        calls = min(10 * calls, max(calls + 1, int(calls * contender.sample / max(taken, 1e-9))))
    return calls


def _turn(contender: Contender, calls: int) -> list[float]:
    contender.enter()
    time.sleep(PAUSE)
    begin = time.perf_counter()
    first = contender.timed(1)
    if first > max(WARM, contender.sample):
        return [first]
    while time.perf_counter() - begin < READY:
        contender.timed(calls)
    return [contender.timed(calls) / calls for _ in range(SAMPLES)]
