"""Runs the tests on every installed Python: `nox`, or `nox --session suite-3.12 -- ARGUMENTS OF PYTEST`."""

import os
from pathlib import Path

import nox

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"), max_version="3.13")

# Also find all Pythons of pyenv, whether or not `pyenv local` or `pyenv global` selects them.
versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob("versions/*/bin")
os.environ["PATH"] = os.pathsep.join([*map(str, sorted(versions)), os.environ["PATH"]])

nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def suite(session):
    """All tests that may differ between Pythons: those of the C core alone cannot."""
    session.install("--editable", ".[test,torch]")  # editable: tests start Python in this folder
    session.run("pytest", "--ignore=tests/core", *session.posargs)
