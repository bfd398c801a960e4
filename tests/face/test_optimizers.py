"""The optimizers' classes step as the reference does, and their hyperparameters can be changed."""

import threading

import numpy as np
import pytest
from common import CLASSES, assert_same_as_reference, assert_same_bits
from optimizers import every_case, model_of, tensors

import fastopt
from fastopt import reference
from fastopt._rules import RULES

every_class = pytest.mark.parametrize("cls", CLASSES)


@every_case
def test_steps_like_the_reference(case):
    cls, hypers = case
    rng = np.random.default_rng(5)
    params = tensors(rng)
    opt, model = cls(params, **hypers), model_of(cls, params, hypers)
    for step in range(5):
        grads = tensors(rng)
        opt.lr = model.param_groups[0]["lr"] = 0.1 / (1 + step)
        assert opt.step(grads) is None
        model.step(grads)
        assert_same_as_reference(opt, model)
    assert all(p is q for p, q in zip(params, opt.params, strict=True))


@every_case
def test_structures(case):
    """One array, a sequence, a mapping and groups are stepped alike, whatever their order."""
    cls, hypers = case
    rng = np.random.default_rng(6)
    start, grads = tensors(rng), [tensors(rng) for _ in range(3)]
    expected = model_of(cls, start, hypers)
    for g in grads:
        expected.step(g)

    def run(params, structure):
        opt = cls(structure(params), **hypers)
        for g in grads:
            opt.step(structure(g))
        for found, wanted in zip(params, expected.params, strict=True):
            assert_same_bits(found, wanted)

    def copies():
        return [p.copy() for p in start]

    run(copies(), list)
    run(copies(), tuple)
    run(copies(), lambda arrays: (array for array in arrays))
    run(copies(), lambda arrays: dict(zip("abcd", arrays, strict=True)))
    run(copies(), lambda arrays: [{"params": arrays[:1]}, {"params": arrays[1:]}])
    run(
        copies(),
        lambda arrays: [{"params": arrays[0]}, {"params": {"x": arrays[1], 2: arrays[2]}}, {"params": arrays[3:]}],
    )
    for i in range(len(start)):
        one = start[i].copy()
        opt = cls(one, **hypers)
        for g in grads:
            opt.step(g[i])
        assert_same_bits(one, expected.params[i])

    params = dict(zip("abcd", copies(), strict=True))
    opt = cls(params, **hypers)
    for g in grads:
        opt.step(dict(reversed(list(zip("abcd", g, strict=True)))))
    assert list(opt.state) == list("abcd")
    for found, wanted in zip(params.values(), expected.params, strict=True):
        assert_same_bits(found, wanted)


def test_groups_have_their_own_hyperparameters():
    a, b = np.ones(3), np.ones(3)
    opt = fastopt.Adam([{"params": a}, {"params": [b], "lr": 0.5, "betas": (0.5, 0.6), "amsgrad": True}], lr=0.1)
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.5]
    assert opt.param_groups[1]["betas"] == (0.5, 0.6)
    assert opt.param_groups[1]["params"] == (b,)
    assert "max_exp_avg_sq" in opt.state[1]
    assert "max_exp_avg_sq" not in opt.state[0]
    with pytest.raises(AttributeError, match=r"lr differs .*0\.1, 0\.5"):
        _ = opt.lr
    opt.step([{"params": np.full(3, 2.0)}, {"params": [np.full(3, 2.0)]}])
    np.testing.assert_allclose(a, 0.9)
    np.testing.assert_allclose(b, 0.5)
    opt.param_groups[0]["lr"] *= 2
    assert [group["lr"] for group in opt.param_groups] == [0.2, 0.5]
    opt.lr = 0.3
    assert opt.lr == 0.3
    assert [group["lr"] for group in opt.param_groups] == [0.3, 0.3]
    group = dict(opt.param_groups[1])
    assert list(group) == ["params", "lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"]


def test_a_bad_value_for_one_group_changes_none():
    opt = fastopt.RMSprop([{"params": np.ones(2)}, {"params": np.ones(2, np.float32)}])
    with pytest.raises(ValueError, match="alpha"):
        opt.alpha = 1 - 1e-12  # fine for float64, 1.0 for float32
    assert opt.alpha == 0.99
    opt.step([{"params": np.ones(2)}, {"params": np.ones(2, np.float32)}])


@every_class
def test_a_changed_hyperparameter_takes_effect_at_the_next_step(cls):
    """Each is set by attribute or in a group, in a model of two types and groups; the reference gives the bits."""
    rng, numbers = np.random.default_rng(11), RULES[cls.rule].numbers
    assert "lr" in numbers
    params = tensors(rng)
    copies = [p.copy() for p in params]
    opt = cls([{"params": params[:2]}, {"params": params[2:]}])
    model = reference.Optimizer(cls.rule, [{"params": copies[:2]}, {"params": copies[2:]}])
    for name in numbers:
        before = getattr(opt, name)
        for value in (before / 2, 0 if name == "lr_decay" else 0.25, np.float32(0.125), np.array(0.5)):
            if rng.integers(2):
                setattr(opt, name, value)
            else:
                for group in opt.param_groups:
                    group[name] = value
            assert getattr(opt, name) == value
            assert type(opt.param_groups[1][name]) is float
            for group in model.param_groups:
                group[name] = float(value)
            grads = tensors(rng)
            opt.step([{"params": grads[:2]}, {"params": grads[2:]}])
            model.step(grads)
            assert_same_as_reference(opt, model)


@every_class
def test_an_out_of_range_hyperparameter_is_one_error_everywhere_and_changes_nothing(cls):
    for name in RULES[cls.rule].numbers:
        opt = cls([{"params": np.ones(2)}, {"params": np.ones(2, np.float32)}])
        before = [dict(group) for group in opt.param_groups]
        for bad in (-1.0, -1, np.nan, float("inf"), 1e-60, 10**400):  # 1e-60 is fine for float64, and 0 for float32
            if bad == 1e-60 and name in ("dampening", "lr_decay"):
                continue  # these two are used in float64
            with pytest.raises(ValueError, match=name) as caught:
                cls([{"params": np.ones(2)}, {"params": np.ones(2, np.float32)}], **{name: bad})
            with pytest.raises(ValueError, match=name) as by_attribute:
                setattr(opt, name, bad)
            with pytest.raises(ValueError, match=name) as by_group:
                opt.param_groups[1][name] = bad
            assert str(caught.value) == str(by_attribute.value)
            assert str(by_group.value) == str(caught.value).replace(" of group 0", " of group 1")
            assert repr([dict(group) for group in opt.param_groups]) == repr(before)


@every_class
def test_a_group_has_the_keys_that_it_lists_and_no_others(cls):
    opt = cls([np.ones(2)])
    group = opt.param_groups[0]
    for key in {"params", "betas", "step", "grad_scale", "beta1", "beta2", "none such", *RULES[cls.rule].hypers}:
        assert (key in group) == (key in list(group)), key
        if key not in list(group):
            with pytest.raises(KeyError, match=f"'{key}'"):
                _ = group[key]
            with pytest.raises(KeyError, match=f"'{key}' is no hyperparameter"):
                group[key] = 0.5


def test_an_attribute_of_a_group_is_no_hyperparameter():
    opt = fastopt.SGD([np.ones(2)])
    with pytest.raises(AttributeError, match="lr"):
        opt.param_groups[0].lr = 0.5


def test_a_hyperparameter_cannot_be_deleted():
    opt = fastopt.SGD([np.ones(2)], lr=0.5)
    with pytest.raises(AttributeError, match="lr cannot be deleted"):
        del opt.lr
    assert opt.lr == 0.5


def test_a_subclass_cannot_hide_a_hyperparameter():
    for name in ("lr", "maximize"):
        hidden = f"Faster.{name} would hide the hyperparameter {name}; pass another default"
        with pytest.raises(TypeError, match=hidden):
            type("Faster", (fastopt.Adam,), {name: 0.5})


def test_attributes_of_a_subclass_are_private_or_declared():
    class Own(fastopt.SGD):
        decay = None

    opt = Own([np.ones(2)])
    opt.decay = opt._decay = 0.5
    assert opt.decay == 0.5
    with pytest.raises(AttributeError, match=r"'rate' is no hyperparameter of Own.* must be declared in a subclass"):
        opt.rate = 0.5


def test_the_base_class_has_no_rule():
    with pytest.raises(TypeError, match="use one of its subclasses"):
        fastopt.Optimizer([np.ones(2)])


def test_a_group_that_the_optimizer_does_not_have_cannot_be_made():
    opt = fastopt.SGD([{"params": np.ones(2)}, {"params": np.ones(3)}], lr=0.5)
    assert fastopt.ParamGroup(opt, 1)["lr"] == 0.5
    for other, index in ((opt, 2), (fastopt.SGD.__new__(fastopt.SGD), 0)):
        with pytest.raises(ValueError, match="there is none with index"):
            fastopt.ParamGroup(other, index)


def test_a_hyperparameter_that_an_option_forbids_is_an_error():
    opt = fastopt.SGD(np.ones(2), momentum=0.5, nesterov=True)
    with pytest.raises(ValueError, match="nesterov needs momentum > 0 and dampening = 0"):
        opt.dampening = 0.5
    with pytest.raises(ValueError, match="nesterov needs momentum > 0 and dampening = 0"):
        opt.param_groups[0]["dampening"] = 0.5
    assert opt.dampening == 0.0
    opt.lr = 0.25
    assert opt.lr == 0.25


def test_hyperparameters_are_not_set_while_another_thread_holds_the_optimizer():
    opt = fastopt.NAG([{"params": np.ones(2)}, {"params": np.ones(2)}], lr=0.5)
    refused = []

    def other():
        for door in (lambda: setattr(opt, "lr", 0.1), lambda: opt.param_groups[1].__setitem__("lr", 0.1)):
            try:
                door()
            except RuntimeError as error:
                refused.append(str(error))

    with opt.lookahead():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert opt.lr == 0.5
        opt.lr = 0.25  # the thread that holds it may
    assert len(refused) == 2
    assert opt.lr == 0.25


@every_case
def test_a_step_with_lr_as_an_argument(case):
    cls, hypers = case
    rng = np.random.default_rng(12)
    params = tensors(rng)
    opt, model = cls(params, lr=0.5, **hypers), model_of(cls, params, {"lr": 0.5, **hypers})
    for step, lr in enumerate((0.25, None, np.float32(0.125), 0)):
        grads = tensors(rng)
        opt.step(grads, lr=lr)
        model.step(grads, lr=None if lr is None else float(lr))
        assert_same_as_reference(opt, model)
        before = [p.tobytes() for p in opt.params]
        for bad, error in ((-1.0, ValueError), (np.nan, ValueError), ("1", TypeError), (10**400, ValueError)):
            with pytest.raises(error, match="lr must be"):
                opt.step(grads, lr=bad)
        assert [p.tobytes() for p in opt.params] == before
        assert opt.lr == 0.5
        assert opt.state[0]["step"] == step + 1


def test_buffers_are_made_when_a_change_needs_them():
    p = np.ones(4)
    rng = np.random.default_rng(0)
    opt, model = fastopt.RMSprop(p), model_of(fastopt.RMSprop, [p], {})
    for step in range(6):
        g = rng.normal(size=4)
        if step == 2:
            opt.momentum = 0.5
            opt.centered = True
            model.param_groups[0].update(momentum=0.5, centered=True)
        opt.step(g)
        model.step([g])
        assert_same_as_reference(opt, model)
        assert ("momentum_buffer" in opt.state[0]) == (step >= 2)
    buffer = opt.state[0]["momentum_buffer"].copy()
    opt.momentum = model.param_groups[0]["momentum"] = 0.0
    opt.step(np.ones(4))
    model.step([np.ones(4)])
    assert_same_as_reference(opt, model)
    assert_same_bits(opt.state[0]["momentum_buffer"], buffer)


def test_the_first_step_with_momentum_takes_the_whole_gradient():
    """As in torch, the buffer starts as the gradient, without dampening, also if momentum comes after some steps."""
    p = np.array([1.0, -2.0])
    opt = fastopt.SGD(p, lr=0.5)
    for _ in range(3):
        opt.step(np.array([0.5, 0.25]))
    opt.momentum, opt.dampening = 0.5, 0.75
    p[...] = [1.0, -2.0]
    opt.step(np.array([1.0, 2.0]))
    assert_same_bits(p, np.array([0.5, -3.0]))
    opt.step(np.array([4.0, 4.0]))  # the buffer is 0.5*g1 + 0.25*g2
    assert_same_bits(p, np.array([0.5 - 0.75, -3.0 - 1.0]))
    assert opt.state[0]["step"] == 2


def test_two_threads_that_set_hyperparameters_do_not_mix_them():
    """While one thread sets them, the other gets a RuntimeError, so that engine, groups and buffers stay consistent."""
    opt, refused = fastopt.SGD(np.ones(3)), []

    class Slow:
        def __float__(self):
            def other():
                try:
                    opt.momentum = 0.5
                except RuntimeError as error:
                    refused.append(str(error))

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return 0.25

    opt.lr = Slow()
    assert len(refused) == 1
    assert "already in use" in refused[0]
    assert (opt.lr, opt.momentum) == (0.25, 0.0)
    opt.momentum = 0.5
    assert (opt.lr, opt.momentum) == (0.25, 0.5)


def test_an_optimizer_is_made_once():
    p, grads = np.ones(3), np.ones(3)
    opt = fastopt.SGD(p, lr=0.5, threads=2)
    saved = fastopt.SGD([np.ones(2), np.ones(2)]).__getstate__()
    for again in (lambda: opt.__init__([np.ones(2), np.ones(2)], threads=3), lambda: opt.__setstate__(saved)):
        with pytest.raises(RuntimeError, match="has its parameters already"):
            again()
        assert (opt.lr, opt.threads, len(opt.param_groups)) == (0.5, 2, 1)
    opt.step(grads)
    assert (p == 0.5).all()


@pytest.mark.parametrize("name", ["params", "param_groups", "state", "step"])
def test_what_an_optimizer_holds_cannot_be_replaced(name):
    opt = fastopt.Adam([np.ones(2)])
    before = getattr(opt, name)
    with pytest.raises(AttributeError, match=f"'{name}' of an optimizer cannot be replaced"):
        setattr(opt, name, [])
    assert str(getattr(opt, name)) == str(before)
    assert isinstance(opt.param_groups, tuple)


def test_repr():
    opt = fastopt.Adam([np.ones((2, 3), np.float32), np.ones(4, np.float32)], lr=3e-4)
    assert repr(opt) == (
        "Adam(lr=0.0003, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False, maximize=False)"
        "  # 2 parameters, 10 elements, float32"
    )
    opt.lr = 1
    assert "lr=1.0" in repr(opt)
    opt = fastopt.Momentum([{"params": np.ones(1)}, {"params": np.ones(2, np.float32), "lr": 0.5}])
    assert repr(opt) == (
        "Momentum(  # 2 parameters, 3 elements, float32 and float64\n"
        "  group 0: lr=0.01, momentum=0.9, weight_decay=0.0, maximize=False\n"
        "  group 1: lr=0.5, momentum=0.9, weight_decay=0.0, maximize=False\n"
        ")"
    )
    assert repr(opt.param_groups[1]) == "<1 parameter, lr=0.5, momentum=0.9, weight_decay=0.0, maximize=False>"


def test_hyperparameters_may_be_numpy_or_int():
    opt = fastopt.Adam(np.ones(2), lr=1, betas=[np.float32(0.5), 0], eps=np.array(1e-3), amsgrad=np.True_)
    assert (opt.lr, opt.betas, opt.eps, opt.amsgrad) == (1.0, (0.5, 0.0), 1e-3, True)
    assert [type(value) for value in (opt.lr, opt.eps, opt.amsgrad)] == [float, float, bool]
