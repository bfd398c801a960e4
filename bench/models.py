"""The models that are stepped: their shapes, their data, and the expected parameters after some steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

import fastopt
from fastopt import reference
from fastopt._rules import RULES

Array = np.ndarray[Any, np.dtype[Any]]
Shapes = Sequence[tuple[int, ...]]


# ---- The shapes of architectures. ----


def mlp(*sizes: int) -> Shapes:
    """Weights and biases of a perceptron with these layers."""
    return [shape for inputs, outputs in pairwise(sizes) for shape in ((inputs, outputs), (outputs,))]


def resnet50() -> Shapes:
    """He et al., arXiv:1512.03385, as torchvision builds it: 161 tensors, 25 557 032 elements."""
    shapes: list[tuple[int, ...]] = []

    def convolution(inputs: int, outputs: int, kernel: int) -> None:
        """A convolution without bias, and the batch normalization after it."""
        shapes.extend([(outputs, inputs, kernel, kernel), (outputs,), (outputs,)])

    convolution(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolution(inputs, width, 1)
            convolution(width, width, 3)
            convolution(width, 4 * width, 1)
            if block == 0:  # the shortcut changes the number of channels
                convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    return [*shapes, (1000, inputs), (1000,)]


def gpt2() -> Shapes:
    """Radford et al. 2019, the smallest model, its head tied to `wte`: 148 tensors, 124 439 808 elements."""
    width, vocabulary, context, blocks = 768, 50257, 1024, 12
    norm = [(width,), (width,)]
    attention = [*mlp(width, 3 * width), *mlp(width, width)]
    feed_forward = [*mlp(width, 4 * width), *mlp(4 * width, width)]
    block: list[tuple[int, ...]] = [*norm, *attention, *norm, *feed_forward]
    return [(vocabulary, width), (context, width), *block * blocks, *norm]


def elements(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes)


# ---- Data. ----


def ordinary(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """float32 numbers of both signs between 0.1 and 1, which make no state subnormal: that would be slow."""
    values = rng.random(shape, dtype=np.float32)
    values *= 1.8
    values -= 0.9
    values += np.copysign(np.float32(0.1), values)
    return values


def optimizer_classes() -> list[type[fastopt.Optimizer]]:
    """Every optimizer that fastopt offers, found and not listed, in the order of the table of rules."""
    public = [getattr(fastopt, name) for name in fastopt.__all__]
    found = [
        thing
        for thing in public
        if isinstance(thing, type) and issubclass(thing, fastopt.Optimizer) and thing is not fastopt.Optimizer
    ]
    return sorted(found, key=lambda optimizer: RULES[optimizer.rule].index)


class Case:
    """A model under one optimizer: parameters, gradients and fastopt's own state buffers.

    The contenders step these very arrays wherever their interface lets them, so that all have the same alignment,
    pages and data, and a model of half a gigabyte is held once.
    """

    def __init__(
        self,
        params: Sequence[Array],
        grads: Sequence[Array],
        optimizer: type[fastopt.Optimizer] = fastopt.Adam,
        **hypers: Any,
    ) -> None:
        self.params, self.grads = list(params), list(grads)
        self.start = [param.copy() for param in self.params]
        self.opt = optimizer(self.params, **hypers)
        self.hypers = {key: value for key, value in self.opt.param_groups[0].items() if key != "params"}
        self.opt.step(self.grads)  # some buffers are in the state only after a step
        self.states = {
            name: [state[name] for state in self.opt.state.values()] for name in self.opt.state[0] if name != "step"
        }
        self.reset()

    @classmethod
    def of_shapes(
        cls, shapes: Iterable[tuple[int, ...]], optimizer: type[fastopt.Optimizer] = fastopt.Adam, **hypers: Any
    ) -> Case:
        rng = np.random.default_rng(0)
        shapes = list(shapes)
        params, grads = ([ordinary(rng, shape) for shape in shapes] for _ in range(2))
        return cls(params, grads, optimizer, **hypers)

    @property
    def elements(self) -> int:
        return sum(param.size for param in self.params)

    def reset(self) -> None:
        """Back to the start: the first parameters and states, and no step counted."""
        for param, start in zip(self.params, self.start, strict=True):
            param[...] = start
        self.opt.load_state_dict(
            {"state": {}, "param_groups": [{**self.hypers, "params": list(range(len(self.params)))}]}
        )

    def twin(self) -> Case:
        """An equal model with its own arrays."""
        return Case([start.copy() for start in self.start], self.grads, type(self.opt), **self.hypers)

    def expected(self, steps: int) -> list[Array]:
        """The parameters that `fastopt.reference` reaches from the start."""
        self.reset()
        reached: list[Array] = []
        for start, grad in zip(self.start, self.grads, strict=True):  # one state at a time: some are large
            model = reference.Optimizer(self.opt.rule, [start.copy()], **self.hypers)
            for _ in range(steps):
                model.step([grad])
            reached += model.params
        return reached

    def settle(self) -> None:
        """Steps from the start until no state is zero: the roofline flips bits, which makes a zero subnormal."""
        self.reset()
        for _ in range(3):
            self.opt.step(self.grads)
