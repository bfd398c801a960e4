"""The optimizers, one rule a file; `_base`, `_hyper` and `_state_dict` have their common code."""

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import ParamGroup
from fastopt.optimizers.adadelta import Adadelta
from fastopt.optimizers.adagrad import Adagrad
from fastopt.optimizers.adam import Adam
from fastopt.optimizers.adamw import AdamW
from fastopt.optimizers.lamb import LAMB
from fastopt.optimizers.lion import Lion
from fastopt.optimizers.momentum import Momentum
from fastopt.optimizers.nag import NAG
from fastopt.optimizers.rmsprop import RMSprop
from fastopt.optimizers.sgd import SGD

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
]
