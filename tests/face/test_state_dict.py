"""state_dict: training continues to the bit, unused state is kept, and loading a damaged one changes nothing."""

import copy

import numpy as np
import pytest
from common import assert_same_bits
from optimizers import assert_equal_dicts, every_case, tensors

import fastopt
from fastopt import reference


@every_case
def test_training_continues_from_a_state_dict(case):
    cls, hypers = case
    rng = np.random.default_rng(8)
    start = tensors(rng)
    grads = [tensors(rng) for _ in range(8)]
    opt = cls(start, **hypers)
    for g in grads[:4]:
        opt.step(g)
    saved = opt.state_dict()
    kept = copy.deepcopy(saved)
    params = [p.copy() for p in start]
    other = cls(params, **({"at_lookahead": True} if hypers.get("at_lookahead") else {}))
    other.load_state_dict(saved)
    for g in grads[4:]:
        opt.step(g)
        other.step(g)
    for found, expected in zip(params, start, strict=True):
        assert_same_bits(found, expected)
    assert repr(other) == repr(opt)
    assert_equal_dicts(other.state_dict(), opt.state_dict())
    assert_equal_dicts(saved, kept)  # `saved` is a copy: neither optimizer has changed it
    for i, p in enumerate(start):
        for name, value in saved["state"][i].items():
            if name != "step":
                assert value.dtype == p.dtype
                assert value.shape == p.shape


def adam_with_state():
    opt = fastopt.Adam({"w": np.ones((2, 3)), "b": np.ones(3, np.float32)}, amsgrad=True)
    opt.step({"w": np.ones((2, 3)), "b": np.ones(3, np.float32)})
    return opt


def damaged(change):
    saved = adam_with_state().state_dict()
    change(saved)
    return saved


class Replace:
    """Damages a state_dict: replaces the value at a path of keys, or deletes it where no value is given."""

    def __init__(self, *path, **value):
        self.path, self.value = path, value

    def __call__(self, saved):
        *way, last = self.path
        for key in way:
            saved = saved[key]
        if self.value:
            saved[last] = self.value["to"]
        else:
            del saved[last]


DAMAGES = [
    (Replace("state"), ValueError, "state_dict has no 'state'"),
    (Replace("param_groups"), ValueError, "state_dict has no 'param_groups'"),
    (Replace("more", to=1), ValueError, "unknown 'more'"),
    (Replace("state", to=[]), TypeError, "state_dict['state'] must be a mapping"),
    (Replace("param_groups", to=3), TypeError, "state_dict['param_groups'] must be a list"),
    (Replace("param_groups", to=[]), ValueError, "state_dict has 0 groups, but the optimizer has 1"),
    (Replace("param_groups", 0, to=None), TypeError, "['param_groups'][0] must be a mapping"),
    (Replace("param_groups", 0, "lr"), ValueError, "['param_groups'][0] has no 'lr'"),
    (Replace("param_groups", 0, "rate", to=1), ValueError, "unknown 'rate'"),
    (Replace("param_groups", 0, "lr", to=float("nan")), ValueError, "lr must be a finite number"),
    (Replace("param_groups", 0, "lr", to="fast"), TypeError, "lr must be a number"),
    (Replace("param_groups", 0, "betas", to=(0.9, 1 - 1e-9)), ValueError, "betas[1]"),
    (Replace("param_groups", 0, "amsgrad", to=1), TypeError, "amsgrad must be True or False"),
    (Replace("param_groups", 0, "params", to=[0]), ValueError, "['params'] must be a sequence of 2 parameters, got 1"),
    (Replace("param_groups", 0, "params", to=3), TypeError, "['params'] must be a sequence of 2"),
    (Replace("param_groups", 0, "params", to=[0, 0]), ValueError, "twice"),
    (Replace("param_groups", 0, "param_names", to=["b", "w"]), ValueError, "was saved for ['b', 'w']"),
    (Replace("state", 7, to={}), ValueError, "unknown parameters: [7]"),
    (Replace("state", 1, to=3), TypeError, "['state'][1] must be a mapping"),
    (Replace("state", 1, "step"), ValueError, "['state'][1] has no 'step'"),
    (Replace("state", 1, "exp_avg"), ValueError, "['state'][1] has no 'exp_avg'"),
    (Replace("state", 1, "max_exp_avg_sq"), ValueError, "['state'][1] has no 'max_exp_avg_sq'"),
    (Replace("state", 1, "momentum", to=1), ValueError, "['state'][1] has an unknown 'momentum'"),
    (Replace("state", 1, "step", to=-1), ValueError, "['state'][1]['step'] must be a whole number"),
    (Replace("state", 1, "step", to=1.5), ValueError, "['state'][1]['step'] must be a whole number"),
    (Replace("state", 1, "step", to=2.0**60), ValueError, "['state'][1]['step'] must be a whole number"),
    (Replace("state", 1, "step", to=float("nan")), ValueError, "['state'][1]['step'] must be a whole number"),
    (Replace("state", 1, "step", to="1"), TypeError, "['state'][1]['step'] must be a number"),
    (Replace("state", 1, "exp_avg", to=np.ones(4, np.float32)), ValueError, "['exp_avg'] has shape (4,)"),
    (Replace("state", 1, "exp_avg", to=np.ones(3)), TypeError, "['exp_avg'] has dtype float64"),
    (Replace("state", 1, "exp_avg", to="xyz"), TypeError, "['exp_avg'] has dtype"),
    (Replace("state", 0, "exp_avg_sq", to=[1.0]), ValueError, "['exp_avg_sq'] has shape (1,)"),
]


@pytest.mark.parametrize(("damage", "error", "words"), DAMAGES, ids=[words for _, _, words in DAMAGES])
def test_a_damaged_state_dict_changes_nothing(damage, error, words):
    opt = adam_with_state()
    opt.lr = 0.5
    before = opt.state_dict()
    saved = damaged(damage)
    with pytest.raises(error) as caught:
        opt.load_state_dict(saved)
    assert words in str(caught.value)
    assert_equal_dicts(opt.state_dict(), before)


def test_a_state_dict_must_be_a_mapping():
    with pytest.raises(TypeError, match="state_dict must be a mapping, got list"):
        adam_with_state().load_state_dict([])


def test_a_state_dict_of_the_other_form_of_nag_is_refused():
    textbook, shifted = fastopt.NAG(np.ones(3)), fastopt.NAG(np.ones(3), at_lookahead=True)
    with pytest.raises(ValueError, match="at_lookahead"):
        textbook.load_state_dict(shifted.state_dict())
    with pytest.raises(ValueError, match="at_lookahead"):
        textbook.at_lookahead = True


def test_parameters_without_saved_state_start_at_step_0():
    opt = adam_with_state()
    saved = opt.state_dict()
    del saved["state"][1]
    opt.load_state_dict(saved)
    assert opt.state["w"]["step"] == 1
    assert opt.state["b"]["step"] == 0
    assert not opt.state["b"]["exp_avg"].any()
    expected = np.ones(3, np.float32) * opt.params[1]
    reference.adam(expected, np.ones(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32), step=1)
    opt.step({"w": np.ones((2, 3)), "b": np.ones(3, np.float32)})
    assert_same_bits(opt.params[1], expected)
    assert [state["step"] for state in opt.state.values()] == [2, 1]


def test_tensors_of_one_type_may_have_taken_different_numbers_of_steps():
    rng = np.random.default_rng(2)
    params = [rng.normal(size=5) for _ in range(3)]
    grads = [rng.normal(size=5) for _ in params]
    opt = fastopt.Adam(params)
    opt.step(grads)
    saved = opt.state_dict()
    saved["state"][1]["step"] = 7
    opt.load_state_dict(saved)
    expected = [p.copy() for p in params]
    for i, (p, g) in enumerate(zip(expected, grads, strict=True)):
        state = {name: saved["state"][i][name].copy() for name in ("exp_avg", "exp_avg_sq")}
        reference.adam(p, g, **state, step=8 if i == 1 else 2)
    opt.step(grads)
    for found, wanted in zip(params, expected, strict=True):
        assert_same_bits(found, wanted)
    assert [state["step"] for state in opt.state.values()] == [2, 8, 2]


def test_loading_keeps_the_buffers_in_place():
    opt = adam_with_state()
    buffer = opt.state["w"]["exp_avg"]
    saved = opt.state_dict()
    saved["state"][0]["exp_avg"] += 1
    opt.load_state_dict(saved)
    assert np.shares_memory(opt.state["w"]["exp_avg"], buffer)
    assert_same_bits(buffer, saved["state"][0]["exp_avg"])
    saved["state"][0]["exp_avg"] += 1
    assert not np.array_equal(buffer, saved["state"][0]["exp_avg"])


IDLE = [(fastopt.SGD, {"momentum": 0.0}), (fastopt.RMSprop, {"momentum": 0.0, "centered": False})]


@pytest.mark.parametrize(("cls", "off"), [*IDLE, (fastopt.Adam, {"amsgrad": False})])
def test_unused_state_is_saved_and_loaded(cls, off):
    """A hyperparameter that needs the state again finds it as it was, or new where none was saved."""
    on = {"momentum": 0.9, "centered": True, "amsgrad": True}
    p = np.ones(4)
    opt = cls(p, **{name: on[name] for name in off})
    plain = cls(p.copy(), **off)
    rng = np.random.default_rng(4)
    for values in ({}, off):
        for name, value in values.items():
            setattr(opt, name, value)
        grad = rng.normal(size=4)
        opt.step(grad)
        plain.step(grad)
    twin, other = cls(p.copy()), opt.state_dict()
    twin.load_state_dict(other)
    assert_equal_dicts(twin.state_dict(), other)
    saved = plain.state_dict()
    used, fresh = cls(p.copy(), **{name: on[name] for name in off}), cls(p.copy())
    used.step(np.ones(4))
    used.params[0][:] = p
    for one in (used, fresh):
        one.load_state_dict(saved)
        assert_equal_dicts(one.state_dict(), saved)
    for pair in ((opt, twin), (used, fresh)):
        for one in pair:
            for name in off:
                setattr(one, name, on[name])
        if cls is fastopt.SGD:
            pair[0].dampening = pair[1].dampening = 0.5
        for _ in range(2):
            grad = rng.normal(size=4)
            pair[0].step(grad)
            pair[1].step(grad)
        assert_same_bits(pair[0].params[0], pair[1].params[0])


def test_a_momentum_set_and_reset_before_the_first_step_leaves_no_state():
    one, other = (fastopt.SGD(np.ones(3), momentum=momentum, dampening=0.5) for momentum in (0.9, 0.0))
    for momentum in (0.0, 0.9):
        one.momentum = other.momentum = momentum
        for grad in (np.ones(3), np.full(3, 0.5)):
            one.step(grad)
            other.step(grad)
            assert_equal_dicts(one.state_dict(), other.state_dict())
    assert_same_bits(one.params[0], other.params[0])


def test_loading_from_the_optimizers_own_buffers():
    """The buffers may be given in another order: all are read before any is written."""
    opt = adam_with_state()
    opt.state["b"]["exp_avg_sq"][:] = 0.25
    saved, groups = opt.state_dict(), opt.state_dict()["param_groups"]
    w, b = opt.state["w"], opt.state["b"]
    swapped = {
        0: {**w, "exp_avg": w["exp_avg_sq"], "exp_avg_sq": w["exp_avg"], "max_exp_avg_sq": w["exp_avg"][::-1]},
        1: {**b, "exp_avg": b["exp_avg_sq"], "exp_avg_sq": b["max_exp_avg_sq"], "max_exp_avg_sq": b["exp_avg"]},
    }
    opt.load_state_dict({"state": swapped, "param_groups": groups})
    was, now = saved["state"], opt.state_dict()["state"]
    for i, names in enumerate((["exp_avg_sq", "exp_avg", "exp_avg"], ["exp_avg_sq", "max_exp_avg_sq", "exp_avg"])):
        for name, source in zip(("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), names, strict=True):
            assert_same_bits(now[i][name], was[i][source], name)
    opt.load_state_dict({"state": dict(enumerate(opt.state.values())), "param_groups": groups})
    assert_equal_dicts(opt.state_dict(), {"state": now, "param_groups": groups})
