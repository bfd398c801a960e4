"""The shapes in which a model may be given: one array, a sequence, a mapping; gradients come the same way."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np


def shown(value: Any) -> str:
    """What an error shows of a value: its repr if it has one, and not much more than a line of it."""
    try:
        text = repr(value)
    except Exception:  # the error that is being made matters more; and so many digits are refused
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def is_array(obj: Any) -> bool:
    if isinstance(obj, np.ndarray) or hasattr(type(obj), "__dlpack__"):
        return True
    if type(obj) in (list, tuple, dict):  # by far the most frequent, and spared the question
        return False
    try:
        memoryview(obj)
    except TypeError:
        return False
    except Exception:  # it has a buffer and cannot give it now: what binds it says so
        return True
    return True


def all_arrays(values: Any) -> bool:
    """Whether this is a list or tuple of NumPy arrays and nothing else."""
    return type(values) in (list, tuple) and set(map(type, values)) == {np.ndarray}


def listed(values: Iterable[Any]) -> list[Any]:
    """The items up to the first that is neither array nor mapping: it is an error, and there may be no end of them."""
    items = []
    for item in values:
        items.append(item)
        if type(item) is not np.ndarray and not is_array(item) and not isinstance(item, Mapping):
            break
    return items


class Structure:
    """How one group's parameters were given: one array, a sequence or a mapping; gradients come the same way."""

    def __init__(self, name: str, params: Any) -> None:
        self.keys: list[Any] | None = None
        self.alone = False
        if all_arrays(params):  # by far the most frequent, and spared the questions
            self.leaves = list(params)
        elif is_array(params) or isinstance(params, str) or not isinstance(params, Iterable):
            self.alone, self.leaves = True, [params]  # if it is no array, binding it says so
        elif isinstance(params, Mapping):
            self.keys = list(params)
            self.leaves = [params[key] for key in self.keys]
            self.key_set = set(self.keys)
        else:
            self.leaves = listed(params)
        if not self.leaves:
            raise ValueError(f"{name} is empty; give at least one array")

    def whole(self) -> Any:
        """The parameters in their structure again."""
        if self.alone:
            return self.leaves[0]
        return list(self.leaves) if self.keys is None else dict(zip(self.keys, self.leaves, strict=True))

    def names(self, name: str) -> list[str]:
        """What errors call the leaves of something of this structure that is called `name`."""
        if self.alone:
            return [name]
        if self.keys is None:
            return [f"{name}[{index}]" for index in range(len(self.leaves))]
        return [f"{name}[{shown(key)}]" for key in self.keys]

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


class Model:
    """How a whole model was given: one group as it is, or a sequence of groups `{"params": ..., "lr": ...}`.

    `groups` has the structure of each group's parameters, `own_hypers` the hyperparameters that each group brings.
    """

    def __init__(self, params: Any, hypers: Collection[str]) -> None:
        given, self.grouped = [params], False
        alone = not all_arrays(params) and (is_array(params) or isinstance(params, (Mapping, str)))
        if not alone and isinstance(params, Iterable):
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
        """Whether gradients come in one sequence of arrays."""
        return not self.grouped and not self.groups[0].alone and self.groups[0].keys is None

    def names(self, what: str) -> list[str]:
        """What errors call the leaves of all groups."""
        return [name for i, group in enumerate(self.groups) for name in group.names(self._name(what, i))]

    def whole(self) -> Any:
        """The parameters in their structure again."""
        wholes = [group.whole() for group in self.groups]
        return [{"params": whole} for whole in wholes] if self.grouped else wholes[0]

    def flatten(self, name: str, values: Any) -> list[Any]:
        """The leaves of `values`, which must have this structure, in this order."""
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
    if type(values) in (list, tuple):  # by far the most frequent, and spared the questions
        leaves = list(values)
    elif is_array(values) or isinstance(values, (Mapping, str)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of {count} {what}, got {kind(values)}")
    else:
        leaves = list(itertools.islice(values, count + 1))  # there may be no end of them
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
