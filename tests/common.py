"""What the tests share: the variants of every rule, drawn from the package's table, and how bits are compared."""

import itertools
import math
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

import fastopt
from fastopt import Adam, available_isas, kernels, reference
from fastopt._rules import RULES

CLASSES = [cls for cls in vars(fastopt).values() if isinstance(cls, type) and hasattr(cls, "rule")]


def calling_for(rule, states):
    """Hyperparameters with which an optimizer has those of these state buffers that are optional."""
    called = [name for state, name in RULES[rule].needed_by.items() if state in states]
    return {name: 0.9 if name == "momentum" else True for name in called}


EVERY_STATE = {cls: calling_for(cls.rule, RULES[cls.rule].states) for cls in CLASSES}


def paired(hypers):
    """The table's hyperparameters as Python's arguments: `beta1` and `beta2` become the pair `betas`."""
    found = {}
    for name, value in hypers.items():
        if name == "beta1":
            found["betas"] = (value, hypers["beta2"])
        elif name != "beta2":
            found[name] = value
    return found


def by_table(arguments):
    """The opposite of `paired`."""
    pair = dict(zip(("beta1", "beta2"), arguments.get("betas", ()), strict=False))
    return {name: value for name, value in arguments.items() if name != "betas"} | pair


DTYPES = [np.float32, np.float64]
STORED = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]  # what a gradient may be
ISAS = available_isas()

# For each hyperparameter of the table a function that draws a value which the rules accept; each step draws another.
DRAWS = {
    "lr": lambda rng: rng.uniform(1e-3, 0.2),
    "momentum": lambda rng: rng.uniform(0.1, 0.95),
    "dampening": lambda rng: rng.uniform(0.0, 0.9),
    "lr_decay": lambda rng: rng.uniform(0.0, 0.1),
    "rho": lambda rng: rng.uniform(0.5, 0.99),
    "alpha": lambda rng: rng.uniform(0.5, 0.99),
    "beta1": lambda rng: rng.uniform(0.5, 0.99),
    "beta2": lambda rng: rng.uniform(0.5, 0.999),
    "eps": lambda rng: 10 ** rng.uniform(-8, -3),
    "weight_decay": lambda rng: rng.choice([0.0, rng.uniform(0.0, 0.1)]),
    "grad_scale": lambda rng: rng.choice([1.0, rng.uniform(-2.0, 2.0)]),
}


@dataclass(frozen=True)
class Variant:
    """One rule with some of its optional state buffers and switches."""

    rule: str
    states: tuple[str, ...]
    options: dict[str, bool] = field(hash=False)

    def __str__(self):
        optional = self.states[RULES[self.rule].required_states :]
        return "-".join([self.rule, *optional, *(name for name, on in self.options.items() if on)])

    def arguments(self, hypers, step):
        """Keyword arguments of the kernel from hyperparameters by the table's names."""
        hypers = paired({name: hypers[name] for name in RULES[self.rule].hypers if name != "step"})
        if "momentum" in hypers and "momentum_buffer" not in self.states:
            hypers["momentum"] = 0.0
        if self.options.get("nesterov"):
            hypers["dampening"] = 0.0
        if "step" in RULES[self.rule].hypers:
            hypers["step"] = step
        return {**hypers, **self.options}

    def draw(self, rng, step):
        return self.arguments({name: DRAWS[name](rng) for name in RULES[self.rule].hypers if name != "step"}, step)

    def call(self, module, p, g, states, arguments):
        getattr(module, self.rule)(p, g, **dict(zip(self.states, states, strict=True)), **arguments)

    def kernel(self, *arguments):
        self.call(kernels, *arguments)

    def reference(self, *arguments):
        self.call(reference, *arguments)


def variants_of(rule):
    table = RULES[rule]
    optional = table.states[table.required_states :]
    for keep in itertools.product([False, True], repeat=len(optional)):
        states = (*table.states[: table.required_states], *itertools.compress(optional, keep))
        for switches in itertools.product([False, True], repeat=len(table.options)):
            options = dict(zip(table.options, switches, strict=True))
            if options.get("nesterov") and "momentum_buffer" not in states:
                continue
            yield Variant(rule, states, options)


VARIANTS = [variant for rule in RULES for variant in variants_of(rule)]


def random_tensor(rng, count, dtype):
    """A parameter and its gradient with magnitudes from 1e-3 to 1e3, none of them zero."""
    values = rng.choice([-1.0, 1.0], size=count) * 10 ** rng.uniform(-3, 3, size=count)
    return values.astype(dtype)


# ---- How an array may lie in memory. ----

# Each layout maps a number of dimensions to two lists. The first has for each axis the distance of its elements
# (negative: the last element comes first) and how many elements of padding lie before and after them. The second has
# the axes in the order of the memory, the innermost last.
LAYOUTS = {
    "C": lambda n: ([(1, 0, 0)] * n, range(n)),
    "F": lambda n: ([(1, 0, 0)] * n, range(n)[::-1]),
    "channels last": lambda n: ([(1, 0, 0)] * n, [*range(n)[:1], *range(n)[2:], *range(n)[1:2]]),
    "columns": lambda n: ([(1, 0, 0)] * (n - 1) + [(1, 2, 3)] * (n > 0), range(n)),
    "every third column": lambda n: ([(1, 0, 0)] * (n - 1) + [(3, 1, 0)] * (n > 0), range(n)),
    "rows": lambda n: ([(2, 1, 1)] * (n > 0) + [(1, 0, 0)] * (n - 1), range(n)),
    "reversed": lambda n: ([(-1, 0, 0)] * n, range(n)),
    "rows reversed": lambda n: ([(-1, 0, 0)] * (n > 0) + [(1, 0, 0)] * (n - 1), range(n)),
    "columns of F": lambda n: ([(1, 0, 0)] * (n - 1) + [(1, 1, 2)] * (n > 0), range(n)[::-1]),
    "gaps": lambda n: ([(2 if axis % 2 else -3, 1, 2) for axis in range(n)], [*range(n)[1:], *range(n)[:1]]),
}
GAP = -77.0


def laid(values, layout, fill=GAP):
    """These values in an array of that layout. Its `base` is all the memory, whose gaps hold `fill`."""
    axes, order = LAYOUTS[layout](values.ndim)
    order = list(order)
    sizes = [before + abs(step) * n + after for n, (step, before, after) in zip(values.shape, axes, strict=True)]
    memory = np.full(math.prod(sizes) + 1, fill, values.dtype)
    view = memory[:-1].reshape([sizes[axis] for axis in order]).transpose(np.argsort(order))
    for axis, (n, (step, before, _)) in enumerate(zip(values.shape, axes, strict=True)):
        view = view[(slice(None),) * axis + (slice(before, before + abs(step) * n, abs(step)),)]
        view = np.flip(view, axis) if step < 0 else view
    view[...] = values
    assert view.shape == values.shape
    return view


def memory_of(array):
    """All the memory that an array is a part of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def assert_same_bits(found, expected, what=""):
    """Equal bits everywhere, except that a NaN equals any NaN."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if found.tobytes() == expected.tobytes():
        return
    bits = np.dtype(f"u{found.dtype.itemsize}")
    same = (found.view(bits) == expected.view(bits)) | (np.isnan(found) & np.isnan(expected))
    if not same.all():
        where = np.flatnonzero(~same.reshape(-1))
        i = where[0]
        raise AssertionError(
            f"{what}: {len(where)} of {found.size} elements differ, first at {i}: "
            f"{found.reshape(-1)[i]!r} instead of {expected.reshape(-1)[i]!r}"
        )


def assert_same_as_reference(opt, model):
    """The optimizer equals the `reference.Optimizer` in parameters, hyperparameters, step counts and state buffers."""
    for i, (found, expected) in enumerate(zip(opt.params, model.params, strict=True)):
        assert_same_bits(found, expected, f"parameter {i}")
    for group, expected in zip(opt.param_groups, model.param_groups, strict=True):
        assert {**group, "params": None} == {**expected, "params": None}
    for i, (state, expected) in enumerate(zip(opt.state.values(), model.state, strict=True)):
        assert state.keys() == expected.keys(), (i, state.keys(), expected.keys())
        assert state["step"] == expected["step"]
        for name in expected.keys() - {"step"}:
            assert_same_bits(state[name], expected[name], f"{name} of parameter {i}")


# ---- A model for several threads, in this file because processes that the tests start import it. ----

LARGE = 1_000_000  # elements that are worth several threads


def model(threads=3, seed=0):
    """A parameter, its gradient and an optimizer; the same for the same seed."""
    rng = np.random.default_rng(seed)
    p, g = (rng.standard_normal(LARGE).astype(np.float32) for _ in range(2))
    return p, g, Adam(p, threads=threads)


def three_steps(seed):
    """The bytes of the parameter after three steps on several threads."""
    p, g, opt = model(seed=seed)
    for _ in range(3):
        opt.step(g)
    return p.tobytes()
