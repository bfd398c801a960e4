from __future__ import annotations

from typing import Any

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number, Pair


class Lion(Optimizer):
    """Lion: steps of one size, in the direction of the sign of an average of gradients.

    With `g` the gradient and `m` the `exp_avg`::

        c = betas[0]*m + (1-betas[0])*g
        p = (1 - lr*weight_decay)*p - lr*sign(c)        sign(0) = 0
        m = betas[1]*m + (1-betas[1])*g

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, weight_decay : float
        Finite and >= 0; `weight_decay` is decoupled from the gradient.
    betas : pair of float
        The weight of the average in the direction, and its decay rate, each in [0, 1).
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
    Chen et al., "Symbolic discovery of optimization algorithms", arXiv:2302.06675, algorithm 2. The authors suggest a
    learning rate 3 to 10 times smaller than for AdamW, and a weight decay as many times larger. DeepSpeed takes the
    sign by `copysign`, which moves parameters whose average is 0.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.Lion(w, lr=0.1)
    >>> opt.step(np.array([3.0, -5.0]))
    >>> w
    array([ 0.9, -1.9])
    """

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "lion"

    lr = Number()
    betas = Pair()
    weight_decay = Number()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize, threads=threads)

    # END GENERATED arguments
