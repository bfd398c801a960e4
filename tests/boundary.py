"""What the tests of the boundary share: bad inputs that kernels and optimizers must refuse without writing a byte."""

import contextlib
import re

import numpy as np
import pytest
from common import VARIANTS, by_table, paired

from fastopt._rules import RULES

N = 6


def tensor(dtype=np.float32, start=1.0):
    return np.linspace(start, start + 1, N).astype(dtype)


@contextlib.contextmanager
def nothing_written(*arrays):
    """Checks that the block changes no byte of these arrays, nor of the memory that they are views of."""
    owners = [a if a.base is None or not isinstance(a.base, np.ndarray) else a.base for a in arrays]
    before = [owner.tobytes() for owner in owners]
    yield
    assert [owner.tobytes() for owner in owners] == before


def raising(error, *words):
    return pytest.raises(error, match=".*".join(map(re.escape, words)))


class Kernel:
    """A rule's kernel with good arguments, of which a test replaces one by a bad one."""

    def __init__(self, variant, dtype=np.float32):
        self.variant = variant
        self.buffers = {"p": tensor(dtype), "g": tensor(dtype, 2.0)}
        self.buffers |= {name: tensor(dtype, 3.0 + k) for k, name in enumerate(variant.states)}

    def refuses(self, error, words, hypers=(), **bad):
        buffers = {**self.buffers, **bad}
        arrays = [b for b in buffers.values() if isinstance(b, np.ndarray)]
        states = [buffers[name] for name in self.variant.states]
        hypers = {**self.variant.arguments(dict.fromkeys(RULES[self.variant.rule].hypers, 0.5), 1), **dict(hypers)}
        with nothing_written(*arrays), raising(error, *words):
            self.variant.kernel(buffers["p"], buffers["g"], states, hypers)

    def takes(self, name, value, dtype):
        """Calls the kernel with this value of one hyperparameter, which it must accept."""
        if name == "momentum" and value and "momentum_buffer" not in self.variant.states:
            return
        start = self.variant.arguments(dict.fromkeys(RULES[self.variant.rule].hypers, 0.5), 1)
        buffers = Kernel(self.variant, dtype).buffers
        states = [buffers[state] for state in self.variant.states]
        self.variant.kernel(buffers["p"], buffers["g"], states, changed(start, name, value))

    @property
    def written(self):
        return [name for name in self.buffers if name != "g"]


KERNELS = {str(variant): variant for variant in VARIANTS if not any(variant.options.values())}


class Engine:
    """An optimizer of two parameters; a test gives it a bad gradient for the second."""

    def __init__(self, cls):
        self.params = [tensor(), tensor(np.float64, 5.0)]
        self.opt = cls(self.params)
        self.opt.step([tensor(), tensor(np.float64)])

    def refuses(self, error, words, bad):
        states = [v for state in self.opt.state.values() for v in state.values() if isinstance(v, np.ndarray)]
        steps = [state["step"] for state in self.opt.state.values()]
        with nothing_written(*self.params, *states), raising(error, "grads[1]", *words):
            self.opt.step([tensor(), bad])
        assert [state["step"] for state in self.opt.state.values()] == steps


# ---- What a kernel takes. ----


def kernel_hypers(kernel):
    return RULES[kernel.variant.rule].hypers


def needed_states(kernel):
    rule = RULES[kernel.variant.rule]
    return rule.states[: rule.required_states]


# ---- Hyperparameters. ----


def changed(arguments, name, value):
    """A kernel's arguments with another value of this hyperparameter of the table."""
    return paired({**by_table(arguments), name: value})
