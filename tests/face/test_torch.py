"""The optimizers against their namesakes in torch.optim, and state_dicts that go from one library to the other."""

import itertools

import numpy as np
import pytest

import fastopt

try:
    import torch
except ImportError:
    pytest.skip(
        "torch is not installed; `make test EXTRAS=test,torch` installs it and compares with torch.optim",
        allow_module_level=True,
    )

STEPS = 100
SHAPES = [(5, 3), (7,), ()]


def grid(**choices):
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


SHARED = {"weight_decay": [0.0, 0.03], "maximize": [False, True]}
CASES = [
    ("SGD", hypers)
    for hypers in grid(momentum=[0.0, 0.9], dampening=[0.0, 0.3], nesterov=[False, True], lr=[0.02], **SHARED)
    if not hypers["nesterov"] or (hypers["momentum"] and not hypers["dampening"])
]
CASES += [
    ("Adagrad", hypers)
    for hypers in grid(lr=[0.05], lr_decay=[0.0, 0.02], initial_accumulator_value=[0.0, 0.1], eps=[1e-6], **SHARED)
]
CASES += [("Adadelta", hypers) for hypers in grid(lr=[0.5], rho=[0.9, 0.7], eps=[1e-6, 1e-3], **SHARED)]
CASES += [
    ("RMSprop", hypers)
    for hypers in grid(lr=[0.01], alpha=[0.9], eps=[1e-6], momentum=[0.0, 0.8], centered=[False, True], **SHARED)
]
CASES += [
    (name, hypers)
    for name in ("Adam", "AdamW")
    for hypers in grid(lr=[0.02], betas=[(0.9, 0.99), (0.8, 0.999)], eps=[1e-8, 1e-3], amsgrad=[False, True], **SHARED)
]


def name_of(case):
    name, hypers = case
    return "-".join([name, *(f"{key}={value}" for key, value in hypers.items() if value)])


def start_and_grads(dtype, steps):
    rng = np.random.default_rng(11)
    start = [np.asarray(rng.normal(size=shape), dtype) for shape in SHAPES]
    grads = [[np.asarray(rng.normal(size=shape) * 3, dtype) for shape in SHAPES] for _ in range(steps)]
    return start, grads


class Torch:
    """A torch optimizer with the interface of this test: arrays in, arrays out."""

    def __init__(self, name, start, hypers):
        self.params = [torch.nn.Parameter(torch.from_numpy(array.copy())) for array in start]
        self.opt = getattr(torch.optim, name)(self.params, **hypers)

    def step(self, grads):
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = torch.from_numpy(grad.copy())
        self.opt.step()

    def arrays(self):
        return [param.detach().numpy() for param in self.params]

    def set_lr(self, lr):
        for group in self.opt.param_groups:
            group["lr"] = lr


class Ours:
    def __init__(self, name, start, hypers):
        self.params = [array.copy() for array in start]
        self.opt = getattr(fastopt, name)(self.params, **hypers)

    def step(self, grads):
        self.opt.step(grads)

    def arrays(self):
        return self.params

    def set_lr(self, lr):
        self.opt.lr = lr


def tensors(saved):
    """A state_dict of fastopt as torch needs it: with tensors for arrays."""
    return {
        "state": {
            i: {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}
            for i, state in saved["state"].items()
        },
        "param_groups": saved["param_groups"],
    }


def close(found, expected, dtype):
    # A hundred steps of rounding: a few hundred units in the last place, more where a centered variance cancels.
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype == np.float64 else {"rtol": 2e-4, "atol": 2e-4}
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_same_as_torch(case, dtype):
    name, hypers = case
    start, grads = start_and_grads(dtype, STEPS)
    ours, theirs = Ours(name, start, hypers), Torch(name, start, hypers)
    for step, g in enumerate(grads):
        for opt in (ours, theirs):
            opt.set_lr(hypers["lr"] / (1 + 0.01 * step))
            opt.step(g)
    close(ours.arrays(), theirs.arrays(), dtype)
    assert not np.allclose(ours.arrays()[0], start[0], rtol=1e-2)


@pytest.mark.parametrize("first", [Ours, Torch])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_state_dict_continues_in_the_other_library(case, first):
    name, hypers = case
    dtype = np.float64
    start, grads = start_and_grads(dtype, 30)
    one = first(name, start, hypers)
    for g in grads[:12]:
        one.step(g)
    other = (Torch if first is Ours else Ours)(name, [np.array(array) for array in one.arrays()], hypers)
    saved = one.opt.state_dict()
    other.opt.load_state_dict(tensors(saved) if first is Ours else saved)
    for g in grads[12:]:
        one.step(g)
        other.step(g)
    close(one.arrays(), other.arrays(), dtype)

    # And back again: the state_dict of the second continues in the first.
    saved = other.opt.state_dict()
    one.opt.load_state_dict(saved if first is Ours else tensors(saved))
    for g in grads:
        one.step(g)
        other.step(g)
    close(one.arrays(), other.arrays(), dtype)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_state_dict_from_before_the_first_step(case):
    name, hypers = case
    start, grads = start_and_grads(np.float64, 10)
    ours, theirs = Ours(name, start, hypers), Torch(name, start, hypers)
    new_ours, new_theirs = Ours(name, start, hypers), Torch(name, start, hypers)
    new_ours.opt.load_state_dict(theirs.opt.state_dict())
    new_theirs.opt.load_state_dict(tensors(ours.opt.state_dict()))
    for g in grads:
        for opt in (ours, new_ours, new_theirs):
            opt.step(g)
    close(new_ours.arrays(), ours.arrays(), np.float64)
    close(new_theirs.arrays(), ours.arrays(), np.float64)


def test_momentum_switched_on_later():
    """The first step with a buffer sets b = g, even if it is a later step; dampening makes the difference visible."""
    start, grads = start_and_grads(np.float64, 20)
    hypers = {"lr": 0.05, "momentum": 0.0, "dampening": 0.4}
    ours, theirs = Ours("SGD", start, hypers), Torch("SGD", start, hypers)
    for step, g in enumerate(grads):
        if step == 7:
            ours.opt.momentum = 0.9
            theirs.opt.param_groups[0]["momentum"] = 0.9
        ours.step(g)
        theirs.step(g)
    close(ours.arrays(), theirs.arrays(), np.float64)


def test_torch_gives_nan_where_fastopt_clamps_the_variance():
    """The known difference from torch: rounding makes a centered variance negative."""
    grad = np.full(1000, 0.1, np.float32) + np.linspace(0, 1e-6, 1000, dtype=np.float32)
    start = [np.ones(1000, np.float32)]
    hypers = {"lr": 1e-3, "alpha": 0.5, "eps": 1e-8, "centered": True}
    ours, theirs = Ours("RMSprop", start, hypers), Torch("RMSprop", start, hypers)
    for _ in range(60):
        ours.step([grad])
        theirs.step([grad])
    assert np.isnan(theirs.arrays()[0]).any()
    assert np.isfinite(ours.arrays()[0]).all()


# ---- Tensors, threads and norms beside torch's own. ----


def test_tensors_are_stepped_where_they_are():
    rng = np.random.default_rng(4)
    start = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    tensors = [torch.nn.Parameter(torch.from_numpy(array.copy())) for array in start]
    arrays = [array.copy() for array in start]
    ours = fastopt.Adam([tensor.detach() for tensor in tensors])
    expected = fastopt.Adam(arrays)
    with pytest.raises(TypeError, match=r"params\[0\] is of type Parameter .*require gradient"):
        fastopt.Adam(tensors)
    for _ in range(3):
        loss = sum((tensor**2).sum() for tensor in tensors)
        loss.backward()
        grads = [tensor.grad.numpy().copy() for tensor in tensors]
        assert ours.step([tensor.grad for tensor in tensors], max_norm=1.0, zero_grad=True) == expected.step(
            grads, max_norm=1.0
        )
        for tensor, array in zip(tensors, arrays, strict=True):
            assert tensor.detach().numpy().tobytes() == array.tobytes()
            assert not tensor.grad.any()
    ours.bind([tensor.grad for tensor in tensors])
    sum((tensor**2).sum() for tensor in tensors).backward()  # writes to the bound gradients
    grads = [tensor.grad.numpy().copy() for tensor in tensors]
    ours.step()
    expected.step(grads)
    for tensor, array in zip(tensors, arrays, strict=True):
        assert tensor.detach().numpy().tobytes() == array.tobytes()


def test_threads_beside_those_of_torch():
    """Both libraries have their own pool; in one loop, torch's threads do not change fastopt's bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rng = np.random.default_rng(5)
        p, g = (rng.standard_normal(1_000_000).astype(np.float32) for _ in range(2))
        expected = p.copy()
        a = torch.from_numpy(rng.standard_normal((512, 512)).astype(np.float32))
        ours, serial = fastopt.Adam(p, threads=3), fastopt.Adam(expected, threads=1)
        first = a @ a
        for _ in range(30):
            assert torch.equal(a @ a, first)
            ours.step(g)
            serial.step(g)
        assert p.tobytes() == expected.tobytes()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_gives_the_same_numbers_as_torch(max_norm):
    rng = np.random.default_rng(6)
    grads = [rng.normal(size=shape) for shape in SHAPES]
    theirs = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in SHAPES]
    for param, grad in zip(theirs, grads, strict=True):
        param.grad = torch.from_numpy(grad.copy())
    norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert fastopt.clip_grad_norm(grads, max_norm) == pytest.approx(float(norm), rel=1e-13)
    for param, grad in zip(theirs, grads, strict=True):
        np.testing.assert_allclose(grad, param.grad.numpy(), rtol=1e-13)
