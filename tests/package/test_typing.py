"""Types: the stubs agree with the compiled modules, the Python sources are strictly typed, and both are installed."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import fastopt

pytest.importorskip("mypy", reason="needs mypy: pip install 'fastopt[test]'")

typed_numpy = pytest.mark.skipif(
    tuple(map(int, np.__version__.split(".")[:2])) < (2, 3),
    reason="NumPy before 2.3 has functions without types: use a newer one",
)

PACKAGE = Path(fastopt.__file__).parent
COMPILED = [f"fastopt.{path.stem}" for path in PACKAGE.glob("*.pyx")]

# Names that Cython adds to every module and class: for pickle, cimport and doctest.
ALLOWED = r"""
fastopt\..*\.__(reduce|setstate)_cython__
fastopt\..*\.__pyx_\w+__
fastopt\..*\.__test__
"""

CONFIG = """
[mypy]
strict = true
show_error_codes = true

[mypy-fastopt.demo.*]
ignore_errors = true
"""

# A user's program. mypy must report an error exactly in the lines with a comment, of the kind that the comment names.
PROGRAM = """
from array import array

import numpy as np
from typing_extensions import assert_type

import fastopt

w, b = np.ones((3, 2), np.float32), np.zeros((), np.float32)
opt = fastopt.Adam({"w": w, "b": b}, lr=1e-3, betas=(0.9, 0.99), amsgrad=True)
opt.step({"w": np.ones_like(w), "b": np.ones_like(b)})
opt.lr = 3e-4
opt.betas = (0.8, 0.99)
opt.param_groups[0]["lr"] = 1e-4
opt.load_state_dict(opt.state_dict())
assert_type(opt.lr, float)
assert_type(opt.betas, tuple[float, float])
assert_type(opt.amsgrad, bool)
many: list[fastopt.Optimizer] = [opt, fastopt.SGD([w, b], 0.1), fastopt.AdamW([{"params": w, "lr": 1.0}])]
nag = fastopt.NAG(w)
with nag.lookahead():
    grad = 2 * w
nag.step(grad)
opt.bind({"w": np.ones_like(w), "b": np.ones_like(b)})
opt.step(zero_grad=True, grad_scale=0.5)
assert_type(opt.step(max_norm=1.0), float)
assert_type(opt.step(skip_nonfinite=True, zero_grad=True), float)
opt.bind(None)
assert_type(opt.threads, int | None)
opt.threads = 2
assert_type(fastopt.clip_grad_norm([w, b], 1, threads=1), float)
assert_type(fastopt.global_norm(w), float)
assert_type(fastopt.get_num_threads(), int)
fastopt.set_num_threads(None)
for xb, yb in fastopt.minibatches(w, b, batch_size=2, rng=0):
    print(xb.shape, yb.shape)
m, v = np.zeros_like(w), np.zeros_like(w)
fastopt.kernels.adam(w, grad, m, v, step=1, lr=np.float32(0.1), betas=(0.9, np.float64(0.99)))
fastopt.kernels.sgd(array("f", [1.0]), memoryview(array("f", [1.0])), lr=1)
fastopt.kernels.rmsprop(w, grad, v, momentum_buffer=m, grad_avg=None, momentum=0.9)
fastopt.reference.adam(w, grad, m, v, step=1, betas=(0.9, 0.99))
assert_type(fastopt.show_config("dicts"), dict[str, str])
assert_type(fastopt.isa(), str)
assert_type(fastopt.available_isas(), tuple[str, ...])
assert_type(fastopt.__version__, str)
assert_type(fastopt.get_include(), str)
assert_type(fastopt.get_sources(), list[str])
assert_type(fastopt.capi_address("fastopt_adam_f32"), int)

fastopt.Adam(w, lr="x")  # arg-type
fastopt.Adam(w, betas=0.9)  # arg-type
fastopt.SGD(w, rho=0.9)  # call-arg
opt.lr = "x"  # assignment
opt.betas = 0.9  # assignment
opt.amsgrad.lr  # attr-defined
print(opt.rho)  # attr-defined
opt.rho = 0.9  # attr-defined
opt.step(w, scale=2.0)  # call-overload
opt.step(w, max_norm="x")  # call-overload
opt.threads = "x"  # assignment
fastopt.clip_grad_norm([w], None)  # arg-type
fastopt.kernels.sgd(w, grad, lr="x")  # arg-type
fastopt.kernels.sgd(w, [1.0, 2.0])  # arg-type
fastopt.kernels.sgd(w, grad, step=1, alpha=0.9)  # call-arg
fastopt.kernels.momentum(w, grad, None)  # arg-type
fastopt.kernels.adam(w, grad, m, v)  # call-arg
fastopt.kernels.adam(w, grad, m, v, step=1, betas=0.9)  # arg-type
fastopt.reference.adam(w, grad, m, v, step=1, lr="x")  # arg-type
fastopt.minibatches(w, batch_size="x")  # arg-type
fastopt.use_isa(2)  # arg-type
fastopt.capi_address(2)  # arg-type
fastopt.show_config("json")  # call-overload
"""


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Runs mypy or one of its tools from an empty folder, where it finds the package as a user's mypy does."""
    folder = tmp_path_factory.mktemp("typing")
    (folder / "mypy.ini").write_text(CONFIG, encoding="utf-8")
    (folder / "allowed").write_text(ALLOWED, encoding="utf-8")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    env = {key: value for key, value in os.environ.items() if not key.startswith("MYPY")}
    if PACKAGE.parent != Path(sysconfig.get_path("platlib")):  # editable: only Python knows where the package is
        env["MYPYPATH"] = str(PACKAGE.parent)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
        )

    return run


@typed_numpy
def test_stubs_agree_with_the_compiled_modules(mypy):
    config = ["--mypy-config-file", "mypy.ini", "--allowlist", "allowed", "--ignore-unused-allowlist"]
    found = mypy("mypy.stubtest", *COMPILED, "--concise", *config)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_compiled_module_has_a_stub_and_the_package_says_that_it_is_typed():
    stubs = {f"fastopt.{path.stem}" for path in PACKAGE.glob("*.pyi")}
    assert stubs == set(COMPILED)
    assert stubs == {f"fastopt.{path.name.split('.')[0]}" for path in PACKAGE.glob("*.so")}
    assert (PACKAGE / "py.typed").is_file()


@typed_numpy
def test_python_sources_are_strictly_typed(mypy):
    found = mypy("mypy", "-p", "fastopt")
    assert found.returncode == 0, found.stdout + found.stderr


def test_mypy_finds_exactly_the_errors_of_a_users_program(mypy):
    expected = {}
    for number, line in enumerate(PROGRAM.splitlines(), start=1):
        if mark := re.search(r"  # ([a-z-]+)$", line):
            expected[number] = mark[1]
    found = mypy("mypy", "program.py", "--no-pretty")
    errors = re.findall(r"^program\.py:(\d+): error: .*\[([a-z-]+)\]$", found.stdout, re.MULTILINE)
    assert {int(number): code for number, code in errors} == expected, found.stdout + found.stderr
