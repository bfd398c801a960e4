"""The values that the fuzz target uses: numbers, objects and arrays, good and wrong; and the source of its choices."""

from __future__ import annotations

import array
import ctypes
import math
import random
from collections.abc import Mapping

import ml_dtypes
import numpy as np


class Mischief(Exception):
    """The error that the caller's own objects raise while they are iterated, indexed or compared: passed on."""


class Hidden(Exception):
    """The error that an object raises when it is asked for its buffer or number: never passed on to the caller."""


# ---- Where choices come from. ----


class Draws:
    """Replaces atheris.FuzzedDataProvider, as far as it is used here, by a random generator."""

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
    """A mapping that lists keys and has no items."""

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
    """A gradient that removes the rest of its list while it is asked for its memory."""

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
    """An object with Python's buffer protocol (from 3.12 on; before, it is an object without a buffer)."""

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
    """An object that claims to be an array by its class."""

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
    if kind == 1:  # a view of memory that other arrays may share
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
    """The same elements in another layout: axes in any order and direction, with gaps or without."""
    order = sorted(range(made.ndim), key=lambda axis: s.number(0, 9))
    steps = [s.pick([1, 1, -1, 2, -3]) for _ in order]
    memory = np.full([abs(steps[axis]) * made.shape[axis] for axis in order], 99, made.dtype)
    view = memory.transpose(np.argsort(order).astype(int))[(..., *(slice(None, None, step) for step in steps))]
    view[...] = made
    return view


def spread_out(s, made):
    """The array with its first row along some axis broadcast to all."""
    axis = s.number(0, made.ndim - 1)
    return np.broadcast_to(made.take([0], axis), made.shape) if made.size else made


def good_array(s, shape, dtype):
    """An array that is accepted as a parameter: in any layout, as any object that shares its memory."""
    made = placed(s, values(s, shape, dtype)) if s.one_in(2) else values(s, shape, dtype)
    if s.one_in(6) and made.size:
        made = s.pick([memoryview, lambda a: a.view(Subclass), Dlpack])(made)
    return made


def good_gradient(s, shape, dtype, written=False, numbers=True):
    """A gradient that is accepted (`written`: also for zeroing): of four types, any layout, perhaps a number."""
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
