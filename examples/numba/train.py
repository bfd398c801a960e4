"""Adam: numba compiles the whole loop, which calls the update by address."""

import ctypes

import numpy as np
from numba import njit

import fastopt

# A pointer is a c_void_p, for which compiled code passes `array.ctypes`; the NULL pointer is an integer, 0.
prototype = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_size_t, *[ctypes.c_void_p] * 4, ctypes.c_size_t, *[ctypes.c_double] * 7, ctypes.c_uint
)
adam = prototype(fastopt.capi_address("fastopt_adam_f32"))


@njit
def train(p, target, curvature, steps):
    exp_avg, exp_avg_sq, grad = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for step in range(1, steps + 1):
        for i in range(p.size):
            grad[i] = curvature[i] * (p[i] - target[i])
        status = adam(
            p.size,
            p.ctypes,
            grad.ctypes,
            exp_avg.ctypes,
            exp_avg_sq.ctypes,
            0,
            step,
            0.1,
            0.9,
            0.999,
            1e-8,
            0.0,
            1.0,
            0,
        )
        if status:
            raise ValueError("fastopt_adam_f32 returned an error")


target = np.arange(16, dtype=np.float32) - np.float32(7.5)
curvature = np.arange(1, 17, dtype=np.float32)
p = np.zeros(16, np.float32)


def loss():
    return (curvature * (p - target) ** 2).sum() / 2


print(f"at the start: loss {loss():.3g}")
train(p, target, curvature, 200)
print(f"after 200 steps: loss {loss():.3g}")
print("found:", *(float(x).hex() for x in p))
