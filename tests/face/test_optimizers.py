"""The optimizer classes: they step as the reference does, keep their state, and can be saved, copied and changed."""

import copy
import pickle
import threading

import numpy as np
import pytest
from common import CLASSES, DTYPES, assert_same_as_reference, assert_same_bits, random_tensor

import fastopt
from fastopt import reference
from fastopt._rules import RULES

every_class = pytest.mark.parametrize("cls", CLASSES)

# Each class with settings that switch on every optional buffer and switch in some combination.
CASES = [
    (fastopt.SGD, {}),
    (fastopt.SGD, {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}),
    (fastopt.SGD, {"momentum": 0.8, "nesterov": True, "maximize": True}),
    (fastopt.Momentum, {"momentum": 0.8, "weight_decay": 0.01}),
    (fastopt.NAG, {"momentum": 0.8}),
    (fastopt.NAG, {"momentum": 0.8, "at_lookahead": True}),
    (fastopt.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps_inside_sqrt": True}),
    (fastopt.Adadelta, {"rho": 0.8}),
    (fastopt.RMSprop, {}),
    (fastopt.RMSprop, {"momentum": 0.5, "centered": True, "eps_inside_sqrt": True}),
    (fastopt.Adam, {"betas": (0.8, 0.99)}),
    (fastopt.Adam, {"amsgrad": True, "weight_decay": 0.01}),
    (fastopt.AdamW, {"amsgrad": True, "maximize": True}),
]
CASES += [(cls, {}) for cls in CLASSES if cls not in dict(CASES)]
SHAPES = [(3, 4), (), (0, 2), (17,)]


def name_of(case):
    return "-".join([case[0].__name__, *(key for key, value in case[1].items() if value)])


every_case = pytest.mark.parametrize("case", CASES, ids=name_of)


def tensors(rng, dtypes=DTYPES):
    return [
        random_tensor(rng, int(np.prod(shape)), dtypes[i % len(dtypes)]).reshape(shape)
        for i, shape in enumerate(SHAPES)
    ]


def model_of(cls, params, hypers):
    """The reference's optimizer, on copies of the parameters."""
    return reference.Optimizer(cls.rule, [p.copy() for p in params], **hypers)


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
def test_each_number_counts_from_the_next_step_on(cls):
    """Set by attribute or in a group, in a model of two types and two groups, it gives the reference's bits."""
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
def test_a_number_out_of_its_range_is_the_same_error_as_ever_and_changes_nothing(cls):
    for name in RULES[cls.rule].numbers:
        opt = cls([{"params": np.ones(2)}, {"params": np.ones(2, np.float32)}])
        before = [dict(group) for group in opt.param_groups]
        for bad in (-1.0, -1, np.nan, float("inf"), 1e-60, 10**400):  # 1e-60 is fine for float64, and 0 for float32
            if bad == 1e-60 and name in ("dampening", "lr_decay"):
                continue  # coefficients are made of them in float64
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
    group = cls([np.ones(2)]).param_groups[0]
    for key in {"params", "betas", "step", "grad_scale", "beta1", "beta2", "none such", *RULES[cls.rule].hypers}:
        assert (key in group) == (key in list(group)), key
        if key not in list(group):
            with pytest.raises(KeyError, match=f"'{key}'"):
                _ = group[key]
            with pytest.raises(KeyError, match=f"'{key}' is no hyperparameter"):
                group[key] = 0.5


def test_a_number_that_an_option_forbids_is_an_error():
    opt = fastopt.SGD(np.ones(2), momentum=0.5, nesterov=True)
    with pytest.raises(ValueError, match="nesterov needs momentum > 0 and dampening = 0"):
        opt.dampening = 0.5
    with pytest.raises(ValueError, match="nesterov needs momentum > 0 and dampening = 0"):
        opt.param_groups[0]["dampening"] = 0.5
    assert opt.dampening == 0.0
    opt.lr = 0.25
    assert opt.lr == 0.25


def test_numbers_are_not_set_while_another_thread_holds_the_optimizer():
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
def test_a_step_with_a_learning_rate_of_its_own(case):
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


def test_buffers_are_made_when_a_change_calls_for_them():
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


@every_case
def test_state_dict_continues(case):
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
    assert_equal_dicts(saved, kept)  # it was a copy: neither optimizer has touched it
    for i, p in enumerate(start):
        for name, value in saved["state"][i].items():
            if name != "step":
                assert value.dtype == p.dtype
                assert value.shape == p.shape


def assert_equal_dicts(a, b):
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for key, state in a["state"].items():
        assert state.keys() == b["state"][key].keys()
        for name, value in state.items():
            assert np.array_equal(value, b["state"][key][name])


def adam_with_state():
    opt = fastopt.Adam({"w": np.ones((2, 3)), "b": np.ones(3, np.float32)}, amsgrad=True)
    opt.step({"w": np.ones((2, 3)), "b": np.ones(3, np.float32)})
    return opt


def damaged(change):
    saved = adam_with_state().state_dict()
    change(saved)
    return saved


class Replace:
    """A damage: the value at a path of keys replaced, or deleted where no value is given."""

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


def test_a_checkpoint_of_the_other_form_of_nag_is_refused():
    textbook, shifted = fastopt.NAG(np.ones(3)), fastopt.NAG(np.ones(3), at_lookahead=True)
    with pytest.raises(ValueError, match="at_lookahead"):
        textbook.load_state_dict(shifted.state_dict())
    with pytest.raises(ValueError, match="at_lookahead"):
        textbook.at_lookahead = True


def test_parameters_without_state_start_anew():
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
def test_state_that_is_not_in_use_is_saved_and_loaded(cls, off):
    """A hyperparameter that calls for it again finds it as it was, and finds nothing where nothing was saved."""
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


def test_a_momentum_that_came_and_went_before_the_first_step_leaves_nothing():
    one, other = (fastopt.SGD(np.ones(3), momentum=momentum, dampening=0.5) for momentum in (0.9, 0.0))
    for momentum in (0.0, 0.9):
        one.momentum = other.momentum = momentum
        for grad in (np.ones(3), np.full(3, 0.5)):
            one.step(grad)
            other.step(grad)
            assert_equal_dicts(one.state_dict(), other.state_dict())
    assert_same_bits(one.params[0], other.params[0])


def test_loading_from_the_optimizers_own_buffers():
    """They may be given in another order: each is read before it is written."""
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
def test_copies_are_of_what_was_bound(duplicate, grouped):
    """Not of what the caller's mapping, list or group holds by now."""
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


def test_two_threads_that_set_hyperparameters_do_not_mix_them():
    """While one thread is at it, the other gets a RuntimeError: engine, groups and buffers stay of one mind."""
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


def test_an_optimizer_of_what_cannot_be_pickled_says_so():
    opt = fastopt.SGD([memoryview(np.ones(3))])
    with pytest.raises(TypeError, match="memoryview"):
        pickle.dumps(opt)


# ---- NAG's look-ahead. ----


def nag(momentum=0.9):
    w = {"a": np.array([1.0, -2.0, np.inf]), "b": np.array([[0.1]], np.float32), "c": np.empty(0)}
    opt = fastopt.NAG(w, lr=0.3, momentum=momentum)
    opt.step({key: np.full_like(value, 0.7) for key, value in w.items()})
    return w, opt


def test_lookahead_comes_back_bit_for_bit():
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


def test_lookahead_comes_back_when_the_block_raises():
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
    """What it puts back is what the arrays held once no other thread could step any more."""

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


@pytest.mark.parametrize("name", ["params", "param_groups", "state", "step"])
def test_what_an_optimizer_holds_cannot_be_replaced(name):
    opt = fastopt.Adam([np.ones(2)])
    before = getattr(opt, name)
    with pytest.raises(AttributeError, match=f"'{name}' of an optimizer cannot be replaced"):
        setattr(opt, name, [])
    assert str(getattr(opt, name)) == str(before)
    assert isinstance(opt.param_groups, tuple)


# ---- How it reads. ----


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
