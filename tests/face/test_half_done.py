"""Ctrl-C at any moment and failing allocations: an operation is done as a whole, or not at all.

A timer interrupts each operation hundreds of times, at moments spread over its duration. Operations of the compiled
code are also tried with their first, second, third ... allocation refused, until they succeed.
"""

import gc
import itertools
import os
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

# An interrupt may keep Python's own code from closing a file, which then gives a ResourceWarning later.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
    pytest.mark.skipif(
        "FASTOPT_COVERAGE" in os.environ,
        reason="interrupts lock up coverage's tracer, and refused memory ends it: unset FASTOPT_COVERAGE",
    ),
]


def interrupt(number, frame):
    raise KeyboardInterrupt


def interrupted(act, check, tried):
    """Runs `act` until it has been interrupted often enough; `check` follows each run."""
    rng, took = random.Random(0), []
    for _ in range(20):
        start = time.perf_counter()
        act()
        took.append(time.perf_counter() - start)
    longest, caught = 1.5 * statistics.median(took), 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(100 * INTERRUPTS):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, longest))
                act()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                caught += 1
            check()
            if caught == INTERRUPTS:
                tried(caught, "interrupts by a signal")
                return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    raise AssertionError(f"only {caught} interrupts came while {act} ran")


def short_of_memory(act, check, tried):
    """Runs `act` with each of its allocations refused in turn, `check` after each; returns how many there are."""
    _testcapi = pytest.importorskip("_testcapi", reason="needs CPython's _testcapi: use a Python that has it")
    refused, first, well_since = 0, 0, 0
    while well_since < 20:  # caches make the number of allocations differ from run to run
        error = None
        gc.disable()
        _testcapi.set_nomemory(first, first + 1)
        try:
            act()
        except MemoryError as caught:
            error = caught
        finally:
            _testcapi.remove_mem_hooks()
            gc.enable()
        first += 1
        refused, well_since = (refused, well_since + 1) if error is None else (refused + 1, 0)
        check()
    tried(refused, "refused allocations")
    return refused


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()


def tensors(seed, groups=3):
    """Groups of tensors of both types."""
    rng = np.random.default_rng(seed)
    return [
        {"params": [np.asarray(rng.normal(size=shape), (np.float32, np.float64)[k % 2]) for shape in SHAPES]}
        for k in range(groups)
    ]


def flat(seed):
    return [p for group in tensors(seed) for p in group["params"]]


def picture(opt):
    """Everything that defines an optimizer, from its own attributes."""
    states = opt.state_dict()["state"].values()
    state = [(name, np.asarray(value).tobytes()) for one in states for name, value in one.items()]
    groups = [[(key, value) for key, value in group.items() if key != "params"] for group in opt.param_groups]
    return [param.tobytes() for param in opt.params], state, groups


def steps_as_its_state_dict(opt):
    """Takes a step, which must give the bits that a new optimizer gives from the same parameters and state_dict."""
    twin = type(opt)([{"params": [p.copy() for p in group["params"]]} for group in opt.param_groups])
    twin.load_state_dict(opt.state_dict())
    grads = tensors(99)
    opt.step(grads)
    twin.step(grads)
    for found, wanted in zip(opt.params, twin.params, strict=True):
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("disturbed", [interrupted, short_of_memory])
@pytest.mark.parametrize("bound", [False, True], ids=["given", "bound"])
def test_a_step_is_of_all_tensors_or_of_none(tried, bound, disturbed):
    """Tensors that started equal stay equal, and have taken as many steps as are counted."""
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

    assert not disturbed(opt.step if bound else lambda: opt.step(grads), check, tried)  # no allocations


def test_a_hyperparameter_is_set_in_all_groups_or_in_none(tried):
    opt = fastopt.SGD(tensors(0), lr=0.5)
    opt.step(tensors(1))
    values = {"lr": [0.5, 0.25], "momentum": [0.0, 0.9]}

    def act():
        for name, (one, other) in values.items():
            setattr(opt, name, other if getattr(opt, name) == one else one)

    def check():
        for name, choice in values.items():
            assert getattr(opt, name) in choice  # an AttributeError where the groups differ
        steps_as_its_state_dict(opt)

    interrupted(act, check, tried)


def two_states(folder):
    """An optimizer, and two of its former states: as files, as state_dicts and as pictures."""
    opt, files, saved, pictures = fastopt.Adam(tensors(0), lr=0.5), [], [], []
    for k in range(2):
        opt.step(tensors(k))
        opt.lr, opt.amsgrad = (0.5, 0.25)[k], bool(k)
        files.append(folder / f"{k}.npz")
        opt.save(files[k], params=True)
        saved.append(opt.state_dict())
        pictures.append(picture(opt))
    return opt, files, saved, pictures


def test_a_state_is_loaded_whole_or_not_at_all(tried, tmp_path):
    opt, _, saved, pictures = two_states(tmp_path)
    params, turns, turn = pictures[-1][0], [state for _, *state in pictures], itertools.cycle(saved)

    def check():
        assert picture(opt)[0] == params
        assert list(picture(opt)[1:]) in turns

    interrupted(lambda: opt.load_state_dict(next(turn)), check, tried)
    steps_as_its_state_dict(opt)


def test_a_file_is_loaded_whole_or_not_at_all(tried, tmp_path):
    opt, files, _, pictures = two_states(tmp_path)
    turn = itertools.cycle(files)

    def check():
        assert picture(opt) in pictures

    interrupted(lambda: opt.load(next(turn), params=True), check, tried)
    steps_as_its_state_dict(opt)


def test_a_file_is_saved_whole_or_not_at_all(tried, tmp_path):
    opt, path = fastopt.Adam(tensors(0)), tmp_path / "checkpoint.npz"
    opt.step(tensors(1))
    opt.save(path, params=True)
    expected, other = picture(opt), fastopt.Adam(tensors(2))

    def check():
        other.load(path, params=True)
        assert picture(other) == expected
        assert list(tmp_path.iterdir()) == [path]

    interrupted(lambda: opt.save(path, params=True), check, tried)
    steps_as_its_state_dict(opt)


def test_a_lookahead_restores_the_arrays(tried):
    opt = fastopt.NAG(tensors(0), momentum=0.9)
    opt.step(tensors(1))
    expected, away = picture(opt), []

    def act():
        with opt.lookahead():
            away.append(opt.params[1].tobytes() != expected[0][1])

    def check():
        assert picture(opt) == expected

    interrupted(act, check, tried)
    assert all(away)
    assert len(away) > 20  # also within the block
    steps_as_its_state_dict(opt)


@pytest.mark.parametrize("disturbed", [interrupted, short_of_memory])
def test_gradients_are_all_bound_or_none_is(tried, disturbed):
    opt = fastopt.SGD(list(flat(0)))
    ones, twos = flat(1), flat(2)
    opt.bind(ones)
    turn = itertools.cycle([twos, ones])

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

    disturbed(lambda: opt.bind(next(turn)), check, tried)


def test_state_can_always_be_copied(tried):
    opt = fastopt.Adam(tensors(0))
    opt.step(tensors(1))
    expected = picture(opt)
    interrupted(opt.state_dict, lambda: None, tried)
    assert picture(opt) == expected


class Recorded(fastopt.Adam):
    """Keeps the arguments of its last loading."""

    def _loading(self, *loaded):
        self._loaded = loaded
        return super()._loading(*loaded)


def test_a_change_allocates_its_memory_before_it_begins(tried, tmp_path):
    """A change of hyperparameters, state buffers, step numbers and parameters is made as a whole."""
    opt, files, pictures, changes = Recorded(tensors(0), lr=0.5), [], [], []
    for k in range(2):
        opt.step(tensors(k))
        opt.lr, opt.amsgrad = (0.5, 0.25)[k], bool(k)
        files.append(tmp_path / f"{k}.npz")
        opt.save(files[k], params=True)
        pictures.append(picture(opt))
        opt.load(files[k], params=True)
        changes.append(opt._loaded)
    assert pictures[0] != pictures[1]
    turn = itertools.cycle(changes)

    def check():
        assert picture(opt) in pictures

    assert short_of_memory(lambda: opt._adopt(fastopt.Adam._loading(opt, *next(turn))), check, tried) > 2
    steps_as_its_state_dict(opt)


def test_a_lookahead_restores_the_arrays_where_memory_is_short(tried):
    opt = fastopt.NAG(tensors(0))
    expected = picture(opt)

    def act():
        with opt._exclusive(), opt._restored():
            opt.params[0][...] = 9

    def check():
        assert picture(opt) == expected

    assert short_of_memory(act, check, tried) > 2
