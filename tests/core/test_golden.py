"""golden.txt, hashes of the bits on every machine: the reference gives them, and so does the core on this machine."""

import itertools
import os
import re
import shutil

import pytest
from commands import CSRC, STRICT, compiler
from commands import run_well as run
from common import ISAS, Variant
from golden import GOLDEN, build, golden, rule_cases

from fastopt._rules import RULES

WITH_SUMS = "|".join(name for name, rule in RULES.items() if rule.sums)
LEVELS = ["-O0", "-O2", "-O3", "-O3 -march=native"]


def assert_golden(printed):
    found, expected = (text.splitlines() for text in (printed, GOLDEN.read_text(encoding="utf-8")))
    different = [pair for pair in itertools.zip_longest(found, expected) if pair[0] != pair[1]]
    words = "\n".join(f"  printed  {line}\n  expected {wanted}" for line, wanted in different[:5])
    assert not different, f"{len(different)} of {len(expected)} lines differ, the first of them:\n{words}"
    return len(expected), "golden hashes, printed by the C core as the reference gives them"


def test_the_reference_gives_golden_txt():
    """After adding a case run `python tests/core/golden.py`. A changed old line breaks the promise of equal bits."""
    assert_golden(golden())


@pytest.mark.parametrize(("name", "exact"), [("plain", False), ("wild", False), ("nonfinite", False), ("wild", True)])
def test_the_kernels_give_the_hashes_of_golden_txt(name, exact, isa):
    lines = rule_cases(name, Variant.kernel, exact=exact)
    assert lines
    assert {*lines} <= {*GOLDEN.read_text(encoding="utf-8").splitlines()}


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        pytest.param(*each, marks=[] if each == ("gcc", "-O2") else pytest.mark.slow)
        for each in itertools.product(["gcc", "clang"], LEVELS)
    ],
)
def test_the_core_prints_golden_txt(name, flags, tmp_path, tried):
    program = build([compiler(name), "-std=c11", *flags.split(), *STRICT], tmp_path)
    for isa in ISAS:
        tried(*assert_golden(run(program, env={**os.environ, "FASTOPT_ISA": isa})))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "good", "bad", "changed"),
    [
        (
            "rules/momentum.h",
            "c.scale * g[i] + c.decay * p[i]",
            "c.scale * (g[i] + c.decay * p[i])",
            "momentum|model|layouts 19 momentum",
        ),
        ("rules/rmsprop.h", "u < 0 ? 0 : u", "u > 0 ? u : 0", "rmsprop|model|layouts 19 rmsprop"),  # NaN would become 0
        (
            "norm_template.h",
            "sums[j] += x * x;\n        }",
            "sums[j ^ 1] += x * x;\n        }",
            f"norm|model|layouts|all|{WITH_SUMS}",
        ),
        ("norm.c", "max_norm / (norm + 1e-6); /*", "max_norm / norm; /*", "norm|model|layouts|all"),
        (
            "storage/f16.h",
            "rest + 0xfffu",
            "rest + 0x1000u",
            "all of f16|norm layouts f16",
        ),
        ("storage/bf16.h", "bits + 0x7fffu", "bits + 0x7f00u", "all of bf16|norm layouts bf16"),
        ("staging.c", "index[d] += steps;", "index[d] += 1;", "layouts|norm layouts"),
        (
            "layout.c",
            "    if (!ordered)\n        sort_axes(it);",
            "    sort_axes(it);",
            ".*layouts",
        ),
        ("step.c", "plan->staged ? factor : 1.0", "plan->staged ? (float)factor : 1.0", r"\w+_f32|model|layouts"),
    ],
)
def test_another_arithmetic_changes_the_hashes_of_its_cases_alone(file, good, bad, changed, tmp_path):
    csrc = tmp_path / "csrc"
    shutil.copytree(CSRC, csrc)
    text = (csrc / file).read_text(encoding="utf-8")
    assert good in text
    (csrc / file).write_text(text.replace(good, bad), encoding="utf-8")
    lines = run(build([compiler("cc"), "-O2"], tmp_path, csrc=csrc)).splitlines()
    different = [
        found
        for found, line in zip(lines, GOLDEN.read_text(encoding="utf-8").splitlines(), strict=True)
        if found != line
    ]
    assert different
    assert all(re.match(changed, line) for line in different)
