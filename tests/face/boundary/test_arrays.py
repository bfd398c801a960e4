"""Which arrays are refused, with an error that names the argument and nothing written; and which are stepped."""

import array
import contextlib
import ctypes
import os
import re
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from boundary import Kernel, N, kernel_hypers, needed_states, nothing_written, raising, tensor
from common import CLASSES, DTYPES, assert_same_bits

import fastopt
from fastopt._rules import RULES

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
def test_parameters_and_state_of_16_bits_are_refused(kernel, engine, stored):
    """Gradients may have 16 bits."""
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


def test_a_read_only_gradient_is_taken(kernel, engine):
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


NO_BUFFERS = {"None": None, "list": [1.0] * N, "float": 1.0, "str": "abc", "object": object(), "range": range(N)}


@pytest.mark.parametrize("bad", NO_BUFFERS.values(), ids=NO_BUFFERS)
def test_objects_without_a_buffer(kernel, engine, bad):
    for name in kernel.buffers:
        if bad is not None or name in ("p", "g", *needed_states(kernel)):
            kernel.refuses(TypeError, [name, "None" if bad is None else type(bad).__name__], **{name: bad})
    engine.refuses(TypeError, ["None" if bad is None else type(bad).__name__], bad)
    with raising(TypeError, "params"):
        type(engine.opt)([bad])
    if not isinstance(bad, (list, range)):
        with raising(TypeError, "params"):
            type(engine.opt)(bad)


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


# Arrays of N elements of which several share one place: all of them, neighbours, or rows that overlap the next row.
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
    """In an array that is written, each element needs its own place; in a gradient that is only read, it does not."""
    words = [
        "has several elements at one address (shape",
        "strides",
        "); in an array that is written each element needs its own",
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


def test_huge_arrays_of_stride_0_are_refused_at_once():
    """The error takes neither time nor memory, however many elements share one place."""
    for shape, strides in [((10**15,), (0,)), ((10**9, 10**9), (0, 0)), ((10**12, 2), (0, 8)), ((2, 10**12), (16, 0))]:
        bad = np.lib.stride_tricks.as_strided(np.ones(4), shape, strides)
        with raising(ValueError, "params has several elements at one address"):
            fastopt.SGD(bad)


def test_strided_parameters_without_overlap_are_stepped_in_place(kernel):
    """Whatever the order and the gaps of the elements, as long as each has its own place."""
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
            for shift in (1, N - 1):  # overlaps of all elements but one, and of one
                pair = {one: memory[:N], other: memory[shift : shift + N]}
                kernel.refuses(ValueError, ["shares memory with"], **pair)


def test_adjacent_arrays_do_not_overlap(kernel):
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
    if not RULES[kernel.variant.rule].sums:  # in a rule with sums, one element changes all others
        assert np.isfinite(np.delete(kernel.buffers["p"], 2)).all()


def available_memory():
    """Bytes that can be allocated without swapping; on Linux they include page cache that can be dropped."""
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
