"""The promises that several sections judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from measure import Timings
from report import Promise, factor, seconds, threads
from settings import FASTOPT, LABEL, Settings

OF_ROOFLINE = 0.95


def best_peer(what: str, timings: Timings, settings: Settings, least: float) -> Promise:
    """The promise about fastopt by default, on all threads, against the fastest peer on any number of threads.

    Peers that are tuned beyond what users write do not count for the promise, but their ratio is shown.
    """
    ours = timings[FASTOPT, settings.most]
    best = timings.best([peer.name for peer in settings.peers if not peer.tuned])
    text = f"{what}: at least {least:g}x faster than the best peer"
    if best is None:
        return Promise(text, "no peer took part", False)
    (name, number), value = best
    ratio = value / ours
    measured = f"{factor(ratio)} ({name}, threads: {threads(number)}, {seconds(value)})"
    if tuned := timings.best([peer.name for peer in settings.peers if peer.tuned]):
        measured += f"; {tuned[0][0]}: {factor(tuned[1] / ours)}"
    return Promise(text, measured, ratio >= least)


def roofline_promises(what: str, timings: Timings, settings: Settings) -> Iterator[Promise]:
    for number in settings.threads:
        on = f"{what}, {number} thread{'s' if number > 1 else ''}"
        ours = timings[FASTOPT, number]
        share = timings[LABEL, number] / ours
        yield Promise(f"{on}: at least {OF_ROOFLINE} of the roofline", f"{share:.3f}", share >= OF_ROOFLINE)
        if ("torch fused", number) in timings:
            ratio = timings["torch fused", number] / ours
            yield Promise(f"{on}: not slower than torch fused", f"{factor(ratio)} faster", ratio >= 1)


def each(
    text: str, values: Mapping[str, float], limit: float, words: Callable[[float], str], least: bool = False
) -> Promise:
    """A promise about each of several values: at most `limit`, or at least. Shows the worst and all that miss it."""
    worst = (min if least else max)(values, key=lambda name: values[name])
    missed = [name for name, value in values.items() if (value < limit if least else value > limit)]
    measured = f"{words(values[worst])} the worst ({worst})"
    if missed:
        measured += f"; missed by {len(missed)} of {len(values)}: {', '.join(missed)}"
    return Promise(f"{text}: at {'least' if least else 'most'} {words(limit)}", measured, not missed)
