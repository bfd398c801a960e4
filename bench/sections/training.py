"""(e) End to end: the optimizer's share of a training loop, and what its threads do to NumPy's."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from measure import Contender, looped, round_robin
from models import Array, Case, mlp
from peers import Bound, Given, Peer, Threads, contenders
from report import Promise, Section, Table, factor, seconds, threads
from settings import Settings
from threadpoolctl import threadpool_limits

import fastopt

EPOCHS = 8  # few enough that no state of a dead unit becomes subnormal
LAYERS, BATCH = (784, 1024, 1024, 10), 128
AT_MOST = 1.1  # times the sum of the parts

TEXT = f"""*The demo's loop*: a perceptron of the digits, batches and learning rate of the demo, {EPOCHS} epochs, each
optimizer training a model of its own, in turns of an epoch. Gradients are new arrays in every step; handing them over
counts as the optimizer's time. *Threads beside NumPy's*: a NumPy perceptron {"-".join(map(str, LAYERS))}, batches of
{BATCH}, with as many BLAS threads as optimizer threads; forward, backward and step in one loop against the sum of both
timed alone, where idle threads that spin would show."""


def run(settings: Settings) -> Section:
    section = Section("(e) End to end", " ".join(TEXT.split()))
    try:
        demo_loop(section, settings)
    except ImportError as error:
        section.remarks.append(f"The demo's loop was not measured: {error}.")
    beside_blas(section, settings)
    return section


# ---- The demo's loop. ----


@dataclass
class Trainee:
    """A model in training with one optimizer, and the seconds of each step."""

    model: Any
    peer: Peer
    threads: int | None
    batches: np.random.Generator
    gradients: list[float] = field(default_factory=list)
    optimizer: list[float] = field(default_factory=list)

    def epoch(self, digits: Any, batch_size: int) -> None:
        self.peer.enter()
        for x, y in fastopt.minibatches(
            digits.x_train, digits.y_train, batch_size=batch_size, drop_last=True, rng=self.batches
        ):
            start = time.perf_counter()
            _, grads = self.model.loss_and_grads(x, y)
            self.gradients.append(time.perf_counter() - start)
            listed = list(grads.values())
            start = time.perf_counter()
            self.peer.feed(listed)
            fed = time.perf_counter() - start
            if self.peer.prepare:
                self.peer.prepare()
            start = time.perf_counter()
            self.peer.step()
            self.optimizer.append(fed + time.perf_counter() - start)
            self.peer.sync()


def demo_loop(section: Section, settings: Settings) -> None:
    from fastopt.demo.methods import METHODS
    from fastopt.demo.mlp import MLP
    from fastopt.demo.training import HIDDEN, Digits

    method, digits = METHODS["adam"], Digits.load(0)
    trainees = []
    for peer in (Given, *settings.peers):
        for number in peer.thread_counts(settings.threads):
            model = MLP((digits.x_train.shape[1], HIDDEN, 10), np.random.default_rng(0))
            _, grads = model.loss_and_grads(digits.x_train[:32], digits.y_train[:32])
            case = Case(list(model.params.values()), list(grads.values()), **method.hypers)
            try:
                made = peer(case, number or settings.most)
            except Exception as error:  # other libraries raise any error
                settings.dropped[f"{peer.name}, the demo's loop"] = str(error)
                continue
            trainees.append(Trainee(model, made, number, np.random.default_rng(0)))
    for _ in range(1 if settings.quick else EPOCHS):
        for trainee in trainees:
            trainee.epoch(digits, method.batch_size)

    losses = [trainee.model.loss(digits.x_train, digits.y_train) for trainee in trainees]
    table = Table(
        "The demo's loop", ("optimizer", "threads", "forward, backward", "optimizer", "optimizer's share", "loss")
    )
    shares: dict[tuple[str, int | None], float] = {}
    for trainee, loss in zip(trainees, losses, strict=True):
        if abs(loss - losses[0]) > 0.02 * losses[0]:
            settings.dropped[f"{trainee.peer.name}, the demo's loop"] = f"loss {loss:.4f}, not {losses[0]:.4f}"
            continue
        gradients, step = statistics.median(trainee.gradients), statistics.median(trainee.optimizer)
        share = step / (gradients + step)
        shares[trainee.peer.name, trainee.threads] = share
        cells = (threads(trainee.threads), seconds(gradients), seconds(step), f"{share:.1%}", f"{loss:.4f}")
        table.rows.append((trainee.peer.name, *cells))
    section.tables.append(table)
    ours = shares.pop((Given.name, settings.most))
    others = {key: share for key, share in shares.items() if key[0] != Given.name}
    if others:
        (name, number), least = min(others.items(), key=lambda item: item[1])
        text = "The demo's loop: a smaller share of the time in the optimizer than with any other"
        measured = f"{ours:.1%}, against {least:.1%} ({name}, threads: {threads(number)})"
        section.promises.append(Promise(text, measured, ours < least))


# ---- Threads beside NumPy's. ----


class Perceptron:
    """Forward and backward in NumPy, the gradients written to the same arrays every time."""

    def __init__(self, layers: tuple[int, ...], batch: int) -> None:
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((batch, layers[0]), dtype=np.float32)
        self.labels = rng.integers(layers[-1], size=batch)
        self.params = [
            (rng.standard_normal(shape) * np.sqrt(2 / shape[0])).astype(np.float32) if len(shape) == 2
            else np.zeros(shape, np.float32)
            for shape in mlp(*layers)
        ]  # fmt: skip
        self.grads = [np.empty_like(param) for param in self.params]
        self.gradients()

    def gradients(self) -> None:
        """Computes the gradients of the mean cross-entropy."""
        weights, biases = self.params[::2], self.params[1::2]
        inputs: list[Array] = [self.x]
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            out = inputs[-1] @ weight + bias
            inputs.append(out if i == len(weights) - 1 else np.maximum(out, 0, out=out))
        delta = np.exp(inputs[-1] - inputs[-1].max(axis=1, keepdims=True))
        delta /= delta.sum(axis=1, keepdims=True)
        delta[np.arange(len(delta)), self.labels] -= 1
        delta /= np.float32(len(delta))
        for i in reversed(range(len(weights))):
            np.matmul(inputs[i].T, delta, out=self.grads[2 * i])
            delta.sum(axis=0, out=self.grads[2 * i + 1])
            if i:
                delta = delta @ weights[i].T
                delta *= inputs[i] > 0


def beside_blas(section: Section, settings: Settings) -> None:
    layers = (64, 128, 128, 10) if settings.quick else LAYERS
    model = Perceptron(layers, BATCH)
    case = Case(model.params, model.grads, lr=1e-5)  # so small that the gradients hardly change
    most = settings.most
    peers = [Bound, *(peer for peer in settings.peers if peer.threading is not Threads.ONE)]
    steppers, dropped = contenders(case, peers, [most])
    settings.dropped.update({f"{name}, beside BLAS": why for name, why in dropped.items()})
    alone, racing = "forward, backward", []
    with threadpool_limits(most, user_api="blas"):
        racing.append(Contender(alone, most, looped(model.gradients), sample=0.05))
        for stepper in steppers:
            racing.append(Contender(stepper.label, stepper.threads, stepper.timed, stepper.enter, sample=0.01))
            together = in_turn(model, stepper)
            racing.append(
                Contender(f"{stepper.label}, together", stepper.threads, together, stepper.enter, sample=0.05)
            )
        timings = round_robin(racing, settings.seconds(30), settings.rounds())
    gradients = timings[alone, most]
    table = Table(
        f"Threads beside NumPy's: {most} of each; forward and backward alone {seconds(gradients)}",
        ("optimizer", "threads", "step alone", "all in one loop", "times the sum"),
    )
    for stepper in steppers:
        step = timings[stepper.key]
        both = timings[f"{stepper.label}, together", stepper.threads]
        ratio = both / (gradients + step)
        table.rows.append((stepper.label, threads(stepper.threads), seconds(step), seconds(both), factor(ratio)))
        if stepper.label == Bound.name:
            text = f"Threads beside NumPy's: all in one loop at most {AT_MOST}x the sum of its parts"
            section.promises.append(Promise(text, factor(ratio), ratio <= AT_MOST))
    section.tables.append(table)


def in_turn(model: Perceptron, stepper: Contender) -> Any:
    """Seconds of forward, backward and step in one loop."""

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            model.gradients()
            stepper.timed(1)
        return time.perf_counter() - start

    return timed
