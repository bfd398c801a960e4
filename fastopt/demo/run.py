"""The main job: loads the digits, trains with each method, prints the table and saves the plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fastopt.demo import report
from fastopt.demo.methods import METHODS
from fastopt.demo.training import Digits, Result, train


def run(names: Sequence[str], epochs: int | None, seed: int, output: Path, plot: bool) -> list[Result]:
    """Trains with each of the named methods, prints the table and saves the two plots under `output`.

    Parameters
    ----------
    names : sequence of str
        The keys of the methods in `METHODS`.
    epochs : int or None
        The number of epochs of every method; None takes each method's own.
    seed : int
        The seed of the split, the weights and the shuffling.
    output : Path
        The folder for the plots, which must exist.
    plot : bool
        Whether to draw the plots.
    """
    console = Console()
    digits = Digits.load(seed)
    results = []
    columns = (TextColumn("{task.description:<17}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
    with Progress(*columns, TextColumn("{task.fields[loss]}"), TimeElapsedColumn(), console=console) as progress:
        for name in names:
            method = METHODS[name]
            count = epochs or method.epochs
            task = progress.add_task(method.title, total=count, loss="")

            def show(loss: float, task: object = task) -> None:
                progress.update(task, advance=1, loss=f"loss {loss:.4f}")  # type: ignore[arg-type]

            results.append(train(method, digits, count, seed, show))
    console.print(report.table(results))
    for line in report.notes(results, epochs is None):
        console.print(line, highlight=False)
    if plot:
        styles = dict(zip(METHODS, report.STYLES, strict=True))
        losses, paths = output / "losses.png", output / "paths.png"
        report.plot_losses(results, styles, losses)
        report.plot_paths(results, styles, paths)
        console.print(f"Plots: {losses} and {paths}", highlight=False, soft_wrap=True)
    return results
