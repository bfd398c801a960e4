"""Steps whose gradients differ in type and strides: what the engine remembers of one never wrongly serves the next."""

import itertools
import sys

import ml_dtypes
import numpy as np
import pytest
from common import (
    STORED,
    assert_same_bits,
    laid,
)
from layouts import check, every_dtype, twin_of

import fastopt


def sources(memory, n):
    """Gradients of n elements in one piece of memory; many begin at the same address."""
    floats, doubles = memory.view(np.float32), memory.view(np.float64)
    yield from (memory.view(stored)[:n] for stored in STORED)
    yield from (memory.view(stored)[: 2 * n : 2] for stored in STORED)
    yield floats[n - 1 :: -1]
    yield doubles[: 3 * n : 3]
    yield np.broadcast_to(floats[0], (n,))
    yield np.broadcast_to(doubles[:1], (n,))
    yield np.lib.stride_tricks.as_strided(floats, (n,), (0,))


@pytest.mark.parametrize("layout", ["C", "gaps"])
@every_dtype
def test_gradients_that_change_between_steps(dtype, layout):
    """Each gradient is followed by each other one, of another type or strides, often at the same address."""
    n = 6
    memory = np.random.default_rng(16).uniform(0.5, 1, 4 * n).view(np.uint8)
    pairs = itertools.product(range(len(list(sources(memory, n)))), repeat=2)
    opt = fastopt.SGD([laid(np.ones(n, dtype), layout), laid(np.ones(2), "C")], momentum=0.5)
    twin, last = twin_of(opt), np.ones(2, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for pair in pairs:
            for k in pair:
                grads = [list(sources(memory, n))[k], last]
                opt.step(grads)
                twin.step(grads)
            opt.bind(grads)
            opt.step()
            twin.step(grads)
            opt.step([list(sources(memory, n))[pair[0]], last])
            twin.step([list(sources(memory, n))[pair[0]], last])
            opt.step()
            twin.step(grads)
            check(opt, twin, [layout, "C"])


def test_overlap_is_found_where_only_the_strides_are_new():
    """A gradient at the address of the last one may reach into the parameter by its strides."""
    memory = np.ones(12, np.float32)
    p = memory[6:]
    opt = fastopt.SGD([p], lr=0.25)
    good = memory[:6]
    reaching = [
        np.lib.stride_tricks.as_strided(memory, (6,), (8,)), memory[:12:2], memory[2:8], memory[11:5:-1],
        memory[10::-2], np.broadcast_to(memory[6:7], (6,)), memory.view(np.float64), memory.view(np.float16)[7:13],
    ]  # fmt: skip
    taken = 0
    for bad, bound in itertools.product(reaching, (False, True)):
        for before in (good, good[::-1], np.broadcast_to(memory[:1], (6,)), memory.view(np.float64)[:3].repeat(2)):
            p[:] = 1
            opt.step([before])
            taken += 1
            kept = p.copy()
            with pytest.raises(ValueError, match=r"grads\[0\] shares memory with params\[0\]"):
                (opt.bind if bound else opt.step)([bad])
            assert_same_bits(p, kept)
            opt.step([before])
            taken += 1
    assert opt.state[0]["step"] == taken


def test_bound_gradients_of_other_types_and_layouts_stay_bound():
    """They stay bound through steps with other gradients, errors, new state and loading."""
    p = laid(np.ones((4, 5), np.float32), "F")
    bound = laid(np.full((4, 5), 0.5, np.float16), "columns")
    opt = fastopt.SGD([p], lr=0.5)
    twin = twin_of(opt)
    opt.bind([bound])
    for k in range(4):
        opt.step()
        twin.step([bound])
        opt.step([np.full((5, 4), k, ml_dtypes.bfloat16).T])
        twin.step([np.full((4, 5), k)])
        with pytest.raises(TypeError, match="dtype"):
            opt.step([np.ones((4, 5), int)])
        with pytest.raises(ValueError, match="shares memory"):
            opt.step([p])
        opt.step()
        twin.step([bound])
        bound += np.float16(0.25)
        check(opt, twin, ["F"])
    opt.load_state_dict(opt.state_dict())
    opt.step()
    twin.step([bound])
    check(opt, twin, ["F"])


@pytest.mark.filterwarnings("ignore:Setting the (shape|strides|dtype):DeprecationWarning")
def test_arrays_whose_shape_or_type_is_set_after_binding():
    """NumPy lets one set an array's shape, strides and type; a step uses the bound ones or is an error."""
    memory = np.full(40, 7.0, np.float32)
    p, grad = memory[8:32].reshape(4, 6), np.arange(24, dtype=np.float16).reshape(6, 4).T
    opt = fastopt.Momentum(p, lr=1.0)
    opt.bind(grad)
    twin = twin_of(opt)
    values = np.array(grad)
    for change in (lambda: setattr(grad, "strides", (0, 2)), lambda: setattr(grad, "shape", (2, 2, 6))):
        try:
            change()
        except (AttributeError, ValueError):
            continue
        opt.step(zero_grad=False)
        twin.step([values])
    for shape in ((6, 4), (24,), (2, 2, 6)):
        p.shape = shape
        for bad in (np.ones(shape[::-1]).T, np.ones((*shape, 2), np.float32)[..., 0], np.ones(shape, np.float16)[::-1]):
            if bad.flags.c_contiguous:
                continue
            with pytest.raises(ValueError, match=r"params has become float32 of shape .* since it was bound"):
                opt.step(bad)
        opt.step(np.ones(shape))  # accepted, as the elements and their order are the same
        twin.step([np.ones((4, 6))])
        with pytest.raises(ValueError, match="grads has shape"):
            opt.step()
    p.shape = (4, 6)
    opt.step()
    twin.step([values])
    p.dtype = np.int32
    with pytest.raises(ValueError, match="params has become int32 of shape"):
        opt.step(np.ones((4, 6), np.float32))
    p.dtype = np.float32
    state = opt.state[0]["momentum_buffer"]
    state.shape = (24,)
    opt.step(np.ones((6, 4)).T)
    twin.step([np.ones((4, 6))])
    state.shape = (4, 6)
    assert_same_bits(p, twin.params[0])
    assert_same_bits(state, twin.state[0]["momentum_buffer"])
    assert (memory[:8] == 7).all()
    assert (memory[32:] == 7).all()


@pytest.mark.filterwarnings("ignore:Setting the (shape|strides):DeprecationWarning")
def test_a_strided_parameter_whose_strides_are_set_is_stepped_where_it_was():
    memory = np.ones((4, 12), np.float32)
    p = memory[:, ::2]
    opt = fastopt.Momentum([p], lr=1.0)
    grad = np.ones((4, 6), np.float32)
    p.strides = (0, 0)
    opt.step([grad])
    state = opt.state[0]["momentum_buffer"]
    state.strides = (0, 0)
    opt.step([grad])
    opt.lr = 0.5
    opt.momentum = 0.0
    opt.step([grad])
    assert memory[:, ::2] == pytest.approx(np.full((4, 6), 1 - 1 - 1.9 - 0.5))
    assert (memory[:, 1::2] == 1).all()


def test_no_reference_to_a_gradient_is_kept():
    """Neither a gradient of any kind nor a view of it is kept after a step or an error."""
    opt = fastopt.Adam([np.ones((3, 4), np.float32), np.ones(2)])
    for grad in (np.ones((4, 3)), np.ones((4, 3), np.float16), np.ones((4, 3), ml_dtypes.bfloat16)):
        references = sys.getrefcount(grad)
        opt.step([grad.T, np.ones(2)])
        assert sys.getrefcount(grad) == references
        with pytest.raises(ValueError, match="shape"):
            opt.step([grad.T, np.ones(3)])
        assert sys.getrefcount(grad) == references
        fastopt.clip_grad_norm([grad.T], 1.0)
        fastopt.kernels.sgd(opt.params[0], grad.T)
        assert sys.getrefcount(grad) == references
        opt.bind([grad.T, np.ones(2)])
        assert sys.getrefcount(grad) > references
        opt.step()
        opt.bind(None)
        assert sys.getrefcount(grad) == references
