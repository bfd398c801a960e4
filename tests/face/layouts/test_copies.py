"""No gradient is copied whole; copies and saved states of strided parameters continue with the same bits."""

import copy
import tracemalloc

import numpy as np
import pytest
from common import (
    LAYOUTS,
    assert_same_bits,
    laid,
)
from layouts import (
    SMALL,
    check,
    every_class,
    every_stored,
    model,
    some_gradients,
    twin_of,
)

import fastopt

# ---- Memory. ----


def peak(act):
    """The peak of the memory that Python and NumPy allocate while `act` runs."""
    act()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("threads", [1, 3])
@every_stored
def test_a_step_copies_no_array_whole(stored, threads):
    """A step does not even copy a row: the memory that it takes does not grow with the arrays."""
    for layout in LAYOUTS:
        peaks = []
        for size in (20, 300):
            p = laid(np.ones((size, size), np.float32), layout)
            grad = laid(np.ones((size, size), stored), "F")
            opt = fastopt.Adam([p], threads=threads)
            given = [grad]
            opt.bind(given)
            ways = [
                lambda opt=opt, given=given: opt.step(given),
                opt.step,
                lambda opt=opt: opt.step(max_norm=1.0, zero_grad=True),
                lambda opt=opt, given=given: opt.step(given, grad_scale=0.3, skip_nonfinite=True),
                lambda given=given, threads=threads: fastopt.clip_grad_norm(given, 1.0, threads=threads),
                lambda given=given, threads=threads: fastopt.global_norm(given, threads=threads),
                lambda p=p, given=given: fastopt.kernels.sgd(p, given[0]),
            ]
            peaks.append(list(map(peak, ways)))
        for small, large in zip(*peaks, strict=True):
            assert large <= small + 512
            assert large < 4000


# ---- Copies. ----


@every_class
def test_copies_and_saved_state_of_strided_parameters(cls):
    """A copy steps as the original does; a saved state can be loaded for parameters of another layout."""
    opt, layouts = model(cls, SMALL, 5)
    rng = np.random.default_rng(17)
    opt.step(some_gradients(rng, opt.params))
    twin, saved = copy.deepcopy(opt), opt.state_dict()
    params = [laid(np.array(p, order="C"), [*LAYOUTS][(k + 7) % len(LAYOUTS)]) for k, p in enumerate(opt.params)]
    other = cls(params)
    other.load_state_dict(saved)
    grads = some_gradients(rng, opt.params)
    for each in (opt, twin, other):
        each.step(grads)
    for k, p in enumerate(opt.params):
        for each in (twin, other):
            assert_same_bits(np.array(each.params[k], order="C"), np.array(p, order="C"))
    for name, value in opt.state[0].items():
        assert np.array_equal(value, other.state[0][name])
    assert layouts


def test_a_lookahead_of_strided_parameters_restores_them():
    opt, layouts = model(fastopt.NAG, SMALL, 9)
    twin, rng = twin_of(opt), np.random.default_rng(18)
    for _ in range(2):
        grads = some_gradients(rng, opt.params)
        opt.step(grads)
        twin.step(grads)
        with opt.lookahead():
            for p, wanted, states in zip(opt.params, twin.params, twin.state, strict=True):
                ahead = wanted - p.dtype.type(0.9) * states["momentum_buffer"]
                assert_same_bits(np.array(p, order="C"), ahead)
        check(opt, twin, layouts)
