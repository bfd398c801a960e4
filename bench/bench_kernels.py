"""Every rule of the package's table against the NumPy reference, for both dtypes and from 16 to a million elements.

The rules come from the table, each plain and, where it has optional state buffers, once more with all of them; nothing
is listed here by hand. A group of the report is one rule, dtype and size; its two lines are the kernel and the
reference, called the same way with the same arrays, and the factor between them stands in parentheses.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastopt import kernels, reference
from fastopt._rules import RULES

SIZES = [16, 1_000, 50_000, 1_000_000]


def variants() -> Iterator[Any]:
    """Each rule with the state buffers that it needs, and with all that it can take."""
    for rule, table in RULES.items():
        needed = table.states[: table.required_states]
        yield pytest.param(rule, needed, id=rule)
        if table.states != needed:
            optional = table.states[table.required_states :]
            yield pytest.param(rule, table.states, id="+".join([rule, *optional]))


@pytest.mark.benchmark(max_time=0.1, min_rounds=5, warmup=True, warmup_iterations=2, disable_gc=True)
@pytest.mark.parametrize("module", [kernels, reference], ids=["kernel", "numpy"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rule", "states"), [*variants()])
def test_step(
    benchmark: Any,
    request: pytest.FixtureRequest,
    rule: str,
    states: tuple[str, ...],
    dtype: str,
    size: int,
    module: Any,
) -> None:
    """Repeats one step on the same arrays, which stay in cache if they fit."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal(size).astype(dtype)
    # The numbers have both signs and are never small: no rule's state becomes subnormal, which would be slow.
    g = (rng.choice([-1.0, 1.0], size) * rng.uniform(0.01, 1.0, size)).astype(dtype)
    arguments = {name: np.zeros(size, dtype) for name in states}
    step = {"step": 10} if "step" in RULES[rule].hypers else {}

    variant, _, _, name = request.node.callspec.id.rsplit("-", 3)
    benchmark.group = f"{variant}, {dtype}, {size} elements"
    benchmark.name = name
    benchmark(getattr(module, rule), p, g, **arguments, **step)
    assert np.isfinite(p).all()
