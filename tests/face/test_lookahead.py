"""NAG's `lookahead` block restores the parameters bit for bit, whatever happens inside."""

import copy
import pickle
import threading

import numpy as np
import pytest
from common import assert_same_bits

import fastopt


def nag(momentum=0.9):
    w = {"a": np.array([1.0, -2.0, np.inf]), "b": np.array([[0.1]], np.float32), "c": np.empty(0)}
    opt = fastopt.NAG(w, lr=0.3, momentum=momentum)
    opt.step({key: np.full_like(value, 0.7) for key, value in w.items()})
    return w, opt


def test_lookahead_restores_the_parameters_bit_for_bit():
    w, opt = nag()
    before = {key: value.copy() for key, value in w.items()}
    with opt.lookahead() as nothing:
        assert nothing is None
        for key, value in w.items():
            mu = value.dtype.type(0.9)
            assert_same_bits(value, before[key] - mu * opt.state[key]["momentum_buffer"])
        assert not np.array_equal(w["a"], before["a"])
        w["a"][0] = 1e300  # what the block writes is lost
    for key, value in w.items():
        assert_same_bits(value, before[key])


def test_lookahead_restores_the_parameters_when_the_block_raises():
    w, opt = nag()
    before = {key: value.copy() for key, value in w.items()}
    moved = []

    def block():
        with opt.lookahead():
            moved.append(not np.array_equal(w["a"], before["a"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()
    assert moved == [True]
    for key, value in w.items():
        assert_same_bits(value, before[key])
    with opt.lookahead():
        pass


def test_lookahead_refuses_misuse():
    w, opt = nag()
    grads = {key: np.ones_like(value) for key, value in w.items()}
    with opt.lookahead():
        inside = {key: value.copy() for key, value in w.items()}
        with pytest.raises(RuntimeError, match="after the lookahead"):
            opt.step(grads)
        with pytest.raises(RuntimeError, match="already"), opt.lookahead():
            pass
        for key, value in w.items():
            assert_same_bits(value, inside[key])
        for save in (copy.deepcopy, pickle.dumps):
            with pytest.raises(RuntimeError, match="lookahead"):
                save(opt)
    opt.step(grads)
    with pytest.raises(RuntimeError, match="already"), fastopt.NAG(np.ones(2), at_lookahead=True).lookahead():
        pass


def test_lookahead_loses_no_step_of_another_thread():
    """The values that it restores are saved only once no other thread can step any more."""

    class Watched(fastopt.NAG):
        def _exclusive(self, reason=None, **how):
            if reason:
                thread = threading.Thread(target=self.step, args=([np.ones(2)],))
                thread.start()
                thread.join()
            return super()._exclusive(reason, **how)

    p = np.ones(2)
    opt = Watched([p], lr=0.5)
    with opt.lookahead():
        pass
    assert_same_bits(p, np.full(2, 0.5))


def test_hyperparameters_may_change_inside_a_lookahead():
    p = np.ones(2)
    opt = fastopt.NAG([p], lr=1.0)
    opt.step([np.full(2, 0.25)])
    before = p.copy()
    with opt.lookahead():
        opt.lr = 0.5
        with pytest.raises(RuntimeError, match="after the lookahead"):  # nor has that let go of it
            opt.step([np.ones(2)])
    assert_same_bits(p, before)
    assert opt.lr == 0.5
    opt.step([np.ones(2)])


def test_lookahead_uses_each_groups_momentum():
    a, b = np.ones(2), np.ones(2)
    opt = fastopt.NAG([{"params": a}, {"params": b, "momentum": 0.5}], lr=1.0)
    opt.step([{"params": np.full(2, 0.25)}] * 2)
    with opt.lookahead():
        assert_same_bits(a, np.full(2, 0.75 - 0.9 * 0.25))
        assert_same_bits(b, np.full(2, 0.75 - 0.5 * 0.25))
