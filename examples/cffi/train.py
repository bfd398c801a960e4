"""Adam: the update through cffi, everything else in NumPy."""

import cffi
import numpy as np

import fastopt

ffi = cffi.FFI()
ffi.cdef("""
    typedef int adam_f32(size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq,
                         double step, double lr, double beta1, double beta2, double eps, double weight_decay,
                         double grad_scale, unsigned options);
""")
adam = ffi.cast("adam_f32 *", fastopt.capi_address("fastopt_adam_f32"))

target = np.arange(16, dtype=np.float32) - np.float32(7.5)
curvature = np.arange(1, 17, dtype=np.float32)
p, grad, exp_avg, exp_avg_sq = (np.zeros(16, np.float32) for _ in range(4))
buffers = [ffi.from_buffer("float[]", array, require_writable=True) for array in (p, grad, exp_avg, exp_avg_sq)]

for step in range(1, 201):
    error = p - target
    np.multiply(curvature, error, out=grad)
    if step == 1 or step % 50 == 0:
        print(f"step {step}: loss {grad @ error / 2:.3g}")
    if status := adam(p.size, *buffers, ffi.NULL, step, 0.1, 0.9, 0.999, 1e-8, 0.0, 1.0, 0):
        raise ValueError(f"fastopt_adam_f32 returned {status}")
print("found:", *(float(x).hex() for x in p))
