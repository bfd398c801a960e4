"""The benchmarks run: bench/run.py in its quick form, and every case of the suites once. No time is checked."""

import os
import re
import subprocess
import sys

import pytest
from commands import ROOT

pytestmark = pytest.mark.slow


def run(*command):
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_bench_run_in_its_quick_form(tmp_path):
    for module in ("matplotlib", "rich", "threadpoolctl"):
        pytest.importorskip(module, reason="needs what the benchmarks need: pip install 'fastopt[bench]'")
    run("bench/run.py", "--quick", "--peers", "none", "--output", tmp_path)
    results = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \((\w)\)", results, re.MULTILINE) == list("abcdefghij")
    titles = (
        "The machine",
        "What is promised",
        "fastopt, bound",
        "roofline",
        "Adadelta",
        "The demo's loop",
        "the capsule",
        "step(grads, lr=x)",
    )
    for title in titles:
        assert title in results
    assert "other bits" not in results  # a contender that steps wrongly is dropped, and the report says so
    assert "not compile" not in results
    assert "nan" not in results
    plots = re.findall(r"^!\[[^]]+\]\((.+)\)$", results, re.MULTILINE)
    assert len(plots) >= 3
    for plot in plots:
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")


def test_every_case_of_the_suites_runs_once():
    done = run(
        *("-m", "pytest", "bench", "-o", "python_files=bench_*.py", "-o", "pythonpath=bench"),
        *("-q", "--benchmark-disable", "-p", "no:cacheprovider"),
    )
    assert re.search(r"^\d{2,} passed", done, re.MULTILINE)
