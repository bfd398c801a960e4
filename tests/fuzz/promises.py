"""One input of the fuzz target: an optimizer, some uses of it, and the docs' promises about the outcome of each."""

from __future__ import annotations

import math

import numpy as np
from common import CLASSES
from nonsense import (
    JUNK,
    KEYS,
    NUMBERS,
    Mischief,
    NoLength,
    NoTruth,
    Shrinking,
    Source,
    good_array,
    good_gradient,
    placed,
    strange_array,
    values,
)

import fastopt
from fastopt import reference
from fastopt._rules import RULES

PROMISED = (TypeError, ValueError, RuntimeError)


class Finding(AssertionError):
    """An outcome that breaks a promise of the docs."""


class Case:
    """An optimizer with parameters in one of the structures, and its state when it was last checked."""

    def __init__(self, s):
        self.s = s
        self.cls = s.pick(CLASSES)
        self.shapes = [s.pick([(3,), (), (2, 2), (0,), (5,), (1,), (0, 3)]) for _ in range(s.number(1, 3))]
        self.dtypes = [s.pick([np.float32, np.float64]) for _ in self.shapes]
        self.form = s.pick(
            ["list", "mapping", "groups"] if len(self.shapes) > 1 else ["one", "list", "mapping", "groups"]
        )
        self.pool = np.linspace(0.0, 1.0, 24)
        self.params = [
            placed(s, values(s, *what)) if s.one_in(2) else values(s, *what)
            for what in zip(self.shapes, self.dtypes, strict=True)
        ]
        self.opt = self.cls(self.arranged(self.params), **self.options())

    def options(self):
        s = self.s
        wanted = {"momentum": 0.5, "amsgrad": True, "centered": True, "maximize": True, "lr": 0.1, "weight_decay": 0.1}
        return {key: value for key, value in wanted.items() if key in self.cls._hypers() and s.one_in(3)}

    def arranged(self, leaves):
        if self.form == "one":
            return leaves[0]
        if self.form == "mapping":
            return dict(zip("abc", leaves, strict=False))
        if self.form == "groups":
            return [{"params": leaves[:1]}, *([{"params": {"x": leaf}} for leaf in leaves[1:]])]
        return list(leaves)

    def gradients(self, written=False, numbers=True):
        return [good_gradient(self.s, *what, written, numbers) for what in zip(self.shapes, self.dtypes, strict=True)]

    def nonsense(self, own=True):
        """Gradients or parameters; some are wrong or the optimizer's own arrays, or the structure is wrong."""
        s = self.s
        if s.one_in(8):
            return s.pick(JUNK)()
        leaves = [
            strange_array(s, shape, dtype, self.pool) if s.one_in(2) else good_array(s, shape, dtype)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        ]
        kind = s.number(0, 19)
        if kind == 0 and own:
            leaves[s.number(0, len(leaves) - 1)] = s.pick(self.params)
        if kind == 1 and own:
            buffers = [
                value for state in self.opt.state.values() for value in state.values() if hasattr(value, "shape")
            ]
            leaves[s.number(0, len(leaves) - 1)] = s.pick(buffers or self.params)
        if kind == 2:
            leaves.append(leaves[0])
        whole = self.arranged(leaves)
        if kind == 3 and isinstance(whole, (list, dict)):
            whole.clear()
        if kind == 4 and isinstance(whole, dict):
            whole[s.pick(KEYS)] = leaves[0]
        if kind == 5 and self.form == "groups":
            whole[s.number(0, len(whole) - 1)] = s.pick([s.pick(JUNK), lambda: {s.pick(KEYS): s.pick(NUMBERS)()}])()
        if kind == 6 and self.form == "groups":
            whole[-1][s.pick(KEYS)] = s.pick(NUMBERS)()
        if kind == 7 and self.form == "list":
            whole[0] = Shrinking(values(s, self.shapes[0], self.dtypes[0]), whole)
        if kind == 8 and isinstance(whole, list):
            whole = s.pick([tuple, iter, NoLength])(whole)
        return whole

    def damaged(self):
        """A state_dict with some values replaced, removed or added, or one of another class."""
        s = self.s
        donor = self.opt
        if s.one_in(8):
            donor = s.pick(CLASSES)(self.arranged([p.copy() for p in self.params]))
            donor.step(self.arranged(self.gradients()))
        saved = donor.state_dict()
        if s.one_in(2):  # so that a value that is set before the error is seen
            for group in saved["param_groups"]:
                group["lr"] = 0.3
        if s.one_in(8):
            saved["param_groups"][-1]["lr"] = s.pick([math.nan, -1.0, math.inf, 1e39])
        for _ in range(s.number(0, 3)):
            way, last = saved, None
            place = saved
            for _ in range(s.number(1, 3)):
                if isinstance(place, dict) and place:
                    last = s.pick(list(place))
                elif isinstance(place, list) and place:
                    last = s.number(0, len(place) - 1)
                else:
                    break
                way, place = place, place[last]
            if last is None:
                continue
            what = s.number(0, 6)
            if what == 0:
                del way[last]
            elif what == 1 and isinstance(way, dict):
                way[s.pick(KEYS)] = s.pick(JUNK)()
            elif what == 2:
                way[last] = s.pick(NUMBERS)()
            elif what == 3 and isinstance(way, list):
                way.append(s.pick(JUNK)())
            elif what == 4:  # the live buffers, of this parameter or of another
                buffers = [b for state in self.opt.state.values() for b in state.values() if isinstance(b, np.ndarray)]
                if buffers:
                    way[last] = s.pick(buffers)
            elif type(place) is np.ndarray and place.size < 100:
                way[last] = strange_array(s, place.shape, place.dtype.type, self.pool)
            else:
                way[last] = s.pick(JUNK)()
        return saved if not s.one_in(16) else s.pick(JUNK)()

    # ---- What may not change. ----

    def picture(self):
        """Everything that defines the optimizer, in bits."""
        opt = self.opt
        return (
            [p.tobytes() for p in opt.params],
            [[(k, v.tobytes() if k != "step" else v) for k, v in state.items()] for state in opt.state.values()],
            [dict(group._values) for group in opt.param_groups],
            opt.threads,
            self.pool.tobytes(),
        )


# ---- The promises about a use. ----


def promised(error, *more):
    return type(error) in (*PROMISED, *more) or isinstance(error, Mischief)


def act(case):
    """One use of the optimizer with nonsense; returns the name of the use and its outcome."""
    s, opt = case.s, case.opt
    what = s.pick(ACTIONS)
    before = case.picture()
    try:
        after = what(case)
    except Finding:
        raise
    except Exception as error:
        if what in RIGHT:
            raise Finding(f"{what.__name__} refused good arguments: {error!r:.200}") from error
        if not promised(error, *ALSO.get(what, ())):
            raise Finding(f"{what.__name__} raised {type(error).__name__}: {error!s:.200}") from error
        if len(str(error)) > 2000:
            raise Finding(f"{what.__name__} raised an error of {len(str(error))} characters") from error
        if case.picture() != before:
            raise Finding(f"{what.__name__} raised {error!r:.200} and changed something") from error
        return what.__name__, type(error).__name__
    if after is not None:
        after()
    if what in HARMLESS and case.picture() != before:
        raise Finding(f"{what.__name__} changed something")
    if opt is not case.opt:
        raise Finding("another optimizer")
    return what.__name__, "accepted"


# ---- The uses. ----


def new(case):
    s = case.s
    hypers = {s.pick([*case.cls._hypers()]): s.pick(NUMBERS)()} if s.one_in(4) else {}
    made = case.cls(case.nonsense(), **hypers)
    for p in made.params:
        if p.dtype not in (np.float32, np.float64) or not (p.flags.aligned and p.flags.writeable and apart(p)):
            raise Finding(f"accepted as a parameter: {p.dtype}, {p.strides}, {p.flags}")


def apart(a):
    """Whether each element of the array has its own place in memory."""
    if not a.size:
        return True
    places = [0]
    for size, step in zip(a.shape, a.strides, strict=True):
        places = np.add.outer(places, np.arange(size) * step).reshape(-1)
    places = np.sort(places)
    return bool((np.diff(places) >= a.itemsize).all())


def in_float(grads, params):
    """Contiguous copies of the gradients in the dtypes of the parameters."""
    with np.errstate(all="ignore"):
        return [np.array(np.asarray(g, p.dtype), order="C") for g, p in zip(grads, params, strict=True)]


def same_bits(one, other):
    a, b = np.array(one, order="C"), np.array(other, order="C")
    if a.tobytes() == b.tobytes():
        return True
    bits = np.dtype(f"u{a.itemsize}")
    return bool(((a.view(bits) == b.view(bits)) | (np.isnan(a) & np.isnan(b))).all())


def right(case):
    """A step with good gradients and extras must give the bits of the reference."""
    s = case.s
    extras = {}
    if s.one_in(3):
        extras["grad_scale"] = s.pick([0.5, -1 / 3, 1e-50, 1e40, 0.0])
    if s.one_in(3):
        extras["max_norm"] = s.pick([0.0, 0.5, 1e3, 1e-45, math.inf])
    if s.one_in(4):
        extras["skip_nonfinite"] = True
    if s.one_in(4):
        extras["zero_grad"] = True
    bound = s.one_in(2)
    grads = case.gradients("zero_grad" in extras, numbers=not bound)
    before = [np.array(g, order="C") for g in grads]
    model = reference.Optimizer.like(case.opt)
    norm = model.step(grads, **{name: value for name, value in extras.items() if name != "zero_grad"})
    case.opt.threads = s.pick([None, 1, 2])
    if bound:
        case.opt.bind(case.arranged(grads))
        found = case.opt.step(**extras)
    else:
        found = case.opt.step(case.arranged(grads), **extras)
    skipped = extras.get("skip_nonfinite") and not math.isfinite(norm)
    if repr(found) != repr(norm):
        raise Finding(f"the norm is {found}, but the reference has {norm}")
    for p, wanted in zip(case.opt.params, model.params, strict=True):
        if not same_bits(p, wanted):
            raise Finding(f"a parameter is {p}, but the reference has {wanted}")
    for state, wanted in zip(case.opt.state.values(), model.state, strict=True):
        if state.keys() != wanted.keys() or state["step"] != wanted["step"]:
            raise Finding(f"{[*state]} after {state['step']} steps, but the reference has {wanted}")
        if not all(same_bits(state[name], wanted[name]) for name in wanted if name != "step"):
            raise Finding("a state buffer is not the reference's")
    for g, old in zip(grads, before, strict=True):
        if not same_bits(g, np.zeros_like(old) if "zero_grad" in extras and not skipped else old):
            raise Finding("a gradient is not what it should be")


def right_norm(case):
    """The norm of gradients and the clipped gradients must have the bits of the reference."""
    s = case.s
    written = s.one_in(2)
    grads = [good_gradient(s, shape, np.float64, written=True) for shape in case.shapes]
    bound, copies = s.pick([0.0, 0.5, 1e3, 1e-45, math.inf]), [np.array(g, order="C") for g in grads]
    expected = reference.global_norm(copies)
    threads = s.pick([None, 1, 2])
    if written:
        with np.errstate(all="ignore"):
            reference.clip_grad_norm(copies, bound)
        found = fastopt.clip_grad_norm(grads, bound, threads=threads)
    else:
        found = fastopt.global_norm(grads, threads=threads)
    if repr(found) != repr(expected):
        raise Finding(f"the norm is {found}, but the reference has {expected}")
    if not all(same_bits(g, c) for g, c in zip(grads, copies, strict=True)):
        raise Finding("a clipped gradient is not the reference's")


def right_kernel(case):
    """A kernel's step of one tensor, with each buffer in another layout, must give the bits of the reference."""
    s = case.s
    rule, shape, dtype = RULES[case.cls.rule], case.shapes[0], case.dtypes[0]
    function = getattr(reference, rule.name)
    states = [np.array(np.abs(values(s, shape, dtype))) for _ in rule.states]
    p, g = values(s, shape, dtype), good_gradient(s, shape, dtype)
    hypers = {"step": 3} if "step" in rule.hypers else {}
    hypers["grad_scale"] = s.pick([1.0, 1.0, 0.3, 1e-50])
    found = [placed(s, a) for a in (p, *states)]
    getattr(fastopt.kernels, rule.name)(found[0], g, **dict(zip(rule.states, found[1:], strict=True)), **hypers)
    function(p, *in_float([g], [p]), **dict(zip(rule.states, states, strict=True)), **hypers)
    if not all(same_bits(a, b) for a, b in zip(found, (p, *states), strict=True)):
        raise Finding(f"{rule.name} is not the reference's")


def step(case):
    s = case.s
    extras = {}
    for name in ("grad_scale", "max_norm"):
        if s.one_in(4):
            extras[name] = s.pick(NUMBERS)()
    for name in ("zero_grad", "skip_nonfinite"):
        if s.one_in(4):
            extras[name] = s.pick([True, False, 1, None, np.True_, "x", [], np.ones(2), NoTruth()])
    counts = [state["step"] for state in case.opt.state.values()]
    norm = case.opt.step(case.nonsense(), **extras)

    def counted():
        now = [state["step"] for state in case.opt.state.values()]
        if now == counts and extras.get("skip_nonfinite") and not math.isfinite(norm):
            return
        if now != [count + 1 for count in counts]:
            raise Finding(f"steps went from {counts} to {now}")

    return counted


def bind(case):
    case.opt.bind(case.nonsense())


def load(case):
    saved = case.damaged()
    wanted = in_arrays(saved)
    case.opt.load_state_dict(saved)

    def loaded():
        for state, entry in zip(case.opt.state.values(), wanted, strict=False):
            for name, value in entry.items():
                if name in state and state[name].tobytes() != value.tobytes():
                    raise Finding(f"{name} is not what was loaded")

    return loaded


def in_arrays(saved):
    """Copies of the arrays of a state_dict, in the order of the parameters, if it has the usual structure."""
    try:
        groups = saved["param_groups"]
        if type(groups) is not list or any(type(group["params"]) is not list for group in groups):
            return []
        ids = [key for group in groups for key in group["params"]]
        entries = [
            {k: v for k, v in saved["state"].get(key, {}).items() if k != "step" and isinstance(v, np.ndarray)}
            for key in ids
        ]
        return [{k: v.copy() for k, v in entry.items() if v.nbytes < 1000} for entry in entries]
    except Exception:
        return []


def attribute(case):
    s = case.s
    name = s.pick([*case.cls._hypers(), "threads", "rate", "params", "state"])
    setattr(case.opt, name, s.pick(NUMBERS)())


def item(case):
    s = case.s
    s.pick(case.opt.param_groups)[s.pick([*case.cls._hypers(), *KEYS])] = s.pick(NUMBERS)()


def norm(case):
    s = case.s
    arrays = case.nonsense()
    threads = s.pick([None, 1, 2]) if not s.one_in(4) else s.pick(NUMBERS)()
    fastopt.global_norm(arrays, threads=threads)


def clip(case):
    s = case.s
    whole = case.nonsense(own=False)
    leaves = list(whole.values()) if type(whole) is dict else whole if type(whole) is list else [whole]
    owned = [a for a in leaves if issubclass(type(a), np.ndarray) and a.dtype != object and a.nbytes < 1000]
    before, pool = [a.tobytes() for a in owned], case.pool.copy()
    try:
        fastopt.clip_grad_norm(whole, s.pick([1.0, s.pick(NUMBERS)()]))
    except Exception as error:
        if [a.tobytes() for a in owned] != before:
            raise Finding(f"clip_grad_norm raised {error!r:.200} and scaled something") from error
        raise
    case.pool[:] = pool  # scaled gradients may be views of the pool


def kernel(case):
    s = case.s
    rule = RULES[case.cls.rule]
    shape, dtype = case.shapes[0], case.dtypes[0]
    wrong = s.number(0, 1 + len(rule.states))
    arrays = {
        name: strange_array(s, shape, dtype, case.pool) if i == wrong else values(s, shape, dtype)
        for i, name in enumerate(["p", "g", *rule.states])
    }
    hypers = {"step": 1} if rule.name.startswith("ada") and rule.hypers[0] == "step" else {}
    if s.one_in(2):
        name = s.pick([n for n in rule.hypers if not n.startswith("beta")])
        hypers[name] = s.pick(NUMBERS)()
    if s.one_in(8) and "beta1" in rule.hypers:
        hypers["betas"] = s.pick(NUMBERS)()
    if s.one_in(8):
        hypers[s.pick(list(rule.options))] = s.pick(NUMBERS)()
    good = {name: a for i, (name, a) in enumerate(arrays.items()) if i != wrong}
    before = {name: a.tobytes() for name, a in good.items()}
    picture = case.pool.copy()
    try:
        getattr(fastopt.kernels, rule.name)(**arrays, **hypers)
    except Exception as error:
        if {name: a.tobytes() for name, a in good.items()} != before:
            raise Finding(f"{rule.name} raised {error!r:.200} and wrote something") from error
        raise
    case.pool[:] = picture  # accepted arrays may be views of the pool


# ---- One input. ----

ACTIONS = [new, step, step, step, bind, load, load, load, load, attribute, item, norm, clip, kernel]
ACTIONS += [right, right, right_norm, right_kernel]
HARMLESS = {new, bind, norm, clip, kernel, right_norm, right_kernel}
RIGHT = {right, right_norm, right_kernel}
ALSO = {item: (KeyError,), attribute: (AttributeError,)}


def check(provider):
    """One input: a few uses of one optimizer, each compared with the promises; returns the uses and their outcomes."""
    s = Source(provider)
    case = Case(s)
    outcomes = []
    if s.one_in(2):
        case.opt.step(case.arranged(case.gradients()))
    if s.one_in(3):
        case.opt.bind(case.arranged(case.gradients(numbers=False)))
    for _ in range(s.number(1, 3)):
        outcomes.append(act(case))
    still_right(case)
    return outcomes


def still_right(case):
    """The optimizer steps as a new one does that has the same parameters and loads its state_dict."""
    params = [p.copy() for p in case.opt.params]
    kept = {"at_lookahead": case.opt.at_lookahead} if hasattr(case.cls, "at_lookahead") else {}
    twin = case.cls(case.arranged(params), **kept)
    saved = case.opt.state_dict()
    twin.load_state_dict(saved)
    grads = case.gradients()
    case.opt.step(case.arranged(grads))
    twin.step(case.arranged(in_float(grads, params)))
    for p, q in zip(case.opt.params, params, strict=True):
        if not same_bits(p, q):
            raise Finding("the optimizer no longer steps as a new one that loads its state_dict")
    one, other = case.opt.state_dict(), twin.state_dict()
    for i, state in one["state"].items():
        for name, value in state.items():
            if not np.array_equal(value, other["state"][i][name], equal_nan=True):
                raise Finding(f"{name} is no longer what it should be")
