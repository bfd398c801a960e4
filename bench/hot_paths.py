"""What a training loop calls once a step, and what it calls once: a process of `against.py`, `hot_paths.py [--large]`.

It prints the names of the paths as JSON, and then for each line that it reads, the name of one, the seconds of a call.
It uses nothing but what fastopt has long had in public, so that it runs with the package of another commit; a path that
a commit does not have is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from measure import looped

import fastopt

Path = Callable[[], Any]
SAMPLE = 2e-3  # the seconds that a sample of a path should take
LARGE = 30_000_000


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


def paths(large: bool = False) -> Iterator[tuple[str, Path]]:
    opt, grads = adam(16)
    yield "step, bound, 16 elements", opt.step
    yield "step, same array, 16 elements", lambda: opt.step(grads)
    fresh = [[grads[0].copy()] for _ in range(2)]
    yield "two steps, fresh arrays, 16 elements", lambda: [opt.step(each) for each in fresh]
    yield "step(lr=x)", lambda: opt.step(grads, lr=1e-3)
    yield "opt.lr = x", lambda: setattr(opt, "lr", 1e-3)
    yield "opt.lr", lambda: opt.lr
    hundred, _ = adam(*[16] * 100, grouped=True)
    yield "opt.lr = x, 100 groups", lambda: setattr(hundred, "lr", 1e-3)

    def one_by_one() -> None:
        for group in hundred.param_groups:
            group["lr"] = 1e-3

    yield "group['lr'] = x, 100 groups one by one", one_by_one
    p, g, m, v = arrays(16, 16, 16, 16)
    yield "kernels.adam, 16 elements", lambda: fastopt.kernels.adam(p, g, m, v, step=3)
    six, many = arrays(784 * 20, 20, 20 * 20, 20, 20 * 10, 10), arrays(*[528] * 400)
    yield "Adam of 6 tensors", lambda: fastopt.Adam(six)
    yield "Adam of 400 tensors", lambda: fastopt.Adam(many)
    models, of_many = adam(*[528] * 400)
    yield "step, bound, 400 tensors", models.step
    yield "step, list, 400 tensors", lambda: models.step(of_many)
    yield "state, 400 tensors", lambda: models.state
    yield "state_dict, 400 tensors", models.state_dict
    together, _ = adam(*[528] * 465)
    yield "step, bound, 465 tensors in a group", together.step
    apart, _ = adam(*[528] * 465, grouped=True)
    yield "step, bound, 465 groups of a tensor", apart.step
    middle, _ = adam(50_000)
    yield "step, bound, 50 000 elements", middle.step
    if large:
        largest, _ = adam(LARGE)
        yield "step, bound, 30 000 000 elements", largest.step


def sampler(path: Path) -> Callable[[], float]:
    """The seconds of a call, from as many as make a sample."""
    timed = looped(path)
    timed(1)
    calls = max(1, int(SAMPLE / max(min(timed(1) for _ in range(3)), 1e-9)))
    return lambda: timed(calls) / calls


def main(large: bool) -> None:
    fastopt.set_num_threads(1)
    samplers = {}
    for name, path in paths(large):
        try:
            samplers[name] = sampler(path)
        except TypeError:
            continue
    print(json.dumps([*samplers]), flush=True)
    for line in sys.stdin:
        print(samplers[line.strip()](), flush=True)


if __name__ == "__main__":
    main("--large" in sys.argv[1:])
