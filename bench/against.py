"""Compares this tree with another commit: `python bench/against.py REV` (`make bench-against REV=...`).

Builds the commit in build/against, then times the hot paths of `hot_paths.py` with both packages, in two processes that
take turns of some milliseconds. Prints for each path the median over turns of this tree's time divided by the other's,
so that a change of the machine's clock disturbs both alike.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from report import Section, Table, factor, seconds, show
from rich.console import Console

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TURNS = 101


def built(rev: str) -> Path:
    """A folder with the sources of a commit and its compiled package."""
    name = subprocess.run(["git", "rev-parse", "--short", rev], cwd=ROOT, check=True, capture_output=True, text=True)
    folder = ROOT / "build" / "against" / name.stdout.strip()
    if not (folder / ".built").exists():
        packed = subprocess.run(["git", "archive", rev], cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        build(folder)
        (folder / ".built").touch()
    return folder


def build(folder: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


class Probe:
    """The hot paths with the package of a folder, in a process of its own."""

    def __init__(self, folder: Path, large: bool) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(HERE)])}
        command = [sys.executable, str(HERE / "hot_paths.py"), *["--large"] * large]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.names: list[str] = json.loads(self.answer())

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"hot_paths.py ended with {self.process.wait()}")
        return line

    def sample(self, name: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return float(self.answer())


def compared(before: Probe, now: Probe, turns: int, words: Sequence[str]) -> Table:
    table = Table("Hot paths", ("path", "before", "now", "now / before", "half of the turns"))
    for name in now.names:
        if words and not any(word in name for word in words):
            continue
        if name not in before.names:
            found = statistics.median(now.sample(name) for _ in range(turns))
            table.rows.append((name, "-", seconds(found), "-", "-"))
            continue
        pairs = []
        for number in range(turns):
            first, second = (before, now) if number % 2 else (now, before)
            taken = {probe: probe.sample(name) for probe in (first, second)}
            pairs.append((taken[before], taken[now]))
        old, new = (statistics.median(side) for side in zip(*pairs, strict=True))
        low, ratio, high = statistics.quantiles((after / earlier for earlier, after in pairs), n=4)
        table.rows.append((name, seconds(old), seconds(new), factor(ratio), f"{factor(low)} to {factor(high)}"))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rev", help="the other commit, as git names it")
    parser.add_argument("words", nargs="*", help="only the paths with one of these in their names")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"turns of each path, at least 2; default: {TURNS}")
    parser.add_argument("--large", action="store_true", help="also a step of 30 million elements")
    arguments = parser.parse_intermixed_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with console.status("building"):
        other = built(arguments.rev)
        build(ROOT)
    if hasattr(os, "sched_setaffinity"):  # cores may have different clocks: both sit on the same one
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with console.status("measuring"):
        probes = [Probe(folder, arguments.large) for folder in (other, ROOT)]
        table = compared(*probes, arguments.turns, arguments.words)
    text = f"Medians of {arguments.turns} turns; before: {other.name}."
    show(Section(f"This tree against {arguments.rev}", text, [table]), console)


if __name__ == "__main__":
    main()
