"""The roofline of a case: the memory traffic of its rule without the arithmetic, on the very same arrays."""

from __future__ import annotations

import ctypes
import functools
import time
from pathlib import Path

from compiled import shared_library
from measure import SAMPLE, Contender
from models import Case

LABEL = "roofline"
MAX_STATES = 4  # as in roofline.c


class _Tensor(ctypes.Structure):
    _fields_ = (("n", ctypes.c_size_t), ("buffer", ctypes.c_void_p * (2 + MAX_STATES)))


@functools.cache
def _library() -> ctypes.CDLL:
    return shared_library(Path(__file__).with_name("roofline.c").read_text(), "roofline")


def roofline(case: Case, threads: int) -> Contender:
    """A contender that passes over the parameters, gradients and states of `case`, tensor by tensor.

    All passes of a sample happen in one C call, so that neither ctypes nor the start of threads counts.
    """
    states = list(case.states.values())
    buffers = [case.params, case.grads, *states]
    tensors = (_Tensor * len(case.params))()
    for i, tensor in enumerate(tensors):
        tensor.n = case.params[i].size
        for k, arrays in enumerate(buffers):
            tensor.buffer[k] = arrays[i].ctypes.data
    function = _library().roofline
    function.argtypes = [ctypes.c_size_t, ctypes.c_void_p, *[ctypes.c_size_t] * 3]

    def timed(calls: int) -> float:
        start = time.perf_counter()
        error = function(len(tensors), tensors, len(states), threads, calls)
        taken = time.perf_counter() - start
        if error:
            raise RuntimeError(f"the roofline has no loop for {len(states)} state buffers on {threads} threads")
        return taken

    return Contender(LABEL, threads, timed, sample=20 * SAMPLE)  # so long that the start of threads does not count
