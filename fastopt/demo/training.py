"""Training on the digits, and the time of an optimizer step beside the same step by the reference."""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastopt
from fastopt.demo.methods import Method
from fastopt.demo.mlp import MLP

Array = np.ndarray[Any, np.dtype[Any]]

HIDDEN = 64
RECENT = 40  # the last gradients, which the timing repeats: real ones, so that as many elements are 0 as in training
TIMED_STEPS = 10 * RECENT


@dataclass(frozen=True)
class Digits:
    """The handwritten digits of scikit-learn: 1797 images of 8 x 8 pixels, scaled to [0, 1]."""

    x_train: Array
    x_test: Array
    y_train: Array
    y_test: Array

    @classmethod
    def load(cls, seed: int) -> Digits:
        images, labels = load_digits(return_X_y=True)
        x = (images / 16).astype(np.float32)
        state = int(np.random.default_rng(seed).integers(2**32))  # the range of scikit-learn's seeds
        return cls(*train_test_split(x, labels, test_size=0.25, stratify=labels, random_state=state))


@dataclass
class Result:
    """The result of one method: the training loss before training and after each epoch, accuracy and times."""

    method: Method
    losses: list[float] = field(default_factory=list)
    steps: int = 0
    elements: int = 0
    accuracy: float = 0.0
    step_us: float = 0.0
    reference_us: float = 0.0


def train(method: Method, digits: Digits, epochs: int, seed: int, progress: Callable[[float], None]) -> Result:
    """Trains a perceptron from the same start with one method; calls `progress` with the loss after each epoch."""
    rng = np.random.default_rng(seed)
    model = MLP((digits.x_train.shape[1], HIDDEN, 10), rng)
    optimizer = method.optimizer(model.params, **method.hypers)
    result = Result(method, [model.loss(digits.x_train, digits.y_train)])
    result.elements = sum(param.size for param in model.params.values())
    recent: deque[dict[str, Array]] = deque(maxlen=RECENT)
    for _ in range(epochs):
        # A last batch of few samples would move the weights as far as a full one does, and make the loss jump.
        for x, y in fastopt.minibatches(
            digits.x_train, digits.y_train, batch_size=method.batch_size, drop_last=True, rng=rng
        ):
            with look_ahead(optimizer):
                _, grads = model.loss_and_grads(x, y)
            optimizer.step(grads)
            recent.append(grads)
            result.steps += 1
        result.losses.append(model.loss(digits.x_train, digits.y_train))
        progress(result.losses[-1])
    result.accuracy = model.accuracy(digits.x_test, digits.y_test)
    result.step_us, result.reference_us = time_step(optimizer, list(recent))
    return result


def look_ahead(optimizer: fastopt.Optimizer) -> contextlib.AbstractContextManager[None]:
    """A block in which to take the gradient: at the look-ahead point for NAG; for other rules it does nothing."""
    return optimizer.lookahead() if isinstance(optimizer, fastopt.NAG) else contextlib.nullcontext()


def time_step(optimizer: fastopt.Optimizer, recent: list[dict[str, Array]]) -> tuple[float, float]:
    """Median microseconds of a step of this model by fastopt and by the NumPy reference, measured in turns."""
    compiled, model = copy.deepcopy(optimizer), fastopt.reference.Optimizer.like(optimizer)
    reference = reference_step(model, list(compiled.state))
    calls: tuple[Callable[[dict[str, Array]], object], ...] = (compiled.step, reference)
    times: tuple[list[int], list[int]] = ([], [])
    for i in range(TIMED_STEPS):
        grads = recent[i % len(recent)]
        for call, durations in zip(calls, times, strict=True):
            start = time.perf_counter_ns()
            call(grads)
            durations.append(time.perf_counter_ns() - start)
    step_us, reference_us = (statistics.median(durations) / 1e3 for durations in times)
    return step_us, reference_us


def reference_step(model: fastopt.reference.Optimizer, names: Sequence[Any]) -> Callable[[dict[str, Array]], object]:
    """A step of the reference's optimizer that takes gradients by the names of the parameters."""
    return lambda grads: model.step([grads[name] for name in names])
