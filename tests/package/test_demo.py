"""The demo as a user runs it, and those of its parts in which a fault would not be seen."""

import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from common import assert_same_as_reference

from fastopt import reference
from fastopt.demo import METHODS, surface
from fastopt.demo.mlp import MLP
from fastopt.demo.training import look_ahead, reference_step

SEED = "3"


def demo(folder, *arguments, code=None):
    command = ["-c", code] if code else ["-m", "fastopt", "demo"]
    return subprocess.run(
        [sys.executable, *command, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def rows(output):
    """{title: cells after it} of the table in the output."""
    found = {}
    for line in output.splitlines():
        for method in METHODS.values():
            if re.match(rf"\s*{re.escape(method.title)}\s+(all|\d+)\s", line):
                found[method.title] = line.strip().removeprefix(method.title).split()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The output of the whole demo with default settings, except for the seed."""
    folder = tmp_path_factory.mktemp("demo")
    result = demo(folder, "--seed", SEED)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


@pytest.mark.slow
def test_every_method_learns(whole):
    _, output = whole
    table = rows(output)
    assert list(table) == [method.title for method in METHODS.values()]
    for method in METHODS.values():
        _batch, _epochs, steps, loss, accuracy, ours, reference, ratio = table[method.title]
        accuracy = float(accuracy.rstrip("%"))
        if method.name == "batch-gd":
            assert accuracy >= 80
            assert int(steps) == method.epochs  # one step an epoch, as the note says
        else:
            assert accuracy >= 93
        if method.batch_size == 32:
            assert int(steps) == 42 * method.epochs  # as the note says
        assert 0 < float(loss) < 0.5  # a guess among ten classes costs 2.3
        assert float(reference) / float(ours) == pytest.approx(float(ratio.rstrip("x")), abs=0.2, rel=0.05)
    assert "Batch GD lags because it takes a single step an epoch" in output
    assert "stayed below" not in output
    assert max(len(line) for line in output.splitlines() if "demo-output" not in line) <= 80
    assert "\x1b" not in output  # nothing but text where the output is no terminal


@pytest.mark.slow
def test_the_plots_show_something(whole):
    folder, output = whole
    for name in ("losses.png", "paths.png"):
        assert name in output
        image = matplotlib.image.imread(folder / "demo-output" / name)
        assert image.shape[0] > 400
        assert image.shape[1] > 800
        colors = np.unique((image[..., :3] * 15).astype(int).reshape(-1, 3), axis=0)
        assert len(colors) > 30  # axes, grid, and lines in many colours


@pytest.mark.slow
def test_equal_seeds_give_equal_results(tmp_path, whole):
    def learned(*arguments):
        result = demo(tmp_path, "--method", "adam", "--method", "sgd", "--no-plot", *arguments)
        assert result.returncode == 0, result.stderr
        assert list(rows(result.stdout)) == ["Adam", "SGD"]
        return {title: cells[:5] for title, cells in rows(result.stdout).items()}

    default = rows(whole[1])
    again = learned("--seed", SEED)
    assert again == {title: default[title][:5] for title in again}
    assert learned("--seed", "4") != again
    assert list(tmp_path.iterdir()) == []  # --no-plot writes nothing


@pytest.mark.slow
def test_a_seed_may_be_large(tmp_path):
    result = demo(tmp_path, "--method", "adam", "--no-plot", "--epochs", "1", "--seed", str(2**70))
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_users_file_is_not_overwritten(tmp_path):
    (tmp_path / ".writable").write_text("kept")
    result = demo(tmp_path, "--method", "adam", "--epochs", "1", "--output", ".")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writable", "losses.png", "paths.png"]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_timed_reference_takes_the_optimizers_next_step(method):
    """The step that is timed for comparison is, to the bit, the optimizer's own next one, and so is the one after."""
    rng = np.random.default_rng(0)
    model = MLP((5, 7, 4), rng)
    x, labels = rng.normal(size=(11, 5)).astype(np.float32), rng.integers(4, size=11)
    ours = method.optimizer(model.params, **method.hypers)
    grads = []
    for _ in range(6):
        with look_ahead(ours):
            grads.append(model.loss_and_grads(x, labels)[1])
        ours.step(grads[-1])
    theirs = reference.Optimizer.like(ours)
    step = reference_step(theirs, list(ours.state))
    for taken in grads:
        ours.step(taken)
        step(taken)
        assert_same_as_reference(ours, theirs)


@pytest.mark.slow
def test_epochs_and_output(tmp_path):
    result = demo(tmp_path, "--epochs", "2", "--method", "batch-gd", "--method", "minibatch-gd", "--output", "a/b")
    assert result.returncode == 0, result.stderr
    table = rows(result.stdout)
    assert table["batch GD"][:3] == ["all", "2", "2"]
    assert table["mini-batch GD"][:2] == ["32", "2"]
    assert "mini-batch GD stayed below 93% test accuracy; the number of epochs was set by hand" in " ".join(
        result.stdout.split()
    )
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["losses.png", "paths.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "adamax"], "--method: must be one of batch-gd, .*, adam, got 'adamax'"),
        (["--epochs", "0"], "--epochs: must be a whole number >= 1, got '0'"),
        (["--epochs", "ten"], "--epochs: must be a whole number >= 1, got 'ten'"),
        (["--seed", "-1"], "--seed: must be a whole number >= 0, got '-1'"),
        (["--output", "file"], "--output: must be a folder to write to, got 'file'"),
        (["--speed", "9"], "--speed"),
    ],
)
def test_bad_values(tmp_path, arguments, words):
    (tmp_path / "file").write_text("not a folder")
    result = demo(tmp_path, *arguments)
    assert result.returncode == 2
    assert re.search(words, result.stderr)
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib", "rich"])
def test_a_missing_extra_is_named(tmp_path, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from fastopt.__main__ import main; sys.exit(main(['demo']))"
    result = demo(tmp_path, code=code)
    assert result.returncode == 1
    assert result.stderr.startswith(f"the demo needs {missing}")
    assert result.stderr.endswith(': pip install "fastopt[demo]"\n')


def test_without_plots_matplotlib_is_not_needed(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None; from fastopt.__main__ import main; "
        "sys.exit(main(['demo', '--no-plot', '--method', 'adam', '--epochs', '1']))"
    )
    assert demo(tmp_path, code=code).returncode == 0


def test_the_command_line_around_it(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "fastopt", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert re.fullmatch(r"fastopt \d+\.\d+\.\d+\n", run("--version").stdout)
    assert "instruction set" in run("info").stdout
    assert run().returncode == 2
    help_text = " ".join(run("demo", "--help").stdout.split())
    assert all(f" {name}" in help_text for name in METHODS)


def test_gradients_of_the_perceptron():
    """The gradients agree with central differences in float64."""
    rng = np.random.default_rng(0)
    model = MLP((5, 7, 4), rng, dtype=np.float64)
    for bias in ("b1", "b2"):
        model.params[bias] += rng.normal(size=model.params[bias].shape)
    x, labels = rng.normal(size=(11, 5)), rng.integers(4, size=11)
    loss, grads = model.loss_and_grads(x, labels)
    assert loss == pytest.approx(model.loss(x, labels), rel=1e-12)
    assert grads.keys() == model.params.keys()
    h = 1e-6
    for name, param in model.params.items():
        numeric = np.empty_like(param)
        for index in np.ndindex(param.shape):
            kept = param[index]
            param[index] = kept + h
            above = model.loss(x, labels)
            param[index] = kept - h
            below = model.loss(x, labels)
            param[index] = kept
            numeric[index] = (above - below) / (2 * h)
        np.testing.assert_allclose(grads[name], numeric, rtol=1e-5, atol=1e-8)
        assert np.abs(numeric).max() > 1e-3
    probabilities = np.exp(model.forward(x)[1])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert model.accuracy(x, probabilities.argmax(axis=1)) == 1.0


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_paths_go_down(method):
    points = surface.path(method)
    heights = surface.value(*points.T)
    assert (points[0] == surface.START).all()
    assert heights[-1] < 0.05 < heights[0]
    point = points[3]
    for axis, step in enumerate(np.eye(2) * 1e-6):
        slope = (surface.value(*(point + step)) - surface.value(*(point - step))) / 2e-6
        assert surface.gradient(point)[axis] == pytest.approx(slope, rel=1e-6)
    assert surface.value(*surface.MINIMUM) == 0
