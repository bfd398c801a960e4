from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number, Switch


class NAG(Optimizer):
    """Nesterov's accelerated gradient: the gradient is taken at the look-ahead point `q = p - momentum*v`.

    ::

        v = momentum*v + lr*g(q);  p -= v

    `g(q)` is the gradient at `q` plus `weight_decay*q`, and `v` the state buffer `momentum_buffer`.

    There are two ways to use it, which follow one trajectory while `momentum` stays the same:

    - the textbook's: take the gradient inside `with opt.lookahead():`, where the arrays are at the look-ahead point,
      and step after it;
    - `at_lookahead=True`: the arrays hold the look-ahead point throughout, so that training loops need no block.
      The step is `q -= momentum*v + lr*g`, with the new `v`. Evaluating the model between steps then sees `q`.

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, weight_decay : float
        Learning rate and L2 penalty (of the look-ahead point), finite and >= 0.
    momentum : float
        In [0, 1).
    at_lookahead : bool
        True: the second way. It cannot be changed later.
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
    Nesterov, "A method for solving the convex programming problem with convergence rate O(1/k^2)", 1983; Sutskever et
    al., ICML 2013, eq. 3-4; Ruder, arXiv:1609.04747, eq. 5. `nesterov=True` in PyTorch (`SGD` here) and Keras is the
    second way, PyTorch's with the learning rate outside the velocity.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.NAG(w, lr=0.1)
    >>> for _ in range(2):
    ...     with opt.lookahead():
    ...         grad = 2 * w
    ...     opt.step(grad)
    >>> w
    array([ 0.496, -0.992])
    """

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "nag"

    lr = Number()
    momentum = Number()
    weight_decay = Number()
    at_lookahead = Switch()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        at_lookahead: bool = False,
        *,
        maximize: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            at_lookahead=at_lookahead,
            maximize=maximize,
            threads=threads,
        )

    # END GENERATED arguments

    _fixed = ("at_lookahead",)
    _shared = ("at_lookahead",)

    @contextlib.contextmanager
    def lookahead(self) -> Iterator[None]:
        """Put the arrays at the look-ahead point `p - momentum*v` for the block, and back after it, bit for bit.

        The arrays are put back also if the block raises; whatever it wrote to them is lost. The block costs one copy of
        the parameters. Call `step` after the block.

        Raises
        ------
        RuntimeError
            Inside another look-ahead block, and with `at_lookahead=True` (the arrays are there already).
        """
        if any(group["at_lookahead"] for group in self.param_groups):
            raise RuntimeError("with at_lookahead=True the arrays are at the look-ahead point already")
        reason = (
            "this optimizer is inside a lookahead() block already; step(), saving, copying, loading and another block "
            "belong after the lookahead() block, which puts the arrays back"
        )
        with self._exclusive(reason), self._restored():
            self._look_ahead()
            yield

    def _look_ahead(self) -> None:
        for group in self.param_groups:
            for i in group._tensors:
                array, velocity = self.params[i], self._buffers()[i][0]
                np.subtract(array, array.dtype.type(group["momentum"]) * velocity, out=array)
