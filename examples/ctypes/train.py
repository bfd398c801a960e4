"""Adam: the update through ctypes, everything else in NumPy."""

import ctypes

import numpy as np

import fastopt

# int fastopt_adam_f32(size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq,
#                      double step, ..., double grad_scale, unsigned options); see fastopt.h.
floats = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS, WRITEABLE")  # checks each array
prototype = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_size_t, *[floats] * 4, ctypes.c_void_p, *[ctypes.c_double] * 7, ctypes.c_uint
)
adam = prototype(fastopt.capi_address("fastopt_adam_f32"))

target = np.arange(16, dtype=np.float32) - np.float32(7.5)
curvature = np.arange(1, 17, dtype=np.float32)
p, exp_avg, exp_avg_sq = (np.zeros(16, np.float32) for _ in range(3))

for step in range(1, 201):
    error = p - target
    grad = curvature * error
    if step == 1 or step % 50 == 0:
        print(f"step {step}: loss {grad @ error / 2:.3g}")
    if status := adam(p.size, p, grad, exp_avg, exp_avg_sq, None, step, 0.1, 0.9, 0.999, 1e-8, 0.0, 1.0, 0):
        raise ValueError(f"fastopt_adam_f32 returned {status}")
print("found:", *(float(x).hex() for x in p))
