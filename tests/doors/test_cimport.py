"""`cimport` of functions and structures from fastopt.capi and fastopt.structs, by compiled Cython modules."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import CSRC, clean_environment, compiler, run_well
from common import assert_same_bits

import fastopt
from fastopt import reference
from fastopt._rules import RULES

PACKAGE = Path(fastopt.__file__).parents[1]

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup

extension = Extension({name!r}, [{name!r} + ".pyx"], include_dirs={headers!r})
setup(ext_modules=cythonize(extension, language_level=3, include_path=[{package!r}]))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiles a module against the .pxd files of a package and a folder's headers, if given; returns its path."""
    pytest.importorskip("Cython", reason="needs Cython: pip install 'fastopt[test]'")
    pytest.importorskip("setuptools", reason="needs setuptools to compile a module of Cython")

    def call(name, text, package=PACKAGE, headers=None):
        folder = tmp_path_factory.mktemp(name)
        (folder / f"{name}.pyx").write_text(text, encoding="utf-8")
        setup = SETUP.format(name=name, package=str(package), headers=[str(headers)] if headers else [])
        (folder / "setup.py").write_text(setup, encoding="utf-8")
        env = {**clean_environment(), "CFLAGS": "-O0"}
        run_well(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=folder, env=env)
        (path,) = folder.glob(f"{name}*.so")
        return path

    return call


def imported(path):
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- Functions alone: no header is needed. ----

FUNCTIONS = """
from fastopt.capi cimport adam_f32, find_rule, rule, strerror


def step(float[::1] p, const float[::1] g, float[::1] m, float[::1] v, int t):
    cdef int error
    with nogil:
        error = adam_f32(p.shape[0], &p[0], &g[0], &m[0], &v[0], NULL, t, 1e-3, 0.9, 0.999, 1e-8, 0, 1, 0)
    return strerror(error).decode()


def places():
    return find_rule(b"adam"), find_rule(b"nobody"), rule(find_rule(b"adam")) == NULL, rule(-1) == NULL
"""


def arrays(n=7):
    rng = np.random.default_rng(5)
    p, g = rng.normal(size=(2, n)).astype(np.float32)
    return p, g, np.zeros(n, np.float32), np.zeros(n, np.float32)


def assert_steps_as_the_reference(step):
    given, expected = arrays(), arrays()
    for t in (1, 2, 3):
        assert step(*given, t) == "no error"
        reference.adam(*expected, step=t)
    for found, wanted, name in zip(given, expected, "pgmv", strict=True):
        assert_same_bits(found, wanted, name)


def test_functions_need_no_header(compiled):
    module = imported(compiled("functions", FUNCTIONS))
    assert_steps_as_the_reference(module.step)
    found, missing, absent, past = module.places()
    assert found >= 0 > missing
    assert not absent
    assert past


# ---- Structures. ----

MODEL = """
from fastopt cimport capi
from fastopt.structs cimport (
    FASTOPT_BF16, FASTOPT_CLIP_NORM, FASTOPT_ERR_HYPER, FASTOPT_ERR_LAYOUT, FASTOPT_ERR_RULE, FASTOPT_ERR_SIZE,
    FASTOPT_ERR_TYPE, FASTOPT_F16, FASTOPT_F32, FASTOPT_F64, FASTOPT_MAX_DIMS, FASTOPT_MAX_HYPERS, FASTOPT_MAX_STATES,
    FASTOPT_OK, FASTOPT_SKIP_NONFINITE, FASTOPT_SKIPPED, FASTOPT_ZERO_GRAD, fastopt_group, fastopt_layout,
    fastopt_model, fastopt_rule_info, fastopt_tensor)

cdef extern from "fastopt.h":
    const int FASTOPT_ADAM_STEP, FASTOPT_ADAM_LR, FASTOPT_ADAM_EXP_AVG, FASTOPT_ADAM_EXP_AVG_SQ

NAMES = dict(
    ERR_HYPER=FASTOPT_ERR_HYPER, ERR_LAYOUT=FASTOPT_ERR_LAYOUT, ERR_RULE=FASTOPT_ERR_RULE, ERR_SIZE=FASTOPT_ERR_SIZE,
    ERR_TYPE=FASTOPT_ERR_TYPE, OK=FASTOPT_OK, SKIPPED=FASTOPT_SKIPPED, CLIP_NORM=FASTOPT_CLIP_NORM,
    SKIP_NONFINITE=FASTOPT_SKIP_NONFINITE, ZERO_GRAD=FASTOPT_ZERO_GRAD, LR=FASTOPT_ADAM_LR,
    MAX=(FASTOPT_MAX_STATES, FASTOPT_MAX_HYPERS, FASTOPT_MAX_DIMS),
    TYPES=(FASTOPT_F32, FASTOPT_F64, FASTOPT_F16, FASTOPT_BF16))


cdef class Adam:
    '''Two matrices in one group, the gradient of the second in any layout. Cython has zeroed all members.'''
    cdef fastopt_tensor tensors[2]
    cdef fastopt_layout layout
    cdef fastopt_group group
    cdef fastopt_model model
    cdef Py_ssize_t shape[2]
    cdef Py_ssize_t strides[2]
    cdef object alive

    def __init__(self, float[:, ::1] p, float[:, ::1] g, float[:, ::1] m, float[:, ::1] v,
                 float[:, ::1] q, float[:, :] h, float[:, ::1] m2, float[:, ::1] v2):
        cdef fastopt_tensor *first = &self.tensors[0]
        cdef fastopt_tensor *second = &self.tensors[1]
        self.alive = p, g, m, v, q, h, m2, v2
        first.size, first.n, first.p, first.g = sizeof(fastopt_tensor), p.size, &p[0, 0], &g[0, 0]
        first.state[FASTOPT_ADAM_EXP_AVG], first.state[FASTOPT_ADAM_EXP_AVG_SQ] = &m[0, 0], &v[0, 0]
        second.size, second.n, second.p, second.g = sizeof(fastopt_tensor), q.size, &q[0, 0], &h[0, 0]
        second.state[FASTOPT_ADAM_EXP_AVG], second.state[FASTOPT_ADAM_EXP_AVG_SQ] = &m2[0, 0], &v2[0, 0]
        second.layout = &self.layout
        self.shape, self.strides = [q.shape[0], q.shape[1]], [h.strides[0], h.strides[1]]
        self.layout.size, self.layout.ndim, self.layout.shape = sizeof(self.layout), 2, self.shape
        self.layout.g_strides = self.strides
        assert capi.group_init(&self.group, sizeof(self.group), b"adam", FASTOPT_F32) == FASTOPT_OK
        assert capi.model_init(&self.model, sizeof(self.model)) == FASTOPT_OK
        self.group.count, self.group.tensors = 2, self.tensors
        self.model.count, self.model.groups = 1, &self.group

    def set(self, bytes name, double value):
        return capi.set(&self.group, name, value)

    def step(self, double t, unsigned extras=0, double max_norm=-1):
        cdef int error
        self.group.hyper[FASTOPT_ADAM_STEP] = t
        self.model.extras, self.model.max_norm = extras, max_norm
        with nogil:
            error = capi.step(&self.model)
        return error

    def check(self):
        return capi.check(&self.model)

    def spoil(self):
        self.shape[0] += 1

    @property
    def norm(self):
        assert capi.global_norm(&self.model) == FASTOPT_OK
        return self.model.norm

    @property
    def workspace(self):
        return capi.workspace(&self.model)

    @property
    def lr(self):
        return self.group.hyper[FASTOPT_ADAM_LR]

    @property
    def error(self):
        '''Code, group, tensor, rule, name and value, and the sentence.'''
        cdef char text[300]
        cdef size_t length = capi.describe(&self.model.error, text, sizeof(text))
        assert length == len(<bytes>text)
        name = None if self.model.error.name == NULL else self.model.error.name.decode()
        rule = None if self.model.error.rule == NULL else self.model.error.rule.decode()
        return (self.model.error.code, self.model.error.group, self.model.error.tensor, rule, name,
                self.model.error.value, (<bytes>text).decode())


def begin(bytes rule, int type, int less=0):
    cdef fastopt_group group
    return capi.group_init(&group, sizeof(group) - less, rule, type)


def table():
    '''{rule: hyperparameters, states, options} of the table.'''
    cdef const fastopt_rule_info *info
    found = {}
    while True:
        info = capi.rule(len(found))
        if info == NULL:
            return found
        assert info.size == sizeof(fastopt_rule_info)
        found[info.name.decode()] = (
            [info.hypers[i].name.decode() for i in range(info.hyper_count)],
            [info.states[i].name.decode() for i in range(info.state_count)],
            {info.options[i].name.decode(): info.options[i].bit for i in range(info.option_count)})
"""


@pytest.fixture(scope="module")
def model(compiled):
    return imported(compiled("model", MODEL, headers=CSRC))


def matrices(shape=(5, 3)):
    """A parameter, its gradient, and two states."""
    rng = np.random.default_rng(6)
    p, g = rng.normal(size=(2, *shape)).astype(np.float32)
    return [p, g, np.zeros(shape, np.float32), np.zeros(shape, np.float32)]


def test_the_constants_are_those_of_the_header(model):
    names = model.NAMES
    assert names["TYPES"] == (1, 2, 3, 4)
    assert names["OK"] == 0
    assert names["SKIPPED"] == 1
    assert names["LR"] == 1


def test_cython_reads_the_table_of_rules(model):
    found = model.table()
    assert list(found) == list(RULES)
    for name, (hypers, states, options) in found.items():
        rule = RULES[name]
        assert (hypers, states, options) == (list(rule.hypers), list(rule.states), dict(rule.options))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_group_and_a_model_step_as_the_reference(model, transposed):
    first, second = matrices(), matrices()
    expected, expected_second = [a.copy() for a in first], [a.copy() for a in second]
    if transposed:
        second[1] = np.asfortranarray(second[1])
    adam = model.Adam(*first, *second)
    assert adam.lr == 1e-3
    assert adam.workspace == 0
    assert adam.set(b"lr", 0.25) == 0
    assert adam.lr == 0.25
    for t in (1, 2, 3):
        assert adam.step(t) == 0
        for arrays in (expected, expected_second):
            reference.adam(*arrays, step=t, lr=0.25)
    for found, wanted in zip(first + second, expected + expected_second, strict=True):
        assert_same_bits(found, wanted, transposed)


def test_the_extras_of_a_model(model):
    first, second = matrices(), matrices()
    expected = [a.copy() for a in first]
    adam = model.Adam(*first, *second)
    norm = adam.norm
    assert norm == fastopt.global_norm([first[1], second[1]])
    assert adam.step(1, model.NAMES["CLIP_NORM"] | model.NAMES["ZERO_GRAD"], norm / 2) == 0
    factor = min(1.0, norm / 2 / (norm + 1e-6))
    reference.adam(*expected, step=1, grad_scale=factor)
    assert_same_bits(first[0], expected[0], "clipped")
    assert not first[1].any()
    assert not second[1].any()
    first[1][0, 0] = np.inf
    assert adam.step(2, model.NAMES["SKIP_NONFINITE"]) == model.NAMES["SKIPPED"]
    assert_same_bits(first[0], expected[0], "skipped")


def test_cython_reads_errors_with_place_and_sentence(model):
    first, second = matrices(), matrices()
    adam, before = model.Adam(*first, *second), first[0].copy()
    assert adam.set(b"lr", -1.0) == 0
    code = model.NAMES["ERR_HYPER"] - 1
    assert adam.step(1) == adam.check() == code
    assert adam.error[:6] == (code, 0, -1, "adam", "lr", -1.0)
    assert adam.error[6] == "adam: lr of group 0 must be a finite number >= 0, got -1"
    assert adam.set(b"lr", 0.1) == 0
    assert adam.set(b"learning_rate", 0.1) < 0
    adam.spoil()
    assert adam.step(1) == model.NAMES["ERR_LAYOUT"]
    assert adam.error[:3] == (model.NAMES["ERR_LAYOUT"], 0, 1)
    assert_same_bits(first[0], before, "nothing was written")


def test_a_group_begins_with_its_size_a_rule_and_a_type(model):
    assert model.begin(b"adam", 2) == 0
    assert model.begin(b"adam", 3) == model.NAMES["ERR_TYPE"]
    assert model.begin(b"nobody", 1) == model.NAMES["ERR_RULE"]
    assert model.begin(b"adam", 1, less=8) == model.NAMES["ERR_SIZE"]


# ---- Structures of another version. ----


@pytest.fixture(scope="module")
def another_version(sources, tmp_path_factory):
    """A copy of the sources with one more field in fastopt_tensor, and generated again."""
    pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli", reason="needs tomli before Python 3.11")
    compiler("cc")  # the structures are measured with it
    if sys.maxsize < 2**32:
        pytest.skip("the record of the interface has the layouts of 64-bit machines")
    copy = shutil.copytree(sources[0], tmp_path_factory.mktemp("another") / "fastopt")
    header = copy / "csrc/fastopt.h"
    text = header.read_text(encoding="utf-8")
    assert text.count("} fastopt_tensor;") == 1
    header.write_text(text.replace("} fastopt_tensor;", "    void *more;\n} fastopt_tensor;"), encoding="utf-8")
    run_well(sys.executable, "tools/generate.py", cwd=copy, env=clean_environment())
    return copy


USES = {
    "set": ("fastopt_group", "capi.set(&it, b'lr', 0.1)"),
    "step": ("fastopt_model", "capi.step(&it)"),
}


@pytest.mark.parametrize("function", USES)
def test_a_module_with_other_structures_is_refused_when_it_is_imported(function, compiled, another_version):
    kind, call = USES[function]
    text = f"from fastopt cimport capi\nfrom fastopt.structs cimport {kind}\n\n"
    text += f"def use():\n    cdef {kind} it\n    {call}\n"
    other = compiled("door", text, package=another_version, headers=another_version / "csrc")
    with pytest.raises(TypeError, match=rf"C function fastopt\.capi\.{function} has wrong signature .*\b{kind}_\d+"):
        imported(other)


def test_a_module_without_structures_works_with_another_version(compiled, another_version):
    assert_steps_as_the_reference(imported(compiled("functions", FUNCTIONS, package=another_version)).step)
