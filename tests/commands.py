"""How the tests run other programs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

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


CSRC = Path(__file__).parents[1] / "csrc"
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]


def build(name, flags, program, folder, sources=tuple(sorted(CSRC.glob("*.c")))):
    """A C program of this folder, linked with the core; the flags may ask for sanitizers."""
    cc, flags = compiler(name), ["-std=c11", *STRICT, *flags]
    if name == "gcc" and not any("sanitize" in flag for flag in flags) and os.environ.get("FASTOPT_COVERAGE"):
        flags += ["--coverage", "-fprofile-update=atomic"]  # for `make coverage`
    (folder / "empty.c").write_text("int main(void)\n{\n    return 0;\n}\n", encoding="utf-8")
    if run(cc, *flags, "empty.c", "-o", "empty", cwd=folder).returncode != 0:
        runtime = "libclang-rt-dev" if "clang" in name else "libasan, libubsan and libtsan"
        pytest.skip(f"{name} has no {' '.join(flags[-2:])}: install its sanitizers' libraries ({runtime})")
    sources = [Path(__file__).with_name(program), *sources]
    run_well(cc, *flags, "-I", CSRC, "-c", *sources, cwd=folder)
    run_well(cc, *flags, *(f"{source.stem}.o" for source in sources), "-pthread", "-o", "program", cwd=folder)
    return folder / "program"
