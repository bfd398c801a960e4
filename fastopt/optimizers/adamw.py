from __future__ import annotations

from typing import Any

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number, Pair, Switch


class AdamW(Optimizer):
    """AdamW: `p *= 1 - lr*weight_decay`, then Adam's step without weight decay in the gradient.

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, eps, weight_decay : float
        Finite and >= 0; `weight_decay` is decoupled from the gradient.
    betas : pair of float
        Decay rates of the two running averages, each in [0, 1).
    amsgrad : bool
        The running maximum of v stands for v in the update.
    maximize : bool
        Climb instead of descend.
    threads : int, optional
        How many threads a step may use; None: `fastopt.get_num_threads()`.

    Raises
    ------
    TypeError, ValueError
        If an array or a hyperparameter will not do; the message names it.

    Notes
    -----
    Loshchilov, Hutter, "Decoupled weight decay regularization", arXiv:1711.05101, algorithm 2, with the decay scaled
    by `lr` as in PyTorch and optax; the paper scales it by the schedule alone. Where others differ on Adam itself: see
    `Adam`.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.AdamW(w, lr=0.1, weight_decay=0.5)
    >>> opt.step(np.array([3.0, 5.0]))
    >>> w.round(6)
    array([ 0.85, -2.  ])
    """

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "adamw"

    lr = Number()
    betas = Pair()
    eps = Number()
    weight_decay = Number()
    amsgrad = Switch()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            threads=threads,
        )

    # END GENERATED arguments
