"""Runs all benchmark sections and writes the report: `python bench/run.py`.

Prints tables and whether each promise holds, and writes RESULTS.md and the plots. Every contender is first checked
against `fastopt.reference`; then they take turns in one process, so that a noisy machine disturbs all alike.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import peers
import report
from rich.console import Console
from settings import Settings

HERE = Path(__file__).resolve().parent

SECTIONS = {
    "a": "overhead",
    "b": "sizes",
    "c": "wholes",
    "d": "rules",
    "e": "training",
    "f": "memory",
    "g": "kernel",
    "h": "doors",
    "i": "layouts",
    "j": "hot",
}

INTRODUCTION = """Written by `python bench/run.py` (`make bench`); remarks by hand stand in `bench/NOTES.md`, which is
included. Every contender is first checked against `fastopt.reference`, bit for bit where it promises the bits. Then all
take turns in one process, on the same parameters and gradients; frameworks keep the states that they make for
themselves. Each turn begins with some milliseconds that are not timed, so that no one is measured with cold caches, low
clocks or threads asleep, and the medians over all rounds are shown. "Best peer" is the fastest on any number of
threads; fastopt in those comparisons runs as it does by default, on all cores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    listed = ", ".join(f"{letter} {name}" for letter, name in SECTIONS.items())
    parser.add_argument("--sections", type=_words, default=[*SECTIONS], help=f"some of {listed}; default: all")
    parser.add_argument("--threads", type=_threads, default=peers.default_threads(), help="default: 1 and all cores")
    parser.add_argument("--peers", type=_words, default=peers.NAMES, help=f"some of {', '.join(peers.NAMES)}; or none")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to see that it works")
    parser.add_argument("--output", type=Path, default=HERE, help="the folder for RESULTS.md and plots; default: bench")
    arguments = parser.parse_args()
    if unknown := [word for word in arguments.sections if word not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {listed}")
    if unknown := [word for word in arguments.peers if word not in {*peers.NAMES, "none"}]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(peers.NAMES)}")

    warnings.filterwarnings("ignore", module=r"(thinc|torch|jax|deepspeed|numba)\b.*")
    console = Console(width=None if sys.stdout.isatty() else 120)
    here, missing = peers.load(arguments.peers)
    settings = Settings(arguments.threads, here, arguments.quick)
    arguments.output.mkdir(parents=True, exist_ok=True)
    sections = []
    for letter in arguments.sections:
        module = importlib.import_module(f"sections.{SECTIONS[letter]}")
        start = time.perf_counter()
        with console.status(f"section {letter}: {SECTIONS[letter]}"):
            section = module.run(settings)
        if arguments.quick:
            section.promises = [replace(promise, holds=None) for promise in section.promises]
        report.show(section, console)
        console.print(f"(measured in {time.perf_counter() - start:.0f} s)", style="dim", highlight=False)
        for plot in section.plots:
            plot.draw(arguments.output / plot.file)
        sections.append(section)

    introduction = report.Section("Results", " ".join(INTRODUCTION.split()), [report.machine()])
    if arguments.quick:
        introduction.remarks.append("**A quick run: it shows that the command works; its numbers mean nothing.**")
    outside = [f"{name}: {why}" for name, why in {**missing, **settings.dropped}.items()]
    introduction.remarks += [f"Did not take part: {line}." for line in outside]
    report.show(introduction, console)
    notes = HERE / "NOTES.md"
    results = arguments.output / "RESULTS.md"
    text = report.markdown(sections, introduction, notes.read_text(encoding="utf-8") if notes.exists() else "")
    results.write_text(text, encoding="utf-8")
    console.print(f"Written: {results}", highlight=False, soft_wrap=True)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _threads(text: str) -> Sequence[int]:
    numbers = sorted({1, *map(int, _words(text))})  # one thread is always measured, for comparison
    if numbers[0] < 1:
        raise argparse.ArgumentTypeError("threads are counted from 1")
    return numbers


if __name__ == "__main__":
    main()
