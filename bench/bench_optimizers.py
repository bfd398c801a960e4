"""Every optimizer as users call it: one tensor of 16 elements in three ways, and two whole models of small tensors.

The classes are found, not listed. Where bench_kernels.py times the loops, this file times the overhead around them.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from models import Case, mlp, optimizer_classes

import fastopt

MODELS = {"small MLP": mlp(64, 128, 64, 10), "400 tensors of 528": [(528,)] * 400}
FRESH = 10_000  # gradients, made beforehand, that the timed steps use in turn

pytestmark = pytest.mark.benchmark(max_time=0.1, min_rounds=5, warmup=True, warmup_iterations=2, disable_gc=True)
every_optimizer = pytest.mark.parametrize("optimizer", optimizer_classes(), ids=lambda optimizer: optimizer.__name__)


@pytest.mark.parametrize("way", ["bound", "same array", "fresh array"])
@every_optimizer
def test_call(benchmark: Any, optimizer: type[fastopt.Optimizer], way: str) -> None:
    """The overhead of a step."""
    case = Case.of_shapes([(16,)], optimizer, threads=1)
    benchmark.group, benchmark.name = f"{optimizer.__name__}, 16 elements", way
    step, grad = case.opt.step, case.grads[0]
    if way == "bound":
        case.opt.bind(case.grads)
        benchmark(step)
    elif way == "same array":
        benchmark(lambda: step([grad]))
    else:
        fresh = itertools.cycle([grad.copy() for _ in range(FRESH)])
        benchmark(lambda: step([next(fresh)]))


@pytest.mark.parametrize("way", ["bound", "same arrays"])
@pytest.mark.parametrize("model", MODELS)
@every_optimizer
def test_model(benchmark: Any, optimizer: type[fastopt.Optimizer], model: str, way: str) -> None:
    """A whole model in one call."""
    case = Case.of_shapes(MODELS[model], optimizer)
    benchmark.group, benchmark.name = f"{optimizer.__name__}, {model}", way
    step, grads = case.opt.step, case.grads
    if way == "bound":
        case.opt.bind(grads)
        benchmark(step)
    else:
        benchmark(lambda: step(grads))
