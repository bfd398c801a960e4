"""The audit's table: it counts what was tried, and sees what failed."""

import importlib.util
import sys

import pytest
from commands import ROOT, run_well

SUITE = """
from hypothesis import given, strategies
@given(strategies.integers())
def test_of_hypothesis(x):  # which writes words into the file that is read
    pass
def test_counts(record_property):
    record_property("cases of something", 40)
def test_counts_too(record_property):
    record_property("cases of something", 2)
"""


@pytest.fixture
def audit(tmp_path, monkeypatch, capsys):
    """Runs the parts that are made of these, in an empty folder; the exit status, and what is printed and written."""
    spec = importlib.util.spec_from_file_location("audit_run", ROOT / "tools/audit/run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "audit_run", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "RESULTS.md")

    def run(parts, *arguments):
        monkeypatch.setattr(module, "parts", lambda: parts(module))
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        status = module.main()
        return status, capsys.readouterr().out, (tmp_path / "RESULTS.md").read_text(encoding="utf-8")

    return run


def row(text, what):
    """The cells of a row of the table."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {what} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def suite(tmp_path, name, text):
    path = tmp_path / f"test_{name}.py"
    path.write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-q",
        "-p",
        "no:cacheprovider",
        str(path),
    ]
    return lambda module: module.pytest(name, f"tests of {name}", *command)


def nonsense(module):
    target = ROOT / "tests/fuzz/fuzz_boundary.py"
    command = [sys.executable, str(target), "--plain", "--runs=20", "--seed=1"]
    return module.Part("fuzz", command, module.tally("inputs"))


def test_cases_are_added_up(audit, tmp_path):
    one, two = (suite(tmp_path, name, SUITE) for name in ("one", "two"))
    status, printed, written = audit(lambda module: [one(module), two(module), nonsense(module)])
    assert status == 0, printed
    assert row(written, "tests of one") == ["3", "0", "0", "one"]
    assert row(written, "cases of something") == ["84", "0", "0", "one, two"]
    assert row(written, "inputs") == ["20", "0", "0", "fuzz"]
    assert "cases of something" in printed
    assert written.startswith("# What `make audit` found\n")


def test_what_failed_is_said(audit, tmp_path):
    wrong = suite(tmp_path, "wrong", f"{SUITE}def test_wrong():\n    assert False\n")
    status, _, written = audit(lambda module: [wrong(module), nonsense(module)], "--only", "wrong")
    assert status == 1
    assert row(written, "tests of wrong") == ["4", "1", "0", "wrong"]
    assert "- fuzz: not run" in written
    status, _, written = audit(lambda module: [wrong(module), nonsense(module)], "--only", "fuzz")
    assert status == 1
    assert row(written, "inputs") == ["20", "0", "0", "fuzz"]


@pytest.mark.parametrize("code", ["import os; os.abort()", "raise SystemExit(1)", "pass"])
def test_a_command_that_fails_or_says_nothing_is_a_failure(audit, code):
    status, _, written = audit(
        lambda module: [module.Part("broken", [sys.executable, "-c", code], module.tally("inputs"))]
    )
    assert status == 1
    (line,) = (line for line in written.splitlines() if line.startswith("| broken: "))
    assert "failed, see build/broken.log" in line


def test_the_parts_are_named():
    printed = run_well(sys.executable, ROOT / "tools/audit/run.py", "--list")
    names = [line.partition(":")[0] for line in printed.splitlines()]
    assert {"core", "python-3.12", "nehalem", "fuzz", "guided", "machine", "coverage"} <= {*names}
    assert "--runs=1000000" in printed
