import collections
import importlib
import os
import shutil
import sys

import hypothesis
import pytest
from commands import CSRC, ROOT, build_core, clean_environment, compiler, listed_in_manifest, run, run_well
from common import ISAS

import fastopt

# What builds and runs leave in a working folder. The copy of the sources that is packed gets some files of each kind
# (JUNK), so that the tests see that none of them gets into an archive.
LEFT_BEHIND = ["__pycache__", "*.py[cod]", "*.so", "*.o", "*.egg-info", "build", "dist"]
JUNK = [
    "fastopt/_engine.c",
    "fastopt/_engine.cpython-39-x86_64-linux-gnu.so",
    "fastopt/__pycache__/data.cpython-39.pyc",
    "csrc/fastopt.o",
    "build/lib/fastopt/_data.py",
    "tests/__pycache__/common.cpython-39.pyc",
]


# The profile of `make fuzz`: new sequences in each run, as many as FUZZ_EXAMPLES says.
hypothesis.settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "1000")),
    stateful_step_count=40,
    deadline=None,
    derandomize=False,
    suppress_health_check=list(hypothesis.HealthCheck),
    print_blob=True,
)


@pytest.fixture(params=ISAS)
def isa(request):
    """Each instruction set of this machine in turn."""
    before = fastopt.isa()
    fastopt.use_isa(request.param)
    yield request.param
    fastopt.use_isa(before)


@pytest.fixture
def tried(record_property):
    """A function of a count and a kind of cases: records how many a test has tried; the end of the run has the sums."""
    return lambda count, what: record_property(what, count)


def pytest_terminal_summary(terminalreporter):
    totals = collections.Counter()
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call":
            for what, count in report.user_properties:
                totals[what] += count
    if totals:
        terminalreporter.write_sep("=", "cases, all as they should be")
        for what, count in sorted(totals.items()):
            terminalreporter.write_line(f"{count:>11,} {what}")


@pytest.fixture(scope="session")
def tools():
    """The modules of tools/, which write what repeats the table of rules, by their names."""
    pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli", reason="needs tomli before Python 3.11")
    names = [path.stem for path in (ROOT / "tools").glob("*.py")]
    before, sys.path = sys.path, [str(ROOT / "tools"), *sys.path]
    try:
        return {name: importlib.import_module(name) for name in names}
    finally:
        sys.path = before
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A copy of the sources, and the names of its files."""
    copy = tmp_path_factory.mktemp("sources") / "fastopt"
    copy.mkdir()
    ignore = shutil.ignore_patterns(*LEFT_BEHIND)
    for path in listed_in_manifest():
        if path.is_dir():
            shutil.copytree(path, copy / path.name, ignore=ignore)
        else:
            shutil.copy(path, copy / path.name)
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    for name in JUNK:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"junk")
    return copy, names


@pytest.fixture(scope="session")
def archives(sources, tmp_path_factory):
    """The sdist, and the wheel built from the sdist, each built in an isolated environment."""
    pytest.importorskip("build", reason="needs build: pip install 'fastopt[test]'")
    if "FASTOPT_COVERAGE" in os.environ:
        pytest.skip("tests the wheel as it is released, without the counting of lines: unset FASTOPT_COVERAGE")
    probe = ["-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--retries=0", "setuptools"]
    if run(sys.executable, *probe).returncode != 0:
        pytest.skip("needs pip and a package index that pip can reach, to build and install in new environments")
    out = tmp_path_factory.mktemp("dist")
    run_well(sys.executable, "-m", "build", "--outdir", out, sources[0], env=clean_environment())
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Builds a C program of tests/core and links it with the core, which is built once for each set of flags."""
    cores = {}
    strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-pthread"]

    def build_program(name, flags, program, core=True):
        cc, folder, flags = compiler(name), tmp_path_factory.mktemp(name), (*strict, *flags)
        if name == "gcc" and "sanitize" not in str(flags) and os.environ.get("FASTOPT_COVERAGE"):
            flags += ("--coverage", "-fprofile-update=atomic")
        (folder / "empty.c").write_text("int main(void)\n{\n    return 0;\n}\n", encoding="utf-8")
        if run(cc, *flags, "empty.c", "-o", "empty", cwd=folder).returncode != 0:
            runtime = "libclang-rt-dev" if name == "clang" else "libasan, libubsan and libtsan"
            pytest.skip(f"{name} does not link with {' '.join(flags)}: install its sanitizers' libraries ({runtime})")
        if core and (cc, flags) not in cores:
            cores[cc, flags] = build_core(cc, flags, tmp_path_factory.mktemp("core"))
        objects = cores[cc, flags] if core else []
        inputs = ["-I", CSRC, ROOT / "tests/core" / program, *objects, "-lm"]
        run_well(cc, *flags, *inputs, "-o", "program", cwd=folder)
        return folder / "program"

    return build_program
