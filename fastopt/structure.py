"""The shapes in which a model may be given: one array, a sequence, a mapping; gradients come the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def is_array(obj: Any) -> bool:
    if isinstance(obj, np.ndarray) or hasattr(type(obj), "__dlpack__"):
        return True
    try:
        memoryview(obj)
    except TypeError:
        return False
    return True


class Structure:
    """How one group's parameters were given: one array, a sequence or a mapping; gradients come the same way."""

    def __init__(self, name: str, params: Any) -> None:
        self.keys: list[Any] | None = None
        self.alone = is_array(params) or isinstance(params, str) or not isinstance(params, Iterable)
        if self.alone:  # if it is no array, binding it says so
            self.leaves = [params]
        elif isinstance(params, Mapping):
            self.keys, self.leaves = list(params), list(params.values())
            self.key_set = set(self.keys)
        else:
            self.leaves = list(params)
        if not self.leaves:
            raise ValueError(f"{name} is empty; give at least one array")

    def names(self, name: str) -> list[str]:
        """What errors call the leaves of something of this structure that is called `name`."""
        if self.alone:
            return [name]
        return [f"{name}[{key!r}]" for key in (range(len(self.leaves)) if self.keys is None else self.keys)]

    def flatten(self, name: str, values: Any) -> list[Any]:
        """The leaves of `values`, which must have this structure, in this order."""
        if self.alone:
            return [values]
        if self.keys is None:
            return sequence(name, values, len(self.leaves), "arrays")
        if type(values) is not dict and not isinstance(values, Mapping):  # the question takes a while
            raise TypeError(f"{name} must be a mapping with the parameters' keys, got {kind(values)}")
        if values.keys() != self.key_set:
            same_keys(name, values, self.keys)
        return [values[key] for key in self.keys]


def kind(obj: Any) -> str:
    return "one array" if is_array(obj) else type(obj).__name__


def sequence(name: str, values: Any, count: int, what: str) -> list[Any]:
    leaves: list[Any]
    if type(values) in (list, tuple):  # by far the most frequent, and spared the questions
        leaves = list(values)
    elif is_array(values) or isinstance(values, (Mapping, str)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of {count} {what}, got {kind(values)}")
    else:
        leaves = list(values)
    if len(leaves) != count:
        raise ValueError(f"{name} must be a sequence of {count} {what}, got {len(leaves)}")
    return leaves


def same_keys(name: str, found: Iterable[Any], needed: Iterable[Any], optional: Iterable[Any] = ()) -> None:
    found, needed, optional = set(found), list(needed), set(optional)
    if missing := [key for key in needed if key not in found and key not in optional]:
        raise ValueError(f"{name} has no {', '.join(map(repr, missing))}")
    if unknown := sorted(map(repr, found.difference(needed, optional))):
        raise ValueError(f"{name} has an unknown {', '.join(unknown)}; expected {', '.join(map(repr, needed))}")
