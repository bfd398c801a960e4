"""Where the sources lie, and how the tests run other programs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
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


def listed_in_manifest():
    """The folders and files at the top level that make up the sources, as MANIFEST.in, their only list, has them."""
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()]
    return [ROOT / name for line in lines if line[0] in ("graft", "include") for name in line[1:]]


def build_core(cc, flags, folder):
    """Objects of the core, built in `folder` as `cc -O3 -c csrc/*.c` builds them."""
    sources = sorted(CSRC.glob("*.c"))
    run_well(cc, *flags, "-c", *sources, cwd=folder)
    return [folder / f"{path.stem}.o" for path in sources]


def clean_environment():
    """This process's environment without the variables that would let another Python import the package from here."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
