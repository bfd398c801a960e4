"""Copies and pickles of optimizers stay bound to the copied arrays."""

import copy
import pickle

import numpy as np
import pytest
from common import assert_same_bits
from optimizers import assert_equal_dicts, every_case, tensors

import fastopt

COPIES = {
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda x, n=n: pickle.loads(pickle.dumps(x, n)) for n in range(2, pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
@every_case
def test_copies_stay_bound_to_the_copied_arrays(case, duplicate):
    cls, hypers = case
    rng = np.random.default_rng(9)
    w = dict(zip("abcd", tensors(rng), strict=True))
    opt = cls(w, **hypers)
    opt.step(dict(zip("abcd", tensors(rng), strict=True)))
    twin_w, twin = duplicate((w, opt))
    assert type(twin) is cls
    assert all(p is q for p, q in zip(twin.params, twin_w.values(), strict=True))
    assert not any(np.shares_memory(p, q) for p, q in zip(opt.params, twin.params, strict=True))
    assert repr(twin) == repr(opt)
    grads = dict(zip("abcd", tensors(rng), strict=True))
    before = {key: value.copy() for key, value in w.items()}
    twin.step(grads)
    for key, value in w.items():
        assert_same_bits(value, before[key])
    opt.step(grads)
    for key in w:
        assert_same_bits(twin_w[key], w[key])
    assert_equal_dicts(twin.state_dict(), opt.state_dict())


def test_copies_of_groups():
    opt = fastopt.Adam([{"params": np.ones(2), "lr": 0.1}, {"params": [np.ones(3)], "betas": (0.5, 0.5)}])
    opt.param_groups[0]["lr"] = 0.2
    opt.step([{"params": np.ones(2)}, {"params": [np.ones(3)]}])
    for duplicate in COPIES.values():
        twin = duplicate(opt)
        assert_equal_dicts(twin.state_dict(), opt.state_dict())
        assert twin.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_have_the_parameters_that_the_optimizer_was_made_with(duplicate, grouped):
    """A copy ignores what the caller's mapping, list or group holds by now."""
    w, listed = {"a": np.ones(2), "b": np.ones(3)}, [np.ones(2)]
    groups = [{"params": w}, {"params": listed}]
    opt = fastopt.Adam(groups if grouped else w)
    opt.step([{"params": {"a": np.ones(2), "b": np.ones(3)}}, {"params": [np.ones(2)]}] if grouped else w_like(w))
    before = [p.copy() for p in opt.params]
    w["a"] = np.zeros(5)
    w["c"] = np.zeros(1)
    listed.clear()
    groups.append("more")
    twin = duplicate(opt)
    for found, expected in zip(twin.params, before, strict=True):
        assert_same_bits(found, expected)
    assert_equal_dicts(twin.state_dict(), opt.state_dict())


def w_like(w):
    return {key: np.ones_like(value) for key, value in w.items()}


def test_an_optimizer_of_what_cannot_be_pickled_says_so():
    opt = fastopt.SGD([memoryview(np.ones(3))])
    with pytest.raises(TypeError, match="memoryview"):
        pickle.dumps(opt)


class Tagged(fastopt.Adam):
    """An optimizer with attributes of its own."""

    decay = None

    def __init__(self, params, **hyper):
        super().__init__(params, **hyper)
        self._tags = ["run"]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_copies_have_the_attributes_of_a_subclass(duplicate):
    opt = Tagged([np.ones(2)])
    opt._tags.append("second")
    opt.decay = 0.5
    other = duplicate(opt)
    assert other._tags == ["run", "second"]
    assert other.decay == 0.5
    assert (other._tags is opt._tags) == (duplicate is copy.copy)


def test_a_copy_of_a_parameter_that_has_another_shape_by_now():
    """A step takes such a parameter, so a copy has it in the shape of its state."""
    p, expected = np.ones((3, 4)), np.ones((3, 4))
    opt, same = fastopt.Adam(p), fastopt.Adam(expected)
    for step in (opt.step, same.step):
        step(np.full((3, 4), 0.5))
    p.shape = (12,)
    other = copy.deepcopy(opt)
    other.step(np.full((3, 4), 0.25))
    same.step(np.full((3, 4), 0.25))
    assert_same_bits(other.params[0], expected)
