"""Every loop has vector instructions, and none has fused multiply-add: read from the disassembly."""

import itertools
import os
import platform
import re
import shutil
import subprocess
from collections import defaultdict

import pytest
from commands import CSRC

from fastopt import capi
from fastopt._rules import RULES

COMPILERS = [compiler for compiler in ("gcc", "clang") if shutil.which(compiler)]
WIDTHS = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}

pytestmark = [
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64"),
        reason="reads x86-64 assembly; on other machines compare speed with `make bench`",
    ),
    pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump: install binutils"),
]


class Function:
    """The instructions of one function, and its loops: what lies between a backward jump and its target."""

    def __init__(self):
        self.code = []  # (address, text)

    @property
    def loops(self):
        found = []
        for address, text in self.code:
            if jump := re.match(r"j\w+\s+([0-9a-f]+) ", text):
                target = int(jump[1], 16)
                if self.code[0][0] <= target <= address:
                    found.append([t for a, t in self.code if target <= a <= address])
        return found


def disassemble(path):
    """{name: Function} of a file; the parts that gcc splits off a function (`.cold` and the like) have other names."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True
    ).stdout
    functions, current = defaultdict(Function), None
    for line in listing.splitlines():
        if header := re.match(r"[0-9a-f]+ <([^>]+)>:", line):
            current = header[1]
        elif instruction := re.match(r"\s+([0-9a-f]+):\t(.+)", line):
            functions[current].code.append((int(instruction[1], 16), instruction[2]))
    return functions


def packed(loop, operation, width):
    return any(re.match(rf"v?{operation}p[sd]\s", text) and f"%{width}" in text for text in loop)


def in_source(rule):
    """From a rule's source: the rule whose loop it runs, the number of variants of that, and whether it takes roots."""
    source = (CSRC / "rules" / f"{rule}.h").read_text()
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    if variants := len(re.findall(rf"T\({rule}_loop\)\(n,", code)):
        return rule, variants, "real_sqrt" in code
    return in_source(re.search(r"T\((\w+)\)\(n,", code)[1])  # it calls another rule, as adamw does adam


def problems(functions):
    """Descriptions of all that is wrong with the loops of a built core."""
    found = []
    for rule in RULES:
        owner, variants, roots = in_source(rule)
        for kind, (isa, width) in itertools.product(("f32", "f64"), WIDTHS.items()):
            name = f"{rule}_{kind}_{isa}"
            if name not in functions:
                found.append(f"{name} is missing")
                continue
            # Another rule's loops are inlined here, or jumped to.
            loops = functions[name].loops or functions[f"{owner}_{kind}_{isa}"].loops
            wide = [loop for loop in loops if packed(loop, "mul", width)]
            if len(wide) < variants:
                found.append(f"{name}: {len(wide)} of {variants} loops multiply in %{width}")
            deep = [loop for loop in wide if packed(loop, "sqrt", width) and packed(loop, "div", width)]
            if roots and len(deep) < variants:
                found.append(f"{name}: {len(deep)} of {variants} loops divide and take roots in %{width}")
    return found + narrow(functions) + fused(functions)


def narrow(functions):
    """What is wrong with the other loops than the rules': the norm, the scaling of gradients, and stored types."""
    found = []
    for kind, (isa, width) in itertools.product(("f32", "f64"), WIDTHS.items()):
        for job in ("sum_squares", "multiply", *(f"unpack_{stored}" for stored in ("f32", "f64", "f16", "bf16"))):
            loops = functions[f"{job}_{kind}_{isa}"].loops
            wide = [loop for loop in loops if any(f"%{width}" in text for text in loop)]
            if not wide or ("unpack" not in job and not any(packed(loop, "mul", width) for loop in wide)):
                found.append(f"{job}_{kind}_{isa}: no loop in %{width}")
    return found


def fused(functions):
    return [
        f"{name}: {text}"
        for name, function in functions.items()
        for _, text in function.code
        if re.match(r"vf(n?m(add|sub)|maddsub|msubadd)", text)
    ]


@pytest.mark.skipif(
    "FASTOPT_COVERAGE" in os.environ, reason="built to count lines, not for speed: unset FASTOPT_COVERAGE"
)
def test_the_loops_of_the_installed_package():
    functions = disassemble(capi.__file__)
    if not any(name and name.endswith("_baseline") for name in functions):
        pytest.skip(f"{capi.__file__} is stripped of its symbols; build it without `-s`")
    assert problems(functions) == []


def build(tmp_path, compiler, *flags, csrc=CSRC):
    out = tmp_path / "fastopt.o"
    return out, subprocess.run(
        [compiler, *flags, "-c", str(csrc / "dispatch.c"), "-o", str(out)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("level", ["-O2", "-O3"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_loops_of_an_embedders_build(tmp_path, compiler, level):
    """`cc -O3 -c` without special flags: the sources bring their own."""
    out, result = build(tmp_path, compiler, level)
    assert result.returncode == 0, result.stderr
    assert problems(disassemble(out)) == []


HOSTILE = {
    "gcc": ["-march=native", "-march=x86-64-v3 -ffp-contract=fast -funsafe-math-optimizations"],
    "clang": ["-march=native", "-march=x86-64-v3"],  # -ffp-contract=fast beats clang's pragma: fastopt.h says so
}


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "flags"), [(c, flags) for c in COMPILERS for flags in HOSTILE[c]])
def test_no_fused_multiply_add_where_the_flags_invite_it(tmp_path, compiler, flags):
    out, result = build(tmp_path, compiler, "-O3", *flags.split())
    assert result.returncode == 0, result.stderr
    assert fused(disassemble(out)) == []


@pytest.mark.parametrize("flag", ["-ffast-math", "-ffinite-math-only"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_dispatch_c_refuses_fast_math(tmp_path, compiler, flag):
    _, result = build(tmp_path, compiler, "-O3", flag)
    assert result.returncode != 0
    assert "without -ffast-math" in result.stderr


# ---- No instruction outside the functions of its own set. ----

# Instructions that not every x86-64 has and that compilers choose by themselves: VEX and EVEX instructions, which begin
# with a v, and those for integers that came with AVX2. (tzcnt is missing here: older processors run it as bsf.)
WIDE = re.compile(r"v(?!er[rw])|k\w+\s+%k|.*%[yz]mm")
WHOLE = re.compile(r"andn\s|bextr|bls[imr]|bzhi|mulx|pdep|pext[lq]?\s|rorx|s[ah][lr]x|lzcnt|popcnt|movbe|adcx|adox")
AVX512 = re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|%k[0-7]\b")


def leaked(functions):
    found = []
    for name, function in functions.items():
        own = re.search(r"_(avx2|avx512)(\.|$)", name)  # also of parts that gcc split off: adam_f32_avx2.cold
        for _, text in function.code:
            if not own and (WIDE.match(text) or WHOLE.match(text)):
                found.append(f"{name}: {text}")
            if own and own[1] == "avx2" and AVX512.search(text):
                found.append(f"{name}: {text}")
    return found


def objects(tmp_path, compiler, *flags):
    """{function: Function} of the whole core."""
    functions = {}
    for source in sorted(CSRC.glob("*.c")):
        out = tmp_path / f"{source.stem}.o"
        subprocess.run([compiler, *flags, "-c", str(source), "-o", str(out)], check=True)
        functions |= disassemble(out)
    return functions


@pytest.mark.slow
@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_instruction_outside_the_functions_of_its_set(tmp_path, compiler, level):
    functions = objects(tmp_path, compiler, level)
    assert {"fastopt_step", "fastopt_adam_f32", "adam_f32_avx2", "adam_f32_avx512"} <= {*functions}
    assert leaked(functions) == []


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "words"), [("-mavx", "fastopt_step: v"), ("-mavx512vl", "_avx2: .*%k")])
@pytest.mark.parametrize("compiler", COMPILERS[:1])
def test_an_instruction_outside_the_functions_of_its_set_is_found(tmp_path, compiler, flags, words):
    assert any(re.search(words, problem) for problem in leaked(objects(tmp_path, compiler, "-O3", flags)))


# ---- The check of the loops can fail. ----

SABOTAGE = {
    "contraction": ("compiler.h", '"fp-contract=off", ', "", ["-march=x86-64-v3"], "vfn?m"),
    "roots with errno": ("compiler.h", "float sqrtf(float) __attribute__((const));", "", [], "divide and take roots"),
    "halves one by one": (
        "storage/f16.h",
        "    const uint32_t finite = fastopt_bits_of(",
        '    __asm__ volatile("");\n    const uint32_t finite = fastopt_bits_of(',
        [],
        "unpack_f16_f32_avx2: no loop in %ymm",
    ),
    "a loop that cannot vectorize": (
        "rules/sgd.h",
        "const real bi = c.momentum * b[i] + c.rest * gi;",
        "const real bi = c.momentum * (i ? b[i - 1] : 0) + c.rest * gi;",
        [],
        r"sgd_f32_avx2: 1 of 3 loops multiply in %ymm",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", SABOTAGE.values(), ids=SABOTAGE)
def test_a_spoiled_loop_is_found(tmp_path, sabotage):
    if "gcc" not in COMPILERS:
        pytest.skip("the sabotage is written for gcc: install it")
    file, good, bad, flags, words = sabotage
    copy = tmp_path / "csrc"
    shutil.copytree(CSRC, copy)
    text = (copy / file).read_text()
    assert good in text
    (copy / file).write_text(text.replace(good, bad))
    out, result = build(tmp_path, "gcc", "-O3", *flags, csrc=copy)
    assert result.returncode == 0, result.stderr
    assert any(re.search(words, problem) for problem in problems(disassemble(out)))
