"""Several threads use the core at once, under the sanitizers (race.c)."""

import os

import pytest
from commands import run

pytestmark = pytest.mark.slow

THREAD = ["-O1", "-g", "-fsanitize=thread"]
ADDRESS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# die_after_fork=0: a child that a process of several threads forks may start threads, as the pool does.
OPTIONS = {"TSAN_OPTIONS": "die_after_fork=0 halt_on_error=1"}


@pytest.mark.parametrize(
    ("name", "flags"),
    [("gcc", ["-O3"]), ("gcc", THREAD), ("clang", THREAD), ("clang", ADDRESS)],
)
def test_threads_that_step_choose_instruction_sets_and_fork_at_once(name, flags, build):
    program = build(name, flags, "race.c")
    done = run(program, env={**os.environ, **OPTIONS}, timeout=120)
    if "unexpected memory mapping" in done.stderr:  # older runtimes fail at some random load addresses
        done = run("setarch", "-R", program, env={**os.environ, **OPTIONS}, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("threads: ok\n")
