from __future__ import annotations

from typing import Any

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number, Pair


class LAMB(Optimizer):
    """LAMB: Adam's direction, scaled for each tensor to the size of its parameters.

    At step t, with `g` the gradient, `m` the `exp_avg` and `v` the `exp_avg_sq`::

        m = betas[0]*m + (1-betas[0])*g
        v = betas[1]*v + (1-betas[1])*g*g
        u = m/(1-betas[0]**t) / (sqrt(v)/sqrt(1-betas[1]**t) + eps) + weight_decay*p
        p -= lr*r*u                       r = |p|/|u| over the tensor, 1 where either is 0

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, eps, weight_decay : float
        Finite and >= 0; `weight_decay` is part of the update u, and so of the ratio r.
    betas : pair of float
        Decay rates of the two running averages, each in [0, 1).
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
    You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", arXiv:1904.00962, algorithm
    2, with bias correction and the norms as they are (phi is the identity). The squares of both norms are added up in
    float64 for each tensor, in an order that is fixed, so the bits are the same with any number of threads; a norm
    beyond about 1e154 overflows there. apex clips the gradients by their global norm first: `max_norm` in `step`.
    optax has no weight decay by default.

    Examples
    --------
    >>> w = np.array([3.0, -4.0])
    >>> opt = fastopt.LAMB(w, lr=0.1, weight_decay=0.0)
    >>> opt.step(np.array([0.5, 0.5]))
    >>> w.round(6)
    array([ 2.646447, -4.353553])
    """

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "lamb"

    lr = Number()
    betas = Pair()
    eps = Number()
    weight_decay = Number()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, threads=threads
        )

    # END GENERATED arguments
