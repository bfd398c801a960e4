"""The C core as those use it who vendor csrc/: their compilers and flags, no Python, and the reference's bits."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from common import DRAWS, ISAS, VARIANTS

from fastopt._core import RULES

CSRC = Path(__file__).parents[1] / "csrc"
SOURCES = sorted(CSRC.glob("*.c"))
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
NATIVE = ["-O3", "-march=native"]
TYPES = {"f32": ("float", np.float32, "f"), "f64": ("double", np.float64, "")}
N = 37
STEPS = 3


def compiler(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} on the PATH: install it to check the C core with it")
    return path


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def build_core(cc, flags, folder):
    """Objects of the core, built in `folder` as `cc -O3 -c csrc/*.c` builds them."""
    run(cc, *flags, "-c", *SOURCES, cwd=folder)
    return [folder / f"{path.stem}.o" for path in SOURCES]


def literals(array, end):
    """The elements as C writes them, exactly."""
    return ", ".join(float(x).hex() + end for x in array.reshape(-1))


def case(number, variant, suffix):
    """A C function that takes some steps of one variant and says in how many buffers a bit is not the reference's."""
    (real, dtype, end), rule = TYPES[suffix], RULES[variant.rule]
    rng = np.random.default_rng(number)
    p, grads = rng.normal(size=N).astype(dtype), rng.normal(size=(STEPS, N)).astype(dtype)
    hypers = {name: float(DRAWS[name](rng)) for name in rule.hypers if name != "step"}
    final, states = p.copy(), [np.zeros_like(p) for _ in variant.states]
    for step, g in enumerate(grads, start=1):
        arguments = variant.arguments(hypers, step)
        variant.reference(final, g, states, arguments)
    values = {**hypers, **arguments, "step": "step"}
    call = ", ".join(
        [
            *(str(N), "p", f"g + {N} * (step - 1)"),
            *(name if name in variant.states else "NULL" for name in rule.states),
            *(str(values[name]) for name in rule.hypers),
            str(sum(bit for name, bit in rule.options.items() if variant.options[name])),
        ]
    )
    buffers = dict(zip(["p", *variant.states], [final, *states], strict=True))
    lines = [
        f"    static {real} p[] = {{{literals(p, end)}}};",
        f"    static const {real} g[] = {{{literals(grads, end)}}};",
        *(f"    static {real} {name}[{N}];" for name in variant.states),
        *(f"    static const {real} {name}_expected[] = {{{literals(x, end)}}};" for name, x in buffers.items()),
        f"    for (int step = 1; step <= {STEPS}; step++)",
        f"        if (fastopt_{variant.rule}_{suffix}({call}) != FASTOPT_OK)",
        "            return 1;",
        "    return "
        + "\n        + ".join(f"differs({name}, {name}_expected, sizeof {name})" for name in buffers)
        + ";",
    ]
    return "\n".join([f"static int case_{number}(void) /* {variant} {suffix} */", "{", *lines, "}", ""])


def program():
    """A C program that runs all cases and prints those that fail, then the instruction set in use."""
    names = [f"{variant} {suffix}" for variant in VARIANTS for suffix in TYPES]
    cases = [case(number, *each) for number, each in enumerate(itertools.product(VARIANTS, TYPES))]
    runs = [f'    if (case_{number}())\n        printf("{name} differs\\n");' for number, name in enumerate(names)]
    head = """#include "fastopt.h"
#include <stdio.h>
#include <string.h>

static int differs(const void *a, const void *b, size_t size) { return memcmp(a, b, size) != 0; }
"""
    main = ["int main(void)", "{", *runs, '    printf("%s", fastopt_isa());', "    return 0;", "}", ""]
    return "\n".join([head, *cases, *main])


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_it_compiles_without_a_warning(name, tmp_path):
    for flags in (["-O3"], NATIVE):
        build_core(compiler(name), [*flags, "-std=c11", *STRICT], tmp_path)


# -march=native brings fused multiply-add where the processor has it, and gcc contracts by default.
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        *itertools.product(["gcc", "clang"], [["-O3"], ["-O0"], NATIVE]),
        ("gcc", [*NATIVE, "-ffp-contract=fast", "-funsafe-math-optimizations"]),  # the sources switch them off
        ("clang", [*NATIVE, "-funsafe-math-optimizations"]),
    ],
)
def test_it_gives_the_bits_of_the_reference(name, flags, tmp_path):
    cc = compiler(name)
    if "-ffp-contract=fast" in flags and "clang" in run(cc, "--version"):
        pytest.skip("this gcc is clang, for which the header rules these flags out: put GCC first on the PATH")
    objects = build_core(cc, flags, tmp_path)
    (tmp_path / "main.c").write_text(program(), encoding="utf-8")
    run(cc, "-std=c11", *STRICT, "-I", CSRC, "-c", "main.c", cwd=tmp_path)
    run(cc, "main.o", *objects, "-o", "main", cwd=tmp_path)  # without -lm
    for isa in ISAS:
        assert run(tmp_path / "main", env={**os.environ, "FASTOPT_ISA": isa}) == isa


@pytest.mark.parametrize("flag", ["-ffast-math", "-ffinite-math-only"])
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_it_refuses_fast_math(name, flag, tmp_path):
    for source in SOURCES:
        command = [compiler(name), "-O3", flag, "-c", str(source)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "without -ffast-math and -ffinite-math-only" in done.stderr


@pytest.mark.parametrize("name", ["g++", "clang++"])
def test_cpp_takes_the_header_and_links(name, tmp_path):
    objects = build_core(compiler("cc"), ["-O3"], tmp_path)
    (tmp_path / "main.cpp").write_text(
        '#include "fastopt.h"\n#include <vector>\nint main()\n{\n'
        "    std::vector<float> p(3, 1.0f), g(3, 1.0f);\n"
        "    const int error = fastopt_momentum_f32(p.size(), p.data(), g.data(), std::vector<float>(3).data(),\n"
        "                                           0.5, 0.0, 0.0, 1.0, FASTOPT_MAXIMIZE);\n"
        "    return error != FASTOPT_OK || p[2] != 1.5f;\n}\n",
        encoding="utf-8",
    )
    run(compiler(name), "-std=c++17", *STRICT, "-I", CSRC, "main.cpp", *objects, "-o", "main", cwd=tmp_path)
    run(tmp_path / "main")


def test_every_symbol_it_adds_to_a_program_has_its_prefix(tmp_path):
    nm = compiler("nm")
    for built in build_core(compiler("cc"), ["-O3"], tmp_path):
        names = re.findall(r"^\w* ?[A-Z] (\w+)$", run(nm, "-g", "--defined-only", built), re.MULTILINE)
        assert names
        assert all(name.removeprefix("_").startswith("fastopt_") for name in names), names
