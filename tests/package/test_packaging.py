"""sdist and wheel have the right files and no others, and the wheel works in an environment with NumPy alone."""

import re
import sys
import tarfile
import zipfile
from email.parser import HeaderParser

import pytest
from commands import ROOT, clean_environment, listed_in_manifest, run, run_well

pytestmark = pytest.mark.slow

COMPILED = sorted(path.stem for path in (ROOT / "fastopt").glob("*.pyx"))


@pytest.fixture(scope="module")
def version():
    header = (ROOT / "csrc/fastopt.h").read_text(encoding="utf-8")
    numbers = dict(re.findall(r"^#define FASTOPT_VERSION_([A-Z]+) (\d+)$", header, re.MULTILINE))
    return ".".join(numbers[part] for part in ("MAJOR", "MINOR", "PATCH"))


@pytest.fixture(scope="module")
def metadata(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(wheel.read(name).decode())


def test_the_copy_has_what_the_build_and_the_contract_need(sources):
    _, names = sources
    assert {
        "csrc/rules.toml",
        "csrc/rules/adam.h",
        "csrc/step.c",
        "csrc/threads.c",
        "csrc/fastopt_capi.h",
        "csrc/CMakeLists.txt",
        "csrc/pkgconfig/fastopt.pc",
        "fastopt/capi.pxd",
        "examples/c/train.c",
        "fastopt/py.typed",
        "tests/common.py",
    } <= names
    assert {f"fastopt/{name}.{suffix}" for name in COMPILED for suffix in ("pyx", "pyi")} <= names


def test_the_manifest_lists_all_that_git_tracks():
    """The test also runs in an unpacked sdist, which has no repository: there it is skipped."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository")
    tracked = run_well("git", "ls-files", "-z", cwd=ROOT).split("\0")
    top = {name.partition("/")[0] for name in tracked if not name.startswith(".")} - {""}
    assert top == {path.name for path in listed_in_manifest()}


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
    python = {name for name in sources[1] if re.fullmatch(r"fastopt/.*\.(pyi?|pxd)|fastopt/py\.typed", name)}
    core = {f"fastopt/{name}" for name in sources[1] if name.startswith("csrc/") and "amalgamation" not in name}
    assert names == modules | info | python | core


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


# ---- The wheel, installed in an empty environment. ----


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """Runs the Python of a new environment that has the wheel, in an empty folder."""
    environment, elsewhere = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("elsewhere")
    run_well(sys.executable, "-m", "venv", environment)
    python = environment / "bin/python"
    env = clean_environment()
    run_well(python, "-m", "pip", "install", "--disable-pip-version-check", archives[1], cwd=elsewhere, env=env)

    def call(*arguments):
        return run(python, *arguments, cwd=elsewhere, env=env)

    call.python = python
    return call


def test_installing_the_wheel_installs_numpy_alone(installed):
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


def test_the_demo_names_the_extra_that_it_needs(installed):
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
