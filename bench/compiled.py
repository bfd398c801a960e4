"""C compiled when the benchmark runs, for the very machine that it runs on."""

from __future__ import annotations

import ctypes
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"

# What setup.py builds the package with, and -march=native.
FLAGS = ["-std=c11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


def shared_library(source: str, name: str) -> ctypes.CDLL:
    """The C text `source` as a loaded library; headers of csrc/ are found."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    folder = Path(tempfile.mkdtemp(prefix="fastopt-bench-"))
    path, library = folder / f"{name}.c", folder / f"{name}.so"
    path.write_text(source)
    command = [*compiler, *FLAGS, "-fPIC", "-shared", "-pthread", f"-I{CSRC}", str(path), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(library))
