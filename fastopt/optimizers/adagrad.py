from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fastopt.optimizers._base import Optimizer
from fastopt.optimizers._hyper import Number, ParamGroup, Switch


class Adagrad(Optimizer):
    """Adagrad: `sum += g*g`, then `p -= lr/(1 + (t-1)*lr_decay) * g/(sqrt(sum) + eps)` at step t.

    `g` is the gradient plus `weight_decay*p`.

    Parameters
    ----------
    params
        The arrays to update in place: one array, a sequence, a mapping, or a sequence of groups
        `{"params": ..., "lr": ...}`; float32 or float64, of any shape and strides.
    lr, lr_decay, weight_decay, eps : float
        Finite and >= 0; `weight_decay` is an L2 penalty.
    initial_accumulator_value : float
        Initial value of `sum`, finite and >= 0; used only when the optimizer is created.
    eps_inside_sqrt : bool
        `sqrt(sum + eps)` instead of `sqrt(sum) + eps`.
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

    # BEGIN GENERATED arguments (by tools/generate.py from csrc/rules.toml)
    rule = "adagrad"
    _start: ClassVar[Mapping[str, float | str]] = {"sum": "initial_accumulator_value"}

    lr = Number()
    lr_decay = Number()
    weight_decay = Number()
    initial_accumulator_value = Number()
    eps = Number()
    eps_inside_sqrt = Switch()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        eps_inside_sqrt: bool = False,
        maximize: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            eps_inside_sqrt=eps_inside_sqrt,
            maximize=maximize,
            threads=threads,
        )

    # END GENERATED arguments

    _fixed = ("initial_accumulator_value",)
    _torch_lacks = ("eps_inside_sqrt",)

    def _checked(self, group: ParamGroup, change: Mapping[str, Any], whole: bool) -> dict[str, Any]:
        values = super()._checked(group, change, whole)
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
