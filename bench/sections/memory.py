"""(f) Peak memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from memory_probe import MODELS
from report import Promise, Section, Table
from settings import Settings

PROBE = Path(__file__).resolve().parent.parent / "memory_probe.py"
QUICK = ("one tensor of 16",)
BESIDES = 1e6  # bytes
REPEATS = 3

TEXT = f"""Adam, float32. The peak of a fresh process (VmHWM) that makes parameters and gradients, binds them and takes
three steps, against that of one that makes the same arrays and two more for the states and takes none: medians of
{REPEATS} processes each. What is left is everything else: bookkeeping, code that is paged in, stacks of threads."""


def run(settings: Settings) -> Section:
    section = Section("(f) Peak memory", " ".join(TEXT.split()))
    table = Table("", ("model", "threads", "peak", "without fastopt", "besides"))
    for model in QUICK if settings.quick else MODELS:
        for number in settings.threads:
            try:
                needed, peak = (median_peak(what, model, number) for what in ("arrays", "adam"))
            except subprocess.CalledProcessError as error:
                reason = error.stderr.strip().splitlines()[-1]
                section.remarks.append(f"{model}: not measured ({reason})")
                continue
            besides = peak - needed
            cells = (f"{peak / 1e6:.1f} MB", f"{needed / 1e6:.1f} MB", f"{besides / 1e3:.0f} kB")
            table.rows.append((model, str(number), *cells))
            limit = f"parameters, gradients, states and less than {BESIDES / 1e6:.0f} MB besides"
            section.promises.append(Promise(f"{model}, threads: {number}: {limit}", cells[-1], besides < BESIDES))
    section.tables.append(table)
    return section


def median_peak(what: str, model: str, threads: int) -> float:
    command = [sys.executable, str(PROBE), what, model, str(threads)]
    return statistics.median(
        int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(REPEATS)
    )
