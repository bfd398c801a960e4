"""One list of rules: header, table, kernels, reference and classes agree on names, order and defaults."""

import inspect
import itertools
import re

import numpy as np
import pytest
from commands import CSRC
from common import CLASSES, paired

import fastopt
from fastopt import _clipping, kernels, optimizers, reference
from fastopt._rules import RULES

HEADER = CSRC / "fastopt_rules.h"

# The specification: the arguments of each class in order, with their defaults. All also take `maximize=False` and
# `threads=None`. Names and values are torch.optim's, where it has them.
DEFAULTS = {
    "SGD": {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
    "Momentum": {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.0},
    "NAG": {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.0, "at_lookahead": False},
    "Adagrad": {
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
        "eps_inside_sqrt": False,
    },
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0},
    "RMSprop": {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
        "eps_inside_sqrt": False,
    },
    "Adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False},
    "AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False},
}


def prototypes():
    """For each function of a rule in the header: the rule, the type and the arguments, without comments."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"FASTOPT_API int fastopt_(\w+)_(f32|f64)\(([^)]*)\);", text)
    return {(rule, suffix): [" ".join(part.split()) for part in given.split(",")] for rule, suffix, given in found}


PROTOTYPES = prototypes()


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def test_all_have_the_same_rules():
    rules = list(RULES)
    assert len(rules) >= 8
    assert sorted(kernels.__all__) == sorted(rules)
    assert sorted(reference.__all__) == sorted([*rules, *_clipping.__all__, "Optimizer"])
    assert sorted(cls.rule for cls in CLASSES) == sorted(rules)
    assert {cls.__name__ for cls in CLASSES} <= set(optimizers.__all__)
    assert sorted(PROTOTYPES) == sorted((rule, suffix) for rule in rules for suffix in ("f32", "f64"))


@pytest.mark.parametrize("suffix", ["f32", "f64"])
@pytest.mark.parametrize("rule", RULES)
def test_the_header_has_the_tables_arguments(rule, suffix):
    real = {"f32": "float", "f64": "double"}[suffix]
    assert PROTOTYPES[rule, suffix] == [
        "size_t n",
        f"{real} *p",
        f"const {real} *g",
        *(f"{real} *{name}" for name in RULES[rule].states),
        *(f"double {name}" for name in RULES[rule].hypers),
        "unsigned options",
    ]


@pytest.mark.parametrize("rule", RULES)
def test_step_comes_first_and_grad_scale_last(rule):
    """The C core and the engine expect these places."""
    hypers = RULES[rule].hypers
    assert "step" not in hypers[1:]
    assert hypers[-1] == "grad_scale"


@pytest.mark.parametrize("rule", RULES)
def test_the_headers_prose_names_the_options(rule):
    """The comment of an option in the header names the rules that take it."""
    text = HEADER.read_text(encoding="utf-8")
    options = dict(re.findall(r"FASTOPT_([A-Z_]+) = \d+,? +/\* ([^:*]*)", text))
    for option in RULES[rule].options:
        named = options[option.upper()].strip()
        assert named == "every rule" or rule in named.split(", ")


@pytest.mark.parametrize("rule", RULES)
def test_kernel_and_reference_have_one_signature(rule):
    kernel, oracle = (inspect.signature(getattr(module, rule)) for module in (kernels, reference))
    assert [(each.name, each.kind, each.default) for each in kernel.parameters.values()] == [
        (each.name, each.kind, each.default) for each in oracle.parameters.values()
    ]


@pytest.mark.parametrize("cls", CLASSES)
def test_the_references_optimizer_has_the_hyperparameters_and_states_of_the_class(cls):
    """The reference has its own signatures and tables, from which these come."""
    table = RULES[cls.rule]
    values = [[0.0, 0.5] if name == "momentum" else [False, True] for name in table.needed_by.values()]
    for chosen in itertools.product(*values):
        hypers = dict(zip(table.needed_by.values(), chosen, strict=True))
        opt, model = cls(np.ones(3), **hypers), reference.Optimizer(cls.rule, [np.ones(3)], **hypers)
        assert {**model.param_groups[0], "params": None} == {**opt.param_groups[0], "params": None}
        opt.step(np.ones(3))
        model.step([np.ones(3)])
        assert set(opt.state[0]) == set(model.state[0])
    with pytest.raises(TypeError, match=f"{cls.rule} has no hyperparameter rate"):
        reference.Optimizer(cls.rule, [np.ones(3)], rate=0.1)


@pytest.mark.parametrize("rule", RULES)
def test_the_kernel_has_the_tables_arguments(rule):
    table = RULES[rule]
    parameters = inspect.signature(getattr(kernels, rule)).parameters
    positional = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    keywords = [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY]
    optional = table.states[table.required_states :]
    assert positional == ["p", "g", *table.states[: table.required_states]]
    assert keywords[: len(optional)] == list(optional)
    assert all(parameters[name].default is None for name in optional)
    rest = keywords[len(optional) :]
    assert sorted(rest) == sorted([*paired(dict.fromkeys(table.hypers)), *table.options])
    assert [name for name in rest if name not in table.options] == [*paired(dict.fromkeys(table.hypers))]
    assert all(parameters[name].default is False for name in table.options)
    assert parameters["grad_scale"].default == 1.0


@pytest.mark.parametrize("cls", CLASSES)
def test_the_class_has_the_kernels_defaults(cls):
    """All defaults of the kernel, except for state, step and grad_scale, which the class keeps itself."""
    kernel = defaults(getattr(kernels, cls.rule))
    mine = defaults(cls)
    shared = kernel.keys() - {*RULES[cls.rule].states, "step", "grad_scale"}
    assert {name: mine[name] for name in shared} == {name: kernel[name] for name in shared}
    assert {name: type(mine[name]) for name in shared} == {name: type(kernel[name]) for name in shared}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_class_has_the_specified_defaults(name):
    cls, expected = getattr(fastopt, name), {**DEFAULTS[name], "maximize": False, "threads": None}
    assert list(defaults(cls).items()) == list(expected.items())
    parameters = inspect.signature(cls).parameters
    assert next(iter(parameters)) == "params"
    by_keyword = [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY]
    assert by_keyword == [name for name in ("eps_inside_sqrt", "maximize", "threads") if name in expected]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_argument_of_the_class_is_an_attribute_and_all_but_threads_in_the_group(cls):
    opt = cls(np.ones(3))
    for name, value in defaults(cls).items():
        assert getattr(opt, name) == value
        assert opt.param_groups[0].get(name) == value
    assert set(opt.param_groups[0]) == {"params", *defaults(cls)} - {"threads"}
