"""Minimizes the loss with the compiled module and prints the numbers that it found."""

import bowl
import numpy as np

target = np.arange(16, dtype=np.float32) - np.float32(7.5)
curvature = np.arange(1, 17, dtype=np.float32)
p = np.zeros(16, np.float32)


def loss():
    return (curvature * (p - target) ** 2).sum() / 2


print(f"at the start: loss {loss():.3g}")
bowl.train(p, target, curvature, 200)
print(f"after 200 steps: loss {loss():.3g}")
print("found:", *(float(x).hex() for x in p))
