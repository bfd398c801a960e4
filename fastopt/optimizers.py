"""The optimizers. What they take stands in `arguments`, what they share in `optimizer`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fastopt.arguments import (
    AdadeltaArguments,
    AdagradArguments,
    AdamArguments,
    AdamWArguments,
    LAMBArguments,
    LionArguments,
    MomentumArguments,
    NAGArguments,
    RMSpropArguments,
    SGDArguments,
)
from fastopt.optimizer import ParamGroup

__all__ = ["LAMB", "NAG", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Lion", "Momentum", "RMSprop"]


class SGD(SGDArguments):
    """Stochastic gradient descent, plain, with momentum or with Nesterov momentum.

    With `g` the gradient plus `weight_decay*p`, plain: `p -= lr*g`. With momentum::

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
        If an array or a hyperparameter will not do; the message names it.

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

    _special = 0


class Momentum(MomentumArguments):
    """Classical momentum, the learning rate inside the velocity: `v = momentum*v + lr*g`, then `p -= v`.

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
        If an array or a hyperparameter will not do; the message names it.

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


class NAG(NAGArguments):
    """Nesterov's accelerated gradient: the gradient is taken at the look-ahead point `q = p - momentum*v`.

    ::

        v = momentum*v + lr*g(q);  p -= v

    There are two ways to use it, which follow one trajectory while `momentum` stays the same:

    - the textbook's: take the gradient inside `with opt.lookahead():`, where the arrays are at the look-ahead point,
      and step after it;
    - `at_lookahead=True`: the arrays hold the look-ahead point throughout, so that training loops need no block.
      `q -= momentum*v + lr*g` is the step. Evaluating the model between steps then sees the look-ahead point.

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
        Which of the two ways; fixed when the optimizer is made.
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

    _fixed = ("at_lookahead",)
    _kept = ("at_lookahead",)

    @contextlib.contextmanager
    def lookahead(self) -> Iterator[None]:
        """Put the arrays at the look-ahead point `p - momentum*v` for the block, and back after it, bit for bit.

        They come back also when the block raises; what it wrote to them is lost. The block costs one copy of the
        parameters. `step` belongs after the block.

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
        with self._held(reason), self._restored():
            self._look_ahead()
            yield

    def _look_ahead(self) -> None:
        for group in self.param_groups:
            for i in group._tensors:
                array, velocity = self.params[i], self._slots[i][0]
                np.subtract(array, array.dtype.type(group["momentum"]) * velocity, out=array)


class Adagrad(AdagradArguments):
    """Adagrad: `sum += g*g`, then `p -= lr/(1 + (t-1)*lr_decay) * g/(sqrt(sum) + eps)` at step t.

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, lr_decay, weight_decay, eps : float
        Finite and >= 0; `weight_decay` is an L2 penalty.
    initial_accumulator_value : float
        What `sum` starts with, finite and >= 0; acts when the optimizer is made.
    eps_inside_sqrt : bool
        `sqrt(sum + eps)` instead of `sqrt(sum) + eps`.
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
    Duchi, Hazan, Singer, "Adaptive subgradient methods for online learning and stochastic optimization", JMLR 12
    (2011). Defaults are torch.optim.Adagrad's. Keras and optax start `sum` at 0.1 and, like Ruder's overview, have
    epsilon inside the root.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.Adagrad(w, lr=0.1)
    >>> opt.step(np.array([3.0, 5.0]))
    >>> w.round(6)
    array([ 0.9, -2.1])
    """

    _fixed = ("initial_accumulator_value",)
    _torch_lacks = ("eps_inside_sqrt",)

    def _changed(self, group: ParamGroup, change: Mapping[str, Any], making: bool) -> dict[str, Any]:
        values = super()._changed(group, change, making)
        initial = values["initial_accumulator_value"]
        for dtype in {array.dtype for array in group["params"]}:
            with np.errstate(over="ignore"):
                if not 0 <= dtype.type(initial) < np.inf:
                    raise ValueError(f"initial_accumulator_value must be a finite number >= 0, got {initial!r}")
                if initial and not dtype.type(initial):
                    raise ValueError(
                        "initial_accumulator_value must be a finite number >= 0 that float32 does not round to 0, "
                        f"got {initial!r} (0.0 as float32)"
                    )
        return values


class Adadelta(AdadeltaArguments):
    """Adadelta: steps in units of the parameters, from running averages E of `g*g` and X of `d*d`.

    ::

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
        If an array or a hyperparameter will not do; the message names it.

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


class RMSprop(RMSpropArguments):
    """RMSprop, plain, centered and with momentum.

    ::

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
        If an array or a hyperparameter will not do; the message names it.

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

    _torch_lacks = ("eps_inside_sqrt",)


class Adam(AdamArguments):
    """Adam, and AMSGrad.

    At step t::

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


class AdamW(AdamWArguments):
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


class Lion(LionArguments):
    """Lion: steps of one size, in the direction of the sign of an average of gradients.

    ::

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
        If an array or a hyperparameter will not do; the message names it.

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


class LAMB(LAMBArguments):
    """LAMB: Adam's direction, scaled for each tensor to the size of its parameters.

    At step t::

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
        If an array or a hyperparameter will not do; the message names it.

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
