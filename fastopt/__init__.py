"""fastopt: the update rules of gradient descent as in-place C loops, with the same bits everywhere."""

from fastopt import kernels, reference
from fastopt._core import available_isas, isa, use_isa
from fastopt.config import __version__, show_config
from fastopt.data import minibatches
from fastopt.optimizers import NAG, SGD, Adadelta, Adagrad, Adam, AdamW, Momentum, Optimizer, ParamGroup, RMSprop

__all__ = [
    "NAG",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Momentum",
    "Optimizer",
    "ParamGroup",
    "RMSprop",
    "__version__",
    "available_isas",
    "isa",
    "kernels",
    "minibatches",
    "reference",
    "show_config",
    "use_isa",
]
