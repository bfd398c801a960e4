from __future__ import annotations

from typing import Any

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number


class Adadelta(Optimizer):
    """Adadelta: steps in units of the parameters, from running averages E of `g*g` and X of `d*d`.

    With `g` the gradient plus `weight_decay*p`, `E` the `square_avg` and `X` the `acc_delta`::

        E = rho*E + (1-rho)*g*g
        d = sqrt(X + eps)/sqrt(E + eps) * g
        X = rho*X + (1-rho)*d*d
        p -= lr*d

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, eps, weight_decay : float
        Finite and >= 0; `weight_decay` is an L2 penalty.
    rho : float
        In [0, 1).
    maximize : bool
        Climb instead of descend.
    threads : int, optional
        How many threads a step may use; None: `fastopt.get_num_threads()`.

    Raises
    ------
    TypeError, ValueError
        If an array or a hyperparameter is invalid; the message names it.

    Notes
    -----
    Zeiler, "ADADELTA: an adaptive learning rate method", arXiv:1212.5701, algorithm 1, which has no learning rate
    (`lr=1`). Defaults are torch.optim.Adadelta's; Keras has `lr=0.001`, `rho=0.95`.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.Adadelta(w)
    >>> opt.step(np.array([3.0, 5.0]))
    >>> w.round(6)
    array([ 0.996838, -2.003162])
    """

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "adadelta"

    lr = Number()
    rho = Number()
    eps = Number()
    weight_decay = Number()

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(params, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize, threads=threads)

    # END GENERATED arguments
