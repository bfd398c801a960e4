"""The core on processors that this machine does not have: cross-compiled and run under qemu, it prints golden.txt.

Where a tool is missing a test is skipped; under `make test-arch` (FASTOPT_TEST_ARCH=1) it fails and names the packages.
"""

import os
import platform
import re
import shutil
import sys

import pytest
from commands import ROOT, STRICT, run_well
from common import VARIANTS
from golden import build
from test_golden import assert_golden

pytestmark = pytest.mark.slow

# The emulators and compilers, and the Debian packages that have them.
TOOLS = {
    "qemu-x86_64": ["qemu-user"],
    "qemu-aarch64": ["qemu-user"],
    "qemu-riscv64": ["qemu-user"],
    "qemu-s390x": ["qemu-user"],
    "gcc": ["gcc", "libc6-dev"],
    "clang": ["clang"],
    "aarch64-linux-gnu-gcc": ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    "riscv64-linux-gnu-gcc": ["gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross"],
    "s390x-linux-gnu-gcc": ["gcc-s390x-linux-gnu", "libc6-dev-s390x-cross"],
}


def works(tool):
    """Whether a tool is installed; a cross compiler needs its C library, too."""
    if not shutil.which(tool):
        return False
    return "gcc" not in tool or "/" in run_well(tool, "-print-file-name=libc.a")


def need(*tools):
    if all(map(works, tools)):
        return
    missing = [tool for tool in TOOLS if not works(tool)]
    packages = sorted({package for tool in missing for package in TOOLS[tool]})
    words = f"needs {', '.join(missing)}: apt-get install --no-install-recommends {' '.join(packages)}"
    (pytest.fail if os.environ.get("FASTOPT_TEST_ARCH") else pytest.skip)(words)


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """golden.c, built once for each command."""
    built = {}

    def get(command):
        if command not in built:
            built[command] = build([*command.split(), "-static", *STRICT], tmp_path_factory.mktemp("arch"))
        return built[command]

    return get


# For each build its compiler and flags, what the disassembly must show (NEON, SVE and vector arithmetic that the flags
# ask for, so that no run is of plain code by mistake), and the emulated processors that run it. For all of these but
# x86-64, compilers may use fused multiply-add without a flag.
AARCH64, RISCV64, S390X = "aarch64-linux-gnu-gcc", "riscv64-linux-gnu-gcc", "s390x-linux-gnu-gcc"
LENGTHS = [f"qemu-aarch64 -cpu max,sve{bits}=on" for bits in (128, 256, 512, 2048)]
NEON, SVE = r"f(mul|sqrt)\s+v\d+\.(4s|2d)", r"f(mul|sqrt)\s+z\d+\.[sd]"
BUILDS = [
    (f"{AARCH64} -std=c11 -O3", NEON, ["qemu-aarch64 -cpu cortex-a53"]),
    (f"{AARCH64} -std=c11 -O3 -march=armv8-a+sve", SVE, LENGTHS),
    ("clang --target=aarch64-linux-gnu -O3", NEON, ["qemu-aarch64 -cpu cortex-a53"]),
    ("clang --target=aarch64-linux-gnu -O3 -march=armv8-a+sve", SVE, LENGTHS),
    (f"{RISCV64} -std=c11 -O3", r"f(mul|sqrt)\.[sd]", ["qemu-riscv64"]),
    (f"{S390X} -std=c11 -O3", r"(mee|md|sqe|sqd)br?\s", ["qemu-s390x"]),
    (f"{S390X} -std=c11 -O3 -march=z14", r"vf(m|sq)[sd]b\s", ["qemu-s390x -cpu max"]),
    ("gcc -std=c11 -O3", r"(mul|sqrt)p[sd]\s", ["qemu-x86_64 -cpu Nehalem", "qemu-x86_64 -cpu Opteron_G1"]),
    ("clang -std=c11 -O3", r"(mul|sqrt)p[sd]\s", ["qemu-x86_64 -cpu Opteron_G1"]),
]
CROSS_COMPILER = {"aarch64": AARCH64, "riscv64": RISCV64, "s390x": S390X}
x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="is for x86-64")


@pytest.mark.parametrize(
    ("command", "shows", "machine"),
    [
        pytest.param(command, shows, machine, marks=[x86] if "x86_64" in machine else [], id=f"{command} | {machine}")
        for command, shows, machines in BUILDS
        for machine in machines
    ],
)
def test_the_core_prints_golden_txt_under_qemu(command, shows, machine, program, tried):
    emulator, *options = machine.split()
    cross = CROSS_COMPILER.get(emulator.removeprefix("qemu-"), "gcc")
    need(command.split()[0], cross, emulator)  # clang takes the C library from gcc
    path = program(command)
    listing = run_well(cross.replace("gcc", "objdump"), "-d", "--no-show-raw-insn", path)
    for loop in ("adam_f32_baseline", "adam_f64_baseline"):
        assert re.search(rf"<{loop}>:\n(.+\n)*?.*\t{shows}", listing), f"{loop} has no {shows}"
    count, what = assert_golden(run_well(emulator, *options, path))
    tried(count, what.replace("core", "core under qemu"))


# Checks the kernels against golden.txt, and that `available_isas()` finds the baseline alone.
PYTHON = """
import sys
sys.path[:0] = ["tests", "tests/core"]
from common import Variant
from golden import GOLDEN, rule_cases
import fastopt
assert fastopt.available_isas() == ("baseline",) == (fastopt.isa(),), fastopt.isa()
lines = rule_cases("wild", Variant.kernel)
assert lines and {*lines} <= {*GOLDEN.read_text(encoding="utf-8").splitlines()}
print(len(lines))
"""


@x86
def test_python_on_a_processor_without_avx():
    """Nehalem is the oldest processor that NumPy's wheels support. `make test-nehalem` runs much of the suite there."""
    need("qemu-x86_64")
    environment = {key: value for key, value in os.environ.items() if key != "FASTOPT_ISA"}
    printed = run_well("qemu-x86_64", "-cpu", "Nehalem", sys.executable, "-c", PYTHON, cwd=ROOT, env=environment)
    assert int(printed) == 2 * len(VARIANTS)
