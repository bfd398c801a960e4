"""What the core does where the processor has less, or the system starts no thread (faults.c)."""

import pytest
from commands import build, run_well

SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.parametrize("flags", [["-O1"], SANITIZED, ["-O1", "-DFASTOPT_NO_THREADS"]], ids=["", "sanitized", "alone"])
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_less_of_everything(name, flags, tmp_path):
    assert run_well(build(name, flags, "faults.c", tmp_path, sources=[])) == "ok\n"
