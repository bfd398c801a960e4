"""The C core as those use it who vendor csrc/: their compilers and flags, no Python, and the reference's bits."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from common import ISAS

from fastopt import reference
from fastopt._core import RULES

CSRC = Path(__file__).parents[1] / "csrc"
SOURCES = sorted(CSRC.glob("*.c"))
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
NATIVE = ["-O3", "-march=native"]
TYPES = {"f32": ("float", np.float32), "f64": ("double", np.float64)}
N = 37
STEPS = 3

# For each hyperparameter a value that is no round number in float or double.
VALUES = {
    "lr": 0.0123,
    "momentum": 0.87,
    "dampening": 0.13,
    "lr_decay": 0.011,
    "rho": 0.93,
    "alpha": 0.97,
    "beta1": 0.88,
    "beta2": 0.991,
    "eps": 1.3e-7,
    "weight_decay": 0.017,
    "grad_scale": 0.71,
}


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


def cases():
    """For each rule and type: parameters, gradients of all steps, and what the reference makes of them."""
    rng = np.random.default_rng(20)
    for name, rule in RULES.items():
        for suffix, (_, dtype) in TYPES.items():
            p = rng.normal(size=N).astype(dtype)
            grads = rng.normal(size=(STEPS, N)).astype(dtype)
            final = p.copy()
            states = {state: np.zeros_like(p) for state in rule.states}
            values = {hyper: VALUES[hyper] for hyper in rule.hypers if hyper != "step"}
            if "beta1" in values:
                values["betas"] = (values.pop("beta1"), values.pop("beta2"))
            for step, g in enumerate(grads, start=1):
                counted = {"step": step} if "step" in rule.hypers else {}
                getattr(reference, name)(final, g, **states, **values, **counted)
            yield name, suffix, p, grads, [final, *states.values()]


def literals(array, suffix):
    """The elements as C writes them, exactly."""
    end = "f" if suffix == "f32" else ""
    return ", ".join(float(x).hex() + end for x in array.reshape(-1))


def program():
    """A C program that steps every rule in both types and compares each bit with the reference's."""
    blocks = []
    for name, suffix, p, grads, buffers in cases():
        real, rule = TYPES[suffix][0], RULES[name]
        states = ["p", *rule.states]
        hypers = ", ".join("step" if hyper == "step" else repr(VALUES[hyper]) for hyper in rule.hypers)
        lines = [
            f"static int run_{name}_{suffix}(void)",
            "{",
            f"    static {real} p[] = {{{literals(p, suffix)}}};",
            f"    static const {real} g[] = {{{literals(grads, suffix)}}};",
            *(f"    static {real} {state}[{N}];" for state in rule.states),
            *(
                f"    static const {real} {state}_expected[] = {{{literals(buffer, suffix)}}};"
                for state, buffer in zip(states, buffers, strict=True)
            ),
            f"    for (int step = 1; step <= {STEPS}; step++)",
            f"        if (fastopt_{name}_{suffix}({N}, p, g + {N} * (step - 1), {', '.join(rule.states)}, {hypers}, 0))",
            '            return printf("an error\\n"), 1;',
            "    return 0"
            + "".join(f"\n        | differs({state}, {state}_expected, sizeof {state})" for state in states)
            + ";",
            "}",
        ]
        blocks.append((f"run_{name}_{suffix}", "\n".join(lines)))
    main = "\n".join(
        f'    if ({function}()) {{ printf("{function} differs\\n"); failed = 1; }}' for function, _ in blocks
    )
    return "\n\n".join(
        [
            '#include "fastopt.h"\n#include <stdio.h>\n#include <string.h>',
            "static int differs(const void *a, const void *b, size_t size) { return memcmp(a, b, size) != 0; }",
            *(text for _, text in blocks),
            f'int main(void)\n{{\n    int failed = 0;\n{main}\n    printf("%s", fastopt_isa());\n'
            "    return failed;\n}\n",
        ]
    )


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_it_compiles_without_a_warning(name, tmp_path):
    for flags in (["-O3"], NATIVE):
        build_core(compiler(name), [*flags, "-std=c11", *STRICT], tmp_path)


# -march=native brings fused multiply-add where the processor has it, and gcc contracts by default.
@pytest.mark.parametrize("flags", [["-O3"], ["-O0"], NATIVE], ids=" ".join)
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_it_gives_the_bits_of_the_reference(name, flags, tmp_path):
    cc = compiler(name)
    objects = build_core(cc, flags, tmp_path)
    (tmp_path / "main.c").write_text(program(), encoding="utf-8")
    run(cc, "-std=c11", *STRICT, "-I", CSRC, "-c", "main.c", cwd=tmp_path)
    run(cc, "main.o", *objects, "-o", "main", cwd=tmp_path)  # without -lm
    for isa in ISAS:
        assert run(tmp_path / "main", env={**os.environ, "FASTOPT_ISA": isa}) == isa


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_it_refuses_fast_math(name, tmp_path):
    for source in SOURCES:
        command = [compiler(name), "-O3", "-ffast-math", "-c", str(source)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "-ffast-math" in done.stderr


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
