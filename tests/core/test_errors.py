"""Every error of the core, with its code, place and sentence (errors.c); conversions of stored types (storage.c)."""

import os

import pytest
from commands import run_well

SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMPILERS = [("gcc", ["-O3"]), *(pytest.param(name, SANITIZED, marks=pytest.mark.slow) for name in ("gcc", "clang"))]


@pytest.mark.parametrize(("name", "flags"), COMPILERS)
def test_errors_have_their_code_place_and_sentence_and_nothing_is_written(name, flags, build):
    program = build(name, flags, "errors.c")
    assert run_well(program) == "ok\n"
    assert run_well(program, "no instruction set", env={**os.environ, "FASTOPT_ISA": "none such"}) == "ok\n"


@pytest.mark.parametrize(("name", "flags"), COMPILERS)
def test_all_16_bit_numbers_are_loaded_and_stored_exactly_or_to_nearest_even(name, flags, build):
    assert run_well(build(name, flags, "storage.c", core=False)) == "ok\n"
