"""The choice of the instruction set: by the machine, by the environment, and by `use_isa`."""

import os
import subprocess
import sys

import pytest

import fastopt

ISAS = fastopt.available_isas()


def python(code, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_the_widest_instruction_set_is_the_default():
    clean = {key: value for key, value in os.environ.items() if key != "FASTOPT_ISA"}
    code = "import fastopt; print(fastopt.isa(), fastopt.available_isas()[-1])"
    found = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [ISAS[-1]] * 2
    assert ISAS[0] == "baseline"
    assert len(set(ISAS)) == len(ISAS)


@pytest.mark.parametrize("name", ISAS)
def test_the_environment_chooses_the_instruction_set(name):
    found = python(
        "import fastopt; print(fastopt.isa(), fastopt.show_config('dicts')['instruction set'])", FASTOPT_ISA=name
    )
    assert found.stdout.split() == [name, name], found.stderr


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "neon", " ", "baseline "])
def test_a_wrong_name_in_the_environment_is_an_error(name):
    found = python("import fastopt; print('imported')", FASTOPT_ISA=name)
    assert found.returncode == 1
    assert "imported" not in found.stdout
    assert f"ValueError: the environment variable FASTOPT_ISA is {name!r}" in found.stderr
    assert "baseline" in found.stderr


def test_an_empty_environment_variable_is_ignored():
    assert python("import fastopt; print(fastopt.isa())", FASTOPT_ISA="").stdout.strip() == ISAS[-1]


@pytest.mark.skipif(len(ISAS) == 3 or sys.platform != "linux", reason="this machine has every instruction set")
def test_an_unsupported_instruction_set_in_the_environment_is_an_error():
    assert python("import fastopt", FASTOPT_ISA="avx512").returncode == 1


def test_use_isa():
    before = fastopt.isa()
    try:
        for name in ISAS:
            assert fastopt.use_isa(name) is None
            assert fastopt.isa() == name
        for bad in ("avx1024", "", "Baseline"):
            with pytest.raises(ValueError, match="name must be one of baseline"):
                fastopt.use_isa(bad)
        with pytest.raises(TypeError, match="name must be a str"):
            fastopt.use_isa(None)
        assert fastopt.isa() == ISAS[-1]
    finally:
        fastopt.use_isa(before)


def test_show_config(capsys):
    table = fastopt.show_config("dicts")
    assert table["fastopt"] == fastopt.__version__
    assert table["available"].split(", ") == list(ISAS)
    assert table["instruction set"] == fastopt.isa()
    assert "-ffp-contract=off" in table["flags"]
    assert table["compiler"].split()[0] in ("gcc", "clang")
    assert fastopt.show_config() is None
    printed = capsys.readouterr().out
    for key, value in table.items():
        assert f"{key} " in printed
        assert value in printed
    with pytest.raises(ValueError, match="mode"):
        fastopt.show_config("json")
