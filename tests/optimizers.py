"""What the tests of the optimizers' classes share: settings for each class, tensors, and the reference's optimizer."""

import numpy as np
import pytest
from common import CLASSES, DTYPES, random_tensor

import fastopt
from fastopt import reference

# Each class with settings that switch on every optional buffer and switch in some combination.
CASES = [
    (fastopt.SGD, {}),
    (fastopt.SGD, {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}),
    (fastopt.SGD, {"momentum": 0.8, "nesterov": True, "maximize": True}),
    (fastopt.Momentum, {"momentum": 0.8, "weight_decay": 0.01}),
    (fastopt.NAG, {"momentum": 0.8}),
    (fastopt.NAG, {"momentum": 0.8, "at_lookahead": True}),
    (fastopt.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps_inside_sqrt": True}),
    (fastopt.Adadelta, {"rho": 0.8}),
    (fastopt.RMSprop, {}),
    (fastopt.RMSprop, {"momentum": 0.5, "centered": True, "eps_inside_sqrt": True}),
    (fastopt.Adam, {"betas": (0.8, 0.99)}),
    (fastopt.Adam, {"amsgrad": True, "weight_decay": 0.01}),
    (fastopt.AdamW, {"amsgrad": True, "maximize": True}),
]
CASES += [(cls, {}) for cls in CLASSES if cls not in dict(CASES)]
SHAPES = [(3, 4), (), (0, 2), (17,)]


def name_of(case):
    return "-".join([case[0].__name__, *(key for key, value in case[1].items() if value)])


every_case = pytest.mark.parametrize("case", CASES, ids=name_of)


def tensors(rng, dtypes=DTYPES):
    return [
        random_tensor(rng, int(np.prod(shape)), dtypes[i % len(dtypes)]).reshape(shape)
        for i, shape in enumerate(SHAPES)
    ]


def model_of(cls, params, hypers):
    """The reference's optimizer, on copies of the parameters."""
    return reference.Optimizer(cls.rule, [p.copy() for p in params], **hypers)


def assert_equal_dicts(a, b):
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for key, state in a["state"].items():
        assert state.keys() == b["state"][key].keys()
        for name, value in state.items():
            assert np.array_equal(value, b["state"][key][name])
