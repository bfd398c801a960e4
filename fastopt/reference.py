"""The same functions as `fastopt.kernels` in pure NumPy, line for line beside the C, and the global norm.

They are the oracle: the kernels give the same bits (the sign and payload of a NaN excepted), and users check and
benchmark against them. Signatures, meaning and formulas are those of `fastopt.kernels`; read there for parameters,
papers and differences to other libraries. What they leave out is the boundary: arguments are trusted, and NumPy's
floating-point warnings are silenced.

Each function has the two halves of a rule in C: coefficients, computed in float64 and rounded once to the dtype of the
arrays, and the element-wise update, only + - * / and sqrt in that dtype. A gradient is first converted to the dtype of
the parameters, and multiplied by its scale in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
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

_quiet = np.errstate(all="ignore")


def _scaled(g: Array, like: Array, grad_scale: float, maximize: bool) -> Array:
    """The gradient as the dtype of `like`, times the scale: the product is formed in float64 and rounded once."""
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
    sign = np.where(c > 0, real(1), np.where(c < 0, real(-1), c))  # that of -0 is -0, unlike np.sign's
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
    """Strips of the row, each added up in lanes, the lanes pairwise, and then the strips in order."""
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
    factor = 1.0 if norm + 1e-6 <= max_norm else max_norm / np.float64(norm + 1e-6)
    if factor != 1.0:
        for grad in _leaves(grads):
            computed = np.float64 if grad.dtype == np.float64 else np.float32
            grad[...] = (factor * grad.astype(np.float64)).astype(computed)
    return norm


def _leaves(arrays: Any) -> list[Array]:
    if isinstance(arrays, np.ndarray):
        return [arrays]
    return list(arrays.values() if hasattr(arrays, "values") else arrays)
