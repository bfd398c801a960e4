"""Builds the compiled modules. Everything else about the package is in pyproject.toml."""

import os
import re
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

header = Path("csrc/fastopt.h").read_text(encoding="utf-8")
version = ".".join(re.findall(r"^#define FASTOPT_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", header, re.MULTILINE))

# The flags for the same bits everywhere (no contraction) and for vectorization. The sources set the same by pragma, for
# projects that vendor csrc/; the flags also reach compilers that ignore the pragmas.
cflags = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
if sys.platform == "win32":
    raise SystemExit("fastopt builds with gcc or clang on Linux and macOS; Windows is not supported yet")

# `make coverage` counts the lines of Cython and C that a run executes. The generated C files then lie beside the .pyx
# files, where Cython's plugin for coverage.py looks for them.
coverage = bool(os.environ.get("FASTOPT_COVERAGE"))
if coverage:
    cflags = [*cflags, "-O0", "--coverage", "-fprofile-update=atomic"]


# The compiled modules besides `capi`, from the bottom up.
MODULES = [
    "_boundary",
    "_rules",
    "_runtime",
    "_memory",
    "_kernel",
    "kernels",
    "memoryviews",
    "_buffers",
    "_groups",
    "_engine",
    "_clipping",
]
INTERFACE = ("fastopt.h", "fastopt_capi.h", "fastopt_rules.h")


def extension(name, sources=()):
    return Extension(
        f"fastopt.{name}",
        [f"fastopt/{name}.pyx", *sources],
        include_dirs=["csrc", numpy.get_include()],
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
            ("FASTOPT_CFLAGS", f'"{" ".join(cflags)}"'),
            ("FASTOPT_NAMESPACE", "py_"),  # so that a program can load this core beside its own copy
            *([("CYTHON_TRACE_NOGIL", "1")] if coverage else []),
        ],
        # Modules other than `capi` depend on the core's interface alone.
        depends=[str(path) for path in Path("csrc").rglob("*.h") if sources or path.name in INTERFACE],
        extra_compile_args=cflags,
        extra_link_args=["-pthread", *(["--coverage"] if coverage else [])],
    )


setup(
    version=version,
    ext_modules=cythonize(
        [
            extension("capi", sorted(str(path) for path in Path("csrc").glob("*.c"))),
            *map(extension, MODULES),
        ],
        build_dir=None if coverage else "build/cython",
        compiler_directives={"linetrace": coverage},
    ),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
