from __future__ import annotations

from typing import Any

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number, Switch


class RMSprop(Optimizer):
    """RMSprop, plain, centered and with momentum.

    With `g` the gradient plus `weight_decay*p`, `v` the `square_avg`, `m` the `grad_avg` and `b` the
    `momentum_buffer`::

        v = alpha*v + (1-alpha)*g*g
        m = alpha*m + (1-alpha)*g             u = max(v - m*m, 0)      (not centered: u = v)
        d = sqrt(u) + eps                     (eps_inside_sqrt: d = sqrt(u + eps))
        b = momentum*b + g/d; p -= lr*b       (without momentum: p -= lr*g/d)

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, eps, weight_decay : float
        Finite and >= 0; `weight_decay` is an L2 penalty.
    alpha, momentum : float
        In [0, 1).
    centered : bool
        Divide by an estimate of the standard deviation instead of the root mean square.
    eps_inside_sqrt : bool
        Add `eps` under the root.
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
    Tieleman and Hinton, "Lecture 6.5: rmsprop", COURSERA 2012; centered: Graves, arXiv:1308.0850. Defaults are
    torch.optim.RMSprop's; the lecture and Keras have `alpha=0.9`, Keras and Ruder's overview epsilon inside the root.
    PyTorch takes the root of a centered variance that rounding can make negative (NaN); here it is clamped at 0.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.RMSprop(w)
    >>> opt.step(np.array([3.0, 5.0]))
    >>> w.round(6)
    array([ 0.9, -2.1])
    """

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "rmsprop"

    lr = Number()
    alpha = Number()
    eps = Number()
    weight_decay = Number()
    momentum = Number()
    centered = Switch()
    eps_inside_sqrt = Switch()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        eps_inside_sqrt: bool = False,
        maximize: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            eps_inside_sqrt=eps_inside_sqrt,
            maximize=maximize,
            threads=threads,
        )

    # END GENERATED arguments

    _torch_lacks = ("eps_inside_sqrt",)
