"""(b) Time against size, with the roofline of the same run."""

from __future__ import annotations

import plots
from measure import Timings
from models import Case
from report import Plot, Promise, Section, Table, count, factor, seconds, short, threads
from settings import FASTOPT, LABEL, Settings

from sections.common import best_peer, roofline_promises

SIZES = (16, 100, 1_000, 4_000, 16_000, 50_000, 200_000, 1_000_000, 4_000_000, 30_000_000)
QUICK = (16, 1_000, 50_000)
UNDER_PEERS = {50_000: 2.5}  # {elements: times faster than the best peer}
NOISE = 1.03  # below the size where two threads are worth it both run the same code

TEXT = """One float32 tensor under Adam, from what fits the first cache to what fits none. The roofline is the same
memory traffic without the arithmetic (`bench/roofline.c`), on the same arrays, in the same rounds; its threads never
wait for one another, which below some thousand elements is out of reach. Contenders with one thread, or with threads
that cannot be chosen, are in every panel of the plot."""


def run(settings: Settings) -> Section:
    section = Section("(b) Time against size", " ".join(TEXT.split()))
    results: dict[int, Timings] = {}
    for size in QUICK if settings.quick else SIZES:
        large = size > 10_000_000
        case = Case.of_shapes([(size,)])
        results[size] = settings.race(case, f"{count(size)} elements", 45 if large else 7)
    keys = list(dict.fromkeys(key for timings in results.values() for key in timings))
    table = Table("A step", ("contender", "threads", *map(short, results)))
    for label, number in keys:
        cells = [seconds(t[label, number]) if (label, number) in t else "" for t in results.values()]
        table.rows.append((label, threads(number), *cells))
    section.tables.append(table)
    for size, least in UNDER_PEERS.items():
        if size in results and settings.peers:
            section.promises.append(best_peer(f"one tensor of {count(size)}", results[size], settings, least))
    largest = max(results)
    section.promises += roofline_promises(f"one tensor of {count(largest)}", results[largest], settings)
    if settings.most > 1:
        ratios = {size: t[FASTOPT, settings.most] / t[FASTOPT, 1] for size, t in results.items()}
        worst = max(ratios, key=lambda size: ratios[size])
        text = f"{settings.most} threads never slower than one, all sizes (3 % for noise)"
        measured = f"{factor(ratios[worst])} the time at {count(worst)} elements, the worst"
        section.promises.append(Promise(text, measured, ratios[worst] <= NOISE))
    shows = f"Time per element against size; dashed: {LABEL}"
    section.plots = [Plot("size.png", shows, lambda path: plots.sizes(results, settings.threads, path))]
    return section
