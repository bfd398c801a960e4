"""The rules on typed memoryviews, called by a Cython module that cimports `fastopt.memoryviews`."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import clean_environment, run_well
from common import DTYPES, VARIANTS, assert_same_bits, by_table, random_tensor

import fastopt
from fastopt._rules import RULES

ROOT = Path(fastopt.__file__).parents[1]
REAL = {np.float32: ("f32", "float"), np.float64: ("f64", "double")}

SETUP = """
from Cython.Build import cythonize
from setuptools import setup

setup(ext_modules=cythonize("doors.pyx", language_level=3, include_path={path!r}))
"""


def door(rule, suffix, real):
    """The source of a Python function that calls the function of one rule and type without the GIL."""
    states, hypers = RULES[rule].states, RULES[rule].hypers
    given = [f"{real}[::1] p", f"const {real}[::1] g", *(f"{real}[::1] {name}" for name in states)]
    given += [*(f"double {name}" for name in hypers), "unsigned options"]
    passed = ", ".join(["p", "g", *states, *hypers, "options"])
    name = f"{rule}_{suffix}"
    return (
        f"cimport fastopt.memoryviews as core_{name}\n\n\ndef {name}({', '.join(given)}):\n"
        f"    cdef int answer\n    with nogil:\n        answer = core_{name}.{name}({passed})\n    return answer\n\n\n"
    )


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    """A compiled module that reaches all functions by `cimport`, without fastopt's header."""
    pytest.importorskip("Cython", reason="needs Cython: pip install 'fastopt[test]'")
    pytest.importorskip("setuptools", reason="needs setuptools to compile a module of Cython")
    folder = tmp_path_factory.mktemp("doors")
    text = "".join(door(rule, *real) for rule in RULES for real in REAL.values())
    text += "from fastopt.memoryviews cimport AT_LOOKAHEAD, EPS_INSIDE_SQRT, MAXIMIZE, NESTEROV\n\n"
    text += "OPTIONS = (MAXIMIZE, NESTEROV, AT_LOOKAHEAD, EPS_INSIDE_SQRT)\n"
    (folder / "doors.pyx").write_text(text, encoding="utf-8")
    (folder / "setup.py").write_text(SETUP.format(path=[str(ROOT)]), encoding="utf-8")
    run_well(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=folder, env=clean_environment())
    (path,) = folder.glob("doors*.so")
    spec = importlib.util.spec_from_file_location("doors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def defaults(rule, **changed):
    """Usual hyperparameters, in the order of the rule."""
    usual = {"step": 1, "lr": 0.1, "alpha": 0.9, "rho": 0.9, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "grad_scale": 1}
    return [{**usual, **changed}.get(name, 0.0) for name in RULES[rule].hypers]


def arrays(rule, dtype, n=4):
    return [np.ones(n, dtype) for _ in range(2 + len(RULES[rule].states))]


def test_the_options_are_the_cores(doors):
    names = ("maximize", "nesterov", "at_lookahead", "eps_inside_sqrt")
    bits = {name: bit for rule in RULES.values() for name, bit in rule.options.items()}
    assert dict(zip(names, doors.OPTIONS, strict=True)) == bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_rule_gives_the_bits_of_the_reference(variant, dtype, doors):
    table, rng = RULES[variant.rule], np.random.default_rng(3)
    p, states = random_tensor(rng, 37, dtype), [np.zeros(37, dtype) for _ in variant.states]
    expected, expected_states = p.copy(), [state.copy() for state in states]
    buffers = dict(zip(variant.states, states, strict=True))
    options = sum(bit for name, bit in table.options.items() if variant.options[name])
    call = getattr(doors, f"{variant.rule}_{REAL[dtype][0]}")
    for step in (1, 2, 3):
        g, arguments = random_tensor(rng, 37, dtype), variant.draw(rng, step)
        variant.reference(expected, g, expected_states, arguments)
        values = by_table(arguments)
        g.flags.writeable = False
        given = [buffers.get(name) for name in table.states]
        assert call(p, g, *given, *(values[name] for name in table.hypers), options) == 0
        assert_same_bits(p, expected, "p")
        for state, expected_state, name in zip(states, expected_states, variant.states, strict=True):
            assert_same_bits(state, expected_state, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_a_buffer_of_another_size_is_an_error_that_names_it(rule, dtype, doors):
    call, names = getattr(doors, f"{rule}_{REAL[dtype][0]}"), ["p", "g", *RULES[rule].states]
    for i, name in enumerate(names[1:], start=1):
        given = arrays(rule, dtype)
        given[i] = np.ones(3, dtype)
        with pytest.raises(ValueError, match=rf"^{name} has 3 elements, but p has 4$"):
            call(*given, *defaults(rule), 0)
        assert all((array == 1).all() for array in given)
    given = arrays(rule, dtype)
    given[1] = np.ones(1, dtype)
    with pytest.raises(ValueError, match=r"^g has 1 element, but p has 4$"):
        call(*given, *defaults(rule), 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_none_is_an_error_except_for_optional_buffers(rule, dtype, doors):
    table, call = RULES[rule], getattr(doors, f"{rule}_{REAL[dtype][0]}")
    names = ["p", "g", *table.states]
    for i, name in enumerate(names):
        given = arrays(rule, dtype)
        given[i] = None
        if i < 2 + table.required_states:
            with pytest.raises(ValueError, match=rf"^{name} is None, but this rule needs it$"):
                call(*given, *defaults(rule), 0)
            assert all((array == 1).all() for array in given if array is not None)
        else:
            assert call(*given, *defaults(rule), 0) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_empty_buffers_are_accepted(rule, dtype, doors):
    call = getattr(doors, f"{rule}_{REAL[dtype][0]}")
    assert call(*arrays(rule, dtype, 0), *defaults(rule), 0) == 0
    with pytest.raises(ValueError, match=r"^lr must be a finite number >= 0"):
        call(*arrays(rule, dtype, 0), *defaults(rule, lr=-1.0), 0)


@pytest.mark.parametrize("rule", RULES)
def test_errors_of_the_core_are_raised_with_its_sentence(rule, doors):
    call, given = getattr(doors, f"{rule}_f64"), arrays(rule, np.float64)
    with pytest.raises(ValueError, match=r"^lr must be a finite number >= 0$"):
        call(*given, *defaults(rule, lr=float("nan")), 0)
    with pytest.raises(
        ValueError, match=r"^weight_decay must be a finite number >= 0, also when it is rounded to float32$"
    ):
        getattr(doors, f"{rule}_f32")(*arrays(rule, np.float32), *defaults(rule, weight_decay=1e-60), 0)
    with pytest.raises(ValueError, match=f"^{rule}: .*option"):
        call(*given, *defaults(rule), 1 << 20)
    assert all((array == 1).all() for array in given)


def test_momentum_without_its_buffer_is_an_error(doors):
    p = np.ones(4)
    with pytest.raises(ValueError, match="buffer"):
        doors.sgd_f64(p, p.copy(), None, *defaults("sgd", momentum=0.9), 0)
    assert (p == 1).all()
