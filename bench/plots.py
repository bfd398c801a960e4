"""The pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import report
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from measure import Timings
from settings import FASTOPT, LABEL

OURS = "#D55E00"
# Okabe and Ito's colours, which the colour-blind can tell apart, and some more; styles and markers for the rest.
STYLES = {
    FASTOPT: (OURS, "-", "o"),
    f"{FASTOPT}, step(grads)": (OURS, ":", "o"),
    LABEL: ("#000000", "--", ""),
    "NumPy naive": ("#999999", "-", "v"),
    "NumPy in place": ("#555555", "-", "^"),
    "numba": ("#009E73", "-", "s"),
    "numba, tuned": ("#009E73", "--", "s"),
    "torch default": ("#0072B2", ":", "D"),
    "torch foreach": ("#0072B2", "--", "D"),
    "torch fused": ("#0072B2", "-", "D"),
    "DeepSpeed CPUAdam": ("#CC79A7", "-", "P"),
    "optax jit": ("#7A0177", "-", "X"),
    "thinc": ("#E69F00", "-", "<"),
    "scikit-learn": ("#56B4E9", "-", ">"),
}


def overhead(timings: Timings, path: Path) -> None:
    """One bar a contender, the shortest on top; each on its lowest number of threads."""
    shown: dict[str, float] = {}
    for (label, _), value in timings.items():
        shown.setdefault(label, value)
    labels = sorted(shown, key=lambda label: -shown[label])
    figure = Figure(figsize=(8, 0.32 * len(labels) + 1.4), layout="constrained")
    axes = figure.subplots()
    colors = [OURS if label.startswith(FASTOPT) else "#8899AA" for label in labels]
    bars = axes.barh(labels, [shown[label] for label in labels], color=colors)
    axes.bar_label(bars, [report.seconds(shown[label]) for label in labels], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(min(shown.values()) / 2, max(shown.values()) * 4)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _unit(value)))
    axes.set(xlabel="a step", title="Adam on one tensor of 16 elements")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def sizes(results: Mapping[int, Timings], threads: Sequence[int], path: Path) -> None:
    """Time per element against size, a panel for each number of threads; contenders with one thread are in all."""
    figure = Figure(figsize=(6 * len(threads) + 2.5, 6), layout="constrained")
    panels = figure.subplots(1, len(threads), sharey=True, squeeze=False)[0]
    for axes, number in zip(panels, threads, strict=True):
        for label, (color, style, marker) in STYLES.items():
            points = [
                (size, value / size)
                for size, timings in results.items()
                for value in [timings.of(label).get(number) or _unchosen(timings.of(label))]
                if value is not None
            ]
            if points:
                ours = label in (FASTOPT, LABEL)
                width, order = (2.4, 3) if ours else (1.2, 2)
                axes.plot(
                    *zip(*points, strict=True), style, color=color, marker=marker, markersize=5, label=label,
                    linewidth=width, zorder=order,
                )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="elements", title=f"{number} thread{'s' if number > 1 else ''}")
        axes.grid(alpha=0.3)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _unit(value)))
    panels[0].set_ylabel("time per element")
    figure.suptitle("One Adam step of a float32 tensor")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=120)


def _unchosen(of_label: Mapping[int | None, float]) -> float | None:
    """The time of a contender whose threads cannot be chosen."""
    return next(iter(of_label.values())) if len(of_label) == 1 else None


def models(results: Mapping[str, Timings], names: Sequence[str], threads: int, path: Path) -> None:
    """For each model a group of bars: times as long as fastopt, each contender on its best number of threads."""
    figure = Figure(figsize=(2.8 * len(results) + 4, 5.5), layout="constrained")
    axes = figure.subplots()
    width = 0.86 / max(1, len(names))
    for i, name in enumerate(names):
        heights = []
        for timings in results.values():
            best = timings.best([name])
            heights.append(best[1] / timings[FASTOPT, threads] if best else float("nan"))
        color, style, _ = STYLES[name]
        places = [k + (i - (len(names) - 1) / 2) * width for k in range(len(results))]
        hatch = {":": "...", "--": "///"}.get(style, "")
        bars = axes.bar(places, heights, width, color=color, label=name, hatch=hatch, edgecolor="white", linewidth=0.4)
        labels = ["" if height != height else _short(height) for height in heights]
        axes.bar_label(bars, labels, padding=2, fontsize=7, rotation=90)
    axes.axhline(1, color=OURS, linewidth=2, label=FASTOPT, zorder=0)
    ticks = [f"{name}\n{FASTOPT}: {report.seconds(timings[FASTOPT, threads])}" for name, timings in results.items()]
    axes.set_xticks(range(len(results)), ticks)
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2 * axes.get_ylim()[1])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set(ylabel="times as long as fastopt", title="One Adam step of a whole model")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=120)


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _unit(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if value >= 0.999 * size:
            return f"{value / size:g} {unit}"
    return f"{value / 1e-9:g} ns"
