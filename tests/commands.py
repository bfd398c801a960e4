"""How the tests run other programs."""

import os
import shutil
import subprocess
import sys

import pytest

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def run_well(*command, **options):
    """The output of a command that must succeed."""
    done = run(*command, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def compiler(name):
    """The path of a tool: of the environment that runs the tests, or of the system."""
    path = shutil.which(name, path=f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"there is no {name} on the PATH: install it to check the C core with it")
    return path


def clean_environment():
    """This process's environment without what would let another Python find the package in its sources."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
