"""sdist and wheel: they hold what they should and nothing else, and the wheel works where there is only NumPy."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["bench", "csrc", "fastopt", "tests"]
FILES = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "setup.py",
]
COMPILED = ["_core", "clipping", "engine", "kernels"]

# What builds and runs leave in a working folder. The copy that is packed gets some of each, so that it is seen to stay
# behind.
LEFT_BEHIND = ["__pycache__", "*.py[cod]", "*.so", "*.o", "*.egg-info", "build", "dist"]
JUNK = [
    "fastopt/_core.c",
    "fastopt/_core.cpython-39-x86_64-linux-gnu.so",
    "fastopt/__pycache__/data.cpython-39.pyc",
    "csrc/fastopt.o",
    "build/lib/fastopt/data.py",
    "tests/__pycache__/common.cpython-39.pyc",
]


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def run_well(*command, **options):
    done = run(*command, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean_environment():
    """This process's environment without what would let another Python find the package in its sources."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the sources, and the names of its files."""
    copy = tmp_path_factory.mktemp("sources") / "fastopt"
    ignore = shutil.ignore_patterns(*LEFT_BEHIND)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    for name in JUNK:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"junk")
    return copy, names


@pytest.fixture(scope="module")
def archives(sources, tmp_path_factory):
    """sdist, and the wheel built from the sdist, each in an environment of the build's own making."""
    pytest.importorskip("build", reason="needs build: pip install 'fastopt[test]'")
    probe = ["-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--retries=0", "setuptools"]
    if run(sys.executable, *probe).returncode != 0:
        pytest.skip("needs pip and a package index that it reaches: this builds and installs in new environments")
    out = tmp_path_factory.mktemp("dist")
    run_well(sys.executable, "-m", "build", "--outdir", out, sources[0], env=clean_environment())
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def version():
    header = (ROOT / "csrc/fastopt.h").read_text(encoding="utf-8")
    return re.search(r'^#define FASTOPT_VERSION "(.+)"$', header, re.MULTILINE)[1]


@pytest.fixture(scope="module")
def metadata(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(wheel.read(name).decode())


def test_the_copy_has_what_the_build_and_the_contract_need(sources):
    _, names = sources
    assert {
        "csrc/rules.def",
        "csrc/rules/adam.h",
        "csrc/driver.c",
        "csrc/threads.c",
        "fastopt/py.typed",
        "tests/common.py",
    } <= names
    assert {f"fastopt/{name}.{suffix}" for name in COMPILED for suffix in ("pyx", "pyi")} <= names


def test_the_sdist_holds_the_sources_and_nothing_else(archives, sources, version):
    with tarfile.open(archives[0]) as sdist:
        names = {member.name for member in sdist.getmembers() if member.isfile()}
    top = f"fastopt-{version}/"
    assert all(name.startswith(top) for name in names)
    names = {name.removeprefix(top) for name in names}
    made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or name.startswith("fastopt.egg-info/")}
    assert names - made == sources[1]


def test_the_wheel_holds_the_package_and_nothing_else(archives, sources, version):
    with zipfile.ZipFile(archives[1]) as wheel:
        names = set(wheel.namelist())
    modules = {name for name in names if name.endswith(".so")}
    assert sorted(re.sub(r"\..*\.so$", "", name) for name in modules) == [f"fastopt/{name}" for name in COMPILED]
    info = {
        f"fastopt-{version}.dist-info/{name}"
        for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    }
    python = {name for name in sources[1] if re.fullmatch(r"fastopt/.*\.pyi?|fastopt/py\.typed", name)}
    assert names == modules | info | python


def test_metadata(metadata, version):
    assert metadata["Name"] == "fastopt"
    assert metadata["Version"] == version
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert [re.match(r"[\w-]+", line)[0] for line in needed] == ["numpy"]


# ---- The wheel, installed where there is nothing else. ----


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """Python of a new environment with the wheel, and an empty folder to run it in."""
    environment, elsewhere = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("elsewhere")
    run_well(sys.executable, "-m", "venv", environment)
    python = environment / "bin/python"
    env = clean_environment()
    run_well(python, "-m", "pip", "install", "--disable-pip-version-check", archives[1], cwd=elsewhere, env=env)

    def call(*arguments):
        return run(python, *arguments, cwd=elsewhere, env=env)

    call.python = python
    return call


def test_installing_brings_numpy_alone(installed):
    done = installed("-m", "pip", "list", "--disable-pip-version-check", "--format=freeze")
    names = {line.partition("==")[0] for line in done.stdout.split()}
    assert names - {"pip", "setuptools", "wheel"} == {"fastopt", "numpy"}


SMOKE = """
import sys
from pathlib import Path

import numpy as np

import fastopt

assert Path(fastopt.__file__).is_relative_to(sys.prefix), fastopt.__file__
assert fastopt.isa() in fastopt.available_isas()
rng = np.random.default_rng(0)
for isa in fastopt.available_isas():
    fastopt.use_isa(isa)
    for dtype in (np.float32, np.float64):
        w, grad = rng.normal(size=(2, 7, 11)).astype(dtype)
        expected, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
        opt = fastopt.Adam({"w": w}, lr=0.1)
        for step in (1, 2, 3):
            opt.step({"w": grad})
            fastopt.reference.adam(expected, grad, m, v, step=step, lr=0.1)
        assert w.tobytes() == expected.tobytes(), (isa, dtype)
fastopt.show_config()
"""


def test_the_wheel_gives_the_bits_of_the_reference(installed, version):
    done = installed("-W", "error", "-c", SMOKE)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^fastopt +{re.escape(version)}$", done.stdout, re.MULTILINE)


def test_the_command_line_of_the_wheel(installed, version):
    for done in (
        installed("-m", "fastopt", "--version"),
        run(installed.python.with_name("fastopt"), "--version", env=clean_environment()),
    ):
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"fastopt {version}"


def test_the_demo_says_what_it_needs(installed):
    done = installed("-m", "fastopt", "demo")
    assert done.returncode == 1
    assert 'pip install "fastopt[demo]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_type_checkers_find_the_types_of_the_wheel(installed, tmp_path):
    pytest.importorskip("mypy", reason="needs mypy: pip install 'fastopt[test]'")
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\nimport fastopt\nopt = fastopt.SGD(np.ones(3), lr=0.1)\nopt.lr = 'x'\n"
        "fastopt.kernels.sgd(np.ones(3), np.ones(3), lr='x')\n",
        encoding="utf-8",
    )
    env = {key: value for key, value in clean_environment().items() if not key.startswith("MYPY")}
    mypy = ["-m", "mypy", "--strict", "--config-file=", "--python-executable", installed.python]
    done = run(sys.executable, *mypy, program.name, cwd=tmp_path, env=env)
    errors = re.findall(r"^program\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert errors == [("4", "assignment"), ("5", "arg-type")], done.stdout + done.stderr
