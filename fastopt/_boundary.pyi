from collections.abc import Iterable
from typing import Any, TypeVar

__all__ = ["MAX_THREADS", "as_number", "pair"]

_T = TypeVar("_T")

MAX_THREADS: int

def as_number(name: str, value: Any) -> float: ...
def pair(name: str, value: Iterable[_T]) -> tuple[_T, _T]: ...
