"""Several threads that use one optimizer, forked children, and arrays whose memory must stay: an error, or no harm."""

import os
import threading
import warnings

import numpy as np
import pytest
from boundary import raising, tensor
from common import VARIANTS, assert_same_bits

import fastopt
from fastopt._rules import RULES


@pytest.mark.parametrize("rule", RULES)
def test_kernels_release_the_gil(rule):
    """This thread runs while the loop does: it sees the first element updated when the last one is not yet."""
    variant = next(variant for variant in VARIANTS if variant.rule == rule)
    count = 8_000_000
    buffers = [np.full(count, 0.5, np.float32) for _ in range(2 + len(variant.states))]
    p, g, *states = buffers
    arguments = variant.arguments(dict.fromkeys(RULES[rule].hypers, 0.5), 1)
    for _ in range(20):
        before = p[0]
        thread = threading.Thread(target=variant.kernel, args=(p, g, states, arguments))
        thread.start()
        in_the_middle = False
        while thread.is_alive():
            in_the_middle = in_the_middle or (p[0] != before and p[-1] == before)
        thread.join()
        if in_the_middle:
            return
        assert p[0] != before
    raise AssertionError("no other thread ran while the kernel did")


def test_two_threads_on_one_optimizer():
    """While one thread is in the step, the other gets a RuntimeError and writes nothing."""
    count = 4_000_000
    p = np.ones(count)
    opt = fastopt.Adam(p)
    grad = np.ones(count)
    refused, errors = [], []

    def steps(times):
        try:
            for _ in range(times):
                try:
                    opt.step(grad)
                except RuntimeError as error:
                    refused.append(str(error))
        except BaseException as error:
            errors.append(error)

    for _ in range(50):
        threads = [threading.Thread(target=steps, args=(5,)) for _ in range(4)]
        done = 20 + opt.state[0]["step"] + len(refused)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert opt.state[0]["step"] + len(refused) == done
        if refused:
            break
    assert refused
    assert "another thread" in refused[0]
    expected = np.ones(1)
    alone = fastopt.Adam(expected)
    for _ in range(opt.state[0]["step"]):
        alone.step(np.ones(1))
    assert (p == expected[0]).all()


def test_hyperparameters_cannot_change_during_a_step_of_another_thread():
    count = 4_000_000
    opt = fastopt.Adam(np.ones(count))
    grad = np.ones(count)
    saved = opt.state_dict()
    refused = []
    for _ in range(50):
        thread = threading.Thread(target=lambda: [opt.step(grad) for _ in range(5)])
        thread.start()
        while thread.is_alive():
            try:
                opt.lr = 1e-3
            except RuntimeError as error:
                refused.append(str(error))
        thread.join()
        if refused:
            break
    assert refused
    assert saved["state"][0]["step"] == 0


def test_nothing_is_loaded_during_a_step_of_another_thread():
    p = tensor()
    opt = fastopt.Adam(p)
    opt.step(tensor())
    saved, before = opt.state_dict(), opt.state_dict()
    saved["state"][0]["exp_avg"] += 1
    refused = []

    def load():
        try:
            opt.load_state_dict(saved)
        except RuntimeError as error:
            refused.append(str(error))

    with opt._exclusive():
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
        with raising(RuntimeError, "already in use"):
            opt.step(tensor())
    assert len(refused) == 1
    assert "already in use" in refused[0]
    assert_same_bits(opt.state[0]["exp_avg"], before["state"][0]["exp_avg"])
    opt.load_state_dict(saved)
    assert_same_bits(opt.state[0]["exp_avg"], saved["state"][0]["exp_avg"])


def test_step_in_a_forked_child():
    p, g = tensor(), tensor()
    opt = fastopt.Adam(p, lr=0.1)
    opt.step(g)
    expected = p.copy()
    twin = fastopt.Adam(expected, lr=0.1)
    twin.load_state_dict(opt.state_dict())
    twin.step(g)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads
        child = os.fork()
    if child == 0:
        opt.step(g)
        os.write(writer, p.tobytes())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reader, 1000) == expected.tobytes()
    os.close(reader)
    os.close(writer)
    opt.step(g)
    assert_same_bits(p, expected)


def test_bound_arrays_cannot_be_resized():
    p = np.ones(10)
    opt = fastopt.SGD([p])
    with raising(ValueError, "resize"):
        p.resize(10_000)
    opt.step([np.ones(10)])


def test_the_optimizer_keeps_the_memory_alive():
    opt = fastopt.SGD([np.ones(1000) for _ in range(3)], lr=1.0)
    opt.step([np.full(1000, 0.5)] * 3)
    assert all((array == 0.5).all() for array in opt.params)
