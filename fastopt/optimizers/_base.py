"""The base class of all optimizers. The arithmetic is in csrc/; buffers, groups and the step are in `_engine`."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fastopt import _checkpoint
from fastopt._engine import Engine
from fastopt._rules import RULES
from fastopt._structure import Model, same_keys, shown
from fastopt.optimizers import _state_dict
from fastopt.optimizers._hyper import Hyper, ParamGroup, Switch, counted

__all__ = ["Optimizer"]

Array = np.ndarray[Any, np.dtype[Any]]


class Optimizer(Engine):
    """The base class of all optimizers: parameters bound once, `step`, hyperparameters, state, checkpoints.

    Parameters
    ----------
    params : array, sequence of arrays, mapping of arrays, or sequence of groups
        The arrays to update in place: float32 or float64, of any shape and strides, writable, sharing no
        memory. A group is a mapping with `"params"` (one array, a sequence or a mapping) and any
        hyperparameters of its own.
    threads : int, optional
        How many threads a step may use; None: `fastopt.get_num_threads()`. Can be changed later (`opt.threads`).
    hyper
        The hyperparameters of the groups that do not have their own.

    Raises
    ------
    TypeError, ValueError
        If an array or a hyperparameter is invalid; the message names it.

    Notes
    -----
    The state buffers that are made together share one allocation, in large pages where the system has them, and each
    begins on a cache line; `state` shows them as arrays.
    """

    rule: ClassVar[str]
    #: The initial value of each state buffer that does not start at 0: a number, or the name of a hyperparameter.
    _start: ClassVar[Mapping[str, float | str]] = {}
    #: The slot of the state buffer that holds nothing until the first step fills it, if the rule has one.
    _lazy_slot: ClassVar[int | None] = None
    #: Hyperparameters that are used when the optimizer is created, and cannot be changed later.
    _fixed: ClassVar[tuple[str, ...]] = ()
    #: Hyperparameters that must be equal in a state_dict and in the optimizer that loads it.
    _shared: ClassVar[tuple[str, ...]] = ()
    #: Hyperparameters that the torch.optim class of the same name does not have.
    _torch_lacks: ClassVar[tuple[str, ...]] = ()

    maximize = Switch()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        inherited = {name for base in cls.__mro__[1:] if issubclass(base, Optimizer) for name in base._hypers()}
        for name in sorted(inherited & vars(cls).keys()):
            if not isinstance(vars(cls)[name], Hyper):
                raise TypeError(
                    f"{cls.__name__}.{name} would hide the hyperparameter {name}; pass another default to "
                    "super().__init__"
                )

    def __init__(self, params: Any, *, threads: int | None = None, **hyper: Any) -> None:
        if not hasattr(type(self), "rule"):
            raise TypeError("Optimizer has no update rule; use one of its subclasses, such as fastopt.Adam")
        model = Model(params, self._hypers())
        self._bind_model(model)
        self.threads = threads
        pairs = zip(self.param_groups, model.own_hypers, strict=True)
        self._set([(group, hyper | own) for group, own in pairs], whole=True)

    def _refuse_unknown(self, name: str) -> None:
        """AttributeError unless a public attribute of this name can be set."""
        if name in self._hypers() or name == "threads":
            return
        owner = next((owner for owner in type(self).__mro__ if name in vars(owner)), None)
        if owner is None:
            raise AttributeError(
                f"{name!r} is no hyperparameter of {type(self).__name__}, which has {', '.join(self._hypers())}; an "
                "attribute of your own must be declared in a subclass, or begin with an underscore"
            )
        if owner.__module__.startswith("fastopt."):
            raise AttributeError(f"{name!r} of an optimizer cannot be replaced; change its contents")

    def _bind_model(self, model: Model) -> None:
        """Binds the parameters; their state buffers are made when the hyperparameters are set."""
        self._bind([structure.leaves for structure in model.groups], model)
        self._model = model
        self._param_groups = tuple(ParamGroup(self, index) for index in range(len(model.groups)))

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The groups of parameters, each a mapping of hyperparameters and `"params"`."""
        return self._param_groups

    # ---- Hyperparameters. ----

    @classmethod
    @functools.cache
    def _hypers(cls) -> dict[str, Hyper[Any]]:
        """The hyperparameters by name: those of the class itself, then `maximize`."""
        classes = [owner for owner in cls.__mro__ if issubclass(owner, Optimizer)]
        return {name: each for owner in classes for name, each in vars(owner).items() if isinstance(each, Hyper)}

    def _set(self, changes: Sequence[tuple[ParamGroup, Mapping[str, Any]]], whole: bool = False) -> None:
        """Checks and sets hyperparameters in some groups: all of them, or none and an error."""
        with self._exclusive(nested=True):  # two threads' changes must not be mixed
            self._change(changes, whole)

    def _change(self, changes: Sequence[tuple[ParamGroup, Mapping[str, Any]]], whole: bool) -> None:
        checked = [(group._index, self._checked(group, change, whole)) for group, change in changes]
        plan = self._plan()  # after `_checked`, where a value's own `__float__` may change the optimizer
        for index, values in checked:
            plan.set_group(index, values, self._starts(values), whole)
        self._adopt(plan)

    def _checked(self, group: ParamGroup, change: Mapping[str, Any], whole: bool) -> dict[str, Any]:
        """All hyperparameters of a group after a change, or with `whole` those of the change alone."""
        values, hypers = {} if whole else group._values, self._hypers()
        for key, value in change.items():
            if key not in hypers:
                raise KeyError(
                    f"{shown(key)} is no hyperparameter of {type(self).__name__}, which has {', '.join(hypers)}"
                )
            if key in self._fixed and not whole:
                raise ValueError(f"{key} is used when the optimizer is created; it cannot be changed later")
            values[key] = hypers[key].normal(value)
        return values

    def _starts(self, values: Mapping[str, Any]) -> list[float] | None:
        """The initial value of each state buffer; None if all are 0."""
        if not self._start:
            return None
        starts = [self._start.get(name, 0.0) for name in RULES[self.rule].states]
        return [values[start] if isinstance(start, str) else start for start in starts]

    # ---- State. ----

    @property
    def state(self) -> dict[Any, dict[str, Any]]:
        """The state of each parameter: `{"step": steps taken, buffer name: array, ...}`.

        Keyed by the mapping's keys if the parameters were given as one mapping, else by position. The arrays share the
        memory of the live buffers, so reading them is free and writing to them changes the optimizer. The dicts are
        made by each call, so that assigning to their items has no effect: write into the arrays, or use
        `load_state_dict`.
        """
        keys = self._model.groups[0].keys
        if keys is None or self._model.grouped:
            keys = list(range(len(self.params)))
        return dict(zip(keys, self._state(False), strict=True))

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
            If another thread is in `step` of this optimizer: a copy would be halfway between two steps.

        Notes
        -----
        The torch.optim class of the same name loads it once every array is a tensor (`torch.from_numpy`);
        `load_state_dict` takes torch's state_dict as it is.

        Examples
        --------
        >>> opt = fastopt.Adam([np.ones(2)])
        >>> opt.step([np.ones(2)])
        >>> sorted(opt.state_dict()["state"][0])
        ['exp_avg', 'exp_avg_sq', 'step']
        """
        with self._exclusive():
            return {"state": dict(enumerate(self._state(True))), "param_groups": self._saved_groups()}

    def _saved_groups(self) -> list[dict[str, Any]]:
        groups = []
        for group, structure in zip(self.param_groups, self._model.groups, strict=True):
            saved = {**group._values, "params": list(group._tensors)}
            if structure.keys is not None:
                saved["param_names"] = list(structure.keys)
            groups.append(saved)
        return groups

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict()` of this class, or of the torch.optim class of the same name.

        Everything is checked before anything is replaced; arrays (or CPU tensors) are copied into the optimizer's own
        buffers. Parameters without an entry in `state` start with initial state, as in torch.optim. Torch's
        settings of how to compute (`foreach`, `fused`, `capturable`, `differentiable`) are ignored.

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
        self._load(_state_dict.read(self, state_dict["param_groups"], state_dict["state"]), [])

    def _load(self, saved: _state_dict.Saved, params: Sequence[Array]) -> None:
        """Copies a state that was read and checked into the optimizer, and parameters if any are given."""
        with self._exclusive():
            self._adopt(self._loading(saved, params))

    def _loading(self, saved: _state_dict.Saved, params: Sequence[Array]) -> Any:
        # An array may share memory with one of the optimizer's own buffers (`state`): copy it before any is written.
        own = {id(buffer.base): buffer.base for buffers in self._buffers() for buffer in buffers if buffer is not None}
        plan = self._plan()
        for index, values in enumerate(saved.values):
            plan.set_group(index, values, self._starts(values), True)
        for i, (steps, arrays) in enumerate(zip(saved.steps, saved.arrays, strict=True)):
            for slot, array in enumerate(arrays):
                if array is not None and any(np.may_share_memory(array, memory) for memory in own.values()):
                    arrays[slot] = array.copy()
            plan.load_state(i, steps, arrays)
        for i, array in enumerate(params):
            plan.load_param(i, array)
        return plan

    # ---- Checkpoints. ----

    def save(self, path: str | os.PathLike[str], *, params: bool = False) -> None:
        """Write a checkpoint: state, step numbers and hyperparameters, for `load`.

        It is written to a temporary file in the same folder, synced to the disk and renamed: at any moment `path` is
        the old file or the new one, complete. (A process that is killed may leave a file
        `.NAME.*.tmp` behind, which can be deleted.)

        Parameters
        ----------
        path : str or path-like
            The file to write; an existing one is replaced. `.npz` is the usual suffix.
        params : bool
            Save the parameters too.

        Raises
        ------
        OSError
            If the file cannot be written; an existing one is left as it was.
        RuntimeError
            If another thread is in `step` of this optimizer, and inside NAG's `lookahead()` block.

        Notes
        -----
        The format is NumPy's .npz: NumPy alone writes and reads it, many other tools read it, and nothing in it is
        executed. `numpy.load(path)` shows arrays `state/0/exp_avg`, `params/0` and so on, by the position of the
        parameter, and the rest as JSON under `fastopt.json`. The archive's comment has the SHA-256 digest of all bytes
        before it, so that no damage goes unnoticed. Bits are kept: training goes on as if it had never stopped. The
        keys of a group's mapping are kept, and compared in `load`, if all of them are whole numbers of 64 bits or
        strings of at most 1000 characters.

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
        with self._exclusive():
            self._write(path, params)

    def _write(self, path: str | os.PathLike[str], params: bool) -> None:
        states = self._state(False)
        steps = [state.pop("step") for state in states]
        arrays = {f"state/{i}/{name}": array for i, state in enumerate(states) for name, array in state.items()}
        if params:
            arrays.update((f"params/{i}", array) for i, array in enumerate(self._bound_params()))
        groups = self._saved_groups()
        for group in groups:
            if not all(_checkpoint.is_kept(key) for key in group.get("param_names", ())):
                del group["param_names"]
        _checkpoint.write(path, {"rule": self.rule, "steps": steps, "param_groups": groups}, arrays)

    def load(self, path: str | os.PathLike[str], *, params: bool = False) -> None:
        """Continue from a checkpoint that `save` wrote for an optimizer of this class with parameters of these shapes.

        Everything is read and checked before anything is replaced.

        Parameters
        ----------
        path : str or path-like
            The file to read.
        params : bool
            Restore the parameters too, in place. The file must have been saved with them.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is damaged, incomplete, not a checkpoint, or does not fit this optimizer; the message names the
            file and what is wrong with it. Nothing was replaced, and no more memory was used than a checkpoint of this
            optimizer needs.
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
        header, states, arrays = _checkpoint.read(
            path, self.rule, RULES[self.rule].states, self._bound_params(), params
        )
        state = {i: {"step": header["steps"][i], **buffers} for i, buffers in enumerate(states)}
        try:
            self._load(_state_dict.read(self, header["param_groups"], state), arrays)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}") from error

    # ---- Copies. ----

    def __getstate__(self) -> dict[str, Any]:
        # The bound arrays in their structure: the caller's own lists and mappings may hold other arrays by now.
        given = [leaf for structure in self._model.groups for leaf in structure.leaves]
        bound = zip(given, self._bound_params(), self.params, strict=True)
        params = self._model.unflatten([leaf if array is param else array for leaf, array, param in bound])
        own = {name: value for name, value in vars(self).items() if name not in ("_model", "_param_groups")}
        return {"params": params, "threads": self.threads, "state_dict": self.state_dict(), "attributes": own}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self._bind_model(Model(saved["params"], self._hypers()))
        vars(self).update(saved["attributes"])
        self.threads = saved["threads"]
        groups = saved["state_dict"]["param_groups"]
        changes = [{key: group[key] for key in self._hypers()} for group in groups]
        self._set(list(zip(self.param_groups, changes, strict=True)), whole=True)
        self.load_state_dict(saved["state_dict"])

    def __repr__(self) -> str:
        sizes = [array.size for array in self.params]
        dtypes = " and ".join(sorted({str(array.dtype) for array in self.params}))
        tensors = f"{counted(len(sizes), 'parameter')}, {counted(sum(sizes), 'element')}, {dtypes}"
        lines = [", ".join(f"{key}={value!r}" for key, value in group._values.items()) for group in self.param_groups]
        if len(lines) == 1:
            return f"{type(self).__name__}({lines[0]})  # {tensors}"
        groups = "".join(f"\n  group {index}: {line}" for index, line in enumerate(lines))
        return f"{type(self).__name__}(  # {tensors}{groups}\n)"
