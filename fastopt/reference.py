"""The same functions as `fastopt.kernels` in pure NumPy, line for line beside the C.

They are the oracle: the kernels give the same bits (the sign and payload of a NaN excepted), and users check and
benchmark against them. Signatures, meaning and formulas are those of `fastopt.kernels`; read there for parameters,
papers and differences to other libraries. What they leave out is the boundary: arguments are trusted, and NumPy's
floating-point warnings are silenced.

Each function has the two halves of a rule in C: coefficients, computed in float64 and rounded once to the dtype of the
arrays, and the element-wise update, only + - * / and sqrt in that dtype.
"""

import numpy as np

__all__ = ["adadelta", "adagrad", "adam", "adamw", "momentum", "nag", "rmsprop", "sgd"]

_quiet = np.errstate(all="ignore")


def _signed_scale(grad_scale, maximize):
    return -grad_scale if maximize else grad_scale


def _power(base, n):
    """base**n by squaring: multiplications alone, as in C."""
    base, n, result = np.float64(base), int(n), np.float64(1.0)
    while n:
        if n & 1:
            result = result * base
        base = base * base
        n >>= 1
    return result


@_quiet
def sgd(
    p,
    g,
    *,
    momentum_buffer=None,
    step=1,
    lr=1e-3,
    momentum=0.0,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    grad_scale=1.0,
    maximize=False,
):
    """Stochastic gradient descent in NumPy; see `fastopt.kernels.sgd`."""
    real, first = p.dtype.type, step == 1
    scale, decay = real(_signed_scale(grad_scale, maximize)), real(weight_decay)
    mu = real(0.0 if first else momentum)
    rest = real(1.0 if first else 1.0 - dampening)
    lr, momentum_ahead = real(lr), real(momentum)

    g = scale * g + decay * p
    if momentum_buffer is None:
        p[...] = p - lr * g
        return
    b = momentum_buffer
    b[...] = mu * b + rest * g
    p[...] = p - lr * (g + momentum_ahead * b if nesterov else b)


@_quiet
def momentum(p, g, momentum_buffer, *, lr=1e-2, momentum=0.9, weight_decay=0.0, grad_scale=1.0, maximize=False):
    """Classical momentum in NumPy; see `fastopt.kernels.momentum`."""
    real = p.dtype.type
    scale, decay = real(_signed_scale(grad_scale, maximize)), real(weight_decay)
    mu, lr = real(momentum), real(lr)

    v = momentum_buffer
    g = scale * g + decay * p
    v[...] = mu * v + lr * g
    p[...] = p - v


@_quiet
def nag(
    p,
    g,
    momentum_buffer,
    *,
    lr=1e-2,
    momentum=0.9,
    weight_decay=0.0,
    at_lookahead=False,
    grad_scale=1.0,
    maximize=False,
):
    """Nesterov's accelerated gradient in NumPy; see `fastopt.kernels.nag`."""
    real = p.dtype.type
    scale, decay = real(_signed_scale(grad_scale, maximize)), real(weight_decay)
    mu, lr = real(momentum), real(lr)

    v = momentum_buffer
    q = p if at_lookahead else p - mu * v
    g = scale * g + decay * q
    v[...] = mu * v + lr * g
    p[...] = p - (mu * v + lr * g if at_lookahead else v)


@_quiet
def adagrad(
    p,
    g,
    sum,
    *,
    step,
    lr=1e-2,
    lr_decay=0.0,
    eps=1e-10,
    weight_decay=0.0,
    eps_inside_sqrt=False,
    grad_scale=1.0,
    maximize=False,
):
    """Adagrad in NumPy; see `fastopt.kernels.adagrad`."""
    real = p.dtype.type
    scale, decay = real(_signed_scale(grad_scale, maximize)), real(weight_decay)
    lr = real(lr / (1.0 + (step - 1.0) * lr_decay))
    inner, outer = (real(eps), real(0)) if eps_inside_sqrt else (real(0), real(eps))

    g = scale * g + decay * p
    sum[...] = sum + g * g
    p[...] = p - lr * g / (np.sqrt(sum + inner) + outer)


@_quiet
def adadelta(
    p, g, square_avg, acc_delta, *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, grad_scale=1.0, maximize=False
):
    """Adadelta in NumPy; see `fastopt.kernels.adadelta`."""
    real = p.dtype.type
    scale, decay = real(_signed_scale(grad_scale, maximize)), real(weight_decay)
    rho, rest = real(rho), real(1.0 - rho)
    eps, lr = real(eps), real(lr)

    g = scale * g + decay * p
    square_avg[...] = rho * square_avg + rest * g * g
    d = np.sqrt((acc_delta + eps) / (square_avg + eps)) * g
    acc_delta[...] = rho * acc_delta + rest * d * d
    p[...] = p - lr * d


@_quiet
def rmsprop(
    p,
    g,
    square_avg,
    *,
    momentum_buffer=None,
    grad_avg=None,
    lr=1e-2,
    alpha=0.99,
    eps=1e-8,
    momentum=0.0,
    weight_decay=0.0,
    eps_inside_sqrt=False,
    grad_scale=1.0,
    maximize=False,
):
    """RMSprop in NumPy; see `fastopt.kernels.rmsprop`."""
    real = p.dtype.type
    scale, decay = real(_signed_scale(grad_scale, maximize)), real(weight_decay)
    alpha, rest = real(alpha), real(1.0 - alpha)
    inner, outer = (real(eps), real(0)) if eps_inside_sqrt else (real(0), real(eps))
    mu, lr = real(momentum), real(lr)

    v, b, m = square_avg, momentum_buffer, grad_avg
    g = scale * g + decay * p
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
    p,
    g,
    exp_avg,
    exp_avg_sq,
    *,
    max_exp_avg_sq=None,
    step,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    grad_scale=1.0,
    maximize=False,
):
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
        _signed_scale(grad_scale, maximize),
    )


@_quiet
def adamw(
    p,
    g,
    exp_avg,
    exp_avg_sq,
    *,
    max_exp_avg_sq=None,
    step,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=1e-2,
    grad_scale=1.0,
    maximize=False,
):
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
        _signed_scale(grad_scale, maximize),
    )


def _adam(p, g, m, v, w, step, lr, betas, eps, weight_decay, keep, scale):
    real = p.dtype.type
    scale, decay, keep = real(scale), real(weight_decay), real(keep)
    beta1, rest1 = real(betas[0]), real(1.0 - betas[0])
    beta2, rest2 = real(betas[1]), real(1.0 - betas[1])
    step_size = real(lr / (1.0 - _power(betas[0], step)))
    root = real(1.0 / np.sqrt(1.0 - _power(betas[1], step)))
    eps = real(eps)

    g = scale * g + decay * p
    m[...] = beta1 * m + rest1 * g
    v[...] = beta2 * v + rest2 * g * g
    u = v
    if w is not None:
        u = np.where(w > v, w, v)
        w[...] = u
    p[...] = keep * p - step_size * m / (np.sqrt(u) * root + eps)
