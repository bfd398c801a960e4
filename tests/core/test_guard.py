"""No loop reads or writes an element outside its buffers: guard.c, also under the sanitizers and valgrind."""

import os
import re

import pytest
from commands import compiler, run, run_well
from common import VARIANTS

# Compiler, flags and K: the program runs every K-th case. The sanitizers stop at the first error.
ADDRESS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
INTEGER = ["-O1", "-g", "-fsanitize=integer,function", "-fno-sanitize-recover=all"]
TOOLS = [
    ("gcc", ["-O3"], 1),
    ("clang", ["-O3"], 3),
    ("gcc", ADDRESS, 11),
    ("clang", ADDRESS, 11),
    ("clang", INTEGER, 11),
]


def check(output):
    variants, cases = map(int, re.fullmatch(r"(\d+) variants, (\d+) cases: ok\n", output).groups())
    assert variants == len(VARIANTS)
    assert cases > 50_000
    return cases, "calls with every buffer between pages that must not be touched"


@pytest.mark.parametrize(
    ("name", "flags", "every"), [TOOLS[0], *(pytest.param(*tool, marks=pytest.mark.slow) for tool in TOOLS[1:])]
)
def test_no_access_outside_the_buffers(name, flags, every, build, tried):
    if os.environ.get("FASTOPT_COVERAGE"):  # counting lines is slow, and fewer cases run the same lines
        every = max(every, 11)
    tried(*check(run_well(build(name, flags, "guard.c"), every)))


@pytest.mark.slow
def test_no_access_outside_the_buffers_under_valgrind(build, tried):
    """valgrind has no AVX-512, and tells programs so: the loops of the other instruction sets run."""
    valgrind = compiler("valgrind")
    if run(valgrind, "-q", "true").returncode != 0:
        pytest.skip("valgrind does not run here: install libc6-dbg, or a valgrind that knows this processor")
    program = build("gcc", ["-O3"], "guard.c")
    tried(*check(run_well(valgrind, "-q", "--error-exitcode=1", program, 61)))
