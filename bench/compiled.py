"""Compiles C and Cython when the benchmark runs, for the machine that it runs on."""

from __future__ import annotations

import ctypes
import importlib.util
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import fastopt

CSRC = Path(__file__).resolve().parent.parent / "csrc"

# The flags with which setup.py builds the package.
PACKAGE = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
FLAGS = [*PACKAGE, "-march=native"]


def shared_library(source: str, name: str, flags: Sequence[str] = FLAGS, others: Sequence[Path] = ()) -> ctypes.CDLL:
    """The C text `source`, and the files `others`, as a loaded library; headers of csrc/ are found."""
    return ctypes.CDLL(str(_compiled(source, name, [*flags, *map(str, others)])))


def extension_module(source: str, name: str, flags: Sequence[str] = PACKAGE) -> ModuleType:
    """The C text `source` as the imported Python module `name`; its symbols are hidden, as those of the package."""
    path = _compiled(source, name, [*flags, "-fvisibility=hidden", f"-I{sysconfig.get_path('include')}"])
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cython_module(source: str, name: str) -> ModuleType:
    """The Cython text `source` as the imported module `name`; `cimport`s from fastopt are found."""
    folder = _folder()
    path = folder / f"{name}.pyx"
    path.write_text(source)
    # An editable install is found by its import hook, of which Cython knows nothing.
    package = Path(fastopt.__file__).resolve().parent.parent
    _run([sys.executable, "-m", "cython", "-3", "-I", str(package), str(path)])
    return extension_module(path.with_suffix(".c").read_text(), name)


def _compiled(source: str, name: str, arguments: Sequence[str]) -> Path:
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    folder = _folder()
    path, library = folder / f"{name}.c", folder / f"{name}.so"
    path.write_text(source)
    _run([*compiler, "-fPIC", "-shared", "-pthread", f"-I{CSRC}", str(path), *arguments, "-o", str(library)])
    return library


_FOLDERS = tempfile.TemporaryDirectory(prefix="fastopt-bench-")  # deleted when the benchmark ends


def _folder() -> Path:
    return Path(tempfile.mkdtemp(dir=_FOLDERS.name))


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
