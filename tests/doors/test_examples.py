"""The examples and docs/embedding.md, run as a user does: in a new environment with the wheel and other folders."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, clean_environment, run, run_well
from common import assert_same_bits
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser

from fastopt import reference

pytestmark = pytest.mark.slow

EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/README.md"))
TOOLS = [
    "cmake",
    "cython",
    "nanobind",
    "ninja",
    "pkgconf",
    "pybind11",
    "setuptools>=77",
]  # besides the examples' own requirements


@pytest.fixture(scope="session")
def shell(archives, tmp_path_factory):
    """Runs a shell command in a folder, in a new environment that has the wheel and the builders' tools."""
    environment = tmp_path_factory.mktemp("workshop")
    run_well(sys.executable, "-m", "venv", environment)
    env = clean_environment()
    env["PATH"] = f"{environment / 'bin'}:{env['PATH']}"
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    run_well(environment / "bin/python", "-m", "pip", "install", "--quiet", archives[1], *TOOLS, env=env)

    def call(command, folder, may_fail=False):
        return (run if may_fail else run_well)("bash", "-ec", command, cwd=folder, env=env)

    return call


# ---- The examples. ----


def bowl(steps=200):
    """The result that every example must print, from the reference."""
    target, curvature = np.arange(16, dtype=np.float32) - np.float32(7.5), np.arange(1, 17, dtype=np.float32)
    p, m, v = (np.zeros(16, np.float32) for _ in range(3))
    for step in range(1, steps + 1):
        reference.adam(p, curvature * (p - target), m, v, step=step, lr=0.1)
    assert 0 < np.abs(p - target).max() < 1e-2  # converged, but not so far that any path would give these bits
    return p


def commands_of(page):
    """The lines that stand indented in an example's README."""
    return re.findall(r"^    (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_there_is_an_example_for_every_door():
    assert EXAMPLES == ["c", "cffi", "ctypes", "cython", "numba", "pybind11"]
    overview = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((\w+)\)", overview)) == EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_readme_of_an_example_works_and_gives_the_bits_of_the_reference(example, shell, tmp_path):
    folder = shutil.copytree(ROOT / "examples" / example, tmp_path / example)
    printed = [shell(command, folder) for command in commands_of(folder / "README.md")]
    found = [line.split()[1:] for text in printed for line in text.splitlines() if line.startswith("found:")]
    assert len(found) == len([command for command in commands_of(folder / "README.md") if "train" in command])
    for numbers in found:
        assert_same_bits(np.array([float.fromhex(x) for x in numbers], np.float32), bowl(), example)
    losses = [float(x) for text in printed for x in re.findall(r"loss ([\d.e+-]+)", text)]
    assert losses[-1] < 1e-6 * losses[0]


# ---- The blocks of docs/embedding.md; test_docs.py runs those in Python. ----

# Takes three steps with the module that was built and prints the bits.
DRIVE = """
import sys, importlib
import numpy as np
step = importlib.import_module(sys.argv[1])
p, g = np.array([1, -2], np.float32), np.array([3, 0.5], np.float32)
m, v = np.zeros(2, np.float32), np.zeros(2, np.float32)
for t in (1, 2, 3):
    assert step.step(p, g, m, v, t) == 0
print(*p)
"""


def after(steps, **hypers):
    p, g = np.array([1, -2], np.float32), np.array([3, 0.5], np.float32)
    m, v = np.zeros(2, np.float32), np.zeros(2, np.float32)
    for t in range(1, steps + 1):
        reference.adam(p, g, m, v, step=t, **hypers)
    return p


# What a program prints; a module gets three steps from DRIVE.
RESULTS = {"main.c": after(1), "model.c": after(3, lr=1e-2), "step_cy.pyx": after(3), "step_cpp.cpp": after(3)}


def test_the_page_on_embedding_works_from_top_to_bottom(shell, tmp_path):
    """In one folder, as a reader has it: a block with a file's name in its first line is written, a command runs."""
    (tmp_path / "drive.py").write_text(DRIVE, encoding="utf-8")
    names, checked = [], []

    def write(example):
        name = re.match(r"(?:/\*|//|#) (\w+\.\w+)", example.parsed)[1]
        (tmp_path / name).write_text(example.parsed, encoding="utf-8")
        names.append(name)

    def build(example):
        name = names[-1]
        printed = shell(example.parsed, tmp_path)
        if not name.endswith(".c"):
            printed = shell(f"python drive.py {name.partition('.')[0]}", tmp_path)
        assert_same_bits(np.array(printed.split()[:2], np.float32), RESULTS[name], name)
        checked.append(name)

    parsers = [CodeBlockParser(language, write) for language in ("c", "cpp", "cython")]
    for example in Sybil([*parsers, CodeBlockParser("sh", build)]).parse(ROOT / "docs/embedding.md").examples():
        example.evaluate()
    assert checked == names == list(RESULTS)


# ---- nanobind, which uses the capsule as pybind11 does. ----

NANOBIND = """
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include "fastopt_capi.h"

namespace nb = nanobind;
using array = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

NB_MODULE(step, module)
{
    static const fastopt_capi *fastopt = fastopt_import();
    if (!fastopt)
        throw nb::python_error();
    module.def("step", [](array p, array g, array exp_avg, array exp_avg_sq, int t) {
        return fastopt->adam_f32(p.size(), p.data(), g.data(), exp_avg.data(), exp_avg_sq.data(), nullptr, t, 1e-3, 0.9,
                                 0.999, 1e-8, 0, 1, 0);
    });
}
"""
NANOBIND_PROJECT = """
cmake_minimum_required(VERSION 3.15...3.31)
project(step LANGUAGES C CXX)
find_package(Python COMPONENTS Interpreter Development.Module REQUIRED)
find_package(nanobind REQUIRED)
find_package(fastopt REQUIRED)
nanobind_add_module(step step.cpp)
target_link_libraries(step PRIVATE fastopt::headers)
"""


def test_nanobind(shell, tmp_path):
    (tmp_path / "step.cpp").write_text(NANOBIND, encoding="utf-8")
    (tmp_path / "CMakeLists.txt").write_text(NANOBIND_PROJECT, encoding="utf-8")
    (tmp_path / "drive.py").write_text(DRIVE, encoding="utf-8")
    found = "-Dnanobind_DIR=$(python -m nanobind --cmake_dir) -Dfastopt_DIR=$(python -m fastopt --cmakedir)"
    shell(f"cmake -G Ninja -B build {found} -DPython_EXECUTABLE=$(which python) && cmake --build build", tmp_path)
    printed = shell("PYTHONPATH=build python drive.py step", tmp_path)
    assert_same_bits(np.array(printed.split(), np.float32), after(3), "nanobind")


# ---- Cython: without the GIL, in prange, and a whole model in one call. ----

PARALLEL = """
# cython: language_level=3
# distutils: extra_compile_args=-fopenmp
# distutils: extra_link_args=-fopenmp
import numpy as np
from cython.parallel import prange
from fastopt.capi cimport adam_f32, adamw_f64, describe, group_init, model_init, step, strerror
from fastopt.structs cimport FASTOPT_F32, FASTOPT_ZERO_GRAD, fastopt_group, fastopt_model, fastopt_tensor
from libc.string cimport memset

cdef extern from "fastopt.h":
    const int FASTOPT_ADAM_STEP, FASTOPT_ADAM_LR


def ranges(float[::1] p, const float[::1] g, float[::1] m, float[::1] v, int t, int pieces):
    '''One step, cut into ranges for OpenMP's threads.'''
    cdef int i, failed = 0
    cdef size_t begin, end, n = p.shape[0]
    for i in prange(pieces, nogil=True, num_threads=3):
        begin, end = n * i // pieces, n * (i + 1) // pieces
        failed += adam_f32(end - begin, &p[begin], &g[begin], &m[begin], &v[begin], NULL,
                           t, 1e-3, 0.9, 0.999, 1e-8, 0, 1, 0) != 0
    return failed


def model(float[::1] p, float[::1] g, float[::1] m, float[::1] v, int t, double lr=1e-3):
    '''The same step as a model of two tensors, which leaves the gradients at zero.'''
    cdef fastopt_tensor tensors[2]
    cdef fastopt_group group
    cdef fastopt_model whole
    cdef int i, error
    cdef size_t half = p.shape[0] // 2
    cdef char sentence[200]
    memset(tensors, 0, sizeof(tensors))
    for i in range(2):
        tensors[i].size = sizeof(fastopt_tensor)
        tensors[i].n = half if i == 0 else p.shape[0] - half
        tensors[i].p, tensors[i].g = &p[i * half], &g[i * half]
        tensors[i].state[0], tensors[i].state[1] = &m[i * half], &v[i * half]
    error = group_init(&group, sizeof(group), b"adam", FASTOPT_F32) | model_init(&whole, sizeof(whole))
    group.hyper[FASTOPT_ADAM_STEP], group.hyper[FASTOPT_ADAM_LR] = t, lr
    group.count, group.tensors = 2, tensors
    whole.count, whole.groups, whole.extras = 1, &group, FASTOPT_ZERO_GRAD
    with nogil:
        error |= step(&whole)
    if error < 0:
        describe(&whole.error, sentence, sizeof(sentence))
        return sentence.decode()
    return strerror(error).decode()


def error(double lr):
    cdef double x = 1
    return strerror(adamw_f64(1, &x, &x, &x, &x, NULL, 1, lr, 0.9, 0.999, 1e-8, 0, 1, 0)).decode()
"""

DRIVE_PARALLEL = """
import numpy as np, parallel, fastopt
rng = np.random.default_rng(0)
p, g = rng.normal(size=(2, 10_007)).astype(np.float32)
q, expected = p.copy(), p.copy()
states = [np.zeros_like(p) for _ in range(6)]
for t in (1, 2, 3):
    assert parallel.ranges(p, g, *states[:2], t, 7) == 0
    h = g.copy()
    assert parallel.model(q, h, *states[2:4], t) == "no error"
    assert not h.any()
    refused = parallel.model(q, h, *states[2:4], t, -1.0)
    assert refused == "adam: lr of group 0 must be a finite number >= 0, got -1", refused
    fastopt.reference.adam(expected, g, *states[4:], step=t)
assert p.tobytes() == q.tobytes() == expected.tobytes()
assert parallel.error(-1.0) == "a hyperparameter is out of its range", parallel.error(-1.0)
"""


def test_cython_in_prange_and_for_whole_models(shell, tmp_path):
    (tmp_path / "parallel.pyx").write_text(PARALLEL.lstrip(), encoding="utf-8")
    (tmp_path / "drive.py").write_text(DRIVE_PARALLEL, encoding="utf-8")
    shell("CFLAGS=$(python -m fastopt --cflags) cythonize -3 -i parallel.pyx && python drive.py", tmp_path)


SLICES = """
# cython: language_level=3
from fastopt.memoryviews cimport MAXIMIZE, adam_f32


def step(float[::1] p, const float[::1] g, float[::1] m, float[::1] v, int t):
    with nogil:
        adam_f32(p, g, m, v, None, t, 1e-3, 0.9, 0.999, 1e-8, 0, 1, 0)
    return 0


def back(float[::1] p, const float[::1] g, float[::1] m, float[::1] v):
    adam_f32(p, g, m, v, None, 1, 1e-3, 0.9, 0.999, 1e-8, 0, 1, MAXIMIZE)
"""

DRIVE_SLICES = """
import numpy as np, slices
p, g, m, v = np.zeros((4, 3), np.float32)
p += 0.5
g += 1
try:
    slices.step(p, g[1:], m, v, 1)
except ValueError as error:
    print(error)
slices.back(p, g, m, v)
assert (p > 0.5).all()
"""


def test_cython_on_memoryviews_needs_no_header(shell, tmp_path):
    for name, text in (("slices.pyx", SLICES), ("drive.py", DRIVE), ("errors.py", DRIVE_SLICES)):
        (tmp_path / name).write_text(text.lstrip(), encoding="utf-8")
    printed = shell("cythonize -3 -i slices.pyx && python drive.py slices", tmp_path)
    assert_same_bits(np.array(printed.split()[-2:], np.float32), after(3), "memoryviews")
    assert shell("python errors.py", tmp_path) == "g has 2 elements, but p has 3\n"


# ---- The capsule: another version's table or structures are an ImportError. ----

MODULE = """
#include <Python.h>
#include "fastopt_capi.h"

static struct PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT, .m_name = "door"};

PyMODINIT_FUNC PyInit_door(void)
{
    const fastopt_capi *fastopt = fastopt_import();
    PyObject *module;

    if (!fastopt)
        return NULL;
    module = PyModule_Create(&definition);
    if (module && PyModule_AddStringConstant(module, "version", fastopt->version())) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
"""
BUILD = "cc -shared -fPIC $(python -m pybind11 --includes) {flags} door.c -o door.so"

# What a module compiled against another version has in its headers.
HEADERS = ("fastopt.h", "fastopt_rules.h", "fastopt_capi.h")
OTHER = {
    "as it is": ([], None),
    "an older table, shorter": ([("X(cflags) X(strerror)", "X(cflags)")], None),
    "a newer table, longer": (
        [
            ("X(strerror)", "X(strerror) X(check2)"),
            (
                "FASTOPT_API const char *fastopt_strerror",
                "FASTOPT_API int fastopt_check2(void);\nFASTOPT_API const char *fastopt_strerror",
            ),
        ],
        r"ImportError: this module was compiled for fastopt [\d.]+ \(C API 1 of \d+ bytes\), but the fastopt that is "
        r"installed has C API 1 of \d+ bytes: install a later one",
    ),
    "another kind of table": (
        [("CAPI_VERSION 1", "CAPI_VERSION 2")],
        r"ImportError: this module was compiled for fastopt [\d.]+ \(C API 2 of \d+ bytes\), but the fastopt that is "
        r"installed has C API 1 of \d+ bytes: compile this module again",
    ),
    "other structures": (
        [("} fastopt_tensor;", "    void *more;\n} fastopt_tensor;")],
        r"ImportError: this module was compiled for fastopt [\d.]+, where fastopt_tensor has \d+ bytes, but in the "
        r"fastopt that is installed it has \d+: compile this module again",
    ),
}


@pytest.mark.parametrize("header", OTHER)
def test_the_capsule_is_checked(header, shell, tmp_path):
    changes, message = OTHER[header]
    texts = {name: (ROOT / "csrc" / name).read_text(encoding="utf-8") for name in HEADERS}
    for old, new in changes:
        (name,) = [name for name, text in texts.items() if old in text]
        assert texts[name].count(old) == 1
        texts[name] = texts[name].replace(old, new)
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "door.c").write_text(MODULE, encoding="utf-8")
    shell(BUILD.format(flags="-I. $(python -m fastopt --cflags)"), tmp_path)
    done = shell(
        "python -c 'import door; print(door.version)'; python -c 'import fastopt; print(fastopt.__version__)'",
        tmp_path,
        may_fail=True,
    )
    if message is None:
        assert done.returncode == 0, done.stderr
        assert len(set(done.stdout.split())) == 1
    else:
        assert done.returncode != 0
        assert re.search(message, done.stderr), done.stderr


def test_importing_a_module_without_fastopt_is_an_error(shell, tmp_path):
    (tmp_path / "door.c").write_text(MODULE, encoding="utf-8")
    shell(BUILD.format(flags="$(python -m fastopt --cflags)"), tmp_path)
    block = "import sys; sys.modules['fastopt'] = None; import door"
    done = shell(f'python -c "{block}"', tmp_path, may_fail=True)
    assert re.search("ModuleNotFoundError: .*fastopt", done.stderr), done.stderr


# ---- How builds find the core. ----


def test_the_command_line_prints_flags_and_folders(shell, tmp_path):
    site = Path(shell("python -c 'import fastopt; print(fastopt.__path__[0])'", tmp_path).strip())
    assert "workshop" in str(site)
    core = site / "csrc"
    names = ("cflags", "sources", "pkgconfigdir", "cmakedir")
    printed = [shell(f"python -m fastopt --{name}", tmp_path).removesuffix("\n") for name in names]
    assert shell("python -m fastopt --cflags --sources", tmp_path).split() == [printed[0], *printed[1].split()]
    sources = [
        core / f"{name}.c"
        for name in ("dispatch", "layout", "norm", "row", "rules", "staging", "step", "table", "threads")
    ]
    assert printed == [f"-I{core}", " ".join(map(str, sources)), str(core / "pkgconfig"), str(core / "cmake")]
    code = "import fastopt; print(fastopt.get_include(), *fastopt.get_sources(), sep='\\n')"
    assert shell(f'python -c "{code}"', tmp_path).splitlines() == [str(path) for path in (core, *sources)]
    assert all(path.is_file() for path in (*sources, *(core / name for name in HEADERS)))


def test_the_command_line_without_arguments_is_an_error(shell, tmp_path):
    done = shell("python -m fastopt", tmp_path, may_fail=True)
    assert done.returncode == 2
    assert "error: give a command or an option" in done.stderr


def test_pkg_config_finds_the_core(shell, tmp_path):
    """The package pkgconf finds it by the entry point, any pkg-config by the folder that the command line prints."""
    shutil.copy(ROOT / "examples/c/train.c", tmp_path)
    version = shell("python -c 'import fastopt; print(fastopt.__version__)'", tmp_path)
    assert shell("python -m pkgconf --modversion fastopt", tmp_path) == version
    build = (
        "cc -O3 train.c $({0} --cflags fastopt) $({0} --variable=sources fastopt) $({0} --libs fastopt) -o {1} && ./{1}"
    )
    shell("export PKG_CONFIG_PATH=$(python -m fastopt --pkgconfigdir); " + build.format("pkgconf", "one"), tmp_path)
    shell(build.format("python -m pkgconf", "two"), tmp_path)
