"""Hyperparameters: as attributes of an optimizer, and as the items of its groups."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeVar, overload

import numpy as np

from fastopt._boundary import as_number, pair
from fastopt._groups import Group, Groups
from fastopt._structure import shown

__all__ = ["Hyper", "Number", "Pair", "ParamGroup", "Switch"]

T = TypeVar("T")


class Hyper(Generic[T]):
    """A hyperparameter as an attribute: reads the value that all groups share, and sets it in every group."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, optimizer: None, owner: type) -> Hyper[T]: ...
    @overload
    def __get__(self, optimizer: Groups, owner: type) -> T: ...
    def __get__(self, optimizer: Any, owner: type) -> T | Hyper[T]:
        if optimizer is None:
            return self
        values = [group[self.name] for group in optimizer.param_groups]
        if any(value != values[0] for value in values):
            raise AttributeError(
                f"{self.name} differs between the groups ({', '.join(map(repr, values))}); read it in param_groups"
            )
        value: T = values[0]
        return value

    def __set__(self, optimizer: Any, value: T) -> None:
        optimizer._set([(group, {self.name: value}) for group in optimizer.param_groups])

    def __delete__(self, optimizer: Any) -> None:
        raise AttributeError(f"{self.name} cannot be deleted: an optimizer always has all its hyperparameters")

    def normal(self, value: Any) -> T:
        """`value` in the type that groups and files have, or an error that names the hyperparameter."""
        raise NotImplementedError


class Number(Hyper[float]):
    """A hyperparameter that is a number; the core checks its range."""

    def normal(self, value: Any) -> float:
        return as_number(self.name, value)


class Switch(Hyper[bool]):
    """A hyperparameter that is True or False."""

    def normal(self, value: Any) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{self.name} must be True or False, got {shown(value)}")
        return bool(value)


class Pair(Hyper[tuple[float, float]]):
    """A hyperparameter that is a pair of numbers."""

    def normal(self, value: Any) -> tuple[float, float]:
        first, second = pair(self.name, value)
        return as_number(f"{self.name}[0]", first), as_number(f"{self.name}[1]", second)


class ParamGroup(Group, MutableMapping[str, Any]):
    """The hyperparameters of one group of parameters, by name, checked when they are set.

    `group["params"]` is the tuple of the group's arrays. Keys cannot be added or removed. A group does not keep its
    optimizer alive: using a group whose optimizer no longer exists is a ReferenceError.

    Examples
    --------
    >>> opt = fastopt.SGD([{"params": np.ones(3)}, {"params": np.ones(2), "lr": 0.5}], lr=0.1)
    >>> [group["lr"] for group in opt.param_groups]
    [0.1, 0.5]
    >>> opt.param_groups[1]["lr"] = 0.25
    """

    __slots__ = ()  # `group.lr = x`, meant as `group["lr"] = x`, is an error

    def _set(self, key: str, value: Any) -> None:
        self._optimizer._set([(self, {key: value})])

    @property
    def _values(self) -> dict[str, Any]:
        return {key: self[key] for key in self._optimizer._hypers()}

    def __iter__(self) -> Iterator[str]:
        yield "params"
        yield from self._optimizer._hypers()

    def __len__(self) -> int:
        return 1 + len(self._optimizer._hypers())

    def __repr__(self) -> str:
        values = ", ".join(f"{key}={value!r}" for key, value in self._values.items())
        return f"<{counted(len(self._tensors), 'parameter')}, {values}>"


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
