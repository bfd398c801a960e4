"""The hot paths: what a training loop calls once a step, and what a program calls once a model.

The section `hot` of `run.py` prints them, and `against.py` compares them with those of another commit. The latter runs
this file as a process, `hot_paths.py [--large]`: it prints the names of the paths as JSON, then reads names of paths
line by line and prints the seconds of a call for each.

It uses only old public functions of fastopt, so that it runs with the package of another commit; a path that a commit
does not have is left out.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from measure import looped

import fastopt

SAMPLE = 2e-3  # the seconds that a sample of a path should take
LARGE = 30_000_000
MANY = (528,) * 400
MODELS = {"6 tensors": (784 * 20, 20, 20 * 20, 20, 20 * 10, 10), "400 tensors": MANY}  # of whole_models()


def arrays(*sizes: int) -> list[Any]:
    rng = np.random.default_rng(len(sizes))
    return [rng.uniform(0.1, 1.0, size).astype(np.float32) for size in sizes]


def adam(*sizes: int, grouped: bool = False) -> tuple[Any, list[Any]]:
    """An optimizer with bound gradients, and the gradients."""
    params, grads = arrays(*sizes), arrays(*sizes)
    opt = fastopt.Adam([{"params": [p]} for p in params] if grouped else params)
    opt.threads = 1
    opt.bind([{"params": [g]} for g in grads] if grouped else grads)
    return opt, grads


@dataclass(frozen=True)
class Path:
    """A named call, and the name of the path with which its time is compared."""

    name: str
    call: Callable[[], Any]
    beside: str = ""


# ---- The paths, by subject. ----


def steps() -> Iterator[Path]:
    opt, grads = adam(16)
    same = "step(grads), 16 elements"
    yield Path(same, lambda: opt.step(grads))
    yield Path("step(), bound, 16 elements", opt.step, same)
    fresh = [[grads[0].copy()] for _ in range(2)]
    yield Path("two steps, each with other arrays, 16 elements", lambda: [opt.step(each) for each in fresh], same)
    yield Path("step(grads, lr=x), 16 elements", lambda: opt.step(grads, lr=1e-3), same)
    p, g, m, v = arrays(16, 16, 16, 16)
    yield Path("kernels.adam, 16 elements", lambda: fastopt.kernels.adam(p, g, m, v, step=3), same)
    middle, _ = adam(50_000)
    yield Path("step(), bound, 50 000 elements", middle.step)
    models, of_many = adam(*MANY)
    bound = "step(), bound, 400 tensors"
    yield Path(bound, models.step)
    yield Path("step(grads), 400 tensors", lambda: models.step(of_many), bound)
    together, _ = adam(*[528] * 465)
    in_one = "step(), bound, a group of 465 tensors"
    yield Path(in_one, together.step)
    apart, _ = adam(*[528] * 465, grouped=True)
    yield Path("step(), bound, 465 groups of a tensor", apart.step, in_one)


def learning_rates() -> Iterator[Path]:
    opt, _ = adam(16)
    group = opt.param_groups[0]
    at_once = "opt.lr = x"
    yield Path(at_once, lambda: setattr(opt, "lr", 1e-3))
    yield Path("opt.lr", lambda: opt.lr)
    yield Path("group['lr'] = x", lambda: group.__setitem__("lr", 1e-3), at_once)
    hundred, _ = adam(*[16] * 100, grouped=True)
    of_hundred = "opt.lr = x, 100 groups"
    yield Path(of_hundred, lambda: setattr(hundred, "lr", 1e-3), at_once)

    def one_by_one() -> None:
        for group in hundred.param_groups:
            group["lr"] = 1e-3

    yield Path("group['lr'] = x, 100 groups one by one", one_by_one, of_hundred)


def schedules() -> Iterator[Path]:
    """Least squares of 64 samples of 16 features; the residue is never zero, so the gradients never vanish."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((64, n)).astype(np.float32) for n in (16, 4))

    def iteration(change: str) -> Callable[[], None]:
        params = {"w": np.zeros((16, 4), np.float32), "b": np.zeros(4, np.float32)}
        opt, numbers = fastopt.Adam(params), itertools.count()
        opt.threads = 1

        def iterate() -> None:
            error = (x @ params["w"] + params["b"] - y) / len(x)
            grads = {"w": x.T @ error, "b": error.sum(0)}
            lr = 0.5e-3 * (1 + math.cos(math.pi * (next(numbers) % 1000) / 1000))
            if change == "opt.lr = x":
                opt.lr = lr
            if change == "step(grads, lr=x)":
                opt.step(grads, lr=lr)
            else:
                opt.step(grads)

        return iterate

    without = "an iteration that leaves opt.lr alone"
    yield Path(without, iteration(""))
    for change in ("opt.lr = x", "step(grads, lr=x)"):
        yield Path(f"an iteration with {change}", iteration(change), without)


def whole_models() -> Iterator[Path]:
    for what, sizes in MODELS.items():
        yield Path(f"Adam of {what}", partial(fastopt.Adam, arrays(*sizes)))
    opt, _ = adam(*MANY)
    yield Path("param_groups, 400 tensors", lambda: opt.param_groups)
    yield Path("state, 400 tensors", lambda: opt.state)
    yield Path("state_dict(), 400 tensors", opt.state_dict)


SUBJECTS = {
    "A step": steps,
    "Setting a learning rate": learning_rates,
    "A training loop in NumPy with a cosine schedule": schedules,
    "What is called once a model": whole_models,
}


def paths(large: bool = False) -> Iterator[Path]:
    for subject in SUBJECTS.values():
        yield from subject()
    if large:
        largest, _ = adam(LARGE)
        yield Path("step(), bound, 30 000 000 elements", largest.step)


# ---- The process. ----


def sampler(call: Callable[[], Any]) -> Callable[[], float]:
    """A function that times a sample of calls and returns the seconds of one."""
    timed = looped(call)
    timed(1)
    calls = max(1, int(SAMPLE / max(min(timed(1) for _ in range(3)), 1e-9)))
    return lambda: timed(calls) / calls


def main(large: bool) -> None:
    fastopt.set_num_threads(1)
    samplers = {}
    for path in paths(large):
        try:
            samplers[path.name] = sampler(path.call)
        except TypeError:
            continue
    print(json.dumps([*samplers]), flush=True)
    for line in sys.stdin:
        print(samplers[line.strip()](), flush=True)


if __name__ == "__main__":
    main("--large" in sys.argv[1:])
