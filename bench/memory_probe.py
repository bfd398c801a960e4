"""One process of the memory section: `python memory_probe.py arrays|adam MODEL THREADS` prints its peak in bytes.

`arrays` holds what a step cannot do without (parameters, gradients, two states, all written to); `adam` has fastopt
make the states and takes three steps. Both import the same modules, so that the difference is what fastopt needs
besides.
"""

import sys
from pathlib import Path

import numpy as np
from models import resnet50

import fastopt

MODELS = {"one tensor of 30 M": lambda: [(30_000_000,)], "ResNet-50": resnet50, "one tensor of 16": lambda: [(16,)]}


def main() -> None:
    what, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # No temporaries: later arrays would use their memory again, while the state of an optimizer would not.
    params, grads = ([np.full(shape, 0.5, np.float32) for shape in MODELS[model]()] for _ in range(2))
    if what == "arrays":
        states = [np.full_like(param, 1) for param in params for _ in range(2)]
        assert len(states) == 2 * len(params)
    else:
        opt = fastopt.Adam(params, threads=threads)
        opt.bind(grads)
        for _ in range(3):
            opt.step()
    print(peak())


def peak() -> int:
    """The most memory this process has held. getrusage's figure is inherited from the process that started it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    main()
