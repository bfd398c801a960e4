from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, SupportsFloat, SupportsIndex, TypeAlias, overload

import numpy as np
from typing_extensions import disjoint_base

__all__ = ["Engine", "Group"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
_Number: TypeAlias = SupportsFloat | SupportsIndex
_Settings: TypeAlias = tuple[int, tuple[float, ...], int, list[list[_Array | None]] | None]

@disjoint_base
class Engine:
    rule: ClassVar[str]
    def _bind_params(self, groups: list[list[Any]], structure: Any, record: Any) -> None: ...
    def _group_of(self, i: int) -> int: ...
    def _set_number(self, name: str, value: Any) -> bool: ...
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

@disjoint_base
class Group:
    def __init__(self, optimizer: Engine, index: int) -> None: ...
    @property
    def _optimizer(self) -> Any: ...
    @property
    def _index(self) -> int: ...
    @property
    def _tensors(self) -> range: ...
    def __getitem__(self, key: str, /) -> Any: ...
    def __setitem__(self, key: str, value: Any, /) -> None: ...
    def __delitem__(self, key: str, /) -> None: ...
