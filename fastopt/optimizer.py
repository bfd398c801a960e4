"""What all optimizers share: hyperparameters and state. The arithmetic is in csrc/, the buffers in `engine`."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar, overload

import numpy as np

from fastopt import checkpoint
from fastopt._core import RULES, as_number, pair
from fastopt.engine import Engine, Group
from fastopt.memory import zeros_like
from fastopt.structure import Model, is_array, same_keys, sequence, shown

__all__ = ["Hyper", "Optimizer", "ParamGroup"]

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[Any]]

# What torch.optim keeps in a group besides hyperparameters: how to compute, or another object's notes.
_TORCH_ONLY = frozenset(
    {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay", "initial_lr", "param_names"}
)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# ---- Hyperparameters. ----


def _normal(key: str, value: Any, switch: bool) -> Any:
    """`value` as the type that is kept and saved: bool, float, or a pair of floats."""
    if key == "betas":
        return tuple(as_number(f"betas[{i}]", beta) for i, beta in enumerate(pair("betas", value)))
    if switch:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{key} must be True or False, got {shown(value)}")
        return bool(value)
    return as_number(key, value)


def _steps(name: str, value: Any) -> int:
    steps = as_number(name, value)
    if not (0 <= steps < 2**53 and steps.is_integer()):
        raise ValueError(f"{name} must be a whole number >= 0, got {shown(value)}")
    return int(steps)


def _like(name: str, value: Any, param: Array) -> Array:
    """A saved buffer as an array, if it has the parameter's dtype and shape."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost; give its .data")
    try:
        array = np.asarray(value).view()  # a view, whose shape and type nobody changes between this check and the copy
    except Exception as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from error
    if array.dtype != param.dtype:
        raise TypeError(f"{name} has dtype {array.dtype}, but the parameter has {param.dtype}")
    if array.shape != param.shape:
        raise ValueError(f"{name} has shape {array.shape}, but the parameter has {param.shape}")
    return array


class Hyper(Generic[T]):
    """A hyperparameter as an attribute: reads the value that all groups share, and sets it in every group."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, optimizer: None, owner: type) -> Hyper[T]: ...
    @overload
    def __get__(self, optimizer: Optimizer, owner: type) -> T: ...
    def __get__(self, optimizer: Optimizer | None, owner: type) -> T | Hyper[T]:
        if optimizer is None:
            return self
        values = [group[self.name] for group in optimizer.param_groups]
        if any(value != values[0] for value in values):
            raise AttributeError(
                f"{self.name} differs between the groups ({', '.join(map(repr, values))}); read it in param_groups"
            )
        value: T = values[0]
        return value

    def __set__(self, optimizer: Optimizer, value: T) -> None:
        optimizer._set([(group, {self.name: value}) for group in optimizer.param_groups])


class ParamGroup(Group, MutableMapping[str, Any]):
    """The hyperparameters of one group of parameters, by name, checked when they are set.

    `group["params"]` is the tuple of the group's arrays. Keys cannot be added or removed.

    Examples
    --------
    >>> opt = fastopt.SGD([{"params": np.ones(3)}, {"params": np.ones(2), "lr": 0.5}], lr=0.1)
    >>> [group["lr"] for group in opt.param_groups]
    [0.1, 0.5]
    >>> opt.param_groups[1]["lr"] = 0.25
    """

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
        return f"<{_count(len(self._tensors), 'parameter')}, {values}>"


# ---- What all optimizers share. ----


class _Settled(NamedTuple):
    """What an optimizer is besides its arrays and the engine's numbers; it is replaced as a whole."""

    kept: list[dict[str, Any]]  # for each group those of its hyperparameters that are no numbers of the C core
    slots: list[list[Array | None]]  # for each tensor its state buffers, also those that are not in use


class _Plan(NamedTuple):
    """What an optimizer is to become."""

    values: dict[int, dict[str, Any]]  # all hyperparameters of the groups, by their indices, in which some change
    moved: dict[int, list[bool]]  # for those whose state buffers may be others, which of them are used
    slots: list[list[Array | None]]
    steps: list[int]
    copies: list[tuple[str, Array, Array]]  # what is written to buffers and parameters


class Optimizer(Engine):
    """What all optimizers share: parameters bound once, `step`, hyperparameters, state, checkpoints.

    A subclass names its rule in the C core's table and lists its hyperparameters as `Hyper` attributes. What repeats
    the table of rules is generated: `arguments` has a class for each rule, from which those in `optimizers` derive.

    Parameters
    ----------
    params : array, sequence of arrays, mapping of arrays, or sequence of groups
        The arrays to update in place: float32 or float64, of any shape and strides, writable, sharing no
        memory. A group is a mapping with `"params"` (one array, a sequence or a mapping) and any
        hyperparameters of its own.
    threads : int, optional
        How many threads a step may use; None: `fastopt.get_num_threads()`. Can be changed later (`opt.threads`).
    hyper
        The hyperparameters of the groups that do not bring their own.

    Raises
    ------
    TypeError, ValueError
        If an array or a hyperparameter will not do; the message names it.

    Notes
    -----
    The state buffers of a model are one piece of memory, each on a cache line of its own, in large pages where the
    system has them; `state` shows them as arrays.
    """

    rule: ClassVar[str]
    #: The hyperparameter that, when true, calls for an optional state buffer.
    _optional: ClassVar[Mapping[str, str]] = {}
    #: What a state buffer starts with, if not with zeros: a number, or the hyperparameter that says it.
    _start: ClassVar[Mapping[str, float | str]] = {}
    #: The hyperparameters that are True or False.
    _switches: ClassVar[frozenset[str]] = frozenset({"maximize"})
    #: The slot of a state buffer whose first step is unlike the others: it holds nothing before it.
    _special: ClassVar[int | None] = None
    #: Hyperparameters that act when the optimizer is made and cannot be changed later.
    _fixed: ClassVar[tuple[str, ...]] = ()
    #: Those that a state_dict must share with the optimizer that loads it.
    _kept: ClassVar[tuple[str, ...]] = ()
    #: Those that torch.optim's namesake does not have.
    _torch_lacks: ClassVar[tuple[str, ...]] = ()

    maximize = Hyper[bool]()

    def __init__(self, params: Any, *, threads: int | None = None, **hyper: Any) -> None:
        settings = self._bind(params)
        self.threads = threads
        self._set([(group, hyper | own) for group, own in zip(self.param_groups, settings, strict=True)], making=True)

    if not TYPE_CHECKING:  # a type checker knows the attributes, and finds the unknown ones by itself

        def __setattr__(self, name: str, value: Any) -> None:
            if self._set_number(name, value):
                return
            if not name.startswith("_") and name not in (*self._hypers(), "threads"):
                if hasattr(type(self), name):
                    raise AttributeError(f"{name!r} of an optimizer cannot be replaced; change what it holds")
                raise AttributeError(
                    f"{name!r} is no hyperparameter of {type(self).__name__}, which has {', '.join(self._hypers())}"
                )
            super().__setattr__(name, value)

    def _bind(self, params: Any) -> list[dict[str, Any]]:
        """Binds the arrays; the state buffers follow in `_set`. Returns what each group brings of its own."""
        model = Model(params, self._hypers())
        nothing: list[Array | None] = [None] * len(RULES[self.rule].states)
        leaves = [group.leaves for group in model.groups]
        settled = _Settled([{} for _ in leaves], [nothing for group in leaves for _ in group])
        self._bind_params(leaves, model, settled)
        self._model = model
        self._param_groups = tuple(ParamGroup(self, index) for index in range(len(leaves)))
        return model.settings

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The groups of parameters, each a mapping of hyperparameters and `"params"`."""
        return self._param_groups

    @property
    def _settled(self) -> _Settled:
        settled: _Settled = self._record
        return settled

    @property
    def _slots(self) -> list[list[Array | None]]:
        return self._settled.slots

    # ---- Hyperparameters. ----

    @classmethod
    @functools.cache
    def _hypers(cls) -> tuple[str, ...]:
        classes = [owner for owner in cls.__mro__ if issubclass(owner, Optimizer)]
        return tuple(name for owner in classes for name, value in vars(owner).items() if isinstance(value, Hyper))

    @classmethod
    @functools.cache
    def _kept_hypers(cls) -> tuple[str, ...]:
        """Those that are no numbers or options of the C core's table."""
        rule = RULES[cls.rule]
        return tuple(key for key in cls._hypers() if key not in (*rule.hypers, *rule.options, "betas"))

    def _set(self, changes: Sequence[tuple[ParamGroup, Mapping[str, Any]]], making: bool = False) -> None:
        """Checks and sets hyperparameters in some groups: all of them, or none and an error."""
        with self._held(nested=True):  # what one thread sets and what another sets must not be mixed
            self._take_over(self._plan(changes, making))

    def _plan(self, changes: Sequence[tuple[ParamGroup, Mapping[str, Any]]], making: bool) -> _Plan:
        values = {group._index: self._changed(group, change, making) for group, change in changes}
        plan = _Plan(values, {}, list(self._slots), self._steps(), [])
        made: list[tuple[int, int, float]] = []  # tensor, slot and start value of the state buffers that are called for
        params = self.params
        for group, _ in changes:
            wanted = values[group._index]
            used = self._use(wanted)
            if not making and self._use(group._values) == used:
                continue
            plan.moved[group._index] = used
            starts = [self._initial(name, wanted) for name in RULES[self.rule].states]
            for i in group._tensors:
                plan.slots[i] = slots = plan.slots[i].copy()
                made += [(i, k, start) for k, start in enumerate(starts) if used[k] and slots[k] is None]
                if self._special is not None and (used[self._special] == (slots[self._special] is None)):
                    self._restart(plan, i, used)
        buffers = zeros_like([params[i] for i, _, _ in made]) if made else []
        for (i, k, start), buffer in zip(made, buffers, strict=True):
            if start:
                buffer.fill(start)
            plan.slots[i][k] = buffer
        return plan

    def _restart(self, plan: _Plan, i: int, used: Sequence[bool]) -> None:
        """For a tensor whose special state buffer begins to be used, or is no longer."""
        assert self._special is not None
        if used[self._special]:
            plan.steps[i] = 0
        elif plan.steps[i] == 0:
            plan.slots[i][self._special] = None  # holds nothing yet and is not called for: its first step is to come

    def _take_over(self, plan: _Plan) -> None:
        """Becomes what was planned, or raises an error; nothing comes in between."""
        rule, kept, settings = RULES[self.rule], list(self._settled.kept), []
        for index, values in plan.values.items():
            buffers, used = None, plan.moved.get(index)
            if used is not None:
                buffers = [plan.slots[i] for i in self.param_groups[index]._tensors]
                if not all(used):
                    buffers = [[b if use else None for b, use in zip(slots, used, strict=True)] for slots in buffers]
            options = sum(bit for option, bit in rule.options.items() if values[option])
            settings.append((index, self._packed(values), options, buffers))
            kept[index] = {key: values[key] for key in self._kept_hypers()}
        self._configure(settings, plan.steps, _Settled(kept, plan.slots), plan.copies)

    def _changed(self, group: ParamGroup, change: Mapping[str, Any], making: bool) -> dict[str, Any]:
        values, hypers = {} if making else group._values, self._hypers()
        for key, value in change.items():
            if key not in hypers:
                raise KeyError(
                    f"{shown(key)} is no hyperparameter of {type(self).__name__}, which has {', '.join(hypers)}"
                )
            if key in self._fixed and not making:
                raise ValueError(f"{key} acts when the optimizer is made; it cannot be changed later")
            values[key] = _normal(key, value, key in self._switches)
        return values

    def _packed(self, values: Mapping[str, Any]) -> tuple[float, ...]:
        """The hyperparameters as the C core takes them, in its order."""
        special = {"step": 1.0, "grad_scale": 1.0}
        if "betas" in values:
            special["beta1"], special["beta2"] = values["betas"]
        return tuple(special[name] if name in special else values[name] for name in RULES[self.rule].hypers)

    # ---- State. ----

    def _use(self, values: Mapping[str, Any]) -> list[bool]:
        """For each state buffer of the rule, whether a tensor under these hyperparameters has it."""
        rule = RULES[self.rule]
        return [
            slot < rule.required_states or bool(values[self._optional[name]]) for slot, name in enumerate(rule.states)
        ]

    def _initial(self, name: str, values: Mapping[str, Any]) -> float:
        """What the elements of a state buffer start with."""
        start = self._start.get(name, 0.0)
        initial: float = values[start] if isinstance(start, str) else start
        return initial

    def _state_of(self, i: int, steps: int) -> dict[str, Any]:
        """The state of tensor `i` after so many steps: their count and the buffers that hold something."""
        state: dict[str, Any] = {"step": steps}
        for slot, (name, buffer) in enumerate(zip(RULES[self.rule].states, self._slots[i], strict=True)):
            if buffer is not None and not (slot == self._special and steps == 0):
                state[name] = buffer
        return state

    @property
    def state(self) -> dict[Any, dict[str, Any]]:
        """The state of each parameter: `{"step": steps taken, buffer name: array, ...}`.

        Keyed by the mapping's keys if the optimizer was made for one mapping, else by position. The arrays are
        the live buffers themselves, so reading them is free and writing to them changes the optimizer.
        """
        keys = self._model.groups[0].keys
        if keys is None or self._model.grouped:
            keys = list(range(len(self.params)))
        return {key: self._state_of(i, steps) for i, (key, steps) in enumerate(zip(keys, self._steps(), strict=True))}

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state and the hyperparameters, in torch.optim's layout and names.

        Returns
        -------
        dict
            `{"state": {0: {"step": int, "exp_avg": array, ...}, ...}, "param_groups": [{"lr": ...,
            "params": [0, ...]}, ...]}`: arrays of the parameters' shapes and dtypes, numbers, bools and tuples.

        Raises
        ------
        RuntimeError
            If another thread is in `step` of this optimizer: there is no state between two steps to copy.

        Notes
        -----
        The namesake in torch.optim loads it once every array is a tensor (`torch.from_numpy`); `load_state_dict` takes
        torch's as it is.

        Examples
        --------
        >>> opt = fastopt.Adam([np.ones(2)])
        >>> opt.step([np.ones(2)])
        >>> sorted(opt.state_dict()["state"][0])
        ['exp_avg', 'exp_avg_sq', 'step']
        """
        with self._held():
            return self._copied()

    def _copied(self) -> dict[str, Any]:
        state = {
            i: {name: value if name == "step" else value.copy() for name, value in self._state_of(i, steps).items()}
            for i, steps in enumerate(self._steps())
        }
        return {"state": state, "param_groups": self._saved_groups()}

    def _saved_groups(self) -> list[dict[str, Any]]:
        groups = []
        for group, structure in zip(self.param_groups, self._model.groups, strict=True):
            saved = {**group._values, "params": list(group._tensors)}
            if structure.keys is not None:
                saved["param_names"] = list(structure.keys)
            groups.append(saved)
        return groups

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict()`, one of this class or of its namesake in torch.optim.

        Everything is checked before anything is replaced; arrays (or CPU tensors) are copied into the optimizer's own
        buffers. Parameters without an entry in `state` start anew, as in torch.optim. Of torch's settings, those that
        say how to compute (`foreach`, `fused`, `capturable`, `differentiable`) are passed over.

        Parameters
        ----------
        state_dict : dict
            As `state_dict()` returns it, for the same number of groups, parameters and shapes.

        Raises
        ------
        TypeError, ValueError
            If something is missing, unknown or does not fit; the message names it.
        RuntimeError
            If another thread is in `step` of this optimizer; nothing was replaced.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a mapping, got {type(state_dict).__name__}")
        same_keys("state_dict", state_dict, ["state", "param_groups"])
        self._load(state_dict, [])

    def _load(self, state_dict: Mapping[str, Any], params: Sequence[Array]) -> None:
        """Takes over a state, and parameters if there are any, once all is checked."""
        ids, changes = self._read_groups(state_dict["param_groups"])
        loaded = self._read_state(state_dict["state"], ids, [values for _, values in changes])
        with self._held():
            self._take_over(self._loading(loaded, changes, params))

    def _loading(
        self,
        loaded: list[tuple[int, list[Array | None]]],
        changes: list[tuple[ParamGroup, dict[str, Any]]],
        params: Sequence[Array],
    ) -> _Plan:
        # The optimizer's own buffers, as `state` shows them, must be read before any of them is written.
        arenas = {id(buffer.base): buffer.base for slots in self._slots for buffer in slots if buffer is not None}
        for _, arrays in loaded:
            for slot, array in enumerate(arrays):
                if array is not None and any(np.may_share_memory(array, arena) for arena in arenas.values()):
                    arrays[slot] = array.copy()
        plan = self._plan(changes, making=True)
        for i, (steps, arrays) in enumerate(loaded):
            values = plan.values[self._group_of(i)]
            plan.steps[i] = steps
            slots = plan.slots[i]
            for slot, (name, used) in enumerate(zip(RULES[self.rule].states, self._use(values), strict=True)):
                array = arrays[slot]
                if not used:
                    # Kept too: it may be called for again, and what was saved had it.
                    slots[slot] = None if array is None else zeros_like([self.params[i]])[0]
                if (buffer := slots[slot]) is not None:
                    if array is None:
                        array = np.full_like(buffer, self._initial(name, values))
                    plan.copies.append((name, buffer, np.require(array, requirements=["C", "A"])))
        for i, (param, array) in enumerate(zip(self.params, params, strict=False)):
            plan.copies.append((f"parameter {i}", param, array))
        return plan

    def save(self, path: str | os.PathLike[str], *, params: bool = False) -> None:
        """Write a checkpoint: state, step numbers and hyperparameters, for `load`.

        It is written to a temporary file in the same folder, synced to the disk and renamed: whatever happens at
        whatever moment, `path` is the old file or the new one, whole. (A process that is killed may leave a file
        `.NAME.*.tmp` behind, which can be deleted.)

        Parameters
        ----------
        path : str or path-like
            Of the file, which is replaced if it is there. A name that ends in `.npz` suits it.
        params : bool
            Save the parameters too.

        Raises
        ------
        OSError
            If the file cannot be written; an old one is as it was.
        RuntimeError
            If another thread is in `step` of this optimizer, and inside NAG's `lookahead()` block.

        Notes
        -----
        The format is NumPy's .npz: NumPy alone writes and reads it, many other tools read it, and nothing in it is
        executed. `numpy.load(path)` shows arrays `state/0/exp_avg`, `params/0` and so on, by the position of the
        parameter, and the rest as JSON under `fastopt.json`. The archive's comment holds the SHA-256 digest of what
        comes before, so that no damage goes unnoticed. Bits are kept: training goes on as if it had never stopped. The
        keys of a mapping are kept, and compared when it is loaded, if all of a group's are whole numbers or strings of
        at most 1000 characters.

        Examples
        --------
        >>> import os, tempfile
        >>> w, grad = np.array([1.0, -2.0]), np.array([0.5, 0.5])
        >>> opt = fastopt.Adam(w)
        >>> opt.step(grad)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "checkpoint.npz")
        ...     opt.save(path, params=True)
        ...     other = fastopt.Adam(np.zeros(2), lr=0.1)
        ...     other.load(path, params=True)
        >>> other.lr, other.state[0]["step"]
        (0.001, 1)
        >>> other.params[0]
        array([ 0.999, -2.001])
        """
        with self._held():
            self._write(path, params)

    def _write(self, path: str | os.PathLike[str], params: bool) -> None:
        steps = self._steps()
        arrays = {
            f"state/{i}/{name}": value
            for i in range(len(steps))
            for name, value in self._state_of(i, steps[i]).items()
            if name != "step"
        }
        if params:
            arrays.update((f"params/{i}", array) for i, array in enumerate(self.params))
        groups = self._saved_groups()
        for group in groups:
            if not all(checkpoint.is_kept(key) for key in group.get("param_names", ())):
                del group["param_names"]
        checkpoint.write(path, {"rule": self.rule, "steps": steps, "param_groups": groups}, arrays)

    def load(self, path: str | os.PathLike[str], *, params: bool = False) -> None:
        """Continue from a checkpoint that `save` wrote for an optimizer of this class with parameters of these shapes.

        Everything is read and checked before anything is replaced.

        Parameters
        ----------
        path : str or path-like
            Of the file.
        params : bool
            Restore the parameters too, in place. The file must have been saved with them.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is damaged, cut short, no checkpoint at all, or one that does not fit this optimizer; the message
            names the file and what is wrong with it. Nothing was replaced, and whatever the file says, no more memory
            was used than a checkpoint of this optimizer needs.
        RuntimeError
            If another thread is in `step` of this optimizer; nothing was replaced.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        ...     fastopt.SGD(np.ones(2), lr=0.5).save(file.name)
        ...     opt = fastopt.SGD(np.ones(2))
        ...     opt.load(file.name)
        >>> opt.lr
        0.5
        """
        header, states, arrays = checkpoint.read(path, self.rule, RULES[self.rule].states, self.params, params)
        state = {i: {"step": header["steps"][i], **buffers} for i, buffers in enumerate(states)}
        try:
            self._load({"state": state, "param_groups": header["param_groups"]}, arrays)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}") from error

    def _read_groups(self, groups: Any) -> tuple[list[Any], list[tuple[ParamGroup, dict[str, Any]]]]:
        """The saved parameters' ids, in order, and the hyperparameters of each group."""
        if is_array(groups) or isinstance(groups, (str, Mapping)) or not isinstance(groups, Iterable):
            raise TypeError(f"state_dict['param_groups'] must be a list of groups, got {type(groups).__name__}")
        groups, count = list(itertools.islice(groups, len(self.param_groups) + 1)), len(self.param_groups)
        if len(groups) != count:
            found = len(groups) if len(groups) < count else "more"
            raise ValueError(f"state_dict has {found} groups, but the optimizer has {count}")
        ids: list[Any] = []
        changes = []
        for group, structure, saved in zip(self.param_groups, self._model.groups, groups, strict=True):
            name = f"state_dict['param_groups'][{group._index}]"
            if not isinstance(saved, Mapping):
                raise TypeError(f"{name} must be a mapping, got {type(saved).__name__}")
            same_keys(name, saved, ["params", *self._hypers()], {*_TORCH_ONLY, *self._torch_lacks})
            members = sequence(f"{name}['params']", saved["params"], len(group._tensors), "parameters")
            if len(set(members)) < len(members) or not set(members).isdisjoint(ids):
                raise ValueError(f"{name}['params'] names a parameter twice: {shown([*ids, *members])}")
            names = saved.get("param_names")
            if structure.keys is not None and names is not None:
                names = sequence(f"{name}['param_names']", names, len(group._tensors), "names")
                if names != structure.keys:
                    raise ValueError(f"{name} was saved for {shown(names)}, but the group has {shown(structure.keys)}")
            # Made numbers here: the code of strange ones runs now, and none between the checks and the copying.
            values = self._changed(group, {key: saved.get(key, group._values[key]) for key in self._hypers()}, True)
            for key in self._kept:
                if values[key] != group._values[key]:
                    raise ValueError(f"{name} has {key}={values[key]!r}, but the optimizer was made with the other")
            ids += members
            changes.append((group, values))
        return ids, changes

    def _read_state(
        self, state: Any, ids: list[Any], values: list[dict[str, Any]]
    ) -> list[tuple[int, list[Array | None]]]:
        """For each parameter its step count and its state arrays, checked against the parameters."""
        if not isinstance(state, Mapping):
            raise TypeError(f"state_dict['state'] must be a mapping, got {type(state).__name__}")
        if unknown := set(state).difference(ids):
            raise ValueError(f"state_dict['state'] has entries for unknown parameters: {shown(list(unknown))}")
        rule = RULES[self.rule]
        loaded: list[tuple[int, list[Array | None]]] = []
        for i, key in enumerate(ids):
            name = f"state_dict['state'][{shown(key)}]"
            entry = state.get(key, {})
            if not isinstance(entry, Mapping):
                raise TypeError(f"{name} must be a mapping, got {type(entry).__name__}")
            entry = {k: value for k, value in entry.items() if value is not None}
            arrays: list[Array | None] = [None] * len(rule.states)
            steps = 0
            if entry:
                used = self._use(values[self._group_of(i)])
                needed, optional = ["step"], ["step"] if self._special is not None else []
                for slot, state_name in enumerate(rule.states):
                    (needed if used[slot] and slot != self._special else optional).append(state_name)
                same_keys(name, entry, needed, optional)
                steps = _steps(f"{name}['step']", entry.get("step", 0))
                for slot, state_name in enumerate(rule.states):
                    if state_name in entry:
                        arrays[slot] = _like(f"{name}[{state_name!r}]", entry[state_name], self.params[i])
                if self._special is not None and arrays[self._special] is not None:
                    steps = max(steps, 1)  # a buffer that holds something has its first step behind it
                elif self._special is not None and used[self._special]:
                    steps = 0
            loaded.append((steps, arrays))
        return loaded

    # ---- Copies. ----

    def __getstate__(self) -> dict[str, Any]:
        # Put together from what was bound: the caller's own lists and mappings may hold other arrays by now.
        return {"params": self._model.whole(), "threads": self.threads, "state_dict": self.state_dict()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self._bind(saved["params"])
        self.threads = saved["threads"]
        groups = saved["state_dict"]["param_groups"]
        changes = [{key: group[key] for key in self._hypers()} for group in groups]
        self._set(list(zip(self.param_groups, changes, strict=True)), making=True)
        self.load_state_dict(saved["state_dict"])

    def __repr__(self) -> str:
        sizes = [array.size for array in self.params]
        dtypes = " and ".join(sorted({str(array.dtype) for array in self.params}))
        tensors = f"{_count(len(sizes), 'parameter')}, {_count(sum(sizes), 'element')}, {dtypes}"
        lines = [", ".join(f"{key}={value!r}" for key, value in group._values.items()) for group in self.param_groups]
        if len(lines) == 1:
            return f"{type(self).__name__}({lines[0]})  # {tensors}"
        groups = "".join(f"\n  group {index}: {line}" for index, line in enumerate(lines))
        return f"{type(self).__name__}(  # {tensors}{groups}\n)"
