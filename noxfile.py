"""The suite on every Python that is found here: `nox`, or `nox --session suite-3.12 -- ARGUMENTS OF PYTEST`."""

import os
from pathlib import Path

import nox

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"), max_version="3.13")

# Those that pyenv has, chosen or not.
versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob("versions/*/bin")
os.environ["PATH"] = os.pathsep.join([*map(str, sorted(versions)), os.environ["PATH"]])

nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def suite(session):
    """What may differ between Pythons: all but the tests of the C core alone."""
    session.install("--editable", ".[test,torch]")  # tests start Python in this folder, which has the sources
    session.run("pytest", "--ignore=tests/core", *session.posargs)
