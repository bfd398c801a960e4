from typing import Any, Literal, SupportsFloat, SupportsIndex, TypeAlias, overload

from typing_extensions import disjoint_base

from fastopt._groups import Groups

__all__ = ["Engine"]

_Number: TypeAlias = SupportsFloat | SupportsIndex

@disjoint_base
class Engine(Groups):
    def _bind(self, groups: list[list[Any]], structure: Any) -> None: ...
    def bind(self, grads: Any) -> None: ...
    @overload
    def step(
        self,
        grads: Any = None,
        *,
        lr: _Number | None = None,
        grad_scale: _Number = 1.0,
        max_norm: None = None,
        zero_grad: bool = False,
        skip_nonfinite: Literal[False] = False,
    ) -> None: ...
    @overload
    def step(
        self,
        grads: Any = None,
        *,
        lr: _Number | None = None,
        grad_scale: _Number = 1.0,
        max_norm: _Number,
        zero_grad: bool = False,
        skip_nonfinite: bool = False,
    ) -> float: ...
    @overload
    def step(
        self,
        grads: Any = None,
        *,
        lr: _Number | None = None,
        grad_scale: _Number = 1.0,
        max_norm: _Number | None = None,
        zero_grad: bool = False,
        skip_nonfinite: Literal[True],
    ) -> float: ...
    @overload
    def step(
        self,
        grads: Any = None,
        *,
        lr: _Number | None = None,
        grad_scale: _Number = 1.0,
        max_norm: _Number | None = None,
        zero_grad: bool = False,
        skip_nonfinite: bool = False,
    ) -> float | None: ...
