from __future__ import annotations

from typing import Any

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number, Switch


class SGD(Optimizer):
    """Stochastic gradient descent, plain, with momentum or with Nesterov momentum.

    With `g` the gradient plus `weight_decay*p`, plain: `p -= lr*g`. With momentum and `b` the `momentum_buffer`::

        b = momentum*b + (1 - dampening)*g        (first step: b = g)
        p -= lr*b                                 nesterov: p -= lr*(g + momentum*b)

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, weight_decay : float
        Learning rate and L2 penalty, finite and >= 0.
    momentum, dampening : float
        In [0, 1) and in [0, 1].
    nesterov : bool
        Look ahead along the new buffer; needs `momentum > 0` and `dampening == 0`.
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
    Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013.
    Names, defaults and meaning are torch.optim.SGD's. Textbooks and Keras put the learning rate inside the velocity:
    `Momentum` and `NAG`.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.SGD(w, lr=0.1, momentum=0.9)
    >>> opt.step(np.array([1.0, 1.0]))
    >>> w
    array([ 0.9, -2.1])
    """

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "sgd"

    lr = Number()
    momentum = Number()
    dampening = Number()
    weight_decay = Number()
    nesterov = Switch()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            threads=threads,
        )

    # END GENERATED arguments

    _lazy_slot = 0
