"""The structures in which parameters and gradients may be given: one array, a sequence, a mapping, groups.

The arrays in a structure are its leaves.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np


def shown(value: Any) -> str:
    """A value as errors show it: its repr, cut to 200 characters, or its type if it has no repr."""
    try:
        text = repr(value)
    except Exception:  # an object's own code, or an int with too many digits; the caller's error matters more
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def is_array(obj: Any) -> bool:
    if isinstance(obj, np.ndarray) or hasattr(type(obj), "__dlpack__"):
        return True
    if type(obj) in (list, tuple, dict):  # the usual case, and slow to ask for a buffer
        return False
    try:
        memoryview(obj)
    except TypeError:
        return False
    except Exception:  # the object has a buffer that it cannot export now: the error comes when it is bound
        return True
    return True


def all_arrays(values: Any) -> bool:
    """Whether `values` is a list or tuple of NumPy arrays alone."""
    return type(values) in (list, tuple) and set(map(type, values)) == {np.ndarray}


def listed(values: Iterable[Any]) -> list[Any]:
    """The items up to the first that is neither array nor mapping, which is an error: an iterator may not end."""
    items = []
    for item in values:
        items.append(item)
        if type(item) is not np.ndarray and not is_array(item) and not isinstance(item, Mapping):
            break
    return items


class Structure:
    """The structure of one group's parameters, which its gradients share: one array, a sequence or a mapping."""

    def __init__(self, name: str, params: Any) -> None:
        self.keys: list[Any] | None = None
        self.is_single = False
        if all_arrays(params):  # the usual case, first because it is fast
            self.leaves = list(params)
        elif is_array(params) or isinstance(params, str) or not isinstance(params, Iterable):
            self.is_single, self.leaves = True, [params]  # if this is not an array, the error comes when it is bound
        elif isinstance(params, Mapping):
            self.keys = list(params)
            self.leaves = [params[key] for key in self.keys]
            self.key_set = set(self.keys)
        else:
            self.leaves = listed(params)
        if not self.leaves:
            raise ValueError(f"{name} is empty; give at least one array")

    def unflatten(self, leaves: list[Any]) -> Any:
        """The inverse of `flatten`."""
        if self.is_single:
            return leaves[0]
        return leaves if self.keys is None else dict(zip(self.keys, leaves, strict=True))

    def names(self, name: str) -> list[str]:
        """The names of the leaves in errors, for an argument `name` of this structure."""
        if self.is_single:
            return [name]
        if self.keys is None:
            return [f"{name}[{index}]" for index in range(len(self.leaves))]
        return [f"{name}[{shown(key)}]" for key in self.keys]

    def flatten(self, name: str, values: Any) -> list[Any]:
        """The leaves of `values`, which must have this structure, in the order of the parameters."""
        if self.is_single:
            return [values]
        if self.keys is None:
            return sequence(name, values, len(self.leaves), "arrays")
        if type(values) is not dict and not isinstance(values, Mapping):  # isinstance is slow here
            raise TypeError(f"{name} must be a mapping with the parameters' keys, got {kind(values)}")
        if values.keys() != self.key_set:
            same_keys(name, values, self.keys)
        return [values[key] for key in self.keys]


class Model:
    """The structure of a whole model: one group's parameters, or a sequence of groups `{"params": ..., "lr": ...}`.

    `groups` has the structure of each group's parameters, `own_hypers` the hyperparameters in each group's mapping.
    """

    def __init__(self, params: Any, hypers: Collection[str]) -> None:
        given, self.grouped = [params], False
        is_single = not all_arrays(params) and (is_array(params) or isinstance(params, (Mapping, str)))
        if not is_single and isinstance(params, Iterable):
            items = listed(params)
            self.grouped = any(type(item) is not np.ndarray and isinstance(item, Mapping) for item in items)
            given = items if self.grouped else [items]
        self.own_hypers: list[dict[str, Any]] = [{} for _ in given]
        if self.grouped:
            for index, group in enumerate(given):
                if not isinstance(group, Mapping):
                    raise TypeError(f"params[{index}] must be a group, like the others, got {kind(group)}")
                same_keys(f"params[{index}]", group, ["params"], hypers)
                self.own_hypers[index] = {key: value for key, value in group.items() if key != "params"}
                given[index] = group["params"]
        self.groups = [Structure(self._name("params", index), group) for index, group in enumerate(given)]

    def _name(self, what: str, index: int) -> str:
        return f"{what}[{index}]['params']" if self.grouped else what

    @property
    def is_list(self) -> bool:
        """Whether the gradients are one sequence of arrays."""
        return not self.grouped and not self.groups[0].is_single and self.groups[0].keys is None

    def names(self, what: str) -> list[str]:
        """The names of the leaves of all groups in errors."""
        return [name for i, group in enumerate(self.groups) for name in group.names(self._name(what, i))]

    def unflatten(self, leaves: list[Any]) -> Any:
        """The inverse of `flatten`, for the leaves of all groups."""
        rest = iter(leaves)
        groups = [group.unflatten(list(itertools.islice(rest, len(group.leaves)))) for group in self.groups]
        return [{"params": each} for each in groups] if self.grouped else groups[0]

    def flatten(self, name: str, values: Any) -> list[Any]:
        """The leaves of `values`, which must have this structure, in the order of the parameters."""
        if not self.grouped:
            return self.groups[0].flatten(name, values)
        flat: list[Any] = []
        for index, (structure, group) in enumerate(
            zip(self.groups, sequence(name, values, len(self.groups), "groups"), strict=True)
        ):
            if not isinstance(group, Mapping):
                raise TypeError(f"{name}[{index}] must be a group {{'params': gradients}}, got {kind(group)}")
            same_keys(f"{name}[{index}]", group, ["params"])
            flat += structure.flatten(self._name(name, index), group["params"])
        return flat


def kind(obj: Any) -> str:
    return "one array" if is_array(obj) else type(obj).__name__


def sequence(name: str, values: Any, count: int, what: str) -> list[Any]:
    leaves: list[Any]
    if type(values) in (list, tuple):  # the usual case, first because it is fast
        leaves = list(values)
    elif is_array(values) or isinstance(values, (Mapping, str)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of {count} {what}, got {kind(values)}")
    else:
        leaves = list(itertools.islice(values, count + 1))  # an iterator may not end
        if len(leaves) > count:
            raise ValueError(f"{name} must be a sequence of {count} {what}, got more")
    if len(leaves) != count:
        raise ValueError(f"{name} must be a sequence of {count} {what}, got {len(leaves)}")
    return leaves


def same_keys(name: str, found: Iterable[Any], needed: Iterable[Any], optional: Iterable[Any] = ()) -> None:
    found, needed, optional = set(found), list(needed), set(optional)
    if missing := [key for key in needed if key not in found and key not in optional]:
        raise ValueError(f"{name} has no {', '.join(map(shown, missing))}")
    if unknown := sorted(map(shown, found.difference(needed, optional))):
        expected = ", ".join(map(shown, needed))
        allowed = ", ".join(sorted(map(shown, optional.difference(needed))))
        raise ValueError(
            f"{name} has an unknown {', '.join(unknown)}; expected {expected}{' and perhaps ' * bool(allowed)}{allowed}"
        )
