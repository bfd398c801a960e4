"""Objects whose own code fails, and endless iterables: the errors have the promised types and words."""

import copy
import re

import numpy as np
import pytest
from boundary import N, nothing_written, raising, tensor
from common import CLASSES

import fastopt


class Raising:
    """An object that raises an error of its own from every method by which an array or number is read."""

    def fail(self, *args, **kwargs):
        return 1 / 0

    __float__ = __index__ = __repr__ = __iter__ = __dlpack__ = __array__ = __buffer__ = fail
    __array_interface__ = property(fail)

    def __dlpack_device__(self):
        return (1, 0)


class Pretending:
    """An object that claims to be an array by its class, and has nothing else of one."""

    __class__ = property(lambda self: np.ndarray)


@pytest.mark.parametrize("cls", CLASSES)
def test_bad_numbers_raise_the_promised_errors(cls):
    """Neither an OverflowError nor an error of the value's own code, and no message as long as a huge value."""
    p, g = tensor(), tensor()
    opt = cls(p)
    too_large, huge = 10**400, 10**5000  # the digits of the second are more than Python is willing to show
    for bad, error in [
        (too_large, ValueError),
        (huge, ValueError),
        (Raising(), TypeError),
        (b"0.5", TypeError),
        (bytearray(b"0.5"), TypeError),
        (np.array("0.5"), TypeError),
        (np.str_("0.5"), TypeError),
        (np.complex64(0.5 + 1j), TypeError),
        (np.array(0.5 + 0j), TypeError),
        (Pretending(), TypeError),
        ([0.5] * 10_000, TypeError),
    ]:
        uses = [
            lambda bad=bad: setattr(opt, "lr", bad),
            lambda bad=bad: opt.param_groups[0].update(lr=bad),
            lambda bad=bad: cls(p, lr=bad),
            lambda bad=bad: opt.step(g, grad_scale=bad),
            lambda bad=bad: opt.step(g, max_norm=bad),
            lambda bad=bad: fastopt.clip_grad_norm(g, bad),
            lambda bad=bad: fastopt.kernels.sgd(p, g, lr=bad),
        ]
        for use in uses:
            with nothing_written(p, g), pytest.raises(error, match=r"lr|grad_scale|max_norm") as caught:
                use()
            assert type(caught.value) is error
            assert len(str(caught.value)) < 500
    for bad, error in [(-huge, ValueError), (Raising(), TypeError), ("4", TypeError)]:
        for use in (
            lambda bad=bad: setattr(opt, "threads", bad),
            lambda bad=bad: fastopt.set_num_threads(bad),
            lambda bad=bad: fastopt.global_norm(g, threads=bad),
        ):
            with raising(error, "threads must be"):
                use()
    with raising(TypeError, "maximize must be True or False"):
        opt.maximize = Raising()
    if hasattr(cls, "betas"):
        for bad in (Raising(), iter(int, 1), 0.5):
            with raising((TypeError, ValueError), "betas must be a pair"):
                opt.betas = bad
        with raising(ValueError, "betas[1] must be a number that float64 holds"):
            opt.betas = (0.9, 10**400)
    saved = opt.state_dict()
    for path, bad, words in [
        (("param_groups", 0, "lr"), too_large, "lr must be a number that float64 holds"),
        (("state", 0, "step"), huge, "['step'] must be a number that float64 holds"),
        (("state", 0, Raising()), 1, "unknown"),
        (("state", Raising()), {}, "unknown parameters"),
    ]:
        damaged = copy.deepcopy(saved)
        *way, last = path
        place = damaged
        for key in way:
            place = place[key]
        place[last] = bad
        with nothing_written(p), pytest.raises(ValueError, match=re.escape(words)):
            opt.load_state_dict(damaged)


def test_bad_buffers_raise_the_promised_errors():
    p = tensor()
    opt = fastopt.Adam([p])
    opt.step([tensor()])
    view = memoryview(bytearray(16))
    view.release()
    for bad in (Raising(), view):
        for use in (
            lambda bad=bad: opt.step([bad]),
            lambda bad=bad: opt.step(bad),
            lambda bad=bad: opt.bind([bad]),
            lambda bad=bad: fastopt.SGD(bad),
            lambda bad=bad: fastopt.SGD([bad]),
            lambda bad=bad: fastopt.SGD({"w": bad}),
            lambda bad=bad: fastopt.global_norm(bad),
            lambda bad=bad: fastopt.clip_grad_norm([bad], 1.0),
            lambda bad=bad: fastopt.kernels.sgd(p, bad),
        ):
            with nothing_written(p), pytest.raises(TypeError) as caught:
                use()
            assert type(caught.value) is TypeError
    for bad in (view, memoryview(np.array(["w"]))):
        with nothing_written(p), raising(TypeError, "must be a list of groups"):
            opt.load_state_dict({**opt.state_dict(), "param_groups": bad})
    saved = opt.state_dict()
    masked = np.ma.masked_array(tensor(), [True] * N)
    for bad, words in [(Raising(), "cannot be read as an array"), (range(10**15), "cannot be read"), (masked, "mask")]:
        damaged = copy.deepcopy(saved)
        damaged["state"][0]["exp_avg"] = bad
        with nothing_written(p, opt.state[0]["exp_avg"]), raising(TypeError, "['exp_avg']", words):
            opt.load_state_dict(damaged)


@pytest.mark.parametrize("endless", [lambda: iter(int, 1), lambda: range(10**15)], ids=["iterator", "range"])
def test_endless_iterables_are_refused(endless):
    """They are not read until the memory is full."""
    p = tensor()
    opt, two = fastopt.Adam([p]), fastopt.Adam({"w": tensor()})
    saved, of_two = opt.state_dict(), two.state_dict()
    for use, error, words in [
        (lambda: opt.step(endless()), ValueError, "grads must be a sequence of 1 arrays, got more"),
        (lambda: opt.bind(endless()), ValueError, "grads must be a sequence of 1 arrays, got more"),
        (lambda: fastopt.SGD(endless()), TypeError, "params[0] is a number of type int"),
        (lambda: fastopt.SGD([{"params": endless()}]), TypeError, "params[0]['params'][0] is a number of type int"),
        (lambda: fastopt.SGD({"w": endless()}), TypeError, "params['w'] is of type"),
        (lambda: fastopt.global_norm(endless()), TypeError, "arrays[0] is a number of type int"),
        (lambda: opt.load_state_dict({**saved, "param_groups": endless()}), ValueError, "state_dict has more groups"),
    ]:
        with nothing_written(p), raising(error, words):
            use()
    saved["param_groups"][0]["params"] = endless()
    with nothing_written(p), raising(ValueError, "['params'] must be a sequence of 1 parameters, got more"):
        opt.load_state_dict(saved)
    of_two["param_groups"][0]["param_names"] = endless()
    with raising(ValueError, "['param_names'] must be a sequence of 1 names, got more"):
        two.load_state_dict(of_two)
