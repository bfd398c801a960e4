"""The results of a run as data, and their two renderings: for the terminal and for RESULTS.md."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import peers
from measure import Timings
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

import fastopt


@dataclass
class Table:
    """The first column holds words, the others numbers, unless `words`."""

    title: str
    headings: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    words: bool = False

    @property
    def justify(self) -> list[Literal["left", "right"]]:
        return ["left" if i == 0 or self.words else "right" for i in range(len(self.headings))]


@dataclass(frozen=True)
class Promise:
    """A figure that fastopt promises, and what was measured."""

    text: str
    measured: str
    holds: bool | None  # None: not judged

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "MISSED", None: "not judged"}[self.holds]


@dataclass(frozen=True)
class Plot:
    """A plot: the name of its file, what it shows, and the function that draws it."""

    file: str
    shows: str
    draw: Callable[[Path], None]


@dataclass
class Section:
    """One section of the report."""

    title: str
    text: str
    tables: list[Table] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


# ---- Formatting of numbers. ----


def seconds(value: float) -> str:
    """A time with three digits and its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= 0.9995 * size:
            return f"{_three(value / size)} {unit}"
    return f"{_three(value / 1e-9)} ns"


def factor(value: float) -> str:
    return f"{_three(value)}x" if value < 9.995 else f"{value:.0f}x"


def count(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def short(value: int) -> str:
    """A round number, for headings."""
    for unit, size in ((" M", 10**6), (" k", 10**3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return str(value)


def _three(value: float) -> str:
    return f"{value:.{max(0, 2 if value < 9.995 else 1 if value < 99.95 else 0)}f}"


def threads(value: int | None) -> str:
    return "its own" if value is None else str(value)


def timings_table(title: str, timings: Timings, baseline: tuple[str, int | None]) -> Table:
    """A row for each contender: its threads, its time, and that time divided by the baseline's."""
    table = Table(title, ("contender", "threads", "a step", f"times {baseline[0]}, {threads(baseline[1])} thr."))
    for (label, number), value in timings.items():
        table.rows.append((label, threads(number), seconds(value), factor(value / timings[baseline])))
    return table


# ---- The machine. ----


def machine() -> Table:
    config = fastopt.show_config("dicts")
    facts = {
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "processor": _first(_values("/proc/cpuinfo", "model name"), platform.processor() or platform.machine()),
        "cores allowed": str(peers.default_threads()[-1]),
        "caches": ", ".join(_caches()) or "unknown",
        "memory": _memory(),
        "transparent huge pages": _first(_lines("/sys/kernel/mm/transparent_hugepage/enabled"), "none"),
        "system": platform.platform(),
        "Python": platform.python_version(),
        "fastopt": f"{config['fastopt']}, {config['instruction set']}, {config['compiler']}",
        "flags": config["flags"],
        **peers.versions(),
    }
    return Table("The machine", ("what", ""), list(facts.items()), words=True)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _values(path: str, key: str) -> list[str]:
    return [line.split(":", 1)[1].strip() for line in _lines(path) if line.split(":")[0].strip() == key]


def _first(found: Sequence[str], otherwise: str) -> str:
    return found[0] if found else otherwise


def _caches() -> Iterator[str]:
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_first(_lines(str(folder / name)), "") for name in ("level", "type", "size"))
        if kind != "Instruction":
            yield f"L{level} {size}"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "unknown"


# ---- The terminal. ----


def show(section: Section, console: Console) -> None:
    console.rule(section.title)
    console.print(section.text, highlight=False, markup=False)
    for table in section.tables:
        shown = RichTable(title=table.title, box=SIMPLE_HEAD, show_edge=False, title_justify="left")
        for heading, justify in zip(table.headings, table.justify, strict=True):
            shown.add_column(heading, justify=justify, no_wrap=not shown.columns)
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
    for remark in section.remarks:
        console.print(f"- {remark}", highlight=False, markup=False)
    for promise in section.promises:
        style = {True: "green", False: "bold red", None: "dim"}[promise.holds]
        line = Text.assemble((f"{promise.verdict:>10}", style), f"  {promise.text}: {promise.measured}")
        console.print(line, highlight=False, soft_wrap=True)


# ---- RESULTS.md. ----


def markdown(sections: Sequence[Section], introduction: Section, notes: str) -> str:
    promises = [promise for section in sections for promise in section.promises]
    blocks = [f"# {introduction.title}", introduction.text, *_body(introduction)]
    if promises:
        summary = Table(
            "", ("promise", "measured", ""), [(p.text, p.measured, p.verdict) for p in promises], words=True
        )
        blocks += ["## What is promised, and what was measured", _grid(summary)]
    if notes:
        blocks.append(notes.strip())
    for section in sections:
        blocks += [f"## {section.title}", section.text, *_body(section)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _body(section: Section) -> Iterable[str]:
    for plot in section.plots:
        yield f"![{plot.shows}]({plot.file})"
    for table in section.tables:
        if table.title:
            yield f"**{table.title}**"
        yield _grid(table)
    if section.remarks:
        yield "\n".join(f"- {remark}" for remark in section.remarks)


def _grid(table: Table) -> str:
    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    rule = [{"left": "---", "right": "---:"}[justify] for justify in table.justify]
    return "\n".join([line(table.headings), line(rule), *(line(row) for row in table.rows)])
