"""Runs everything that is too long for the suite; one table shows what was tried, how many cases, and what failed.

    python tools/audit/run.py                    # everything: an hour or two
    python tools/audit/run.py --only fuzz guided # some parts; --list names them

The output and the results of each part are in build/audit. The table, which is also in tools/audit/RESULTS.md, has the
last results of all parts; below it are the date and the commit of each part's last run.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN, SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table

import fastopt

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/audit"
RESULTS = ROOT / "tools/audit/RESULTS.md"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
INPUTS = 1_000_000
JOBS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Row:
    what: str
    cases: int
    failed: int
    skipped: int = 0


@dataclass(frozen=True)
class Part:
    """A command, and the function that reads its results from its output or from a file."""

    name: str
    command: Sequence[str]
    read: Callable[[str], list[Row]]
    environment: Mapping[str, str] = field(default_factory=dict)


# ---- Reading results. ----


def junit(name: str, what: str) -> Callable[[str], list[Row]]:
    def read(printed: str) -> list[Row]:
        path = BUILD / f"{name}.xml"
        if not path.exists():
            return [Row(f"{what}: not found here", 0, 0)]
        (suite,) = ET.parse(path).iter("testsuite")
        count = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
        failed = count["failures"] + count["errors"]
        rows = [Row(what, count["tests"] - count["skipped"], failed, count["skipped"])]
        cases: collections.Counter[str] = collections.Counter()
        for found in suite.iterfind("testcase/properties/property"):
            cases[found.attrib["name"]] += int(found.attrib["value"])
        return [*rows, *(Row(said, number, 0) for said, number in sorted(cases.items()))]

    return read


def tally(what: str) -> Callable[[str], list[Row]]:
    def read(printed: str) -> list[Row]:
        found = re.search(r"^fuzz_boundary: (\d+) inputs in .*; findings: (\d+)$", printed, re.MULTILINE)
        return [Row(what, int(found[1]), int(found[2]))] if found else []

    return read


def lines(printed: str) -> list[Row]:
    counted = ROOT / "build/coverage"
    cython = json.loads((counted / "coverage.json").read_text(encoding="utf-8"))["totals"]
    core = json.loads((counted / "csrc.json").read_text(encoding="utf-8"))
    return [
        Row("lines of csrc/, executed by the suite", core["line_total"], core["line_total"] - core["line_covered"]),
        Row("lines of the Cython modules, executed by the suite", cython["num_statements"], cython["missing_lines"]),
    ]


# ---- The parts. ----


def pytest(name: str, what: str, *command: str, **environment: str) -> Part:
    return Part(name, [*command, f"--junitxml={BUILD / name}.xml"], junit(name, what), environment)


def parts() -> list[Part]:
    python, fuzz = sys.executable, str(ROOT / "tests/fuzz/fuzz_boundary.py")
    suites = [
        pytest(
            f"python-{version}",
            f"tests of the Python face, Python {version}",
            *(python, "-m", "nox", "--session", f"suite-{version}", "--"),
        )
        for version in PYTHONS
    ]
    xml = f"ARGS=--junitxml={BUILD / 'nehalem.xml'}"
    return [
        pytest(
            "core",
            "tests of the C core, emulated processors included",
            *(python, "-m", "pytest", "tests/core"),
            FASTOPT_TEST_ARCH="1",
        ),
        *suites,
        Part("nehalem", ["make", "test-nehalem", xml], junit("nehalem", "tests of the arithmetic, Nehalem under qemu")),
        Part(
            "fuzz",
            [python, fuzz, "--plain", f"--runs={INPUTS}", f"--jobs={JOBS}", "--seed=1"],
            tally("inputs of nonsense at the boundary, at random"),
        ),
        Part("guided", [python, fuzz, "--seconds=300"], tally("inputs of nonsense at the boundary, led by coverage")),
        pytest(
            "machine",
            "state machine, new sequences",
            *(python, "-m", "pytest", "tests/face/test_machine.py", "-m", "slow", "--hypothesis-profile=fuzz"),
            FUZZ_EXAMPLES="1000",
        ),
        Part("coverage", ["make", "coverage"], lines),
    ]


def present_commit() -> str:
    """The short hash of HEAD, with a mark if files other than the results have changed since."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=False)

    name = git("rev-parse", "--short=10", "HEAD").stdout.strip()
    if not name:
        return f"of version {fastopt.__version__}"
    changed = git("diff", "--quiet", "HEAD", "--", ".", ":!tools/audit/RESULTS.md").returncode != 0
    return f"{name} with changes" if changed else name


def run(part: Part, commit: str) -> None:
    """Runs a part and saves its results in build/audit."""
    (BUILD / f"{part.name}.xml").unlink(missing_ok=True)
    began, log = time.monotonic(), BUILD / f"{part.name}.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            part.command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **part.environment}
        )
    try:
        rows = part.read(log.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ET.ParseError, ValueError):
        rows = []
    if not rows or (done.returncode != 0 and not any(row.failed for row in rows)):
        rows.append(Row(f"{part.name}: `{' '.join(part.command)}` failed, see {log.relative_to(ROOT)}", 0, 1))
    record = {
        "commit": commit,
        "date": str(datetime.date.today()),
        "minutes": round((time.monotonic() - began) / 60),
        "rows": [asdict(row) for row in rows],
    }
    (BUILD / f"{part.name}.json").write_text(json.dumps(record), encoding="utf-8")


# ---- The report. ----


def records() -> dict[str, dict[str, Any]]:
    """The saved results of each part that was ever run."""
    paths = {part.name: BUILD / f"{part.name}.json" for part in parts()}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def table(found: Mapping[str, Mapping[str, Any]], box: Box) -> Table:
    rendered = Table(box=box)
    rendered.add_column("tried", overflow="fold")
    for heading in ("cases", "failed", "skipped"):
        rendered.add_column(heading, justify="right")
    rendered.add_column("in", overflow="fold")
    cases: dict[str, list[Row]] = {}
    where: dict[str, list[str]] = {}
    for name, record in found.items():
        for row in (Row(**row) for row in record["rows"]):
            cases.setdefault(row.what, []).append(row)
            where.setdefault(row.what, []).append(name)
    for what, rows in cases.items():
        sums = [sum(getattr(row, key) for row in rows) for key in ("cases", "failed", "skipped")]
        rendered.add_row(what, *(f"{number:,}" for number in sums), ", ".join(where[what]))
    return rendered


def report() -> int:
    """Prints the table and writes it to RESULTS.md; returns how many cases failed."""
    found = records()
    known = {
        name: f"{name}: commit {record['commit']}, {record['date']}, {record['minutes']} minutes"
        for name, record in found.items()
    }
    runs = [known.get(part.name, f"{part.name}: not run") for part in parts()]
    about = f"On {platform.machine()} with {', '.join(fastopt.available_isas())}.\n\n" + "\n".join(
        f"- {line}" for line in runs
    )
    Console().print(table(found, SIMPLE_HEAD), about)
    with RESULTS.open("w", encoding="utf-8") as file:
        file.write("# What `make audit` found\n")
        Console(file=file, width=250).print(table(found, MARKDOWN))
        file.write(f"{about}\n")
    text = "\n".join(line.rstrip() for line in RESULTS.read_text(encoding="utf-8").splitlines())
    RESULTS.write_text(f"{text}\n", encoding="utf-8")
    return sum(row["failed"] for record in found.values() for row in record["rows"])


def main() -> int:
    names = [part.name for part in parts()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help="these parts alone")
    parser.add_argument("--list", action="store_true", help="name the parts and what they run")
    args = parser.parse_args()
    if args.list:
        for part in parts():
            print(f"{part.name}: {' '.join(part.command)}")
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    commit = present_commit()
    for part in parts():
        if part.name in args.only:
            print(f"{part.name} ...", flush=True)
            run(part, commit)
    return 1 if report() else 0


if __name__ == "__main__":
    sys.exit(main())
