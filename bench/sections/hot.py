"""(j) The hot paths of Python: what a training loop pays beside the arithmetic."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial

import hot_paths
from hot_paths import Path
from measure import Contender, Timings, looped, round_robin
from report import Section, Table, factor, seconds
from settings import Settings

TEXT = """float32 Adam in one thread; a call from Python, its loop included. Two steps count as one call where each has
other arrays than the one before. All iterations of the training loop compute the rate of their schedule; they differ in
what they do with it. A model's state is made with fastopt's optimizer, and in the first step of torch's.
`make bench-against` compares the same paths (`bench/hot_paths.py`) with those of another commit."""


def run(settings: Settings) -> Section:
    section = Section("(j) The hot paths of Python", " ".join(TEXT.split()))
    torch = any(peer.package == "torch" for peer in settings.peers)
    for title, subject in hot_paths.SUBJECTS.items():
        by_torch = {path.beside: path for path in BY_TORCH[subject]()} if torch and subject in BY_TORCH else {}
        paths = [path for ours in subject() for path in (ours, by_torch.get(ours.name)) if path]
        # torch's optimizers are cycles, and the collector is off in the rounds: collect those of a path between them.
        enter = gc.collect if subject is hot_paths.whole_models else lambda: None
        made = [Contender(path.name, 1, looped(path.call), enter) for path in paths]
        timings = round_robin(made, settings.seconds(8), settings.rounds())
        section.tables.append(table(title, paths, timings))
    return section


# ---- torch's counterparts. ----


def learning_rates() -> Iterator[Path]:
    import torch

    params = [torch.from_numpy(p) for p in hot_paths.arrays(*[16] * 100)]
    opt = torch.optim.Adam([{"params": [p]} for p in params])

    def one_by_one() -> None:
        for group in opt.param_groups:
            group["lr"] = 1e-3

    name = "group['lr'] = x, 100 groups one by one"
    yield Path(f"torch: {name}", one_by_one, name)


def whole_models() -> Iterator[Path]:
    import torch

    for what, sizes in hot_paths.MODELS.items():
        params = [torch.from_numpy(p) for p in hot_paths.arrays(*sizes)]
        yield Path(f"torch.optim.Adam of {what}", partial(torch.optim.Adam, params), f"Adam of {what}")


BY_TORCH = {hot_paths.learning_rates: learning_rates, hot_paths.whole_models: whole_models}


def table(title: str, paths: list[Path], timings: Timings) -> Table:
    made = Table(title, ("path", "a call", "times", "that of"))
    for path in paths:
        value, beside = timings[path.name, 1], timings.get((path.beside, 1))
        ratio = ("", "") if beside is None else (factor(value / beside), path.beside)
        made.rows.append((path.name, seconds(value), *ratio))
    return made
