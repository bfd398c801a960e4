"""What is too long for `make test-all`: `make audit` runs it, and nox prints which sessions passed.

`nox --list` names the sessions, `nox --session fuzz` runs one, and what stands after `--` goes to pytest. The Pythons
are those on the PATH and all of pyenv's; a session whose Python is missing is skipped.
"""

import os
import sys
from pathlib import Path

import nox

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"), max_version="3.13")
FUZZ = "tests/fuzz/fuzz_boundary.py"

versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob("versions/*/bin")
os.environ["PATH"] = os.pathsep.join([*map(str, sorted(versions)), os.environ["PATH"]])

nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def suite(session):
    """What may differ between Pythons: all tests but those of the C core."""
    session.install("--editable", ".[test,torch]")  # tests start Python in this folder, which has the sources
    session.run("pytest", "--ignore=tests/core", *session.posargs)


# ---- Sessions in the environment that runs nox, which `make audit` prepares. ----


@nox.session(venv_backend="none")
def core(session):
    """The tests of the C core, emulated processors included."""
    session.run(sys.executable, "-m", "pytest", "tests/core", *session.posargs, env={"FASTOPT_TEST_ARCH": "1"})


@nox.session(venv_backend="none")
def nehalem(session):
    """The tests of the arithmetic on an emulated x86-64 processor without AVX."""
    session.run("make", "test-nehalem", f"ARGS={' '.join(session.posargs)}", external=True)


@nox.session(venv_backend="none")
def fuzz(session):
    """A million random inputs at the boundary, the same ones each time."""
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    session.run(sys.executable, FUZZ, "--plain", "--runs=1000000", f"--jobs={jobs}", "--seed=1")


@nox.session(venv_backend="none")
def guided(session):
    """Five minutes of inputs at the boundary that are led by coverage."""
    session.run(sys.executable, FUZZ, "--seconds=300")


@nox.session(venv_backend="none")
def machine(session):
    """A thousand new sequences of uses, each beside a model."""
    arguments = ["tests/face/test_machine.py", "-m", "slow", "--hypothesis-profile=fuzz", *session.posargs]
    session.run(sys.executable, "-m", "pytest", *arguments, env={"FUZZ_EXAMPLES": "1000"})


@nox.session(venv_backend="none")
def coverage(session):
    """Every line of the C core and of the Cython modules is executed by the tests."""
    session.run("make", "coverage", f"ARGS={' '.join(session.posargs)}", external=True)
