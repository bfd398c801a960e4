"""The core on processors that lack a feature, and on systems that refuse to start threads (faults.c)."""

import pytest
from commands import run_well

pytestmark = pytest.mark.slow

SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [("gcc", ["-O0"]), ("gcc", ["-O0", "-DFASTOPT_NO_THREADS"]), ("clang", SANITIZED)],
    ids=["threads", "no threads", "sanitized"],
)
def test_missing_processor_features_and_refused_threads(name, flags, build):
    assert run_well(build(name, flags, "faults.c", core=False)) == "ok\n"
