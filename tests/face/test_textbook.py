"""The rules against the published formulas, transcribed to plain Python floats, one element at a time.

Nothing here is shared with the reference or the kernels: no arrays, no coefficients, libm's sqrt and pow.
"""

import math

import numpy as np
import pytest

import fastopt

STEPS = 20
SHAPE = (3, 7)


def momentum(theta, grad, state, t, lr=1e-2, gamma=0.9):
    """Ruder, arXiv:1609.04747, eq. 4."""
    state["v"] = gamma * state.get("v", 0.0) + lr * grad(theta)
    return theta - state["v"]


def nag(theta, grad, state, t, lr=1e-2, gamma=0.9):
    """Ruder, eq. 5: the gradient at theta - gamma*v."""
    v = state.get("v", 0.0)
    state["v"] = gamma * v + lr * grad(theta - gamma * v)
    return theta - state["v"]


def adagrad_inside(theta, grad, state, t, lr=1e-2, eps=1e-3):
    """Ruder, eq. 10: epsilon inside the root."""
    g = grad(theta)
    state["G"] = state.get("G", 0.0) + g**2
    return theta - lr / math.sqrt(state["G"] + eps) * g


def rmsprop_inside(theta, grad, state, t, lr=1e-2, eps=1e-3, gamma=0.9):
    """Ruder, eq. 19-20: epsilon inside the root."""
    g = grad(theta)
    state["E"] = gamma * state.get("E", 0.0) + (1 - gamma) * g**2
    return theta - lr / math.sqrt(state["E"] + eps) * g


def adadelta(theta, grad, state, t, rho=0.9, eps=1e-6):
    """Zeiler, arXiv:1212.5701, algorithm 1."""
    g = grad(theta)
    state["Eg"] = rho * state.get("Eg", 0.0) + (1 - rho) * g**2
    delta = -math.sqrt(state.get("Ex", 0.0) + eps) / math.sqrt(state["Eg"] + eps) * g
    state["Ex"] = rho * state.get("Ex", 0.0) + (1 - rho) * delta**2
    return theta + delta


def adam(theta, grad, state, t, lr=1e-3, b1=0.9, b2=0.999, eps=1e-8):
    """Kingma and Ba, arXiv:1412.6980, algorithm 1, with the corrected moments written out."""
    g = grad(theta)
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g**2
    m_hat, v_hat = state["m"] / (1 - b1**t), state["v"] / (1 - b2**t)
    return theta - lr * m_hat / (math.sqrt(v_hat) + eps)


def adamw(theta, grad, state, t, lr=1e-3, decay=1e-2):
    """Loshchilov and Hutter, arXiv:1711.05101, algorithm 2, the decay scaled by lr."""
    return adam(theta, grad, state, t, lr) - lr * decay * theta


def lion(theta, grad, state, t, lr=1e-4, b1=0.9, b2=0.99, decay=0.1):
    """Chen et al., arXiv:2302.06675, algorithm 2."""
    g, m = grad(theta), state.get("m", 0.0)
    update = b1 * m + (1 - b1) * g
    state["m"] = b2 * m + (1 - b2) * g
    return theta - lr * (math.copysign(1, update) * (update != 0) + decay * theta)


CASES = {
    "momentum": (momentum, fastopt.Momentum, {}),
    "nag": (nag, fastopt.NAG, {}),
    "nag-at-lookahead": (nag, fastopt.NAG, {"at_lookahead": True}),
    "adagrad": (adagrad_inside, fastopt.Adagrad, {"eps": 1e-3, "eps_inside_sqrt": True}),
    "rmsprop": (rmsprop_inside, fastopt.RMSprop, {"alpha": 0.9, "eps": 1e-3, "eps_inside_sqrt": True}),
    "adadelta": (adadelta, fastopt.Adadelta, {}),
    "adam": (adam, fastopt.Adam, {}),
    "adamw": (adamw, fastopt.AdamW, {}),
    "lion": (lion, fastopt.Lion, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-11), (np.float32, 2e-5)])
@pytest.mark.parametrize("case", CASES)
def test_published_formula(case, dtype, rtol):
    formula, optimizer_class, hypers = CASES[case]
    rng = np.random.default_rng(7)
    start = rng.normal(size=SHAPE).astype(dtype)
    scale = rng.uniform(0.5, 5.0, size=SHAPE).astype(dtype)

    p = start.copy()
    opt = optimizer_class(p, **hypers)
    for _ in range(STEPS):
        if case == "nag":
            with opt.lookahead():
                g = np.sin(p) + scale * p
        else:
            g = np.sin(p) + scale * p
        opt.step(g)

    expected = np.empty(SHAPE)
    for index in np.ndindex(SHAPE):
        state, theta, c = {}, float(start[index]), float(scale[index])
        for t in range(1, STEPS + 1):
            theta = formula(theta, lambda x, c=c: math.sin(x) + c * x, state, t)
        if hypers.get("at_lookahead"):
            theta -= 0.9 * state["v"]  # the arrays hold the look-ahead point
        expected[index] = theta
    np.testing.assert_allclose(p, expected, rtol=rtol, atol=rtol)
    assert not np.allclose(p, start, rtol=1e-3)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
def test_both_forms_of_nag_follow_one_trajectory(weight_decay, maximize):
    rng = np.random.default_rng(3)
    p = rng.normal(size=50)
    q = p.copy()  # without velocity the look-ahead point is the point itself
    hypers = {"lr": 0.05, "momentum": 0.8, "weight_decay": weight_decay, "maximize": maximize}
    textbook = fastopt.NAG(p, **hypers)
    shifted = fastopt.NAG(q, **hypers, at_lookahead=True)
    for step in range(60):
        textbook.lr = shifted.lr = 0.05 / (1 + 0.1 * step)
        with textbook.lookahead():
            np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-9)
            g = np.cos(p) + 0.1 * p
        textbook.step(g)
        shifted.step(np.cos(q) + 0.1 * q)
    np.testing.assert_allclose(
        textbook.state[0]["momentum_buffer"], shifted.state[0]["momentum_buffer"], rtol=1e-8, atol=1e-10
    )
    np.testing.assert_allclose(p - 0.8 * textbook.state[0]["momentum_buffer"], q, rtol=1e-9, atol=1e-9)
    assert not np.allclose(p, q, rtol=1e-6, atol=0)


def test_lion_does_not_move_where_its_average_is_zero():
    p = np.array([1.0, 1.0, 1.0])
    opt = fastopt.Lion(p, lr=0.25)
    opt.step(np.array([0.0, 2.0, -2.0]))
    assert p.tolist() == [1.0, 0.75, 1.25]
    opt.step(np.array([0.0, -0.02 * 9, 0.0]))  # 0.9*0.02 - 0.1*0.18 is 0 but for rounding, and then the average decides
    assert p[0] == 1.0
    assert p[2] == 1.5


def lamb(start, scale, lr=0.01, b1=0.9, b2=0.999, eps=1e-6, decay=0.1):
    """You et al., arXiv:1904.00962, algorithm 2, on a whole tensor in plain floats, phi the identity."""
    theta, m, v = list(start), [0.0] * len(start), [0.0] * len(start)
    for t in range(1, STEPS + 1):
        updates = []
        for i, x in enumerate(theta):
            g = math.sin(x) + scale[i] * x
            m[i], v[i] = b1 * m[i] + (1 - b1) * g, b2 * v[i] + (1 - b2) * g**2
            r = m[i] / (1 - b1**t) / (math.sqrt(v[i] / (1 - b2**t)) + eps)
            updates.append(r + decay * x)
        ratio = math.hypot(*theta) / math.hypot(*updates)
        theta = [x - lr * ratio * u for x, u in zip(theta, updates, strict=True)]
    return theta


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-11), (np.float32, 2e-5)])
@pytest.mark.parametrize("size", [1, 21, 5000])
def test_lamb_of_whole_tensors(size, dtype, rtol):
    rng = np.random.default_rng(7)
    params = [rng.normal(size=size).astype(dtype) for _ in range(2)]
    scales = [rng.uniform(0.5, 5.0, size=size).astype(dtype) for _ in range(2)]
    expected = [lamb(p.astype(float), s.astype(float)) for p, s in zip(params, scales, strict=True)]
    opt = fastopt.LAMB(params, lr=0.01, weight_decay=0.1)
    for _ in range(STEPS):
        opt.step([np.sin(p) + s * p for p, s in zip(params, scales, strict=True)])
    for p, wanted in zip(params, expected, strict=True):
        np.testing.assert_allclose(p, wanted, rtol=rtol, atol=rtol)


def test_the_trust_ratio_is_1_where_a_norm_is_0():
    zeros, still = np.zeros(3), np.array([1.0, -2.0])
    opt = fastopt.LAMB([zeros, still], lr=0.25, weight_decay=0.0)
    opt.step([np.array([4.0, -4.0, 4.0]), np.zeros(2)])
    np.testing.assert_allclose(zeros, [-0.25, 0.25, -0.25], rtol=1e-5)
    assert still.tolist() == [1.0, -2.0]
