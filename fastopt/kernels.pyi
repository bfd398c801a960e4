from typing import SupportsFloat, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

__all__ = ["adadelta", "adagrad", "adam", "adamw", "momentum", "nag", "rmsprop", "sgd"]

# What a buffer holds is checked when the function is called: its type does not say.
_Array: TypeAlias = NDArray[np.float32] | NDArray[np.float64] | Buffer
_Number: TypeAlias = SupportsFloat | SupportsIndex

def sgd(
    p: _Array,
    g: _Array,
    *,
    momentum_buffer: _Array | None = None,
    step: _Number = 1,
    lr: _Number = 1e-3,
    momentum: _Number = 0.0,
    dampening: _Number = 0.0,
    weight_decay: _Number = 0.0,
    nesterov: bool = False,
    grad_scale: _Number = 1.0,
    maximize: bool = False,
) -> None: ...
def momentum(
    p: _Array,
    g: _Array,
    momentum_buffer: _Array,
    *,
    lr: _Number = 1e-2,
    momentum: _Number = 0.9,
    weight_decay: _Number = 0.0,
    grad_scale: _Number = 1.0,
    maximize: bool = False,
) -> None: ...
def nag(
    p: _Array,
    g: _Array,
    momentum_buffer: _Array,
    *,
    lr: _Number = 1e-2,
    momentum: _Number = 0.9,
    weight_decay: _Number = 0.0,
    at_lookahead: bool = False,
    grad_scale: _Number = 1.0,
    maximize: bool = False,
) -> None: ...
def adagrad(
    p: _Array,
    g: _Array,
    sum: _Array,
    *,
    step: _Number,
    lr: _Number = 1e-2,
    lr_decay: _Number = 0.0,
    eps: _Number = 1e-10,
    weight_decay: _Number = 0.0,
    eps_inside_sqrt: bool = False,
    grad_scale: _Number = 1.0,
    maximize: bool = False,
) -> None: ...
def adadelta(
    p: _Array,
    g: _Array,
    square_avg: _Array,
    acc_delta: _Array,
    *,
    lr: _Number = 1.0,
    rho: _Number = 0.9,
    eps: _Number = 1e-6,
    weight_decay: _Number = 0.0,
    grad_scale: _Number = 1.0,
    maximize: bool = False,
) -> None: ...
def rmsprop(
    p: _Array,
    g: _Array,
    square_avg: _Array,
    *,
    momentum_buffer: _Array | None = None,
    grad_avg: _Array | None = None,
    lr: _Number = 1e-2,
    alpha: _Number = 0.99,
    eps: _Number = 1e-8,
    momentum: _Number = 0.0,
    weight_decay: _Number = 0.0,
    eps_inside_sqrt: bool = False,
    grad_scale: _Number = 1.0,
    maximize: bool = False,
) -> None: ...
def adam(
    p: _Array,
    g: _Array,
    exp_avg: _Array,
    exp_avg_sq: _Array,
    *,
    max_exp_avg_sq: _Array | None = None,
    step: _Number,
    lr: _Number = 1e-3,
    betas: tuple[_Number, _Number] = (0.9, 0.999),
    eps: _Number = 1e-8,
    weight_decay: _Number = 0.0,
    grad_scale: _Number = 1.0,
    maximize: bool = False,
) -> None: ...
def adamw(
    p: _Array,
    g: _Array,
    exp_avg: _Array,
    exp_avg_sq: _Array,
    *,
    max_exp_avg_sq: _Array | None = None,
    step: _Number,
    lr: _Number = 1e-3,
    betas: tuple[_Number, _Number] = (0.9, 0.999),
    eps: _Number = 1e-8,
    weight_decay: _Number = 1e-2,
    grad_scale: _Number = 1.0,
    maximize: bool = False,
) -> None: ...
