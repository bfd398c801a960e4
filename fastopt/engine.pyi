from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, SupportsFloat, SupportsIndex, TypeAlias, overload

import numpy as np
from typing_extensions import disjoint_base

__all__ = ["Engine"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
_Number: TypeAlias = SupportsFloat | SupportsIndex
_Settings: TypeAlias = tuple[int, tuple[float, ...], int, list[list[_Array | None]] | None]

@disjoint_base
class Engine:
    rule: ClassVar[str]
    def _bind_params(
        self, groups: list[list[tuple[str, Any]]], grad_names: list[str], plain: bool, record: Any
    ) -> None: ...
    def _held(self, reason: str | None = None, *, nested: bool = False) -> AbstractContextManager[None]: ...
    def _restored(self) -> AbstractContextManager[None]: ...
    def _steps(self) -> list[int]: ...
    @property
    def _record(self) -> Any: ...
    def _configure(
        self, settings: list[_Settings], steps: list[int], record: Any, copies: list[tuple[str, _Array, _Array]]
    ) -> None: ...
    @property
    def params(self) -> tuple[_Array, ...]: ...
    @property
    def threads(self) -> int | None: ...
    @threads.setter
    def threads(self, threads: int | None) -> None: ...
    def bind(self, grads: Any) -> None: ...
    @overload
    def step(
        self,
        grads: Any = None,
        *,
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
        grad_scale: _Number = 1.0,
        max_norm: _Number | None = None,
        zero_grad: bool = False,
        skip_nonfinite: bool = False,
    ) -> float | None: ...
