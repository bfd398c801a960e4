"""Every line of the table of bad input: the error, what it names, and that nothing was written."""

import array
import contextlib
import copy
import ctypes
import math
import os
import re
import threading
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from common import CLASSES, DTYPES, VARIANTS, assert_same_bits

import fastopt
from fastopt._core import RULES

N = 6


def tensor(dtype=np.float32, start=1.0):
    return np.linspace(start, start + 1, N).astype(dtype)


@contextlib.contextmanager
def nothing_written(*arrays):
    """Every byte of these arrays (and of the memory they are views of) is as it was."""
    owners = [a if a.base is None or not isinstance(a.base, np.ndarray) else a.base for a in arrays]
    before = [owner.tobytes() for owner in owners]
    yield
    assert [owner.tobytes() for owner in owners] == before


def raising(error, *words):
    return pytest.raises(error, match=".*".join(map(re.escape, words)))


class Kernel:
    """A rule's kernel, with one argument replaced by a bad one."""

    def __init__(self, variant, dtype=np.float32):
        self.variant = variant
        self.buffers = {"p": tensor(dtype), "g": tensor(dtype, 2.0)}
        self.buffers |= {name: tensor(dtype, 3.0 + k) for k, name in enumerate(variant.states)}

    def refuses(self, error, words, hypers=(), **bad):
        buffers = {**self.buffers, **bad}
        arrays = [b for b in buffers.values() if isinstance(b, np.ndarray)]
        states = [buffers[name] for name in self.variant.states]
        hypers = {**self.variant.arguments(dict.fromkeys(RULES[self.variant.rule].hypers, 0.5), 1), **dict(hypers)}
        with nothing_written(*arrays), raising(error, *words):
            self.variant.kernel(buffers["p"], buffers["g"], states, hypers)

    def takes(self, name, value, dtype):
        """The value of this one hyperparameter is accepted."""
        if name == "momentum" and value and "momentum_buffer" not in self.variant.states:
            return
        start = self.variant.arguments(dict.fromkeys(RULES[self.variant.rule].hypers, 0.5), 1)
        buffers = Kernel(self.variant, dtype).buffers
        states = [buffers[state] for state in self.variant.states]
        self.variant.kernel(buffers["p"], buffers["g"], states, changed(start, name, value))

    @property
    def written(self):
        return [name for name in self.buffers if name != "g"]


KERNELS = {str(variant): variant for variant in VARIANTS if not any(variant.options.values())}


@pytest.fixture(params=KERNELS)
def kernel(request):
    return Kernel(KERNELS[request.param])


class Engine:
    """An optimizer of two parameters whose gradients are to be refused; the second is the bad one."""

    def __init__(self, cls):
        self.params = [tensor(), tensor(np.float64, 5.0)]
        self.opt = cls(self.params)
        self.opt.step([tensor(), tensor(np.float64)])

    def refuses(self, error, words, bad):
        states = [v for state in self.opt.state.values() for v in state.values() if isinstance(v, np.ndarray)]
        steps = [state["step"] for state in self.opt.state.values()]
        with nothing_written(*self.params, *states), raising(error, "grads[1]", *words):
            self.opt.step([tensor(), bad])
        assert [state["step"] for state in self.opt.state.values()] == steps


@pytest.fixture
def engine(kernel):
    """The optimizer of the kernel's rule: the same bad input must fail at both doors."""
    return Engine(next(cls for cls in CLASSES if cls.rule == kernel.variant.rule))


def test_there_is_an_optimizer_for_every_rule():
    assert {cls.rule for cls in CLASSES} == set(RULES)


# ---- Element types. ----

WRONG_TYPES = {
    "int32": np.ones(N, np.int32),
    "complex64": np.ones(N, np.complex64),
    "bool": np.ones(N, bool),
    "longdouble": np.ones(N, np.longdouble),
    "object": np.ones(N, object),
    "swapped": tensor(np.dtype(np.float32).newbyteorder()),
    "swapped double": tensor(np.dtype(np.float64).newbyteorder()),
    "structured": np.zeros(N, [("x", np.float32)]),
    "bytes": b"1234" * N,
    "array of int": array.array("i", [1] * N),
    "float8": np.ones(N, ml_dtypes.float8_e4m3),
    "swapped half": np.ones(N, np.dtype(np.float16).newbyteorder()),
}
ONLY_STORED = {"float16": np.ones(N, np.float16), "bfloat16": np.ones(N, ml_dtypes.bfloat16)}


@pytest.mark.parametrize("bad", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_wrong_dtype(kernel, engine, bad):
    of_gradient = "fastopt takes float16, bfloat16, float32 and float64 gradients in native byte order"
    for name in kernel.buffers:
        takes = of_gradient if name == "g" else "fastopt takes float32 and float64 in native byte order"
        kernel.refuses(TypeError, [name, "dtype", takes], **{name: bad})
    engine.refuses(TypeError, ["dtype", of_gradient], bad)
    with raising(TypeError, "params[0]", "dtype", "fastopt takes float32 and float64"):
        type(engine.opt)([bad])
    for call in (fastopt.global_norm, lambda arrays: fastopt.clip_grad_norm(arrays, 1.0)):
        with raising(TypeError, "[0] has dtype", of_gradient):
            call([bad])


@pytest.mark.parametrize("stored", ONLY_STORED.values(), ids=ONLY_STORED)
def test_parameters_and_state_are_not_half_as_wide(kernel, engine, stored):
    """Gradients may be."""
    for name in kernel.written:
        kernel.refuses(TypeError, [name, f"dtype {stored.dtype}", "takes float32 and float64"], **{name: stored})
    with raising(TypeError, "params[0]", "dtype", "takes float32 and float64 in"):
        type(engine.opt)([stored])
    with raising(TypeError, "params['w']", "dtype"):
        type(engine.opt)({"w": stored})
    engine.opt.step([stored, stored])


def test_only_the_bfloat16_of_ml_dtypes_is_one():
    for bad in (np.ones(N, np.uint16), np.zeros(N, [("bfloat16", np.uint16)]), np.ones(N, "V2"), np.ones(N, ">u2")):
        with raising(TypeError, "grads has dtype"):
            fastopt.SGD(tensor()).step(bad)


def test_the_message_says_which_dtype_was_found(kernel):
    for bad, found in [(WRONG_TYPES["int32"], "int32"), (WRONG_TYPES["swapped"], WRONG_TYPES["swapped"].dtype.str)]:
        kernel.refuses(TypeError, ["g", found], g=bad)


def test_mixed_dtypes(kernel, engine):
    """State has the dtype of its parameter. A gradient need not have it."""
    for name in kernel.buffers.keys() - {"p", "g"}:
        kernel.refuses(TypeError, [name, "float64", "p has float32"], **{name: tensor(np.float64)})
    engine.opt.step([tensor(np.float64), tensor(np.float32)])
    assert engine.opt.state[1]["step"] == 2


def test_dtypes_may_differ_between_tensors(engine):
    assert [p.dtype for p in engine.opt.params] == [np.float32, np.float64]


# ---- Objects. ----


def test_read_only(kernel, engine):
    for name in kernel.written:
        locked = kernel.buffers[name].copy()
        locked.flags.writeable = False
        kernel.refuses(ValueError, [name, "read-only"], **{name: locked})
        kernel.refuses(ValueError, [name, "read-only"], **{name: memoryview(locked)})
    with raising(ValueError, "params", "read-only"):
        type(engine.opt)(locked)


def test_a_read_only_gradient_will_do(kernel, engine):
    g = kernel.buffers["g"]
    g.flags.writeable = False
    before = kernel.buffers["p"].copy()
    states = [kernel.buffers[name] for name in kernel.variant.states]
    kernel.variant.kernel(kernel.buffers["p"], g, states, {"step": 1} if "step" in kernel_hypers(kernel) else {})
    assert not (kernel.buffers["p"] == before).all()
    grads = [tensor(), tensor(np.float64)]
    for grad in grads:
        grad.flags.writeable = False
    engine.opt.step(grads)


def kernel_hypers(kernel):
    return RULES[kernel.variant.rule].hypers


NO_BUFFERS = {"None": None, "list": [1.0] * N, "float": 1.0, "str": "abc", "object": object(), "range": range(N)}


@pytest.mark.parametrize("bad", NO_BUFFERS.values(), ids=NO_BUFFERS)
def test_no_buffer(kernel, engine, bad):
    for name in kernel.buffers:
        if bad is not None or name in ("p", "g", *needed_states(kernel)):
            kernel.refuses(TypeError, [name, "None" if bad is None else type(bad).__name__], **{name: bad})
    engine.refuses(TypeError, ["None" if bad is None else type(bad).__name__], bad)
    with raising(TypeError, "params"):
        type(engine.opt)([bad])
    if not isinstance(bad, (list, range)):
        with raising(TypeError, "params"):
            type(engine.opt)(bad)


def needed_states(kernel):
    rule = RULES[kernel.variant.rule]
    return rule.states[: rule.required_states]


def test_masked_array(kernel, engine):
    for name in kernel.buffers:
        masked = np.ma.masked_array(tensor(), mask=[0, 1] * (N // 2))
        kernel.refuses(TypeError, [name, "masked"], **{name: masked})
    engine.refuses(TypeError, ["masked"], np.ma.masked_array(tensor(np.float64)))
    with raising(TypeError, "params[0]", "masked"):
        type(engine.opt)([masked])


def test_other_buffers_are_stepped_in_place():
    for p in (array.array("f", [1.0] * N), (ctypes.c_float * N)(*[1.0] * N), memoryview(np.ones(N, np.float32))):
        fastopt.kernels.sgd(p, array.array("f", [0.5] * N), lr=1.0)
        assert list(p) == [0.5] * N
        opt = fastopt.SGD([p], lr=1.0)
        opt.step([array.array("f", [0.5] * N)])
        assert list(p) == [0.0] * N


def test_array_subclasses_are_stepped_in_place():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        p = np.matrix([[1.0, 2.0]])
    fastopt.kernels.sgd(p, np.ones((1, 2)), lr=1.0)
    assert (np.asarray(p) == [[0.0, 1.0]]).all()


# ---- Shapes and layout. ----


@pytest.mark.parametrize("shape", [(N + 1,), (N, 1), (1, N), (1,), (), (0,), (2, 3)])
def test_wrong_shape(kernel, engine, shape):
    for name in kernel.buffers.keys() - {"p"}:
        bad = np.ones(shape, np.float32)
        kernel.refuses(ValueError, [name, f"shape {shape}", f"p has ({N},)", "broadcast"], **{name: bad})
    engine.refuses(ValueError, [f"shape {shape}", "params[1]"], np.ones(shape))


# N elements of which some are in one place: the whole array, neighbours, and rows that reach into the next one.
SHARED = {
    "stride 0": ((N,), (0,)),
    "shifted": ((N // 2, 2), (1, 1)),
    "rows": ((2, N // 2), (2, 1)),
    "backwards": ((2, N // 2), (-1, 1)),
    "interleaved": ((2, 2, 2), (3, 1, 2)),
}


def shared(name, dtype):
    shape, steps = SHARED[name]
    memory = np.linspace(1, 2, 4 * N).astype(dtype)[N:]
    return np.lib.stride_tricks.as_strided(memory, shape, [step * memory.itemsize for step in steps])


@pytest.mark.parametrize("name", SHARED)
def test_several_elements_in_one_place(kernel, engine, name):
    """What is written needs a place for each element; what is only read does not."""
    words = [
        "has several elements in one place (shape",
        "strides",
        "), but is to be written; each element needs its own",
    ]
    bad = shared(name, np.float32)
    for argument in kernel.written:
        kernel.refuses(ValueError, [argument, *words], **{argument: bad})
    for dtype in DTYPES:
        bad = shared(name, dtype)
        for params in (bad, [bad], {"w": bad}, [{"params": [tensor(), bad]}]):
            with nothing_written(bad), raising(ValueError, "params", *words):
                type(engine.opt)(params)
    for stored in (np.float16, ml_dtypes.bfloat16, *DTYPES):
        grad = shared(name, stored)
        p = np.ones(grad.shape)
        opt = type(engine.opt)([p])
        with nothing_written(p, grad):
            with raising(ValueError, "grads[0]", *words):
                opt.step([grad], zero_grad=True)
            with raising(ValueError, "grads['w']", *words):
                fastopt.clip_grad_norm({"w": grad}, 0.5)
        assert opt.state[0]["step"] == 0
        opt.bind([grad])
        with nothing_written(p, grad), raising(ValueError, "grads[0]", *words):
            opt.step(zero_grad=True)
        opt.step()
        opt.step([grad])
        assert fastopt.global_norm(grad) == fastopt.reference.global_norm(np.array(grad))


def test_many_elements_in_one_place_are_not_counted():
    """Whatever their number, it takes neither time nor memory to say so."""
    for shape, strides in [((10**15,), (0,)), ((10**9, 10**9), (0, 0)), ((10**12, 2), (0, 8)), ((2, 10**12), (16, 0))]:
        bad = np.lib.stride_tricks.as_strided(np.ones(4), shape, strides)
        with raising(ValueError, "params has several elements in one place"):
            fastopt.SGD(bad)


def test_each_element_in_a_place_of_its_own_will_do(kernel):
    """However they lie in each other's gaps; and no copy is advised to anybody."""
    for shape, steps in [
        ((2, 3), (1, 2)),
        ((3, 2), (2, 1)),
        ((3, 2), (-1, 3)),
        ((2, 3), (7, -2)),
        ((2, 1, 3), (3, 0, 1)),
    ]:
        memory = np.linspace(1, 2, 30).astype(np.float32)
        p = np.lib.stride_tricks.as_strided(memory[10:], shape, [4 * step for step in steps])
        expected = p.copy()
        type_of = next(cls for cls in CLASSES if cls.rule == kernel.variant.rule)
        type_of([p]).step([np.ones(shape)])
        type_of([expected]).step([np.ones(shape, np.float32)])
        assert_same_bits(p.copy(), expected)


def test_no_message_about_a_parameter_advises_a_copy():
    matrix = np.ones((4, 4))
    bad = [
        np.ones(3, np.float16), np.ones(3, int), shared("rows", np.float64), np.broadcast_to(np.ones(3), (2, 3)),
        np.zeros(9, np.uint8)[1:].view(np.float64), [matrix[:, :2], matrix[:, 1:]], matrix.astype(">f8"),
    ]  # fmt: skip
    for params in bad:
        with pytest.raises((TypeError, ValueError)) as caught:
            fastopt.SGD(params)
        assert not re.search("cop|ascontiguous|astype", str(caught.value))


@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned(kernel, engine, dtype):
    size = np.dtype(dtype).itemsize
    for shift in range(1, size):
        memory = np.zeros((N + 1) * size, np.uint8)
        bad = memory[shift : shift + N * size].view(dtype)
        kernel = Kernel(kernel.variant, dtype)
        for name in kernel.buffers:
            kernel.refuses(ValueError, [name, "not aligned"], **{name: bad})
        with raising(ValueError, "params", "not aligned"):
            type(engine.opt)(bad)
        if dtype == np.float64:
            engine.refuses(ValueError, ["not aligned"], bad)


# ---- Overlap. ----


def test_overlap_within_a_tensor(kernel):
    for one in kernel.buffers:
        for other in kernel.buffers.keys() - {one}:
            kernel.refuses(ValueError, ["shares memory with"], **{one: kernel.buffers[other]})
            memory = np.arange(2.0 * N, dtype=np.float32)
            for shift in (1, N - 1):  # by all but one element, and by one
                pair = {one: memory[:N], other: memory[shift : shift + N]}
                kernel.refuses(ValueError, ["shares memory with"], **pair)


def test_neighbours_do_not_overlap(kernel):
    count = len(kernel.buffers)
    memory = np.ones(count * N, np.float32)
    p, g, *states = (memory[k * N : (k + 1) * N] for k in range(count))
    expected = [part.copy() for part in (p, g, *states)]
    arguments = kernel.variant.arguments(dict.fromkeys(kernel_hypers(kernel), 0.5), 1)
    kernel.variant.kernel(p, g, states, arguments)
    kernel.variant.reference(expected[0], expected[1], expected[2:], arguments)
    for found, wanted in zip((p, g, *states), expected, strict=True):
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("cls", CLASSES)
def test_overlap_across_tensors(cls):
    memory = np.linspace(1, 2, 3 * N)
    a, b = memory[:N], memory[N : 2 * N]
    for params in ([a, a], [a, memory[N - 1 : N + 3]], [memory, b], [b, memory], [a, b, memory[2:3]]):
        with nothing_written(memory), raising(ValueError, "shares memory with", "params["):
            cls(params)
    with nothing_written(memory), raising(ValueError, "params['y']", "shares memory with", "params['x']"):
        cls({"x": a, "y": a[1:]})
    with nothing_written(memory), raising(ValueError, "params[1]['params'][0]", "params[0]['params']"):
        cls([{"params": a}, {"params": [a]}])

    opt = cls([a, b])
    state = next(iter(v for v in opt.state[0].values() if isinstance(v, np.ndarray)), None)
    for bad in ([tensor(np.float64), a], [b, tensor(np.float64)], [memory[2 : 2 + N], tensor(np.float64)], [a, b]):
        with nothing_written(memory), raising(ValueError, "grads[", "shares memory with", "params["):
            opt.step(bad)
    if state is not None:
        with nothing_written(memory, state), raising(ValueError, "grads[1]", "params[0] or its state"):
            opt.step([tensor(np.float64), state])
    assert opt.state[0]["step"] == 0
    opt.step([memory[2 * N :], memory[2 * N :]])  # gradients are only read: they may share memory
    assert opt.state[1]["step"] == 1


def test_an_empty_view_overlaps_nothing():
    memory = np.ones(10)
    opt = fastopt.SGD([memory, memory[3:3]], lr=1.0)
    opt.step([np.ones(10), memory[5:5]])
    assert (memory == 0).all()
    with raising(ValueError, "shares memory"):
        fastopt.SGD([memory[:6], memory[2:2], memory[5:]])


# ---- Structure. ----


@pytest.mark.parametrize("cls", CLASSES)
def test_structure_of_gradients(cls):
    def one():
        return tensor(np.float64)

    a, b = one(), one()
    opt = cls([a, b])
    cases = [
        ([one()], ValueError, "grads must be a sequence of 2 arrays, got 1"),
        ([one()] * 3, ValueError, "grads must be a sequence of 2 arrays, got 3"),
        (one(), TypeError, "grads must be a sequence of 2 arrays, got one array"),
        (None, TypeError, "grads is None, and no gradients are bound"),
        ({"a": one()}, TypeError, "grads must be a sequence of 2 arrays, got dict"),
    ]
    for grads, error, words in cases:
        with nothing_written(a, b), raising(error, words):
            opt.step(grads)
    opt = cls({"a": a, "b": b})
    cases = [
        ({"a": one()}, ValueError, "grads has no 'b'"),
        ({"a": one(), "b": one(), "c": one()}, ValueError, "grads has an unknown 'c'"),
        ([one(), one()], TypeError, "grads must be a mapping with the parameters' keys, got list"),
        ({"a": one(), "b": np.ones(N + 1)}, ValueError, f"grads['b'] has shape ({N + 1},), but params['b']"),
    ]
    for grads, error, words in cases:
        with nothing_written(a, b), raising(error, words):
            opt.step(grads)
    opt = cls([{"params": a}, {"params": {"w": b}}])
    cases = [
        ([{"params": one()}], ValueError, "grads must be a sequence of 2 groups, got 1"),
        ([one(), one()], TypeError, "grads[0] must be a group {'params': gradients}, got one array"),
        ([{"params": one()}, {"grads": one()}], ValueError, "grads[1] has no 'params'"),
        ([{"params": one()}, {"params": {"x": one()}}], ValueError, "grads[1]['params'] has no 'w'"),
        ([{"params": one()}, {"params": {"w": None}}], TypeError, "grads[1]['params']['w'] is None"),
    ]
    for grads, error, words in cases:
        with nothing_written(a, b), raising(error, words):
            opt.step(grads)
    assert [state["step"] for state in opt.state.values()] == [0, 0]


@pytest.mark.parametrize("cls", CLASSES)
def test_structure_of_params(cls):
    for empty in ([], {}, [{"params": []}], ()):
        with raising(ValueError, "empty"):
            cls(empty)
    with raising(ValueError, "params[0] has no 'params'"):
        cls([{"lr": 1.0}])
    with raising(ValueError, "params[0] has an unknown 'rate'"):
        cls([{"params": tensor(), "rate": 1.0}])
    with raising(TypeError, "params[1] must be a group, like the others, got one array"):
        cls([{"params": tensor()}, tensor()])
    with raising(TypeError, "params['w'] is of type list"):
        cls({"w": [1.0]})


def test_zero_dimensions_and_no_elements():
    for dtype in DTYPES:
        for cls in CLASSES:
            scalar, empty = np.array(1.0, dtype), np.empty((3, 0), dtype)
            opt = cls([scalar, empty])
            opt.step([np.array(0.5, dtype), np.empty((3, 0), dtype)])
            assert float(scalar) < 1.0
            assert [state["step"] for state in opt.state.values()] == [1, 1]
    for variant in VARIANTS:
        empty = [np.empty(0, np.float32) for _ in range(2 + len(variant.states))]
        arguments = variant.arguments(dict.fromkeys(RULES[variant.rule].hypers, 0.5), 1)
        variant.kernel(empty[0], empty[1], empty[2:], arguments)
        bad = {**arguments, "lr": math.nan}
        with raising(ValueError, "lr"):
            variant.kernel(empty[0], empty[1], empty[2:], bad)


# ---- Hyperparameters. ----

NOT_A_NUMBER = ["1e-3", None, [0.1], 1j, "x"]
OUT_OF_RANGE = {
    "lr": [math.nan, math.inf, -math.inf, -1e-3],
    "momentum": [math.nan, math.inf, -0.1, 1.0, 2.0],
    "dampening": [math.nan, -0.1, 1.1, math.inf],
    "lr_decay": [math.nan, math.inf, -1e-3],
    "rho": [math.nan, -0.1, 1.0],
    "alpha": [math.nan, -0.1, 1.0],
    "beta1": [math.nan, -0.1, 1.0],
    "beta2": [math.nan, -0.1, 1.0],
    "eps": [math.nan, math.inf, -1e-8],
    "weight_decay": [math.nan, math.inf, -1e-8],
    "grad_scale": [math.nan, math.inf, -math.inf],
    "step": [math.nan, math.inf, 0, -1, 1.5, 2.0**54],
}
ONLY_IN_FLOAT32 = {  # in range as float64, out of it once rounded
    "lr": 1e39,
    "momentum": 1 - 1e-9,
    "lr_decay": 1e39,
    "rho": 1 - 1e-9,
    "alpha": 1 - 1e-9,
    "beta1": 1 - 1e-9,
    "beta2": 1 - 1e-9,
    "eps": 1e39,
    "weight_decay": 1e39,
}
# Not 0, and 0 in float32. The step is exact, and the factor of the gradients is applied in float64.
ROUND_TO_0 = dict.fromkeys(OUT_OF_RANGE.keys() - {"step", "grad_scale"}, (1e-46, 2.0**-150, 5e-324))


def spoken(name):
    return {"beta1": "betas[0]", "beta2": "betas[1]"}.get(name, name)


def changed(arguments, name, value):
    if name == "beta1":
        return {**arguments, "betas": (value, arguments["betas"][1])}
    if name == "beta2":
        return {**arguments, "betas": (arguments["betas"][0], value)}
    return {**arguments, name: value}


def test_the_lists_cover_the_table():
    assert OUT_OF_RANGE.keys() == {name for rule in RULES.values() for name in rule.hypers}


def test_hyperparameters_of_kernels(kernel):
    start = kernel.variant.arguments(dict.fromkeys(kernel_hypers(kernel), 0.5), 1)
    for name in kernel_hypers(kernel):
        for value in OUT_OF_RANGE[name]:
            bad = changed(start, name, value)
            kernel.refuses(ValueError, [spoken(name), "must be", "got"], hypers=bad)
        for value in NOT_A_NUMBER:
            kernel.refuses(TypeError, [spoken(name), "must be a number"], hypers=changed(start, name, value))
        if name in ONLY_IN_FLOAT32:
            bad = changed(start, name, ONLY_IN_FLOAT32[name])
            kernel.refuses(ValueError, [spoken(name), "as float32"], hypers=bad)
            kernel.takes(name, ONLY_IN_FLOAT32[name], np.float64)
        for value in ROUND_TO_0.get(name, ()):
            bad = changed(start, name, value)
            words = f"that float32 does not round to 0, got {value!r} (0.0 as float32)"
            kernel.refuses(ValueError, [spoken(name), "must be", words], hypers=bad)
            kernel.takes(name, value, np.float64)
        if name in ROUND_TO_0:
            kernel.takes(name, 0.0, np.float32)
            kernel.takes(name, 2.0**-149, np.float32)
    if "beta1" in kernel_hypers(kernel):
        for value in (0.9, (0.9,), (0.9, 0.9, 0.9), None):
            kernel.refuses(TypeError, ["betas must be a pair of numbers"], hypers={**start, "betas": value})


def test_kernels_need_the_buffers_that_their_hyperparameters_need():
    p, g = tensor(), tensor()
    with nothing_written(p), raising(ValueError, "momentum_buffer"):
        fastopt.kernels.sgd(p, g, momentum=0.9)
    with nothing_written(p), raising(ValueError, "momentum_buffer"):
        fastopt.kernels.rmsprop(p, g, tensor(), momentum=0.9)
    for bad in ({"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}):
        with nothing_written(p), raising(ValueError, "nesterov"):
            fastopt.kernels.sgd(p, g, momentum_buffer=tensor(), nesterov=True, **bad)
    with nothing_written(p), raising(ValueError, "nesterov"):
        fastopt.SGD(p, nesterov=True)


@pytest.mark.parametrize("cls", CLASSES)
def test_hyperparameters_of_optimizers(cls):
    p = tensor()
    opt = cls([{"params": p}, {"params": tensor(np.float64)}])
    for key in cls._hypers():
        good = opt.param_groups[0][key]
        inner = ["beta1", "beta2"] if key == "betas" else [key]
        for name in inner:
            only_in_float64 = [ONLY_IN_FLOAT32[name]] if name in ONLY_IN_FLOAT32 else []
            for value in [*OUT_OF_RANGE.get(name, []), *only_in_float64, *ROUND_TO_0.get(name, ())]:
                bad = {"beta1": (value, 0.9), "beta2": (0.9, value)}.get(name, value)
                with nothing_written(p), raising(ValueError, spoken(name), "must be"):
                    setattr(opt, key, bad)
                with raising(ValueError, spoken(name)):
                    opt.param_groups[0][key] = bad
                with raising(ValueError, spoken(name)):
                    cls(p, **{key: bad})
                assert [group[key] for group in opt.param_groups] == [good, good]
        for value in ["x", None, 1j, *([0, 1] if isinstance(good, bool) else [])]:
            with raising((TypeError, ValueError), key):
                setattr(opt, key, value)
            assert [group[key] for group in opt.param_groups] == [good, good]
    with pytest.raises(AttributeError, match="learning_rate"):
        opt.learning_rate = 1.0
    with pytest.raises(KeyError, match="learning_rate"):
        opt.param_groups[0]["learning_rate"] = 1.0
    with pytest.raises(KeyError, match="params"):
        opt.param_groups[0]["params"] = []
    with pytest.raises(TypeError, match="lr"):
        del opt.param_groups[0]["lr"]
    with pytest.raises(TypeError, match="learning_rate"):
        cls(p, learning_rate=1.0)


def test_a_float64_group_takes_what_a_float32_group_cannot():
    opt = fastopt.Adam([{"params": tensor()}, {"params": tensor(np.float64)}])
    opt.param_groups[1]["betas"] = (0.9, 1 - 1e-9)
    assert opt.param_groups[1]["betas"] == (0.9, 1 - 1e-9)
    with raising(ValueError, "betas[1]", "1.0 as float32"):
        opt.betas = (0.9, 1 - 1e-9)
    assert opt.param_groups[0]["betas"] == (0.9, 0.999)


def test_a_factor_beyond_float32_is_a_factor():
    """The product is formed in float64: what the factor is as float32 has no say."""
    for scale, slope in ((1e39, 1e-39), (-1e60, 1e-45), (1e-46, 3e38), (2.0**-200, 1.0), (1.7976931348623157e308, 0.0)):
        p, g = np.zeros(N, np.float32), np.full(N, slope, np.float32)
        expected = np.float32(-(scale * float(g[0])))
        fastopt.SGD([p], lr=1.0).step([g], grad_scale=scale)
        assert (p == expected).all(), (scale, slope)
        p[:] = 0
        fastopt.kernels.sgd(p, g, lr=1.0, grad_scale=scale)
        assert (p == expected).all(), (scale, slope)
    assert expected == 0


def test_initial_accumulator_value():
    for bad in (-1.0, math.nan, math.inf, 1e39):
        with raising(ValueError, "initial_accumulator_value"):
            fastopt.Adagrad(tensor(), initial_accumulator_value=bad)
    with raising(
        ValueError, "initial_accumulator_value", "that float32 does not round to 0, got 1e-46 (0.0 as float32)"
    ):
        fastopt.Adagrad([tensor(np.float64), tensor()], initial_accumulator_value=1e-46)
    fastopt.Adagrad(tensor(np.float64), initial_accumulator_value=1e-46)
    fastopt.Adagrad(tensor(), initial_accumulator_value=0.0)
    opt = fastopt.Adagrad(tensor(), initial_accumulator_value=0.1)
    assert (opt.state[0]["sum"] == np.float32(0.1)).all()
    with raising(ValueError, "initial_accumulator_value"):
        opt.initial_accumulator_value = 0.2


class Raising:
    """An object whose own code fails, in whichever way it is asked what it is."""

    def fail(self, *args, **kwargs):
        return 1 / 0

    __float__ = __index__ = __repr__ = __iter__ = __dlpack__ = __array__ = __buffer__ = fail
    __array_interface__ = property(fail)

    def __dlpack_device__(self):
        return (1, 0)


class Pretending:
    """An array, if one asks it, and nothing of one."""

    __class__ = property(lambda self: np.ndarray)


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_of_numbers_are_those_that_are_promised(cls):
    """Not OverflowError, not what a value's own code raises, nothing that is as long as the value."""
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


def test_errors_of_buffers_are_those_that_are_promised():
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
def test_what_has_no_end_is_an_error(endless):
    """And is not read to where the memory ends."""
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


# ---- Values. ----


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_gradients_follow_ieee_rules(kernel, value):
    g = kernel.buffers["g"]
    g[2] = value
    expected = {name: buffer.copy() for name, buffer in kernel.buffers.items()}
    arguments = kernel.variant.arguments(dict.fromkeys(kernel_hypers(kernel), 0.5), 1)
    for call, buffers in ((kernel.variant.kernel, kernel.buffers), (kernel.variant.reference, expected)):
        call(buffers["p"], buffers["g"], [buffers[name] for name in kernel.variant.states], arguments)
    for name in kernel.written:
        assert_same_bits(kernel.buffers[name], expected[name], name)
    assert not np.isfinite(kernel.buffers["p"][2]) or np.isinf(value)
    if not RULES[kernel.variant.rule].sums:  # of which one number comes for all elements
        assert np.isfinite(np.delete(kernel.buffers["p"], 2)).all()


def available_memory():
    """Bytes that can be had without swapping: on Linux, page cache that can be dropped is among them."""
    with contextlib.suppress(OSError):
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(meminfo["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_more_than_two_to_the_31_elements():
    count = 2**31 + 9
    needed = 1.2 * 4 * count  # p alone: reading the zeros of g takes no memory
    if (free := available_memory()) < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free memory, and there are {free / 2**30:.0f}")
    p, g = np.zeros(count, np.float32), np.zeros(count, np.float32)
    p[-9:] = g[-9:] = 2.0
    p[0] = g[0] = 4.0
    fastopt.kernels.sgd(p, g, lr=0.25)
    assert p[0] == 3.0
    assert (p[-9:] == 1.5).all()
    assert not p[1:1000].any()
    assert not p[-1000:-9].any()


# ---- Concurrency and memory. ----


@pytest.mark.parametrize("rule", RULES)
def test_kernels_release_the_gil(rule):
    """This thread sees the first element updated and the last one not yet: it runs in the middle of the loop."""
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


def test_hyperparameters_cannot_change_under_a_step():
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


def test_nothing_is_loaded_under_a_step():
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

    with opt._held():
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
        with raising(RuntimeError, "busy"):
            opt.step(tensor())
    assert len(refused) == 1
    assert "busy in another thread" in refused[0]
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
