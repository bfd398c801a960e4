"""Hyperparameters that are out of range or no numbers: the error, what it names, and that nothing was written."""

import math

import numpy as np
import pytest
from boundary import N, changed, kernel_hypers, nothing_written, raising, tensor
from common import CLASSES, by_table

import fastopt
from fastopt._rules import RULES

NOT_A_NUMBER = ["1e-3", None, [0.1], 1j, "x"]
OUT_OF_RANGE = {
    "lr": [math.nan, math.inf, -math.inf, -1e-3],
    "momentum": [math.nan, math.inf, -0.1, 1.0, 2.0],
    "dampening": [math.nan, -0.1, 1.1, math.inf],
    "lr_decay": [math.nan, math.inf, -1e-3],
    "rho": [math.nan, -0.1, 1.0],
    "alpha": [math.nan, -0.1, 1.0],
    "beta1": [math.nan, -0.1, 1.0],
    "beta2": [math.nan, -0.1, 1.0],
    "eps": [math.nan, math.inf, -1e-8],
    "weight_decay": [math.nan, math.inf, -1e-8],
    "grad_scale": [math.nan, math.inf, -math.inf],
    "step": [math.nan, math.inf, 0, -1, 1.5, 2.0**54],
}
ONLY_IN_FLOAT32 = {  # in range as float64, out of it once rounded
    "lr": 1e39,
    "momentum": 1 - 1e-9,
    "lr_decay": 1e39,
    "rho": 1 - 1e-9,
    "alpha": 1 - 1e-9,
    "beta1": 1 - 1e-9,
    "beta2": 1 - 1e-9,
    "eps": 1e39,
    "weight_decay": 1e39,
}
# A number that float32 rounds to 0 is refused, except for the step, which is exact, and the factor of the gradients,
# which is applied in float64.
ROUND_TO_0 = dict.fromkeys(OUT_OF_RANGE.keys() - {"step", "grad_scale"}, (1e-46, 2.0**-150, 5e-324))


def spoken(name):
    return {"beta1": "betas[0]", "beta2": "betas[1]"}.get(name, name)


def test_the_lists_cover_the_table():
    assert OUT_OF_RANGE.keys() == {name for rule in RULES.values() for name in rule.hypers}


def test_hyperparameters_of_kernels(kernel):
    start = kernel.variant.arguments(dict.fromkeys(kernel_hypers(kernel), 0.5), 1)
    for name in kernel_hypers(kernel):
        for value in OUT_OF_RANGE[name]:
            bad = changed(start, name, value)
            kernel.refuses(ValueError, [spoken(name), "must be", "got"], hypers=bad)
        for value in NOT_A_NUMBER:
            kernel.refuses(TypeError, [spoken(name), "must be a number"], hypers=changed(start, name, value))
        if name in ONLY_IN_FLOAT32:
            bad = changed(start, name, ONLY_IN_FLOAT32[name])
            kernel.refuses(ValueError, [spoken(name), "as float32"], hypers=bad)
            kernel.takes(name, ONLY_IN_FLOAT32[name], np.float64)
        for value in ROUND_TO_0.get(name, ()):
            bad = changed(start, name, value)
            words = f"that float32 does not round to 0, got {value!r} (0.0 as float32)"
            kernel.refuses(ValueError, [spoken(name), "must be", words], hypers=bad)
            kernel.takes(name, value, np.float64)
        if name in ROUND_TO_0:
            kernel.takes(name, 0.0, np.float32)
            kernel.takes(name, 2.0**-149, np.float32)
    if "beta1" in kernel_hypers(kernel):
        for value in (0.9, (0.9,), (0.9, 0.9, 0.9), None):
            kernel.refuses(TypeError, ["betas must be a pair of numbers"], hypers={**start, "betas": value})


def test_kernels_need_the_buffers_that_their_hyperparameters_need():
    p, g = tensor(), tensor()
    with nothing_written(p), raising(ValueError, "momentum_buffer"):
        fastopt.kernels.sgd(p, g, momentum=0.9)
    with nothing_written(p), raising(ValueError, "momentum_buffer"):
        fastopt.kernels.rmsprop(p, g, tensor(), momentum=0.9)
    for bad in ({"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}):
        with nothing_written(p), raising(ValueError, "nesterov"):
            fastopt.kernels.sgd(p, g, momentum_buffer=tensor(), nesterov=True, **bad)
    with nothing_written(p), raising(ValueError, "nesterov"):
        fastopt.SGD(p, nesterov=True)


@pytest.mark.parametrize("cls", CLASSES)
def test_hyperparameters_of_optimizers(cls):
    p = tensor()
    opt = cls([{"params": p}, {"params": tensor(np.float64)}])
    for key in cls._hypers():
        good = opt.param_groups[0][key]
        inner = by_table({key: good})
        for name in inner:
            only_in_float64 = [ONLY_IN_FLOAT32[name]] if name in ONLY_IN_FLOAT32 else []
            for value in [*OUT_OF_RANGE.get(name, []), *only_in_float64, *ROUND_TO_0.get(name, ())]:
                bad = changed({key: good}, name, value)[key]
                with nothing_written(p), raising(ValueError, spoken(name), "must be"):
                    setattr(opt, key, bad)
                with raising(ValueError, spoken(name)):
                    opt.param_groups[0][key] = bad
                with raising(ValueError, spoken(name)):
                    cls(p, **{key: bad})
                assert [group[key] for group in opt.param_groups] == [good, good]
        for value in ["x", None, 1j, *([0, 1] if isinstance(good, bool) else [])]:
            with raising((TypeError, ValueError), key):
                setattr(opt, key, value)
            assert [group[key] for group in opt.param_groups] == [good, good]
    with pytest.raises(AttributeError, match="learning_rate"):
        opt.learning_rate = 1.0
    with pytest.raises(KeyError, match="learning_rate"):
        opt.param_groups[0]["learning_rate"] = 1.0
    with pytest.raises(KeyError, match="params"):
        opt.param_groups[0]["params"] = []
    with pytest.raises(TypeError, match="lr"):
        del opt.param_groups[0]["lr"]
    with pytest.raises(TypeError, match="learning_rate"):
        cls(p, learning_rate=1.0)


def test_a_float64_group_takes_what_a_float32_group_cannot():
    opt = fastopt.Adam([{"params": tensor()}, {"params": tensor(np.float64)}])
    opt.param_groups[1]["betas"] = (0.9, 1 - 1e-9)
    assert opt.param_groups[1]["betas"] == (0.9, 1 - 1e-9)
    with raising(ValueError, "betas[1]", "1.0 as float32"):
        opt.betas = (0.9, 1 - 1e-9)
    assert opt.param_groups[0]["betas"] == (0.9, 0.999)


def test_a_grad_scale_beyond_float32_is_applied():
    """The product is formed in float64, so the factor need not fit float32."""
    for scale, slope in ((1e39, 1e-39), (-1e60, 1e-45), (1e-46, 3e38), (2.0**-200, 1.0), (1.7976931348623157e308, 0.0)):
        p, g = np.zeros(N, np.float32), np.full(N, slope, np.float32)
        expected = np.float32(-(scale * float(g[0])))
        fastopt.SGD([p], lr=1.0).step([g], grad_scale=scale)
        assert (p == expected).all(), (scale, slope)
        p[:] = 0
        fastopt.kernels.sgd(p, g, lr=1.0, grad_scale=scale)
        assert (p == expected).all(), (scale, slope)
    assert expected == 0


def test_initial_accumulator_value():
    for bad in (-1.0, math.nan, math.inf, 1e39):
        with raising(ValueError, "initial_accumulator_value"):
            fastopt.Adagrad(tensor(), initial_accumulator_value=bad)
    with raising(
        ValueError, "initial_accumulator_value", "that float32 does not round to 0, got 1e-46 (0.0 as float32)"
    ):
        fastopt.Adagrad([tensor(np.float64), tensor()], initial_accumulator_value=1e-46)
    fastopt.Adagrad(tensor(np.float64), initial_accumulator_value=1e-46)
    fastopt.Adagrad(tensor(), initial_accumulator_value=0.0)
    opt = fastopt.Adagrad(tensor(), initial_accumulator_value=0.1)
    assert (opt.state[0]["sum"] == np.float32(0.1)).all()
    with raising(ValueError, "initial_accumulator_value"):
        opt.initial_accumulator_value = 0.2
