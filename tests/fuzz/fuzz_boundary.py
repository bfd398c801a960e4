"""Throws structured nonsense at everything that takes arrays, hyperparameters or a state_dict.

    python tests/fuzz/fuzz_boundary.py              # under atheris, led by coverage, where it is installed
    ... --plain --runs N --seed S                   # at random, with NumPy alone; --jobs for more processes
    ... --plain --seed S --only I                   # one input of those again

Each input makes an optimizer, uses it with arguments of which some are nonsense, and holds the outcome against what the
docs promise: gradients of every type and layout that is taken, beside parameters of any layout, make of them the bits
that `fastopt.reference` makes; an error is a TypeError, ValueError or RuntimeError (KeyError for an unknown
hyperparameter of a group, AttributeError for one of an optimizer), and nothing has changed after it; what was accepted
did what it says; and the optimizer still steps as one that is made anew from its state_dict.
Exceptions of the caller's own objects, raised while they are iterated, asked for items or compared, come through as
they are; those of a buffer or a number do not.
"""

from __future__ import annotations

import argparse
import array
import collections
import concurrent.futures
import ctypes
import faulthandler
import itertools
import math
import mmap
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None and "--plain" not in sys.argv and __name__ == "__main__":
    with atheris.instrument_imports(include=["fastopt"]):
        import fastopt
else:
    import fastopt
from fastopt import reference
from fastopt._core import RULES

CLASSES = [cls for cls in (getattr(fastopt, name) for name in fastopt.__all__) if hasattr(cls, "rule")]
PART = 2000  # inputs that a process is given at once
PROMISED = (TypeError, ValueError, RuntimeError)


class Finding(AssertionError):
    """Something that the docs do not promise."""


class Mischief(Exception):
    """What the caller's own objects raise while they are iterated, indexed or compared."""


class Hidden(Exception):
    """What an object raises that is asked for its buffer or its number: never the caller's to see."""


# ---- Where choices come from. ----


class Draws:
    """The part of atheris.FuzzedDataProvider that is used here, from a random generator."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def ConsumeIntInRange(self, low, high):
        return self.rng.randint(low, high)


class Source:
    def __init__(self, provider):
        self.number = provider.ConsumeIntInRange

    def pick(self, choices):
        return choices[self.number(0, len(choices) - 1)]

    def one_in(self, n):
        """True in one of n cases; False once the bytes of an input are used up."""
        return self.number(0, n - 1) == n - 1


# ---- Objects that lie or raise. ----


def raiser(error):
    def method(self, *args, **kwargs):
        raise error

    return method


class NoNumber:
    __float__ = __index__ = raiser(Hidden())


class DividesByZero:
    def __float__(self):
        return 1 / 0


class NoRepr:
    __repr__ = raiser(Hidden())


class NotIterable:
    __iter__ = raiser(Mischief())


class NoLength(list):
    __len__ = raiser(Mischief())


class NoTruth:
    __bool__ = raiser(Mischief())


class NoItems(dict):
    __getitem__ = __iter__ = keys = items = values = raiser(Mischief())


class LyingMapping(Mapping):
    """Names keys, and has nothing under them."""

    def __init__(self, keys):
        self.names = list(keys)

    def __getitem__(self, key):
        raise Mischief

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return 0


class Dlpack:
    def __init__(self, memory, error=None, device=None):
        self.memory, self.error, self.device = memory, error, device

    def __dlpack__(self, **arguments):
        if self.error:
            raise self.error
        return self.memory.__dlpack__(**arguments) if isinstance(self.memory, np.ndarray) else self.memory

    def __dlpack_device__(self):
        return self.device or (1, 0)


class Shrinking(Dlpack):
    """Takes the rest out of the list that it is in while it is asked for its memory."""

    def __init__(self, memory, owner):
        super().__init__(memory)
        self.owner = owner

    def __dlpack__(self, **arguments):
        self.owner.clear()
        return super().__dlpack__(**arguments)


class Interface:
    def __init__(self, interface):
        self.__array_interface__ = interface


class RaisingInterface:
    __array_interface__ = property(raiser(Hidden()))
    __array__ = raiser(Hidden())


class Buffer:
    """A buffer of Python's own (from 3.12 on; before it is just an object)."""

    def __init__(self, result):
        self.result = result

    def __buffer__(self, flags):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Subclass(np.ndarray):
    def reshape(self, *args, **kwargs):
        raise Hidden

    def __array_finalize__(self, obj):
        pass


class LyingClass:
    """An array, if one asks it."""

    __class__ = property(lambda self: np.ndarray)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def endless():
    while True:
        yield None


def looped():
    value = [1.0]
    value.append(value)
    return value


def released():
    view = memoryview(bytearray(16))
    view.release()
    return view


NUMBERS = [
    lambda: 0.5, lambda: 0, lambda: 1, lambda: -1, lambda: 0.9, lambda: math.nan, lambda: math.inf, lambda: -math.inf,
    lambda: 1e39, lambda: 1e308, lambda: 5e-324, lambda: 2**53, lambda: 10**400, lambda: -(10**5000), lambda: 2**63,
    lambda: True, lambda: None, lambda: "0.5", lambda: b"0.5", lambda: "\ud800", lambda: 1j, lambda: np.complex64(1j),
    lambda: np.float32(0.5), lambda: np.float64("nan"), lambda: np.longdouble("1e4000"), lambda: np.int64(-3),
    lambda: np.array(0.5), lambda: np.array([0.5, 0.5]), lambda: np.array("0.5"), lambda: np.array(None),
    lambda: np.True_, lambda: (0.9, 0.99), lambda: [0.5, 10**400], lambda: (0.9,), lambda: "ab", lambda: {1: 2, 3: 4},
    lambda: iter((0.5, 0.5)), lambda: endless(), lambda: NoNumber(), lambda: DividesByZero(), lambda: NoRepr(),
    lambda: NotIterable(), lambda: nested(5000), lambda: looped(), lambda: (NoNumber(), NoRepr()),
    lambda: range(10**15), lambda: object(), lambda: np.datetime64("2000"), lambda: np.timedelta64(1, "s"),
]  # fmt: skip
JUNK = [
    lambda: None, lambda: 3, lambda: 0.5, lambda: 10**5000, lambda: "w", lambda: "\ud800", lambda: b"12345678",
    lambda: bytearray(16), list, dict, lambda: (), lambda: set(), lambda: [1.0, 2.0], lambda: object(),
    lambda: object, lambda: np.ndarray, lambda: len, lambda: ..., lambda: range(3), lambda: range(10**15),
    lambda: endless(), lambda: (x for x in (1, 2)), lambda: nested(5000), lambda: nested(60), lambda: looped(),
    lambda: released(), lambda: {"params": []}, lambda: [{}], lambda: [[]], lambda: [None], lambda: {1: 2},
    lambda: {"lr": 0.1}, lambda: NoNumber(), lambda: NoRepr(), lambda: [NoRepr()], lambda: {NoRepr(): 1},
    lambda: NotIterable(), lambda: NoLength([1, 2]), lambda: NoTruth(), lambda: NoItems(state={}),
    lambda: LyingMapping(["params", "state"]), lambda: LyingMapping(["a", "b"]), lambda: RaisingInterface(),
    lambda: LyingClass(), lambda: Buffer(Hidden()), lambda: Buffer(BufferError("no")), lambda: Buffer(3),
    lambda: Buffer(memoryview(bytearray(32)).cast("f")), lambda: Dlpack(None), lambda: Dlpack(np.ones(3), Hidden()),
    lambda: Dlpack(np.ones(3), RecursionError("deep")), lambda: Dlpack(np.ones(3), None, (2, 0)),
    lambda: Dlpack(np.ones(3), None, "gpu"), lambda: Dlpack(np.ones(3)), lambda: Dlpack(np.ones(3, np.float16)),
    lambda: Interface({"shape": (3,), "typestr": "<f8", "version": 3}),
    lambda: Interface({"shape": (-1,), "typestr": "<f8", "data": (0, False), "version": 3}), lambda: Interface(None),
    lambda: np.float64(1.0), lambda: np.float32(1.0), lambda: np.array(None), lambda: np.array([None, 1.0]),
    lambda: np.array(["a"]), lambda: np.array([{}]), lambda: (ctypes.c_void_p * 2)(),
    lambda: (ctypes.py_object * 2)(), lambda: ctypes.c_float(1.0), lambda: array.array("f"),
    lambda: array.array("d", [1.0] * 3), lambda: array.array("i", [1]), lambda: memoryview(bytearray(16))[::2],
    lambda: np.broadcast_to(np.float64(1.0), (10**6,)), lambda: math.nan, lambda: np.empty((0, 2**40)),
    lambda: np.ma.masked_array([1.0, 2.0], [True, False]), lambda: np.ones(3).view(Subclass),
    lambda: np.zeros((1,) * 32), lambda: np.recarray(3, dtype=[("x", np.float32)]), lambda: np.datetime64("2000"),
]  # fmt: skip
DTYPES = [
    *["f4", "f8"] * 4, ">f4", ">f8", "f2", ">f2", "bfloat16", "float8_e5m2", "g", "i4", "i8", "u1", "?",
    "c8", "c16", "O", "S4", "U2", "M8[s]", "f4,f4", "V4",
]  # fmt: skip
KEYS = [
    "state", "param_groups", "params", "param_names", "step", "lr", "betas", "momentum", "momentum_buffer",
    "exp_avg", "foreach", "w", "b", 0, 1, 2, -1, 10**400, None, "\ud800", (), math.nan, NoRepr(), True, 0.0,
]  # fmt: skip


def values(rng, shape, dtype):
    return np.array(np.linspace(-1.0, 1.0, math.prod(shape)).reshape(shape) + rng.number(0, 3), dtype)


def strange_array(s, shape, dtype, pool):
    """An array that may be wrong in its type, shape, layout, flags or place."""
    kind = s.number(0, 9)
    if kind == 0:
        return s.pick(JUNK)()
    if kind == 1:  # somewhere in memory that others have too
        start = s.number(0, 12)
        return pool[start : start + math.prod(shape)].reshape(shape)
    if kind == 2:
        shape = s.pick([(), (0,), (1,), (3,), (4,), (2, 2), (0, 3), (3, 0), (1, 1, 3), (0, 2**40), (17,)])
    if kind == 3:
        dtype = s.pick(DTYPES)
        dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    made = np.zeros(shape, dtype)
    if kind == 4:
        made = np.zeros((*shape, 2), dtype)[..., 0]
    elif kind == 5 and made.ndim:
        made = s.pick([made[::-1], np.asfortranarray(np.zeros((2, 3), dtype)), placed(s, made), spread_out(s, made)])
    elif kind == 6:
        size = made.nbytes
        made = np.zeros(size + 8, np.uint8)[s.number(1, 7) :][:size].view(dtype).reshape(shape)
    elif kind == 7:
        made.flags.writeable = False
    elif kind == 8:
        made = s.pick([memoryview, Dlpack, lambda a: a.view(Subclass), lambda a: a.tolist(), np.ma.masked_array])(made)
    return made


def placed(s, made):
    """The same elements, each in a place of its own: axes in any order and direction, with gaps or without."""
    order = sorted(range(made.ndim), key=lambda axis: s.number(0, 9))
    steps = [s.pick([1, 1, -1, 2, -3]) for _ in order]
    memory = np.full([abs(steps[axis]) * made.shape[axis] for axis in order], 99, made.dtype)
    view = memory.transpose(np.argsort(order).astype(int))[(..., *(slice(None, None, step) for step in steps))]
    view[...] = made
    return view


def spread_out(s, made):
    """One row of it along some axis for all."""
    axis = s.number(0, made.ndim - 1)
    return np.broadcast_to(made.take([0], axis), made.shape) if made.size else made


def good_array(s, shape, dtype):
    """What is taken as a parameter: in any layout, as any object that shares its memory."""
    made = placed(s, values(s, shape, dtype)) if s.one_in(2) else values(s, shape, dtype)
    if s.one_in(6) and made.size:
        made = s.pick([memoryview, lambda a: a.view(Subclass), Dlpack])(made)
    return made


def good_gradient(s, shape, dtype, written=False, numbers=True):
    """What is taken as a gradient, or as one that is to be `written`: of four types, any layout, perhaps a number."""
    if not shape and not written and numbers and s.one_in(4):
        return s.pick([0.5, -3, 1e300, math.nan, np.float32(0.1), np.float16(-2.0), ml_dtypes.bfloat16(0.3)])
    made = np.array(values(s, shape, dtype) * s.pick([1.0, 0.37, -1e-5, 1e4]), dtype)
    if s.one_in(6) and made.size:
        made.reshape(-1)[s.number(0, made.size - 1)] = s.pick([math.nan, math.inf, -math.inf, 1e-40, 3e38])
    with np.errstate(over="ignore"):
        made = made.astype(s.pick([dtype, np.float16, ml_dtypes.bfloat16, np.float32, np.float64]))
    if s.one_in(2):
        made = placed(s, made)
    elif made.ndim and not written and s.one_in(4):
        made = spread_out(s, made)
    if made.size and made.dtype != ml_dtypes.bfloat16 and s.one_in(8):
        made = s.pick([memoryview, lambda a: a.view(Subclass)])(made)
    return made


# ---- A model of one input. ----


class Case:
    """An optimizer with parameters in one of the structures, and what it was when it was last known to be right."""

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
        """Gradients or parameters of which some are wrong or the optimizer's own, or whose structure is wrong."""
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
        """A state_dict with some values replaced, removed or added; or that of another class."""
        s = self.s
        donor = self.opt
        if s.one_in(8):
            donor = s.pick(CLASSES)(self.arranged([p.copy() for p in self.params]))
            donor.step(self.arranged(self.gradients()))
        saved = donor.state_dict()
        if s.one_in(2):  # so that what is taken over too early shows
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
        """All that an optimizer is, in bits."""
        opt = self.opt
        return (
            [p.tobytes() for p in opt.params],
            [[(k, v.tobytes() if k != "step" else v) for k, v in state.items()] for state in opt.state.values()],
            [dict(group._values) for group in opt.param_groups],
            opt.threads,
            self.pool.tobytes(),
        )


def promised(error, *more):
    return type(error) in (*PROMISED, *more) or isinstance(error, Mischief)


def act(case):
    """One use of the optimizer with nonsense; returns what was used and what came of it."""
    s, opt = case.s, case.opt
    what = s.pick(ACTIONS)
    before = case.picture()
    try:
        after = what(case)
    except Finding:
        raise
    except Exception as error:
        if what in RIGHT:
            raise Finding(f"{what.__name__} refused what is good: {error!r:.200}") from error
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


def new(case):
    s = case.s
    hypers = {s.pick(case.cls._hypers()): s.pick(NUMBERS)()} if s.one_in(4) else {}
    made = case.cls(case.nonsense(), **hypers)
    for p in made.params:
        if p.dtype not in (np.float32, np.float64) or not (p.flags.aligned and p.flags.writeable and apart(p)):
            raise Finding(f"accepted as a parameter: {p.dtype}, {p.strides}, {p.flags}")


def apart(a):
    """Whether each element has a place of its own."""
    if not a.size:
        return True
    places = [0]
    for size, step in zip(a.shape, a.strides, strict=True):
        places = np.add.outer(places, np.arange(size) * step).reshape(-1)
    places = np.sort(places)
    return bool((np.diff(places) >= a.itemsize).all())


def in_float(grads, params):
    """The gradients as the dtypes of the parameters, contiguous."""
    with np.errstate(all="ignore"):
        return [np.array(np.asarray(g, p.dtype), order="C") for g, p in zip(grads, params, strict=True)]


def same_bits(one, other):
    a, b = np.array(one, order="C"), np.array(other, order="C")
    if a.tobytes() == b.tobytes():
        return True
    bits = np.dtype(f"u{a.itemsize}")
    return bool(((a.view(bits) == b.view(bits)) | (np.isnan(a) & np.isnan(b))).all())


def right(case):
    """A step with gradients and extras that are all good has the bits of the reference."""
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
    """The norm of gradients, and the gradients clipped, have the bits of the reference."""
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
    """One tensor's step, with every buffer in a layout of its own."""
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
    """Copies of the arrays of a state_dict, in the order of the parameters, where it is plain enough to say so."""
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
    case.pool[:] = pool  # what was scaled may lie there


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
    case.pool[:] = picture  # an accepted array may lie there


ACTIONS = [new, step, step, step, bind, load, load, load, load, attribute, item, norm, clip, kernel]
ACTIONS += [right, right, right_norm, right_kernel]
HARMLESS = {new, bind, norm, clip, kernel, right_norm, right_kernel}
RIGHT = {right, right_norm, right_kernel}
ALSO = {item: (KeyError,), attribute: (AttributeError,)}


def check(provider):
    """One input: a few uses of one optimizer, each held against the promises; returns what was used and came of it."""
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
    """The optimizer steps as one that is made anew from what it says of itself."""
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
            raise Finding("the optimizer no longer steps as what it says of itself")
    one, other = case.opt.state_dict(), twin.state_dict()
    for i, state in one["state"].items():
        for name, value in state.items():
            if not np.array_equal(value, other["state"][i][name], equal_nan=True):
                raise Finding(f"{name} is no longer what it should be")


# ---- Drivers. ----


class Tally:
    def __init__(self):
        self.inputs, self.findings, self.began = 0, 0, time.monotonic()
        self.outcomes = collections.Counter()

    def one(self, provider):
        self.inputs += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes = check(provider)
        except Exception:
            self.findings += 1
            raise
        self.outcomes.update(outcome for _, outcome in outcomes)

    def add(self, other):
        self.inputs += other.inputs
        self.findings += other.findings
        self.outcomes += other.outcomes

    def __str__(self):
        seconds = time.monotonic() - self.began
        uses = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        return (
            f"fuzz_boundary: {self.inputs} inputs in {seconds:.0f} s "
            f"({self.inputs / max(seconds, 1e-9):.0f} a second); uses: {uses}; findings: {self.findings}"
        )


def plain(numbers, seed, seconds=0.0, most=10):
    """Inputs at random, those of these numbers, up to so many findings, which are printed; returns the tally."""
    tally = Tally()
    for number in numbers:
        if seconds and time.monotonic() - tally.began > seconds:
            break
        try:
            tally.one(Draws(f"{seed}-{number}"))
        except Exception:
            print(f"--seed {seed} --only {number}:")
            traceback.print_exc(file=sys.stdout)
            if tally.findings == most:
                break
    return tally


def spread(runs, seed, jobs):
    """As `plain`, in several processes."""
    faulthandler.enable()
    tally, parts = Tally(), [range(first, min(first + PART, runs)) for first in range(0, runs, PART)]
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        for part in pool.map(plain, parts, itertools.repeat(seed)):
            tally.add(part)
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="at random, without atheris")
    parser.add_argument("--runs", type=int, default=0, help="so many inputs (0: until the time is up)")
    parser.add_argument("--seconds", type=float, default=0.0, help="for so long (0: until the inputs are done)")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, help="this input alone, which a finding names")
    parser.add_argument("--jobs", type=int, default=1, help="in so many processes; with --plain and --runs")
    parser.add_argument("corpus", nargs="*", help="folders of inputs, for atheris")
    args = parser.parse_args()
    runs, seconds = args.runs, args.seconds or (0 if args.runs else 120.0)
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(2**31)
    if atheris is None or args.plain or args.only is not None:
        if args.jobs > 1 and runs and args.only is None:
            tally = spread(runs, seed, args.jobs)
        else:
            numbers = [args.only] if args.only is not None else range(runs) if runs else itertools.count()
            tally = plain(numbers, seed, seconds)
        print(tally)
        return 1 if tally.findings else 0
    folder = Path("build/fuzz")  # where an input that finds something is kept
    folder.mkdir(parents=True, exist_ok=True)
    flags = [f"-seed={seed % 2**31}", "-max_len=512", "-len_control=0", "-timeout=60", f"-artifact_prefix={folder}/"]
    flags += [f"-runs={runs}"] if runs else []
    flags += [f"-max_total_time={math.ceil(seconds)}"] if seconds else []
    return led(flags, args.corpus)


def led(flags, corpus):
    """Inputs led by coverage. They end with their process, without a word: a child has them and shares its tally."""
    shared = mmap.mmap(-1, 4096)
    child = os.fork()
    if child == 0:
        tally = Tally()

        def one_input(data):
            try:
                tally.one(atheris.FuzzedDataProvider(data))
            finally:
                shared[:] = str(tally).encode()[:4096].ljust(4096)

        atheris.Setup([sys.argv[0], *flags, *corpus], one_input)
        atheris.Fuzz()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(shared[:].decode().strip())
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
