# cython: language_level=3, boundscheck=False
"""Adam in a loop without Python."""

import numpy as np

from fastopt.capi cimport adam_f32, strerror


def train(float[::1] p, const float[::1] target, const float[::1] curvature, int steps):
    """Minimizes the loss over `p`, in place."""
    cdef size_t i, n = p.shape[0]
    cdef int step, status = 0
    cdef float[::1] g = np.zeros(n, np.float32)
    cdef float[::1] exp_avg = np.zeros(n, np.float32)
    cdef float[::1] exp_avg_sq = np.zeros(n, np.float32)
    if not n == target.shape[0] == curvature.shape[0] > 0:
        raise ValueError("p, target and curvature must have one length, at least 1")
    with nogil:
        for step in range(1, steps + 1):
            for i in range(n):
                g[i] = curvature[i] * (p[i] - target[i])
            status = adam_f32(n, &p[0], &g[0], &exp_avg[0], &exp_avg_sq[0], NULL,
                              step, 0.1, 0.9, 0.999, 1e-8, 0.0, 1.0, 0)
            if status:
                break
    if status:
        raise ValueError(strerror(status).decode())
