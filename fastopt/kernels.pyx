# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Every update rule as a function on arrays, in place.

Each function updates `p` and the state buffers from the gradient `g` and returns None. `fastopt.reference` has the same
functions with the same signatures in pure NumPy; both give the same bits.

All arrays of a call are float32, or all float64; they have one shape (any shape), are C-contiguous and aligned, and
share no memory; objects with the buffer protocol will do in place of NumPy arrays. `g` is only read and may be
read-only. Everything is checked before the first element is written, nothing is copied, and the GIL is released
while the loop runs, on the thread that calls. Hyperparameters are rounded to the arrays' dtype only after the coefficients of the step
have been computed in float64.

Every function forms `g' = s*g + weight_decay*p` first, with `s = grad_scale`, or `-grad_scale` if `maximize`, and
its formula means this `g'` by `g` (AdamW keeps weight decay apart).

Raises, all of them: TypeError if an array has no buffer, is None or masked, or if dtypes are wrong or differ;
ValueError if a shape differs, if an array is read-only, not contiguous, misaligned or shares memory with
another, or if a hyperparameter is NaN, infinite or out of its range, also when rounded to float32.
"""

from libc.string cimport memset

from fastopt._core cimport Rule, Span, as_array, same_shape, sort_apart, span_of, step as step_model, type_of
from fastopt.structs cimport FASTOPT_MAX_STATES, fastopt_group, fastopt_model, fastopt_tensor

cimport numpy as cnp

from fastopt._core import RULES, pair

cnp.import_array()

__all__ = ["sgd", "momentum", "nag", "adagrad", "adadelta", "rmsprop", "adam", "adamw"]

ctypedef fused real:
    float
    double


cdef int run(real[::1] p, const real[::1] g, real[::1] s0, real[::1] s1, real[::1] s2,
             fastopt_model *model) noexcept:
    """From typed memoryviews to pointers, and the step without the GIL."""
    cdef fastopt_tensor *tensor = model.groups[0].tensors
    tensor.n = p.shape[0]
    tensor.p = &p[0]
    tensor.g = <void *>&g[0]
    tensor.state[0] = NULL if s0 is None else &s0[0]
    tensor.state[1] = NULL if s1 is None else &s1[0]
    tensor.state[2] = NULL if s2 is None else &s2[0]
    with nogil:
        return step_model(model)


cdef cnp.ndarray flat(cnp.ndarray a):
    return a if cnp.PyArray_NDIM(a) == 1 else a.reshape(-1)


cdef update(str name, p, g, tuple states, tuple hyper, tuple options):
    """One rule on one tensor: all checks, then the step. The order of the tuples is that of the rule's table."""
    cdef Rule rule = RULES[name]
    cdef fastopt_group group
    cdef fastopt_tensor tensor
    cdef Span spans[2 + FASTOPT_MAX_STATES]
    cdef list names = ["p", "g"]
    cdef list flats = [None, None, None]
    cdef cnp.ndarray array
    cdef cnp.ndarray params = as_array("p", p, True)
    cdef cnp.ndarray grad = as_array("g", g, False)
    cdef fastopt_model model
    cdef Py_ssize_t i
    cdef int error
    cdef unsigned bits = 0

    same_shape("g", grad, "p", params)
    spans[0] = span_of(params, 0)
    spans[1] = span_of(grad, 1)
    for i, buffer in enumerate(states):
        if buffer is None and i >= rule.required_states:
            continue
        array = as_array(rule.states[i], buffer, True)
        same_shape(rule.states[i], array, "p", params)
        spans[len(names)] = span_of(array, len(names))
        names.append(rule.states[i])
        flats[i] = flat(array)
    if cnp.PyArray_SIZE(params) > 0:
        sort_apart(spans, len(names), names, "buffer")

    for bit, wanted in zip(rule.options.values(), options, strict=True):
        if wanted:
            bits |= bit
    memset(&tensor, 0, sizeof(tensor))
    rule.fill(&group, hyper, bits)
    group.dtype, group.count, group.tensors = type_of(params), 1, &tensor
    model.count, model.groups, model.grad_scale, model.extras, model.threads = 1, &group, 1.0, 0, 1
    if cnp.PyArray_TYPE(params) == cnp.NPY_FLOAT:
        error = run[float](flat(params), flat(grad), flats[0], flats[1], flats[2], &model)
    else:
        error = run[double](flat(params), flat(grad), flats[0], flats[1], flats[2], &model)
    if error:
        rule.fail(error, &group)


def sgd(p, g, *, momentum_buffer=None, step=1, lr=1e-3, momentum=0.0, dampening=0.0,
        weight_decay=0.0, nesterov=False, grad_scale=1.0, maximize=False):
    """Stochastic gradient descent, plain, with momentum or with Nesterov momentum.

    Plain: `p -= lr*g`. With a `momentum_buffer` b::

        b = momentum*b + (1 - dampening)*g        (at step 1: b = g)
        p -= lr*b                                 nesterov: p -= lr*(g + momentum*b)

    Parameters
    ----------
    p, g : array
        Parameters, updated in place, and their gradient, only read; float32 or float64, any shape.
    momentum_buffer : array, optional
        Updated in place, zeros at the start; needed when `momentum` is not 0.
    step : int
        The number of this step with the buffer, from 1.
    lr, weight_decay : float
        Learning rate and L2 penalty, finite and >= 0.
    momentum, dampening : float
        In [0, 1) and in [0, 1].
    nesterov : bool
        Look ahead along the new buffer; needs `momentum > 0` and `dampening == 0`.
    grad_scale : float
        Factor of the gradient.
    maximize : bool
        Climb instead of descend.

    Notes
    -----
    Sutskever et al., ICML 2013. As in PyTorch the learning rate stands outside the buffer; `momentum` and `nag` have
    it inside, as Keras does.

    Examples
    --------
    >>> p = np.ones(2, np.float32)
    >>> fastopt.kernels.sgd(p, np.full(2, 0.5, np.float32), lr=1.0)
    >>> p
    array([0.5, 0.5], dtype=float32)
    """
    update("sgd", p, g, (momentum_buffer,),
           (step, lr, momentum, dampening, weight_decay, grad_scale), (maximize, nesterov))


def momentum(p, g, momentum_buffer, *, lr=1e-2, momentum=0.9, weight_decay=0.0, grad_scale=1.0,
             maximize=False):
    """Classical momentum: `v = momentum*v + lr*g`, then `p -= v`, with v the `momentum_buffer`.

    Parameters
    ----------
    p, g : array
        Parameters, updated in place, and their gradient, only read; float32 or float64, any shape.
    momentum_buffer : array
        The velocity v, updated in place, zeros at the start; in units of `p`.
    lr, weight_decay : float
        Learning rate and L2 penalty, finite and >= 0.
    momentum : float
        In [0, 1).
    grad_scale : float
        Factor of the gradient.
    maximize : bool
        Climb instead of descend.

    Notes
    -----
    Polyak, 1964; Ruder, arXiv:1609.04747, eq. 4; Keras has the same form. PyTorch's SGD keeps the learning rate outside
    the velocity, which differs as soon as the learning rate changes: that is `sgd`.

    Examples
    --------
    >>> p, v = np.ones(2), np.zeros(2)
    >>> fastopt.kernels.momentum(p, np.full(2, 5.0), v, lr=0.1)
    >>> p
    array([0.5, 0.5])
    """
    update("momentum", p, g, (momentum_buffer,), (lr, momentum, weight_decay, grad_scale), (maximize,))


def nag(p, g, momentum_buffer, *, lr=1e-2, momentum=0.9, weight_decay=0.0, at_lookahead=False,
        grad_scale=1.0, maximize=False):
    """Nesterov's accelerated gradient, with v the `momentum_buffer`.

    The gradient is the one at the look-ahead point `q = p - momentum*v`, where weight decay acts too::

        v = momentum*v + lr*g
        p -= v                       at_lookahead, with q in the array: q -= momentum*v + lr*g

    Parameters
    ----------
    p, g : array
        Parameters, updated in place, and their gradient, only read; float32 or float64, any shape.
    momentum_buffer : array
        The velocity v, updated in place, zeros at the start; in units of `p`.
    lr, weight_decay : float
        Learning rate and L2 penalty, finite and >= 0.
    momentum : float
        In [0, 1).
    at_lookahead : bool
        The array `p` holds the look-ahead point q before and after the step.
    grad_scale : float
        Factor of the gradient.
    maximize : bool
        Climb instead of descend.

    Notes
    -----
    Nesterov, 1983; Sutskever et al., ICML 2013, eq. 3-4; Ruder, arXiv:1609.04747, eq. 5. PyTorch's and Keras's
    `nesterov=True` keep the array at the look-ahead point; PyTorch has the learning rate outside the velocity.

    Examples
    --------
    >>> p, v = np.ones(2), np.zeros(2)
    >>> fastopt.kernels.nag(p, np.full(2, 5.0), v, lr=0.1)
    >>> p
    array([0.5, 0.5])
    """
    update("nag", p, g, (momentum_buffer,), (lr, momentum, weight_decay, grad_scale),
           (maximize, at_lookahead))


def adagrad(p, g, sum, *, step, lr=1e-2, lr_decay=0.0, eps=1e-10, weight_decay=0.0,
            eps_inside_sqrt=False, grad_scale=1.0, maximize=False):
    """Adagrad: `sum += g*g`, then `p -= lr/(1 + (step-1)*lr_decay) * g/(sqrt(sum) + eps)`.

    Parameters
    ----------
    p, g : array
        Parameters, updated in place, and their gradient, only read; float32 or float64, any shape.
    sum : array
        The sum of squared gradients, updated in place; starts at zeros or at an initial accumulator value.
    step : int
        The number of this step, from 1.
    lr, lr_decay, eps, weight_decay : float
        Finite and >= 0.
    eps_inside_sqrt : bool
        `sqrt(sum + eps)` instead of `sqrt(sum) + eps`.
    grad_scale : float
        Factor of the gradient.
    maximize : bool
        Climb instead of descend.

    Notes
    -----
    Duchi, Hazan, Singer, JMLR 12 (2011). PyTorch has epsilon outside the root and starts `sum` at 0; Ruder's overview,
    Keras and optax have it inside, and the latter two start `sum` at 0.1.

    Examples
    --------
    >>> p, s = np.ones(2), np.zeros(2)
    >>> fastopt.kernels.adagrad(p, np.full(2, 5.0), s, step=1, lr=0.5)
    >>> p.round(6)
    array([0.5, 0.5])
    """
    update("adagrad", p, g, (sum,), (step, lr, lr_decay, eps, weight_decay, grad_scale),
           (maximize, eps_inside_sqrt))


def adadelta(p, g, square_avg, acc_delta, *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0,
             grad_scale=1.0, maximize=False):
    """Adadelta, with E the `square_avg` and X the `acc_delta`::

        E = rho*E + (1-rho)*g*g
        d = sqrt(X + eps)/sqrt(E + eps) * g
        X = rho*X + (1-rho)*d*d
        p -= lr*d

    Parameters
    ----------
    p, g : array
        Parameters, updated in place, and their gradient, only read; float32 or float64, any shape.
    square_avg, acc_delta : array
        Running averages of squared gradients and squared updates, updated in place, zeros at the start.
    lr, eps, weight_decay : float
        Finite and >= 0.
    rho : float
        In [0, 1).
    grad_scale : float
        Factor of the gradient.
    maximize : bool
        Climb instead of descend.

    Notes
    -----
    Zeiler, arXiv:1212.5701, algorithm 1, which has no learning rate (`lr=1`). The two roots are computed as one, of the
    quotient. Keras's default learning rate is 0.001, its rho 0.95.

    Examples
    --------
    >>> p, e, x = np.ones(2), np.zeros(2), np.zeros(2)
    >>> fastopt.kernels.adadelta(p, np.full(2, 5.0), e, x)
    >>> p.round(6)
    array([0.996838, 0.996838])
    """
    update("adadelta", p, g, (square_avg, acc_delta), (lr, rho, eps, weight_decay, grad_scale),
           (maximize,))


def rmsprop(p, g, square_avg, *, momentum_buffer=None, grad_avg=None, lr=1e-2, alpha=0.99, eps=1e-8,
            momentum=0.0, weight_decay=0.0, eps_inside_sqrt=False, grad_scale=1.0, maximize=False):
    """RMSprop, with v the `square_avg`, m the `grad_avg` and b the `momentum_buffer`::

        v = alpha*v + (1-alpha)*g*g
        m = alpha*m + (1-alpha)*g             u = max(v - m*m, 0)      (without grad_avg: u = v)
        d = sqrt(u) + eps                     (eps_inside_sqrt: d = sqrt(u + eps))
        b = momentum*b + g/d; p -= lr*b       (without momentum_buffer: p -= lr*g/d)

    Parameters
    ----------
    p, g : array
        Parameters, updated in place, and their gradient, only read; float32 or float64, any shape.
    square_avg : array
        Running average of squared gradients, updated in place, zeros at the start.
    momentum_buffer : array, optional
        Updated in place, zeros at the start; needed when `momentum` is not 0.
    grad_avg : array, optional
        Running average of gradients, updated in place, zeros at the start; makes the rule centered.
    lr, eps, weight_decay : float
        Finite and >= 0.
    alpha, momentum : float
        In [0, 1).
    eps_inside_sqrt : bool
        Add `eps` under the root.
    grad_scale : float
        Factor of the gradient.
    maximize : bool
        Climb instead of descend.

    Notes
    -----
    Tieleman and Hinton, lecture 6.5 (2012); centered: Graves, arXiv:1308.0850. The defaults are PyTorch's; the lecture
    and Keras have alpha = 0.9, Keras and Ruder's overview epsilon inside the root. PyTorch takes the root of a
    centered variance that rounding can make negative (NaN); here it is clamped at 0.

    Examples
    --------
    >>> p, v = np.ones(2), np.zeros(2)
    >>> fastopt.kernels.rmsprop(p, np.full(2, 5.0), v)
    >>> p.round(6)
    array([0.9, 0.9])
    """
    update("rmsprop", p, g, (square_avg, momentum_buffer, grad_avg),
           (lr, alpha, eps, momentum, weight_decay, grad_scale), (maximize, eps_inside_sqrt))


def adam(p, g, exp_avg, exp_avg_sq, *, max_exp_avg_sq=None, step, lr=1e-3, betas=(0.9, 0.999),
         eps=1e-8, weight_decay=0.0, grad_scale=1.0, maximize=False):
    """Adam, with m the `exp_avg` and v the `exp_avg_sq`::

        m = betas[0]*m + (1-betas[0])*g
        v = betas[1]*v + (1-betas[1])*g*g
        p -= lr/(1-betas[0]**step) * m/(sqrt(v)/sqrt(1-betas[1]**step) + eps)

    With a `max_exp_avg_sq` (AMSGrad), its running maximum of v stands for v in the last line.

    Parameters
    ----------
    p, g : array
        Parameters, updated in place, and their gradient, only read; float32 or float64, any shape.
    exp_avg, exp_avg_sq : array
        Running averages of gradients and squared gradients, updated in place, zeros at the start.
    max_exp_avg_sq : array, optional
        Updated in place, zeros at the start; makes the rule AMSGrad.
    step : int
        The number of this step, from 1.
    lr, eps, weight_decay : float
        Finite and >= 0.
    betas : pair of float
        Each in [0, 1).
    grad_scale : float
        Factor of the gradient.
    maximize : bool
        Climb instead of descend.

    Notes
    -----
    Kingma, Ba, arXiv:1412.6980, algorithm 1; Reddi, Kale, Kumar, ICLR 2018. Keras adds epsilon before the bias
    correction (the paper's "epsilon hat" form): its `eps` is ours times `sqrt(1-betas[1]**step)`. optax's AMSGrad takes
    the maximum of the corrected v; here, as in PyTorch, of the uncorrected one.

    Examples
    --------
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> fastopt.kernels.adam(p, np.full(2, 5.0), m, v, step=1, lr=0.1)
    >>> p.round(6)
    array([0.9, 0.9])
    """
    beta1, beta2 = pair("betas", betas)
    update("adam", p, g, (exp_avg, exp_avg_sq, max_exp_avg_sq),
           (step, lr, beta1, beta2, eps, weight_decay, grad_scale), (maximize,))


def adamw(p, g, exp_avg, exp_avg_sq, *, max_exp_avg_sq=None, step, lr=1e-3, betas=(0.9, 0.999),
          eps=1e-8, weight_decay=1e-2, grad_scale=1.0, maximize=False):
    """AdamW: `p *= 1 - lr*weight_decay`, then Adam's step without weight decay in the gradient.

    Parameters
    ----------
    p, g : array
        Parameters, updated in place, and their gradient, only read; float32 or float64, any shape.
    exp_avg, exp_avg_sq : array
        Running averages of gradients and squared gradients, updated in place, zeros at the start.
    max_exp_avg_sq : array, optional
        Updated in place, zeros at the start; makes the rule AMSGrad.
    step : int
        The number of this step, from 1.
    lr, eps, weight_decay : float
        Finite and >= 0.
    betas : pair of float
        Each in [0, 1).
    grad_scale : float
        Factor of the gradient.
    maximize : bool
        Climb instead of descend.

    Notes
    -----
    Loshchilov, Hutter, arXiv:1711.05101, algorithm 2, with the decay scaled by `lr` as in PyTorch and optax; the paper
    scales it by the schedule alone. Where others differ on Adam itself: see `adam`.

    Examples
    --------
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> fastopt.kernels.adamw(p, np.full(2, 5.0), m, v, step=1, lr=0.1, weight_decay=0.1)
    >>> p.round(6)
    array([0.89, 0.89])
    """
    beta1, beta2 = pair("betas", betas)
    update("adamw", p, g, (exp_avg, exp_avg_sq, max_exp_avg_sq),
           (step, lr, beta1, beta2, eps, weight_decay, grad_scale), (maximize,))
