from __future__ import annotations

from typing import Any

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number


class Momentum(Optimizer):
    """Classical momentum, the learning rate inside the velocity: `v = momentum*v + lr*g`, then `p -= v`.

    `g` is the gradient plus `weight_decay*p`, and `v` the state buffer `momentum_buffer`.

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, weight_decay : float
        Learning rate and L2 penalty, finite and >= 0.
    momentum : float
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
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; Ruder, arXiv:1609.04747, eq. 4;
    Keras has the same form. torch.optim.SGD keeps the learning rate outside the buffer: one trajectory while `lr` stays
    the same, another once it changes.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.Momentum(w, lr=0.1)
    >>> opt.step(np.array([1.0, 1.0]))
    >>> w
    array([ 0.9, -2.1])
    """

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "momentum"

    lr = Number()
    momentum = Number()
    weight_decay = Number()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, maximize=maximize, threads=threads
        )

    # END GENERATED arguments
