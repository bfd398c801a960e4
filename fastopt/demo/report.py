"""The output of the demo: the table, its notes and the two plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fastopt.demo import surface
from fastopt.demo.methods import Method
from fastopt.demo.training import Result

# Mostly Okabe and Ito's palette, which the colour-blind can tell apart; line styles help with the other colours.
STYLES = [
    ("#000000", "-"),
    ("#E69F00", "--"),
    ("#56B4E9", "-"),
    ("#009E73", "-"),
    ("#8C510A", "--"),
    ("#0072B2", "-"),
    ("#D55E00", "-."),
    ("#CC79A7", "-"),
    ("#7A0177", ":"),
]

XLIM, YLIM = (0.2, 3.4), (-1.1, 1.7)  # the part of the surface that is drawn: all paths lie within it


def table(results: list[Result]) -> Table:
    """One row a method."""
    shown = Table(
        title="A perceptron on handwritten digits",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("\nmethod", no_wrap=True)
    # Headings of two lines and few frames keep the table within 80 columns.
    headings = ["\nbatch", "\nepochs", "\nsteps", "training\nloss", "test\nacc."]
    for heading in [*headings, "us/step\nfastopt", "us/step\nNumPy", "\nratio"]:
        shown.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        shown.add_row(
            result.method.title,
            str(result.method.batch_size or "all"),
            str(len(result.losses) - 1),
            str(result.steps),
            f"{result.losses[-1]:.4f}",
            f"{result.accuracy:.1%}",
            f"{result.step_us:.1f}",
            f"{result.reference_us:.1f}",
            f"{result.reference_us / result.step_us:.1f}x",
        )
    return shown


def notes(results: list[Result], default_epochs: bool) -> list[str]:
    """The lines below the table: what its columns mean, and remarks on methods."""
    lines = [
        "Training loss: mean cross-entropy over the training data after the last epoch, in nats.",
        f"us/step: median time of one optimizer step of this model (4 float32 arrays, {results[0].elements} elements), "
        "gradients not included; NumPy is the same step by fastopt.reference; ratio is NumPy / fastopt. Taken at the "
        "end of training, when some state has decayed to subnormal numbers, which processors compute slowly.",
    ]
    below: dict[float, list[str]] = {}
    for result in results:
        expects = result.method.expects
        if result.method.note:
            lines.append(result.method.note)
        if expects is not None and result.accuracy < expects:
            below.setdefault(expects, []).append(result.method.title)
    why = "" if default_epochs else "; the number of epochs was set by hand"
    lines += [f"{', '.join(names)} stayed below {share:.0%} test accuracy{why}." for share, names in below.items()]
    return lines


def plot_losses(results: list[Result], styles: dict[str, tuple[str, str]], path: Path) -> None:
    """Training loss against epochs, both axes logarithmic so that the first epochs can be seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for result in results:
        color, style = styles[result.method.name]
        axes.plot(
            range(len(result.losses)), result.losses, style, color=color, label=result.method.title, linewidth=1.8
        )
    axes.set_yscale("log")
    axes.set_xscale("symlog", linthresh=1)
    last = max(len(result.losses) for result in results) - 1
    ticks = [tick for tick in (0, 1, 2, 3, 5, 10, 20, 30, 60, 100, 300, 1000) if tick <= last]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0, last)
    axes.set(
        xlabel="epoch", ylabel="training loss (mean cross-entropy, nats)", title="Training loss on handwritten digits"
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", ncols=2, framealpha=0.95)
    figure.savefig(path, dpi=120)


def plot_paths(results: list[Result], styles: dict[str, tuple[str, str]], path: Path) -> None:
    """The path of each method over the contours of the surface; a dot marks where it ends."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots()
    x, y = np.meshgrid(np.linspace(*XLIM, 400), np.linspace(*YLIM, 400))
    levels = np.geomspace(1e-2, 1e3, 22)
    axes.contourf(x, y, np.clip(surface.value(x, y), 1e-2, 1e3), levels, norm=LogNorm(), cmap="Greys", alpha=0.45)
    axes.contour(x, y, surface.value(x, y), levels, colors="white", linewidths=0.5)
    shown: dict[object, list[Method]] = {}
    for result in results:
        # Batch GD, SGD and mini-batch GD are one rule; without data they have one path, drawn once.
        key = (result.method.optimizer, tuple(result.method.surface.items()))
        shown.setdefault(key, []).append(result.method)
    for methods in shown.values():
        points = surface.path(methods[0])
        color, style = styles[methods[0].name]
        title = ", ".join(method.title for method in methods)
        axes.plot(*points.T, style, color=color, label=title, linewidth=1.8)
        axes.plot(*points[-1], "o", color=color, markersize=6, markeredgecolor="white")
    axes.plot(*surface.START, "s", color="black", markersize=8, label="start")
    axes.plot(*surface.MINIMUM, "*", color="gold", markersize=18, markeredgecolor="black", label="minimum")
    axes.set(
        xlim=XLIM,
        ylim=YLIM,
        xlabel="x",
        ylabel="y",
        title=f"{surface.STEPS} steps on {surface.NAME} (dots: where they end)",
    )
    axes.legend(loc="lower right", framealpha=0.95)
    figure.savefig(path, dpi=120)
