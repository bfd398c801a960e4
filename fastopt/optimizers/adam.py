from __future__ import annotations

from typing import Any

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number, Pair, Switch


class Adam(Optimizer):
    """Adam, and AMSGrad.

    At step t, with `g` the gradient plus `weight_decay*p`, `m` the `exp_avg` and `v` the `exp_avg_sq`::

        m = betas[0]*m + (1-betas[0])*g
        v = betas[1]*v + (1-betas[1])*g*g
        p -= lr/(1-betas[0]**t) * m/(sqrt(v)/sqrt(1-betas[1]**t) + eps)

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, eps, weight_decay : float
        Finite and >= 0; `weight_decay` is an L2 penalty, part of g (for decoupled decay: `AdamW`).
    betas : pair of float
        Decay rates of the two running averages, each in [0, 1).
    amsgrad : bool
        The running maximum of v (`max_exp_avg_sq`) stands for v in the update.
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
    Kingma, Ba, "Adam: a method for stochastic optimization", arXiv:1412.6980, algorithm 1; Reddi, Kale, Kumar, "On the
    convergence of Adam and beyond", ICLR 2018. Names, defaults and meaning are torch.optim.Adam's. Keras adds epsilon
    before the bias correction (the paper's "epsilon hat" form): its `eps` is ours times `sqrt(1-betas[1]**t)`.
    optax's AMSGrad takes the maximum of the corrected v; here, as in PyTorch, of the uncorrected one.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.Adam(w, lr=0.1)
    >>> opt.step(np.array([3.0, 5.0]))
    >>> w.round(6)
    array([ 0.9, -2.1])
    """

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "adam"

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
        weight_decay: float = 0.0,
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
