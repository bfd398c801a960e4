"""Ctrl-C at any moment: what was under way is done or was never begun, and the optimizer goes on.

A timer interrupts each use hundreds of times, at moments spread over its duration.
"""

import gc
import random
import signal
import statistics
import time

import numpy as np
import pytest
from common import assert_same_bits

import fastopt

INTERRUPTS = 300
SHAPES = [(), (5,), (0,), (2, 3), (17,)]

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer, as POSIX has it"),
    # Files that Python's own code was about to open or close are closed later, and say so.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


def interrupt(number, frame):
    raise KeyboardInterrupt


@pytest.fixture
def interrupted():
    """Runs something until it has been interrupted often enough, with a check after each time."""
    before = signal.signal(signal.SIGALRM, interrupt)

    def often(act, check):
        rng, took = random.Random(0), []
        for _ in range(20):
            start = time.perf_counter()
            act()
            took.append(time.perf_counter() - start)
        longest, caught = 1.5 * statistics.median(took), 0
        for _ in range(100 * INTERRUPTS):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, longest))
                act()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                caught += 1
            check()
            if caught == INTERRUPTS:
                return
        raise AssertionError(f"only {caught} interrupts came while {act} ran")

    yield often
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    gc.collect()


def tensors(seed, groups=3):
    """Groups of tensors of both types."""
    rng = np.random.default_rng(seed)
    return [
        {"params": [np.asarray(rng.normal(size=shape), (np.float32, np.float64)[k % 2]) for shape in SHAPES]}
        for k in range(groups)
    ]


def picture(opt):
    """All that an optimizer is, as it says itself."""
    states = opt.state_dict()["state"].values()
    state = [(name, np.asarray(value).tobytes()) for one in states for name, value in one.items()]
    groups = [[(key, value) for key, value in group.items() if key != "params"] for group in opt.param_groups]
    return [param.tobytes() for param in opt.params], state, groups


def steps_as_it_says(opt):
    """Takes a step, as another one does that is made anew from what it says of itself."""
    twin = type(opt)([{"params": [p.copy() for p in group["params"]]} for group in opt.param_groups])
    twin.load_state_dict(opt.state_dict())
    grads = tensors(99)
    opt.step(grads)
    twin.step(grads)
    for found, wanted in zip(opt.params, twin.params, strict=True):
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("bound", [False, True], ids=["given", "bound"])
def test_a_step_is_of_all_tensors_or_of_none(interrupted, bound):
    """Tensors that started alike stay alike, and have taken the steps that are counted."""
    params, grads = [[np.full(3, x) for _ in range(200)] for x in (1.0, 0.5)]
    one, alone = fastopt.Adam([np.full(3, 1.0)], lr=1e-3), {}
    opt = fastopt.Adam(params, lr=1e-3)
    if bound:
        opt.bind(grads)

    def check():
        counts = {state["step"] for state in opt.state.values()}
        (count,) = counts
        while one.state[0]["step"] < count:
            one.step([np.full(3, 0.5)])
        alone[count] = one.params[0].tobytes()
        assert {p.tobytes() for p in params} == {alone[count]}

    interrupted(opt.step if bound else lambda: opt.step(grads), check)


def test_a_hyperparameter_is_that_of_all_groups_or_of_none(interrupted):
    opt = fastopt.SGD(tensors(0), lr=0.5)
    opt.step(tensors(1))
    values = {"lr": [0.5, 0.25], "momentum": [0.0, 0.9]}

    def act():
        for name, (one, other) in values.items():
            setattr(opt, name, other if getattr(opt, name) == one else one)

    def check():
        for name, choice in values.items():
            assert getattr(opt, name) in choice  # an AttributeError where the groups differ
        steps_as_it_says(opt)

    interrupted(act, check)


@pytest.mark.parametrize("source", ["state_dict", "file"])
def test_all_is_loaded_or_nothing(interrupted, source, tmp_path):
    opt, saved, pictures = fastopt.Adam(tensors(0), lr=0.5), [], []
    for k in range(2):
        opt.step(tensors(k))
        opt.lr, opt.amsgrad = (0.5, 0.25)[k], bool(k)
        opt.save(tmp_path / f"{k}.npz", params=True)
        saved.append(opt.state_dict())
        pictures.append(picture(opt))
    if source == "state_dict":
        pictures = [(pictures[-1][0], *rest) for _, *rest in pictures]
    turn = []

    def act():
        turn.append(1)
        if source == "file":
            opt.load(tmp_path / f"{len(turn) % 2}.npz", params=True)
        else:
            opt.load_state_dict(saved[len(turn) % 2])

    def check():
        assert picture(opt) in pictures

    interrupted(act, check)
    steps_as_it_says(opt)


def test_what_is_saved_is_whole(interrupted, tmp_path):
    opt, path = fastopt.Adam(tensors(0)), tmp_path / "checkpoint.npz"
    opt.step(tensors(1))
    opt.save(path, params=True)
    expected, other = picture(opt), fastopt.Adam(tensors(2))

    def check():
        other.load(path, params=True)
        assert picture(other) == expected
        assert list(tmp_path.iterdir()) == [path]

    interrupted(lambda: opt.save(path, params=True), check)
    steps_as_it_says(opt)


def test_the_arrays_come_back_from_a_lookahead(interrupted):
    opt = fastopt.NAG(tensors(0), momentum=0.9)
    opt.step(tensors(1))
    expected, away = picture(opt), []

    def act():
        with opt.lookahead():
            away.append(opt.params[1].tobytes() != expected[0][1])

    def check():
        assert picture(opt) == expected

    interrupted(act, check)
    assert all(away)
    assert len(away) > 20  # also within the block
    steps_as_it_says(opt)


def test_gradients_are_bound_or_not(interrupted):
    opt = fastopt.SGD(tensors(0))
    ones, twos = tensors(1), tensors(2)
    opt.bind(ones)
    turn = []

    def act():
        turn.append(1)
        opt.bind(ones if len(turn) % 2 else twos)

    def check():
        before = [p.copy() for p in opt.params]
        opt.step()
        found = [p.copy() for p in opt.params]
        for whole in (ones, twos):
            for p, b in zip(opt.params, before, strict=True):
                p[...] = b
            opt.step(whole)
            if all(np.array_equal(p, f) for p, f in zip(opt.params, found, strict=True)):
                return
        raise AssertionError("some gradients of one set, some of the other")

    interrupted(act, check)


def test_state_can_always_be_copied(interrupted):
    opt = fastopt.Adam(tensors(0))
    opt.step(tensors(1))
    expected = picture(opt)
    interrupted(opt.state_dict, lambda: None)
    assert picture(opt) == expected
