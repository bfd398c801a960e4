"""Reads and checks saved state in torch.optim's layout, before an optimizer changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from fastopt._boundary import as_number
from fastopt._rules import RULES
from fastopt._structure import Model, is_array, same_keys, sequence, shown
from fastopt.optimizers._hyper import Hyper, ParamGroup

Array = np.ndarray[Any, np.dtype[Any]]

# Entries of torch.optim's groups that are no hyperparameters: settings of how to compute, and schedulers' notes.
_TORCH_ONLY = frozenset(
    {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay", "initial_lr", "param_names"}
)


class Target(Protocol):
    """The parts of an optimizer that a saved state is compared with."""

    rule: ClassVar[str]
    _lazy_slot: ClassVar[int | None]
    _shared: ClassVar[tuple[str, ...]]
    _torch_lacks: ClassVar[tuple[str, ...]]
    _model: Model

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]: ...
    @classmethod
    def _hypers(cls) -> dict[str, Hyper[Any]]: ...
    def _checked(self, group: ParamGroup, change: Mapping[str, Any], whole: bool) -> dict[str, Any]: ...
    def _group_of(self, i: int) -> int: ...
    def _bound_params(self) -> list[Array]: ...


class Saved(NamedTuple):
    """The contents of a state_dict, in the order of the optimizer's groups and parameters."""

    values: list[dict[str, Any]]  # for each group all its hyperparameters
    steps: list[int]  # for each parameter its step count
    arrays: list[list[Array | None]]  # for each parameter its state buffers in the order of the rule's table


def read(optimizer: Target, groups: Any, state: Any) -> Saved:
    """Reads `state_dict["param_groups"]` and `state_dict["state"]`, which must fit the optimizer."""
    ids, values = _read_groups(optimizer, groups)
    return Saved(values, *_read_state(optimizer, state, ids, values))


def _read_groups(optimizer: Target, groups: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """The saved parameters' ids, in order, and the hyperparameters of each group."""
    if is_array(groups) or isinstance(groups, (str, Mapping)) or not isinstance(groups, Iterable):
        raise TypeError(f"state_dict['param_groups'] must be a list of groups, got {type(groups).__name__}")
    count = len(optimizer.param_groups)
    groups = list(itertools.islice(groups, count + 1))
    if len(groups) != count:
        found = len(groups) if len(groups) < count else "more"
        raise ValueError(f"state_dict has {found} groups, but the optimizer has {count}")
    ids: list[Any] = []
    values = []
    for group, structure, saved in zip(optimizer.param_groups, optimizer._model.groups, groups, strict=True):
        name = f"state_dict['param_groups'][{group._index}]"
        if not isinstance(saved, Mapping):
            raise TypeError(f"{name} must be a mapping, got {type(saved).__name__}")
        same_keys(name, saved, ["params", *optimizer._hypers()], {*_TORCH_ONLY, *optimizer._torch_lacks})
        members = sequence(f"{name}['params']", saved["params"], len(group._tensors), "parameters")
        if len(set(members)) < len(members) or not set(members).isdisjoint(ids):
            raise ValueError(f"{name}['params'] names a parameter twice: {shown([*ids, *members])}")
        names = saved.get("param_names")
        if structure.keys is not None and names is not None:
            names = sequence(f"{name}['param_names']", names, len(group._tensors), "names")
            if names != structure.keys:
                raise ValueError(f"{name} was saved for {shown(names)}, but the group has {shown(structure.keys)}")
        # Convert now: a value's own `__float__` may run code, and none may run between check and copy.
        checked = optimizer._checked(group, {key: saved.get(key, group[key]) for key in optimizer._hypers()}, True)
        for key in optimizer._shared:
            if checked[key] != group[key]:
                raise ValueError(
                    f"{name} has {key}={checked[key]!r}, but this optimizer was created with {key}={group[key]!r}"
                )
        ids += members
        values.append(checked)
    return ids, values


def _read_state(
    optimizer: Target, state: Any, ids: list[Any], values: list[dict[str, Any]]
) -> tuple[list[int], list[list[Array | None]]]:
    """For each parameter its step count and its state buffers."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state_dict['state'] must be a mapping, got {type(state).__name__}")
    if unknown := set(state).difference(ids):
        raise ValueError(f"state_dict['state'] has entries for unknown parameters: {shown(list(unknown))}")
    bound = optimizer._bound_params()
    rule, lazy = RULES[optimizer.rule], optimizer._lazy_slot
    all_steps, all_arrays = [], []
    for i, key in enumerate(ids):
        name = f"state_dict['state'][{shown(key)}]"
        entry = state.get(key, {})
        if not isinstance(entry, Mapping):
            raise TypeError(f"{name} must be a mapping, got {type(entry).__name__}")
        entry = {k: value for k, value in entry.items() if value is not None}
        arrays: list[Array | None] = [None] * len(rule.states)
        steps = 0
        if entry:
            hypers = values[optimizer._group_of(i)]
            calls = [each not in rule.needed_by or bool(hypers[rule.needed_by[each]]) for each in rule.states]
            needed, optional = ["step"], ["step"] if lazy is not None else []
            for slot, state_name in enumerate(rule.states):
                (needed if calls[slot] and slot != lazy else optional).append(state_name)
            same_keys(name, entry, needed, optional)
            steps = _step_count(f"{name}['step']", entry.get("step", 0))
            for slot, state_name in enumerate(rule.states):
                if state_name in entry:
                    arrays[slot] = _like(f"{name}[{state_name!r}]", entry[state_name], bound[i])
            if lazy is not None and arrays[lazy] is not None:
                steps = max(steps, 1)  # a lazy buffer that is there was filled by a first step
            elif lazy is not None and calls[lazy]:
                steps = 0
        all_steps.append(steps)
        all_arrays.append(arrays)
    return all_steps, all_arrays


def _step_count(name: str, value: Any) -> int:
    steps = as_number(name, value)
    if not (0 <= steps < 2**53 and steps.is_integer()):
        raise ValueError(f"{name} must be a whole number >= 0, got {shown(value)}")
    return int(steps)


def _like(name: str, value: Any, param: Array) -> Array:
    """A saved buffer, which must have the parameter's dtype and shape, as a view or copy: aligned and in C order."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost; give its .data")
    try:
        array = np.asarray(value).view()  # a view: no other code can change its shape or type after this check
    except Exception as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from error
    if array.dtype != param.dtype:
        raise TypeError(f"{name} has dtype {array.dtype}, but the parameter has {param.dtype}")
    if array.shape != param.shape:
        raise ValueError(f"{name} has shape {array.shape}, but the parameter has {param.shape}")
    return np.require(array, requirements=["C", "A"])
