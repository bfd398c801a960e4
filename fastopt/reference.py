"""The functions of `fastopt.kernels` in pure NumPy, line for line as in C; the global norm; and an optimizer.

Use these functions to check and benchmark the kernels, which give the same bits (except a NaN's sign and payload).
They have the signatures and meaning of `fastopt.kernels`, but do not check their arguments. They silence NumPy's
floating-point warnings.

Each function has the two halves of a rule in C: the coefficients, which are computed in float64 and rounded once to the
dtype of the arrays, and the element-wise update, which uses only + - * / and sqrt in that dtype. A gradient is first
converted to the dtype of the parameters, and multiplied by its scale in float64.

`Optimizer` steps a whole model by one of these functions, as `fastopt.Optimizer` does with the kernels: with groups,
state buffers, step counts and the arguments of `step`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np

__all__ = [
    "Optimizer",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "clip_grad_norm",
    "global_norm",
    "lamb",
    "lion",
    "momentum",
    "nag",
    "rmsprop",
    "sgd",
]

Array = np.ndarray[Any, np.dtype[Any]]

P = ParamSpec("P")
R = TypeVar("R")


def _quiet(function: Callable[P, R]) -> Callable[P, R]:
    """Silences NumPy's warnings within a function. Before NumPy 2 one shared `np.errstate` could not be nested."""

    @functools.wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return quiet


def _scaled(g: Array, like: Array, grad_scale: float, maximize: bool) -> Array:
    """The gradient in the dtype of `like`, times the scale: the product is formed in float64 and rounded once."""
    converted = np.asarray(g, dtype=like.dtype)
    product: Array = (np.float64(-grad_scale if maximize else grad_scale) * converted.astype(np.float64)).astype(
        like.dtype
    )
    return product


def _power(base: float, n: int) -> np.float64:
    """base**n by squaring: multiplications alone, as in C."""
    square, bits, result = np.float64(base), int(n), np.float64(1.0)
    while bits:
        if bits & 1:
            result = result * square
        square = square * square
        bits >>= 1
    return result


@_quiet
def sgd(
    p: Array,
    g: Array,
    *,
    momentum_buffer: Array | None = None,
    step: int = 1,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """Stochastic gradient descent in NumPy; see `fastopt.kernels.sgd`."""
    real, first = p.dtype.type, step == 1
    decay = real(weight_decay)
    mu = real(0.0 if first else momentum)
    rest = real(1.0 if first else 1.0 - dampening)
    lr, momentum_ahead = real(lr), real(momentum)

    g = _scaled(g, p, grad_scale, maximize) + decay * p
    if momentum_buffer is None:
        p[...] = p - lr * g
        return
    b = momentum_buffer
    b[...] = mu * b + rest * g
    p[...] = p - lr * (g + momentum_ahead * b if nesterov else b)


@_quiet
def momentum(
    p: Array,
    g: Array,
    momentum_buffer: Array,
    *,
    lr: float = 1e-2,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """Classical momentum in NumPy; see `fastopt.kernels.momentum`."""
    real = p.dtype.type
    decay = real(weight_decay)
    mu, lr = real(momentum), real(lr)

    v = momentum_buffer
    g = _scaled(g, p, grad_scale, maximize) + decay * p
    v[...] = mu * v + lr * g
    p[...] = p - v


@_quiet
def nag(
    p: Array,
    g: Array,
    momentum_buffer: Array,
    *,
    lr: float = 1e-2,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    at_lookahead: bool = False,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """Nesterov's accelerated gradient in NumPy; see `fastopt.kernels.nag`."""
    real = p.dtype.type
    decay = real(weight_decay)
    mu, lr = real(momentum), real(lr)

    v = momentum_buffer
    q = p if at_lookahead else p - mu * v
    g = _scaled(g, p, grad_scale, maximize) + decay * q
    v[...] = mu * v + lr * g
    p[...] = p - (mu * v + lr * g if at_lookahead else v)


@_quiet
def adagrad(
    p: Array,
    g: Array,
    sum: Array,
    *,
    step: int,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    eps_inside_sqrt: bool = False,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """Adagrad in NumPy; see `fastopt.kernels.adagrad`."""
    real = p.dtype.type
    decay = real(weight_decay)
    lr = real(lr / (1.0 + (step - 1.0) * lr_decay))
    inner, outer = (real(eps), real(0)) if eps_inside_sqrt else (real(0), real(eps))

    g = _scaled(g, p, grad_scale, maximize) + decay * p
    sum[...] = sum + g * g
    p[...] = p - lr * g / (np.sqrt(sum + inner) + outer)


@_quiet
def adadelta(
    p: Array,
    g: Array,
    square_avg: Array,
    acc_delta: Array,
    *,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """Adadelta in NumPy; see `fastopt.kernels.adadelta`."""
    real = p.dtype.type
    decay = real(weight_decay)
    rho, rest = real(rho), real(1.0 - rho)
    eps, lr = real(eps), real(lr)

    g = _scaled(g, p, grad_scale, maximize) + decay * p
    square_avg[...] = rho * square_avg + rest * g * g
    d = np.sqrt((acc_delta + eps) / (square_avg + eps)) * g
    acc_delta[...] = rho * acc_delta + rest * d * d
    p[...] = p - lr * d


@_quiet
def rmsprop(
    p: Array,
    g: Array,
    square_avg: Array,
    *,
    momentum_buffer: Array | None = None,
    grad_avg: Array | None = None,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    eps_inside_sqrt: bool = False,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """RMSprop in NumPy; see `fastopt.kernels.rmsprop`."""
    real = p.dtype.type
    decay = real(weight_decay)
    alpha, rest = real(alpha), real(1.0 - alpha)
    inner, outer = (real(eps), real(0)) if eps_inside_sqrt else (real(0), real(eps))
    mu, lr = real(momentum), real(lr)

    v, b, m = square_avg, momentum_buffer, grad_avg
    g = _scaled(g, p, grad_scale, maximize) + decay * p
    v[...] = alpha * v + rest * g * g
    u = v
    if m is not None:
        m[...] = alpha * m + rest * g
        u = v - m * m
        u = np.where(u < 0, real(0), u)
    d = np.sqrt(u + inner) + outer
    if b is None:
        p[...] = p - lr * g / d
        return
    b[...] = mu * b + g / d
    p[...] = p - lr * b


@_quiet
def adam(
    p: Array,
    g: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    max_exp_avg_sq: Array | None = None,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """Adam in NumPy; see `fastopt.kernels.adam`."""
    _adam(
        p,
        g,
        exp_avg,
        exp_avg_sq,
        max_exp_avg_sq,
        step,
        lr,
        betas,
        eps,
        weight_decay,
        1.0,
        grad_scale,
        maximize,
    )


@_quiet
def adamw(
    p: Array,
    g: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    max_exp_avg_sq: Array | None = None,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """AdamW in NumPy; see `fastopt.kernels.adamw`."""
    _adam(
        p,
        g,
        exp_avg,
        exp_avg_sq,
        max_exp_avg_sq,
        step,
        lr,
        betas,
        eps,
        0.0,
        1.0 - lr * weight_decay,
        grad_scale,
        maximize,
    )


def _adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    w: Array | None,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    keep: float,
    grad_scale: float,
    maximize: bool,
) -> None:
    real = p.dtype.type
    decay, keep = real(weight_decay), real(keep)
    beta1, rest1 = real(betas[0]), real(1.0 - betas[0])
    beta2, rest2 = real(betas[1]), real(1.0 - betas[1])
    step_size = real(lr / (1.0 - _power(betas[0], step)))
    root = real(1.0 / np.sqrt(1.0 - _power(betas[1], step)))
    eps = real(eps)

    g = _scaled(g, p, grad_scale, maximize) + decay * p
    m[...] = beta1 * m + rest1 * g
    v[...] = beta2 * v + rest2 * g * g
    u = v
    if w is not None:
        u = np.where(w > v, w, v)
        w[...] = u
    p[...] = keep * p - step_size * m / (np.sqrt(u) * root + eps)


@_quiet
def lion(
    p: Array,
    g: Array,
    exp_avg: Array,
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """Lion in NumPy; see `fastopt.kernels.lion`."""
    real = p.dtype.type
    keep, lr = real(1.0 - lr * weight_decay), real(lr)
    beta1, rest1 = real(betas[0]), real(1.0 - betas[0])
    beta2, rest2 = real(betas[1]), real(1.0 - betas[1])

    m = exp_avg
    g = _scaled(g, p, grad_scale, maximize)
    c = beta1 * m + rest1 * g
    sign = np.where(c > 0, real(1), np.where(c < 0, real(-1), c))  # unlike np.sign, gives -0 for -0
    p[...] = keep * p - lr * sign
    m[...] = beta2 * m + rest2 * g


@_quiet
def lamb(
    p: Array,
    g: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 1e-2,
    grad_scale: float = 1.0,
    maximize: bool = False,
) -> None:
    """LAMB in NumPy; see `fastopt.kernels.lamb`."""
    real = p.dtype.type
    decay, eps = real(weight_decay), real(eps)
    beta1, rest1 = real(betas[0]), real(1.0 - betas[0])
    beta2, rest2 = real(betas[1]), real(1.0 - betas[1])
    correction = real(1.0 / (1.0 - _power(betas[0], step)))
    root = real(1.0 / np.sqrt(1.0 - _power(betas[1], step)))

    m, v = exp_avg, exp_avg_sq
    g = _scaled(g, p, grad_scale, maximize)
    m[...] = beta1 * m + rest1 * g
    v[...] = beta2 * v + rest2 * g * g
    update = correction * m / (np.sqrt(v) * root + eps) + decay * p
    of_p, of_update = (_sum_squares(np.asarray(x, np.float64).reshape(-1), 1.0) for x in (p, update))
    ratio = np.sqrt(of_p) / np.sqrt(of_update) if of_p != 0 and of_update != 0 else 1.0
    p[...] = p - real(lr * ratio) * update


# ---- The global norm. ----

LANES, STRIP, STRIPS = 16, 4096, 1024


def _sum_squares(row: Array, scale: float) -> np.float64:
    """The sum of squares in the fixed order of C: strips of the row in lanes, lanes pairwise, then strips in order."""
    strip = max(STRIP, LANES * -(-row.size // (LANES * STRIPS)))
    total = np.float64(0.0)
    for begin in range(0, row.size, strip):
        squares = np.square(scale * row[begin : begin + strip])
        squares = np.append(squares, np.zeros(-squares.size % LANES))  # zeros at the end add nothing
        lanes = np.add.accumulate(squares.reshape(-1, LANES), axis=0)[-1]
        for width in (8, 4, 2, 1):
            lanes = lanes[:width] + lanes[width:]
        total = total + lanes[0]
    return total


@_quiet
def global_norm(arrays: Any, *, threads: int | None = None) -> float:
    """The Euclidean norm of all arrays together in NumPy; see `fastopt.global_norm`."""
    leaves = _leaves(arrays)
    row = np.concatenate([np.asarray(array, np.float64).reshape(-1) for array in leaves])
    total = _sum_squares(row, 1.0)
    doubles = any(array.dtype == np.float64 for array in leaves)
    if doubles and total == np.inf:
        return float(np.sqrt(_sum_squares(row, 2.0**-600)) * 2.0**600)
    if doubles and total < 2.0**-900:
        return float(np.sqrt(_sum_squares(row, 2.0**600)) * 2.0**-600)
    return float(np.sqrt(total))


@_quiet
def clip_grad_norm(grads: Any, max_norm: float, *, threads: int | None = None) -> float:
    """Gradients scaled in place to a global norm in NumPy; see `fastopt.clip_grad_norm`."""
    norm = global_norm(grads)
    factor = _clip_factor(norm, max_norm)
    if factor != 1.0:
        for grad in _leaves(grads):
            computed = np.float64 if grad.dtype == np.float64 else np.float32
            grad[...] = (factor * grad.astype(np.float64)).astype(computed)
    return norm


def _clip_factor(norm: float, max_norm: float) -> float:
    return 1.0 if norm + 1e-6 <= max_norm else float(max_norm / np.float64(norm + 1e-6))


def _leaves(arrays: Any) -> list[Array]:
    if isinstance(arrays, np.ndarray):
        return [arrays]
    return list(arrays.values() if hasattr(arrays, "values") else arrays)


# ---- The optimizer. ----

# For each optional state buffer, the hyperparameter that calls for it; and for each that does not begin at zero, the
# hyperparameter with its initial value. Those of them that are no argument of the rule are off, or zero, by default.
_CALLED_FOR_BY = {"momentum_buffer": "momentum", "grad_avg": "centered", "max_exp_avg_sq": "amsgrad"}
_BEGINS_AT = {"sum": "initial_accumulator_value"}


class Optimizer:
    """An optimizer in NumPy: the model that every `fastopt.Optimizer` is compared with, bit for bit.

    The class shares no code with the compiled optimizers, and does not check its arguments.

    Parameters
    ----------
    rule : str
        The name of a function of this module, such as `"adam"`.
    params : iterable of ndarray, or of mappings
        The parameters, which are stepped in place; or groups `{"params": arrays, "lr": 0.1}` that have
        hyperparameters of their own.
    **hypers
        Hyperparameters of the groups that do not have their own, by the names that the class of `fastopt` gives them.
        Those left out have the defaults of the rule.

    Attributes
    ----------
    param_groups : list of dict
        The hyperparameters of each group, and its parameters as `"params"`. Changes take effect with the next
        step.
    state : list of dict
        For each parameter its state buffers by name and the number of steps taken, as `"step"`.

    Notes
    -----
    If a later change of hyperparameters calls for a buffer, the next step adds it, or `add_buffers`. The buffer then
    stays, though it is not used while the hyperparameter is off. SGD's buffer is filled by the first step with
    momentum, so SGD counts its steps from that step on.

    Examples
    --------
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.Adam(w.copy(), lr=0.1)
    >>> model = fastopt.reference.Optimizer("adam", [w], lr=0.1)
    >>> for grad in np.array([[3.0, 4.0], [0.5, -1.0]]):
    ...     norm = opt.step(grad, max_norm=1.0)
    ...     assert norm == model.step([grad], max_norm=1.0)
    >>> np.array_equal(opt.params[0], w)
    True
    >>> model.state[0]["step"]
    2
    """

    def __init__(self, rule: str, params: Iterable[Array | Mapping[str, Any]], **hypers: Any) -> None:
        self.rule = rule
        self._function: Callable[..., None] = globals()[rule]
        takes = inspect.signature(self._function).parameters
        # The rule takes p, g and its state buffers, of which the optional ones are None by default; then the number of
        # the step, if it needs that; the hyperparameters of a group; and the scale.
        positional = [name for name, each in takes.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
        self._required = [name for name in positional if name not in ("p", "g")]
        self._optional = {name: _CALLED_FOR_BY[name] for name, each in takes.items() if each.default is None}
        self._counts = "step" in takes
        others = (*positional, *self._optional, "step", "grad_scale")
        self._hypers = [name for name in takes if name not in others]
        defaults: dict[str, Any] = dict.fromkeys(self._optional.values(), False)
        defaults |= {_BEGINS_AT[name]: 0.0 for name in self._required if name in _BEGINS_AT}
        defaults |= {name: takes[name].default for name in self._hypers}
        entries: list[Any] = list(params)
        if not entries or not isinstance(entries[0], Mapping):
            entries = [{"params": entries}]
        self.param_groups: list[dict[str, Any]] = []
        for entry in entries:
            group = {**defaults, **hypers, **entry, "params": list(entry["params"])}
            if unknown := group.keys() - defaults.keys() - {"params"}:
                raise TypeError(f"{rule} has no hyperparameter {', '.join(sorted(unknown))}")
            self.param_groups.append(group)
        self.state: list[dict[str, Any]] = [{"step": 0} for _ in self.params]
        self.add_buffers()

    @classmethod
    def like(cls, optimizer: Any) -> Optimizer:
        """A model of a `fastopt.Optimizer` as it stands.

        Parameters
        ----------
        optimizer : fastopt.Optimizer
            Its parameters and state are copied into contiguous arrays.

        Returns
        -------
        Optimizer

        Examples
        --------
        >>> opt = fastopt.SGD(np.ones(2), lr=0.5, momentum=0.9)
        >>> opt.step(np.ones(2))
        >>> model = fastopt.reference.Optimizer.like(opt)
        >>> model.state
        [{'step': 1, 'momentum_buffer': array([1., 1.])}]
        """
        groups = [
            {**group, "params": [np.array(p, order="C") for p in group["params"]]} for group in optimizer.param_groups
        ]
        model = cls(optimizer.rule, groups)
        model.state = [
            {name: value if name == "step" else np.array(value, order="C") for name, value in state.items()}
            for state in optimizer.state.values()
        ]
        return model

    @property
    def params(self) -> list[Array]:
        """The parameters of all groups, in order."""
        return [p for group in self.param_groups for p in group["params"]]

    def add_buffers(self) -> None:
        """Add the state buffers that the hyperparameters call for now; `step` does this first."""
        for group, p, state in self._tensors():
            for name in self._used(group):
                if name not in state and self.rule == "sgd":
                    state["step"] = 0  # the next step counts as the first: it adds and fills the buffer
                elif name not in state:
                    state[name] = np.full_like(p, group[_BEGINS_AT[name]] if name in _BEGINS_AT else 0.0)

    def step(
        self,
        grads: Iterable[Any],
        *,
        lr: float | None = None,
        grad_scale: float = 1.0,
        max_norm: float | None = None,
        zero_grad: bool = False,
        skip_nonfinite: bool = False,
    ) -> float | None:
        """Update every parameter and its state from its gradient; see `fastopt.Optimizer.step`.

        Parameters
        ----------
        grads : iterable of array_like
            The gradients of all groups' parameters, in order.
        lr, grad_scale, max_norm, zero_grad, skip_nonfinite
            As in `fastopt.Optimizer.step`.

        Returns
        -------
        float or None
            The norm, with `max_norm` or `skip_nonfinite`.
        """
        self.add_buffers()
        given, norm = list(grads), None
        with np.errstate(all="ignore"):
            converted = [np.asarray(g, dtype=p.dtype) for g, p in zip(given, self.params, strict=True)]
            if max_norm is not None or skip_nonfinite:
                norm = float(abs(grad_scale) * global_norm(converted))
                if skip_nonfinite and not math.isfinite(norm):
                    return norm
                if max_norm is not None:
                    grad_scale *= _clip_factor(norm, max_norm)
        for (group, p, state), g in zip(self._tensors(), converted, strict=True):
            state["step"] += 1
            arguments = {name: group[name] for name in self._hypers} | ({} if lr is None else {"lr": lr})
            arguments |= {"step": state["step"]} if self._counts else {}
            buffers = {name: state[name] if name in state else np.zeros_like(p) for name in self._used(group)}
            self._function(p, g, **buffers, **arguments, grad_scale=grad_scale)
            state.update(buffers)
        if zero_grad:
            for g in given:
                g[...] = 0
        return norm

    def _tensors(self) -> Iterator[tuple[dict[str, Any], Array, dict[str, Any]]]:
        groups = [group for group in self.param_groups for _ in group["params"]]
        return zip(groups, self.params, self.state, strict=True)

    def _used(self, group: Mapping[str, Any]) -> list[str]:
        """The names of the state buffers that the rule takes with these hyperparameters."""
        return self._required + [name for name, caller in self._optional.items() if group[caller]]
