"""CMake and pkg-config find the core: in its sources, and in a folder to which an installed core was moved."""

import os
import re
import shutil

import pytest
from commands import CSRC, compiler
from commands import run_well as run

import fastopt

pytestmark = pytest.mark.slow

SOURCES = sorted(CSRC.glob("*.c"))
USE = '#include "fastopt.h"\n#include <stdio.h>\nint main(void)\n{\n    return puts(fastopt_version()) < 0;\n}\n'
PROJECT = """
cmake_minimum_required(VERSION 3.15)
project(use LANGUAGES C)
{find}
add_executable(use use.c)
target_link_libraries(use PRIVATE fastopt::fastopt)
"""


@pytest.fixture
def build(tmp_path):
    """Builds a program with CMake and returns what it prints."""
    cmake = compiler("cmake")

    def with_cmake(find, *options):
        (tmp_path / "use.c").write_text(USE, encoding="utf-8")
        (tmp_path / "CMakeLists.txt").write_text(PROJECT.format(find=find), encoding="utf-8")
        run(cmake, "-S", tmp_path, "-B", tmp_path / "build", *options)
        run(cmake, "--build", tmp_path / "build")
        return run(tmp_path / "build/use").strip()

    return with_cmake


@pytest.fixture(scope="module", params=["OFF", "ON"], ids=["static", "shared"])
def prefix(request, tmp_path_factory):
    """The folder of a core that CMake installed. It was moved afterwards, since no file may name the first folder."""
    cmake, folder = compiler("cmake"), tmp_path_factory.mktemp("installed")
    run(cmake, "-S", CSRC, "-B", folder / "build", f"-DBUILD_SHARED_LIBS={request.param}")
    run(cmake, "--build", folder / "build")
    run(cmake, "--install", folder / "build", "--prefix", folder / "first")
    shutil.rmtree(folder / "build")
    return (folder / "first").rename(folder / "moved")


def test_cmake_with_a_subdirectory(build):
    assert build(f"add_subdirectory({CSRC} core)") == fastopt.__version__


def test_cmake_finds_the_sources(build):
    assert build("find_package(fastopt 0.1 REQUIRED)", f"-Dfastopt_DIR={CSRC / 'cmake'}") == fastopt.__version__


def test_cmake_finds_the_installed_core(build, prefix):
    assert build("find_package(fastopt 0.1 REQUIRED)", f"-DCMAKE_PREFIX_PATH={prefix}") == fastopt.__version__


def incompatible_versions():
    """Later versions, which this one cannot replace."""
    major, minor = map(int, re.findall(r"\d+", fastopt.__version__)[:2])
    return f"{major}.{minor + 1}", f"{major + 1}.0"


@pytest.mark.parametrize("version", incompatible_versions())
def test_the_sources_are_not_taken_for_another_version(version, build):
    with pytest.raises(AssertionError, match=f'compatible with requested\\s+version "{version}"'):
        build(f"find_package(fastopt {version} REQUIRED)", f"-Dfastopt_DIR={CSRC / 'cmake'}")


@pytest.mark.parametrize("version", incompatible_versions())
def test_the_installed_core_is_not_taken_for_another_version(version, build, prefix):
    with pytest.raises(AssertionError, match=f'compatible with requested\\s+version "{version}"'):
        build(f"find_package(fastopt {version} REQUIRED)", f"-DCMAKE_PREFIX_PATH={prefix}")


def test_pkg_config_finds_the_installed_core(prefix, tmp_path):
    (folder,) = (path.parent for path in prefix.rglob("fastopt.pc"))
    env = {**os.environ, "PKG_CONFIG_PATH": str(folder)}
    tool = compiler("pkg-config")
    assert run(tool, "--modversion", "fastopt", env=env).strip() == fastopt.__version__
    flags = run(tool, "--cflags", "--libs", "--static", "fastopt", env=env).split()
    (tmp_path / "use.c").write_text(USE, encoding="utf-8")
    run(compiler("cc"), "use.c", *flags, f"-Wl,-rpath,{folder.parent}", "-o", "use", cwd=tmp_path)
    assert run(tmp_path / "use").strip() == fastopt.__version__


def test_the_pkg_config_file_in_the_sources_names_all_sources_and_the_version():
    text = (CSRC / "pkgconfig/fastopt.pc").read_text(encoding="utf-8")
    assert re.search(r"^Version: (.*)$", text, re.MULTILINE)[1] == fastopt.__version__
    named = re.search(r"^sources=(.*)$", text, re.MULTILINE)[1].split()
    assert named == [f"${{includedir}}/{path.name}" for path in SOURCES]
