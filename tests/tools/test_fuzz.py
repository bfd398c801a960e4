"""The fuzz target finds nothing in a few thousand fixed inputs, and it does find faults that are put in."""

import sys

import fuzz_boundary
import numpy as np
import pytest
from commands import ROOT, run_well

import fastopt

TARGET = ROOT / "tests/fuzz/fuzz_boundary.py"


def test_thousands_of_inputs_find_nothing(capsys, tried):
    tally = fuzz_boundary.plain(range(2000), seed=0)
    assert tally.findings == 0, capsys.readouterr().out
    assert tally.inputs == 2000
    for name in ("TypeError", "ValueError", "KeyError", "AttributeError", "accepted"):
        assert tally.outcomes[name] > 30
    tried(tally.inputs, "nonsense inputs without a finding")


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_command_prints_its_counts_in_one_line(jobs):
    (line,) = run_well(sys.executable, TARGET, "--plain", "--runs=50", "--seed=3", f"--jobs={jobs}").splitlines()
    assert line.startswith("fuzz_boundary: 50 inputs in ")
    assert line.endswith("findings: 0")


def leaks(self, grads=None, **extras):
    raise OverflowError("int too large to convert to float")


def writes_first(self, grads=None, **extras):
    for p in self.params:
        p += 1
    return fastopt._engine.Engine.step(self, grads, **extras)


def one_group_first(self, changes, whole):
    original(self, changes[:1], whole)
    original(self, changes, whole)


original = fastopt.Optimizer._change


@pytest.mark.parametrize(
    ("name", "broken"),
    [("step", leaks), ("step", writes_first), ("_change", one_group_first)],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_the_fuzz_target_finds_broken_methods(capsys, monkeypatch, name, broken):
    monkeypatch.setattr(fastopt.Optimizer, name, broken, raising=False)
    assert fuzz_boundary.plain(range(2000), seed=0, most=1).findings > 0


def scaled_in_float(g, like, grad_scale, maximize):
    with np.errstate(all="ignore"):
        return np.asarray(g, like.dtype) * like.dtype.type(-grad_scale if maximize else grad_scale)


def transposed(g, like, grad_scale, maximize):
    return scaled(np.asarray(g).T if g.ndim == 2 and g.shape[0] == g.shape[1] else g, like, grad_scale, maximize)


def to_odd(g, like, grad_scale, maximize):
    bits = np.array(scaled(g, like, grad_scale, maximize))
    bits.view(f"u{bits.itemsize}")[...] |= 1
    return bits


scaled = fastopt.reference._scaled


@pytest.mark.parametrize("other", [scaled_in_float, transposed, to_odd])
def test_the_fuzz_target_finds_other_bits_than_the_references(capsys, monkeypatch, other):
    monkeypatch.setattr(fastopt.reference, "_scaled", other)
    assert fuzz_boundary.plain(range(2000), seed=0, most=1).findings > 0


def test_an_input_can_be_repeated():
    outcomes = [fuzz_boundary.check(fuzz_boundary.Draws("5-77")) for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert np.all([isinstance(name, str) for outcome in outcomes[0] for name in outcome])
