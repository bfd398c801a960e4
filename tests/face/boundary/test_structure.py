"""Wrong structures of parameters and gradients: the error, what it names, and that nothing was written."""

import math

import numpy as np
import pytest
from boundary import N, nothing_written, raising, tensor
from common import CLASSES, DTYPES, VARIANTS

from fastopt._rules import RULES


def test_there_is_an_optimizer_for_every_rule():
    assert {cls.rule for cls in CLASSES} == set(RULES)


@pytest.mark.parametrize("cls", CLASSES)
def test_structure_of_gradients(cls):
    def one():
        return tensor(np.float64)

    a, b = one(), one()
    opt = cls([a, b])
    cases = [
        ([one()], ValueError, "grads must be a sequence of 2 arrays, got 1"),
        ([one()] * 3, ValueError, "grads must be a sequence of 2 arrays, got 3"),
        (one(), TypeError, "grads must be a sequence of 2 arrays, got one array"),
        (None, TypeError, "grads is None, and no gradients are bound"),
        ({"a": one()}, TypeError, "grads must be a sequence of 2 arrays, got dict"),
    ]
    for grads, error, words in cases:
        with nothing_written(a, b), raising(error, words):
            opt.step(grads)
    opt = cls({"a": a, "b": b})
    cases = [
        ({"a": one()}, ValueError, "grads has no 'b'"),
        ({"a": one(), "b": one(), "c": one()}, ValueError, "grads has an unknown 'c'"),
        ([one(), one()], TypeError, "grads must be a mapping with the parameters' keys, got list"),
        ({"a": one(), "b": np.ones(N + 1)}, ValueError, f"grads['b'] has shape ({N + 1},), but params['b']"),
    ]
    for grads, error, words in cases:
        with nothing_written(a, b), raising(error, words):
            opt.step(grads)
    opt = cls([{"params": a}, {"params": {"w": b}}])
    cases = [
        ([{"params": one()}], ValueError, "grads must be a sequence of 2 groups, got 1"),
        ([one(), one()], TypeError, "grads[0] must be a group {'params': gradients}, got one array"),
        ([{"params": one()}, {"grads": one()}], ValueError, "grads[1] has no 'params'"),
        ([{"params": one()}, {"params": {"x": one()}}], ValueError, "grads[1]['params'] has no 'w'"),
        ([{"params": one()}, {"params": {"w": None}}], TypeError, "grads[1]['params']['w'] is None"),
    ]
    for grads, error, words in cases:
        with nothing_written(a, b), raising(error, words):
            opt.step(grads)
    assert [state["step"] for state in opt.state.values()] == [0, 0]


@pytest.mark.parametrize("cls", CLASSES)
def test_structure_of_params(cls):
    for empty in ([], {}, [{"params": []}], ()):
        with raising(ValueError, "empty"):
            cls(empty)
    with raising(ValueError, "params[0] has no 'params'"):
        cls([{"lr": 1.0}])
    with raising(ValueError, "params[0] has an unknown 'rate'"):
        cls([{"params": tensor(), "rate": 1.0}])
    with raising(TypeError, "params[1] must be a group, like the others, got one array"):
        cls([{"params": tensor()}, tensor()])
    with raising(TypeError, "params['w'] is of type list"):
        cls({"w": [1.0]})


def test_zero_dimensions_and_no_elements():
    for dtype in DTYPES:
        for cls in CLASSES:
            scalar, empty = np.array(1.0, dtype), np.empty((3, 0), dtype)
            opt = cls([scalar, empty])
            opt.step([np.array(0.5, dtype), np.empty((3, 0), dtype)])
            assert float(scalar) < 1.0
            assert [state["step"] for state in opt.state.values()] == [1, 1]
    for variant in VARIANTS:
        empty = [np.empty(0, np.float32) for _ in range(2 + len(variant.states))]
        arguments = variant.arguments(dict.fromkeys(RULES[variant.rule].hypers, 0.5), 1)
        variant.kernel(empty[0], empty[1], empty[2:], arguments)
        bad = {**arguments, "lr": math.nan}
        with raising(ValueError, "lr"):
            variant.kernel(empty[0], empty[1], empty[2:], bad)
