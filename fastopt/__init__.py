"""fastopt: the update rules of gradient descent as in-place C loops, with the same bits everywhere."""

from fastopt import kernels, reference
from fastopt._clipping import clip_grad_norm, global_norm
from fastopt._config import __version__, show_config
from fastopt._data import minibatches
from fastopt._embedding import get_include, get_sources
from fastopt._runtime import available_isas, get_num_threads, isa, set_num_threads, use_isa
from fastopt._threads import register_controller
from fastopt.capi import capi_address
from fastopt.optimizers import (
    LAMB,
    NAG,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    Momentum,
    Optimizer,
    ParamGroup,
    RMSprop,
)

__all__ = [
    "LAMB",
    "NAG",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "Momentum",
    "Optimizer",
    "ParamGroup",
    "RMSprop",
    "__version__",
    "available_isas",
    "capi_address",
    "clip_grad_norm",
    "get_include",
    "get_num_threads",
    "get_sources",
    "global_norm",
    "isa",
    "kernels",
    "minibatches",
    "reference",
    "set_num_threads",
    "show_config",
    "use_isa",
]

register_controller()
