"""The doors from compiled code, in this process: each address and each `cimport` leads to the right function."""

import ctypes
import re
import sys
import sysconfig

import numpy as np
import pytest
from commands import ROOT, compiler, run_well
from common import DTYPES, ISAS, VARIANTS, assert_same_bits, by_table, random_tensor

import fastopt
from fastopt import capi
from fastopt._rules import RULES

REAL = {np.float32: ctypes.c_float, np.float64: ctypes.c_double}
SUFFIX = {np.float32: "f32", np.float64: "f64"}


def by_address(name):
    return capi.capi_address(f"fastopt_{name}")


def by_cimport(name):
    """The address that a module gets when it cimports the function."""
    capsule = capi.__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return pointer_of(capsule, name_of(capsule))


def function(address, rule, dtype):
    """The C function at an address, as a function of arrays for this rule and dtype."""
    states, hypers = RULES[rule].states, RULES[rule].hypers
    pointers = [ctypes.c_void_p] * (2 + len(states))
    prototype = [ctypes.c_int, ctypes.c_size_t, *pointers, *[ctypes.c_double] * len(hypers), ctypes.c_uint]
    call = ctypes.CFUNCTYPE(*prototype)(address)

    def on_arrays(p, g, buffers, values, options):
        given = [None if array is None else array.ctypes.data for array in (p, g, *buffers)]
        return call(p.size, *given, *values, options)

    return on_arrays


@pytest.mark.parametrize("door", [by_address, by_cimport])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_rule_gives_the_bits_of_the_reference(variant, dtype, door):
    table, rng = RULES[variant.rule], np.random.default_rng(3)
    p, states = random_tensor(rng, 37, dtype), [np.zeros(37, dtype) for _ in variant.states]
    expected, expected_states = p.copy(), [state.copy() for state in states]
    call = function(door(f"{variant.rule}_{SUFFIX[dtype]}"), variant.rule, dtype)
    buffers = dict(zip(variant.states, states, strict=True))
    options = sum(bit for name, bit in table.options.items() if variant.options[name])
    for step in (1, 2, 3):
        g, arguments = random_tensor(rng, 37, dtype), variant.draw(rng, step)
        variant.reference(expected, g, expected_states, arguments)
        values = by_table(arguments)
        assert call(p, g, map(buffers.get, table.states), [values[name] for name in table.hypers], options) == 0
    for found, right in zip([p, *states], [expected, *expected_states], strict=True):
        assert_same_bits(found, right, str(variant))


@pytest.mark.parametrize("door", [by_address, by_cimport])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_an_error_writes_nothing(rule, dtype, door):
    table = RULES[rule]
    call = function(door(f"{rule}_{SUFFIX[dtype]}"), rule, dtype)
    arrays = [np.full(5, i + 1, dtype) for i in range(2 + len(table.states))]
    before = [array.copy() for array in arrays]
    good = [1.0 if name in ("step", "grad_scale") else 0.5 for name in table.hypers]
    for i in range(len(good)):
        bad = [*good[:i], float("nan"), *good[i + 1 :]]
        assert call(*arrays[:2], arrays[2:], bad, 0) == -16 - i
    assert call(*arrays[:2], arrays[2:], good, 1 << 20) == -3
    for array, was in zip(arrays, before, strict=True):
        assert_same_bits(array, was, rule)


def test_unknown_names_have_no_address():
    with pytest.raises(ValueError, match=r"name must be one of .*fastopt_adam_f32.*, got 'adam'"):
        fastopt.capi_address("adam")
    with pytest.raises(TypeError, match="name must be a str, got None"):
        fastopt.capi_address(None)


def test_rules_are_found_by_name():
    find = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)
    for door in (by_address, by_cimport):
        for name, rule in RULES.items():
            assert find(door("find_rule"))(name.encode()) == rule.index
        for name in (b"", b"Adam", b"adam_f32", None):
            assert find(door("find_rule"))(name) == -2


def test_the_functions_for_models_and_errors():
    describe, step = (ctypes.CFUNCTYPE(result, argument) for result, argument in
                      ((ctypes.c_char_p, ctypes.c_int), (ctypes.c_int, ctypes.c_char_p)))  # fmt: skip
    init = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
    for door in (by_address, by_cimport):
        assert step(door("step"))(bytes(1000)) == -6  # a structure of zeros has no size
        model = ctypes.create_string_buffer(sizes()["model"])
        assert init(door("model_init"))(model, len(model)) == 0
        assert step(door("step"))(model) == 0
        assert describe(door("strerror"))(-2) == b"there is no such rule"


def sizes():
    """The sizes of the structures, from tests/core/interface.txt."""
    record = (ROOT / "tests/core/interface.txt").read_text(encoding="utf-8")
    return {name: int(size) for name, size in re.findall(r"^fastopt_(\w+): (\d+)$", record, re.MULTILINE)}


CALLER = """
#include <Python.h>
#include "fastopt_capi.h"

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "caller", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_caller(void)
{
    return fastopt_import() ? PyModule_Create(&module) : NULL;
}
"""


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """The folder of an extension module that imports the core's capsule when it is imported."""
    folder = tmp_path_factory.mktemp("caller")
    (folder / "caller.c").write_text(CALLER, encoding="utf-8")
    includes = ["-I", sysconfig.get_path("include"), "-I", ROOT / "csrc"]
    target = f"caller{sysconfig.get_config_var('EXT_SUFFIX')}"
    run_well(compiler("cc"), "-shared", "-fPIC", *includes, "caller.c", "-o", target, cwd=folder)
    return folder


@pytest.mark.parametrize(
    ("version", "size", "message"),
    [
        (2, 10**6, r"has C API 2 of 1000000 bytes: compile this module again"),
        (1, 10**6, r"where fastopt_rule_info has \d+ bytes, but in the fastopt that is installed it has 0: compile"),
        (1, 16, r"compiled for fastopt .* \(C API 1 of \d+ bytes\).* of 16 bytes: install a later one"),
        (None, None, "invalid PyCapsule object"),
    ],
    ids=["another kind of table", "other structures", "a shorter table", "no table"],
)
def test_importing_a_module_for_another_core_is_an_error(caller, version, size, message):
    """As after an upgrade of fastopt alone: the module was compiled for the version before."""
    code = f"""
import ctypes, sys, types
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
class Table(ctypes.Structure):
    _fields_ = [("version", ctypes.c_int), ("size", ctypes.c_size_t), ("sizes", ctypes.c_size_t * 100)]
capi, table = types.ModuleType("fastopt.capi"), Table({version}, {size}) if {version} else None
capi._C_API = new(ctypes.addressof(table), b"fastopt.capi._C_API", None) if table else object()
sys.modules |= {{"fastopt": types.ModuleType("fastopt"), "fastopt.capi": capi}}
sys.path.insert(0, {str(caller)!r})
try:
    import caller
except (ImportError, ValueError) as error:
    print(type(error).__name__, error)
"""
    assert re.search(message, run_well(sys.executable, "-c", code))


def test_importing_a_module_for_this_core_works(caller):
    run_well(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(caller)!r}); import fastopt, caller")


def test_all_doors_lead_to_one_core():
    """The instruction set that Python chooses is also used by functions called at their addresses."""
    isa = ctypes.CFUNCTYPE(ctypes.c_char_p)(fastopt.capi_address("fastopt_isa"))
    before = fastopt.isa()
    for name in ISAS:
        fastopt.use_isa(name)
        assert isa().decode() == name
    fastopt.use_isa(before)
