"""Where state lies in memory, parameters and gradients in each other's gaps, and shared or read-only memory."""

import numpy as np
import pytest
from common import (
    LAYOUTS,
    assert_same_bits,
    laid,
)
from layouts import SHAPES, as_mapping, every_class, some_gradients, twin_of

import fastopt


@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_lies_in_the_order_of_its_parameter(layout):
    """The state's elements lie in the same order as the parameter's, without the gaps."""
    for shape in SHAPES:
        p = laid(np.zeros(shape), layout)
        for buffer in list(fastopt.Adam(p, amsgrad=True).state[0].values())[1:]:
            assert buffer.shape == p.shape
            assert not buffer.any()
            axes = [axis for axis in range(p.ndim) if p.shape[axis] > 1]
            if p.flags.c_contiguous or not p.size:
                assert buffer.flags.c_contiguous
                continue
            order = sorted(axes, key=lambda axis: -abs(p.strides[axis]))
            assert order == sorted(axes, key=lambda axis: -abs(buffer.strides[axis]))
            assert [p.strides[axis] < 0 for axis in axes] == [buffer.strides[axis] < 0 for axis in axes]
            step = 8
            for axis in reversed(order):
                assert abs(buffer.strides[axis]) == step
                step *= p.shape[axis]


@every_class
def test_parameters_in_the_gaps_of_each_other(cls):
    """Columns of one matrix, and parameters whose rows alternate, share no memory and are stepped."""
    for cut in (
        lambda m: [m[:, :2], m[:, 2:5], m[:, 5:]],
        lambda m: [m[::2], m[1::2]],
        lambda m: [m[:, ::3], m[:, 1::3], m[:, 2::3].T],
        lambda m: [m[::-1, ::-2], m[:, :-1:2]],
        lambda m: [m[:4, :3], m[4:, 3:], m[4:, :3].T, m[:4, 3:]],
    ):
        matrix = np.random.default_rng(14).standard_normal((9, 8)).astype(np.float32)
        params = cut(matrix)
        assert len(params) == 2 or sum(p.size for p in params) == matrix.size
        opt = cls(params)
        rest = matrix.copy()
        twin, rng = twin_of(opt), np.random.default_rng(15)
        for _ in range(2):
            grads = some_gradients(rng, params)
            opt.step(grads, max_norm=1.0)
            twin.step(grads, max_norm=1.0)
        for part, wanted in zip(cut(rest), twin.params, strict=True):
            part[...] = wanted
        assert_same_bits(matrix, rest)


@every_class
def test_parameters_that_share_memory_are_refused(cls):
    matrix = np.ones((6, 8))
    for params in (
        [matrix[:, :4], matrix[:, 3:]],
        [matrix[::2], matrix[2]],
        [matrix[:, ::3], matrix[3:, 5:7], matrix[:3, 6:7]],
        [matrix.T, matrix[5:, 7:]],
        [matrix[::-1, ::-1], matrix[0, :1]],
        [matrix[:, 0], matrix[:, 0]],
        [matrix[:, 1], np.ones(3), matrix[2:3, 1:2]],
        [matrix[:, 0], matrix[0, 1:3], matrix[4:, 0]],
        [matrix[:, ::7], matrix[1:4, 2:4], matrix[5, 6:]],
    ):
        before = matrix.tobytes()
        with pytest.raises(ValueError, match=r"params\[[12]\] shares memory with params\[0\]; every parameter needs"):
            cls(params)
        with pytest.raises(ValueError, match=r"params\['w[12]'\] shares memory with params\['w0'\]"):
            cls(as_mapping(params))
        assert matrix.tobytes() == before


def test_a_gradient_may_lie_in_the_gaps_of_a_parameter():
    """It may not lie on an element of the parameter or of its state."""
    matrix = np.arange(48.0).reshape(6, 8)
    p, expected = matrix[:, ::2], matrix[:, ::2].copy()
    opt, other = fastopt.Momentum([p]), fastopt.Momentum([expected])
    for grad in (matrix[:, 1::2], matrix[::-1, 1::2], matrix[:, 7::-2]):
        opt.step([grad])
        other.step([grad.copy()])
        assert_same_bits(p.copy(), expected)
    state = opt.state[0]["momentum_buffer"]
    before, kept = matrix.tobytes(), state.tobytes()
    for bad in (p, p[::-1], matrix[:, :4], matrix[:, 3:7], np.broadcast_to(matrix[:, 2:3], (6, 4)), state, state[::-1]):
        for zero in (False, True):
            with pytest.raises(ValueError, match=r"shares memory with params\[0\] or its state|read-only"):
                opt.step([bad], zero_grad=zero)
        with pytest.raises(ValueError, match=r"grads\[0\] shares memory with params\[0\] or its state"):
            opt.bind([bad])
        with pytest.raises(ValueError, match=r"g shares memory with p|g shares memory|momentum_buffer shares memory"):
            fastopt.kernels.momentum(p, bad, state)
    assert matrix.tobytes() == before
    assert state.tobytes() == kept
    assert opt.state[0]["step"] == 3


def test_a_gradient_is_compared_with_all_interleaved_parameters():
    """Also with a parameter that begins before others which end before the gradient does."""
    matrix = np.ones((6, 8))
    params = [matrix[:, 0], matrix[0, 1:3], matrix[2, 4:6], matrix[3:5, 1]]
    opt = fastopt.SGD(params, lr=1.0)
    for k, bad in enumerate((matrix[5, 0:1], matrix[0, 2:3], matrix[2, 4:5], matrix[4, 1:2])):
        for place in range(4):
            grads = [np.ones(p.shape) for p in params]
            grads[place] = np.broadcast_to(bad, params[place].shape)
            with pytest.raises(ValueError, match=rf"grads\[{place}\] shares memory with params\[{k}\]"):
                opt.step(grads)
    assert (matrix == 1).all()
    opt.step([matrix[:, 3], matrix[5, 1:3], matrix[5, 4:6], matrix[:2, 7]])
    assert matrix.sum() == 48 - 12


def test_gradients_that_are_zeroed_may_not_share_memory():
    matrix = np.ones((4, 6), np.float32)
    opt = fastopt.SGD([np.ones((4, 3)), np.ones((4, 3))], lr=1.0)
    opt.step([matrix[:, ::2], matrix[:, 1::2]], zero_grad=True)
    assert not matrix.any()
    matrix[:] = 1
    with pytest.raises(ValueError, match=r"grads\[1\] shares memory with grads\[0\]"):
        opt.step([matrix[:, :3], matrix[:, 2:5]], zero_grad=True)
    assert (matrix == 1).all()
    assert opt.state[0]["step"] == 1
    with pytest.raises(ValueError, match=r"grads\[1\] shares memory with grads\[0\]"):
        fastopt.clip_grad_norm([matrix[:, :3], matrix[:, 2:5]], 1.0)
    assert (matrix == 1).all()
    opt.step([matrix[:, :3], matrix[:, 2:5]])  # only read
    fastopt.clip_grad_norm([matrix[:, ::2], matrix[:, 1::2]], 1.0)
    assert matrix == pytest.approx(np.full((4, 6), 24**-0.5), rel=1e-6)


def test_read_only_memory_is_refused_at_any_strides():
    memory = np.ones((4, 6))
    memory.flags.writeable = False
    for bad in (memory.T, memory[:, ::2], memory[::-1], np.broadcast_to(1.0, (4, 6))):
        with pytest.raises(ValueError, match="params is read-only"):
            fastopt.SGD(bad)
        with pytest.raises(ValueError, match="p is read-only"):
            fastopt.kernels.sgd(bad, np.ones(bad.shape))
        with pytest.raises(ValueError, match="momentum_buffer is read-only"):
            fastopt.kernels.momentum(np.ones(bad.shape), np.ones(bad.shape), bad)
        with pytest.raises(ValueError, match="grads is read-only"):
            fastopt.clip_grad_norm(bad, 1.0)
        opt = fastopt.SGD(np.ones(bad.shape))
        with pytest.raises(ValueError, match="grads is read-only"):
            opt.step(bad, zero_grad=True)
        opt.step(bad)
