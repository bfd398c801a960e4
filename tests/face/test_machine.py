"""Random sequences of uses of the optimizers, compared with a model that the reference steps.

Parameters and gradients have any layout, and gradients any type that is taken. Hypothesis draws the uses. After each,
the optimizers are compared with the model bit for bit, and after an error nothing may have changed. The suite runs the
same sequences each time; `make fuzz` draws new and more ones.
"""

import copy
import gc
import itertools
import math
import os
import pickle
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from common import CLASSES, DTYPES, LAYOUTS, STORED, assert_same_as_reference, assert_same_bits, laid, random_tensor
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import fastopt
from fastopt import reference
from fastopt._rules import RULES

EXAMPLES, FEW, STEPS = 150, 25, 25

# The suite's sequences are always the same; the profile `fuzz` of conftest.py draws random ones, as many as it says.
SUITE = settings(
    stateful_step_count=STEPS,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# ---- What is drawn. ----

seeds = st.integers(0, 2**32 - 1)
SHAPES = [(3,), (), (0,), (2, 3), (1,), (17,), (0, 4), (130,), (5, 60), (4099,)]
shapes = st.sampled_from(SHAPES)
layouts = st.sampled_from(["one", "list", "tuple", "mapping", "groups"])
which = st.integers(0, 5)
VALID = {
    "lr": [0.1, 1e-3, 0, np.float32(0.5), 1e39],
    "momentum": [0.0, 0.5, 0.9],
    "dampening": [0.0, 0.5, 1.0],
    "weight_decay": [0.0, 0.01],
    "lr_decay": [0.0, 0.1],
    "eps": [1e-8, 1e-3],
    "rho": [0.0, 0.9],
    "alpha": [0.5, 0.99],
    "betas": [(0.9, 0.999), [0.5, np.float64(0.5)], (0.0, 0.0)],
    "initial_accumulator_value": [0.0, 0.5],
}
SWITCH = [True, False, np.True_]
INVALID = [
    math.nan,
    -1.0,
    math.inf,
    1e400,
    "0.1",
    None,
    10**400,
    1j,
    [0.5],
    (0.9, math.nan),
    (0.5,),
    b"0.5",
    np.ones(3),
]


def is_switch(name):
    return name not in VALID


def valid(name):
    return SWITCH if is_switch(name) else VALID[name]


class Mischief(Exception):
    """The error that an object of the caller's raises."""


class Gradient:
    """A gradient that calls `act` when it is asked for its memory."""

    def __init__(self, memory, act):
        self.memory, self.act = memory, act

    def __dlpack__(self, **arguments):
        self.act()
        return self.memory.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()


def fail(*arguments, **keywords):
    raise Mischief


class Failing:
    """A gradient that raises an error when it is asked for anything."""

    __buffer__ = __dlpack__ = __dlpack_device__ = __array__ = __len__ = __iter__ = __float__ = fail
    __array_interface__ = property(fail)


class FailingList(list):
    __iter__ = fail


class LongList(list):
    """A list whose length is larger than the number of its items."""

    def __len__(self):
        return super().__len__() + 1


# ---- The model. ----


class Model(reference.Optimizer):
    """The reference's optimizer with its parameters in one of the structures, and the checks of hyperparameters."""

    def __init__(self, cls, form, arrays, sizes, hypers):
        self.cls, self.form, self.sizes = cls, form, sizes  # sizes: how many tensors each group has
        rest = iter([a.copy() for a in arrays])
        super().__init__(cls.rule, [{"params": [*itertools.islice(rest, size)]} for size in sizes], **hypers)

    def of(self, i):
        """The group of a tensor."""
        return [group for group in self.param_groups for _ in group["params"]][i]

    def arranged(self, leaves):
        """Arrays in the structure of the parameters."""
        if self.form == "one":
            return leaves[0]
        if self.form == "mapping":
            return {f"w{i}": leaf for i, leaf in enumerate(leaves)}
        if self.form == "groups":
            rest, groups = list(leaves), []
            for k, size in enumerate(self.sizes):
                part, rest = rest[:size], rest[size:]
                groups.append({"params": {f"w{i}": leaf for i, leaf in enumerate(part)} if k % 2 else part})
            return groups
        return tuple(leaves) if self.form == "tuple" else list(leaves)

    def refused(self, changes):
        """What the error must name if the changed hyperparameters exclude each other or do not fit a group's type."""
        for k, change in changes.items():
            single = any(p.dtype == np.float32 for p in self.param_groups[k]["params"])
            if single and float(change.get("lr", 0)) > 1e38:
                return "lr"
            values = {**self.param_groups[k], **change}
            if values.get("nesterov") and not (values["momentum"] > 0 and values["dampening"] == 0):
                return "nesterov"
        return None

    def set(self, changes):
        for k, change in changes.items():
            self.param_groups[k].update(normal(change))
        self.add_buffers()

    def load(self, other):
        """Takes over hyperparameters and state of another model, as through a state_dict."""
        for mine, saved in zip(self.param_groups, other.param_groups, strict=True):
            mine.update({name: value for name, value in saved.items() if name != "params"})
        self.state = copy.deepcopy(other.state)
        self.add_buffers()


class Pair:
    """An optimizer and the model of it."""

    def __init__(self, opt, model, bound=None):
        self.opt, self.model, self.bound = opt, model, bound

    def check(self):
        assert_same_as_reference(self.opt, self.model)


def tensors(like, seed, odd=False):
    rng = np.random.default_rng(seed)
    made = [random_tensor(rng, a.size, a.dtype).reshape(a.shape) for a in like]
    if odd:
        for a in made:
            if a.size:
                a.reshape(-1)[rng.integers(a.size)] = rng.choice([np.nan, np.inf, 0.0, -0.0, 1e-40])
    return made


def placed(arrays, seed):
    """Copies of the arrays, each in a layout of its own."""
    rng, names = np.random.default_rng(seed), [*LAYOUTS]
    return [laid(a, names[rng.integers(len(names))] if rng.integers(2) else "C") for a in arrays]


def gradients(like, seed, odd=False, shared=True, dlpack=False):
    """Gradients of any type, in any layout. `shared`: several elements may share one place in memory."""
    rng = np.random.default_rng([seed, 1])
    stored = [np.float16, *DTYPES] if dlpack else STORED  # NumPy exports no bfloat16 by DLPack
    made = tensors([a if rng.integers(2) else a.astype(stored[rng.integers(len(stored))]) for a in like], seed, odd)
    made = placed(made, seed)
    for i, a in enumerate(made):
        if shared and a.size and a.ndim and rng.integers(5) == 0:
            made[i] = np.broadcast_to(a.take([0], int(rng.integers(a.ndim))), a.shape)
    return made


# ---- The machine. ----


class Machine(RuleBasedStateMachine):
    compared = 0  # how often the optimizers were compared with their models

    def __init__(self):
        super().__init__()
        self.pairs = []
        self.folder = tempfile.TemporaryDirectory()
        self.kept = []  # state arrays of deleted optimizers, with their bits

    @initialize(
        cls=st.sampled_from(CLASSES), others=st.lists(st.sampled_from(CLASSES), max_size=1), form=layouts,
        tensor=st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=4), cut=st.integers(0, 3),
        seed=seeds, data=st.data(),
    )  # fmt: skip
    def build(self, cls, others, form, tensor, cut, seed, data):
        self.form = form
        self.like = [np.zeros(shape, dtype) for shape, dtype in (tensor[:1] if form == "one" else tensor)]
        count = len(self.like)
        self.sizes = [count]
        if form == "groups" and count > 1:
            first = 1 + cut % (count - 1)
            self.sizes = [first, count - first]
            if seed % 2:  # one type in each group, so that one group may refuse a number that another takes
                self.like = [a.astype(np.float32 if i >= first else np.float64) for i, a in enumerate(self.like)]
        for k, one in enumerate([cls, cls, *others]):
            self.add(one, seed + k, data)

    def add(self, cls, seed, data):
        arrays = tensors(self.like, seed)
        chosen = {}
        for name in data.draw(st.sets(st.sampled_from(sorted(cls._hypers())), max_size=3), "set"):
            chosen[name] = data.draw(st.sampled_from(valid(name)), name)
        if cls is fastopt.NAG:
            chosen["at_lookahead"] = bool(seed % 2)
        model = Model(cls, self.form, arrays, self.sizes, {})
        changes = dict.fromkeys(range(len(self.sizes)), chosen)
        threads = data.draw(st.sampled_from([None, 1, 2, 3]), "threads")
        if words := model.refused(changes):
            with pytest.raises(ValueError, match=words):
                cls(model.arranged(arrays), threads=threads, **chosen)
            chosen = {}
        fresh = Model(cls, self.form, arrays, self.sizes, normal(chosen))
        given = placed(arrays, seed)
        self.pairs.append(Pair(cls(fresh.arranged(given), threads=threads, **chosen), fresh))

    def pair(self, which):
        return self.pairs[which % len(self.pairs)]

    # ---- Steps. ----

    @rule(
        which=which, seed=seeds, odd=st.booleans(), how=st.sampled_from(["fresh", "bound", "again", "buffers"]),
        scale=st.sampled_from([1.0, 0.5, -1 / 3, 0.0, 1, 1e-50, 1e39]),
        max_norm=st.sampled_from([None, None, 1.0, 0.0, math.inf, 1e3]),
        zero=st.booleans(), skip=st.booleans(), elsewhere=st.booleans(),
    )  # fmt: skip
    def step(self, which, seed, odd, how, scale, max_norm, zero, skip, elsewhere):
        pair = self.pair(which)
        grads = gradients(self.like, seed, odd, shared=not zero, dlpack=how == "buffers")
        given = [pair.model.arranged(grads)]
        if how == "bound":
            if pair.bound is None:
                pair.bound = gradients(self.like, seed + 1, shared=False)
                pair.opt.bind(pair.model.arranged(pair.bound))
            for bound, grad in zip(pair.bound, grads, strict=True):
                bound[...] = grad
            grads, given = pair.bound, []
        elif how == "buffers":
            given = [pair.model.arranged([memoryview(g) if g.ndim else Gradient(g, int) for g in grads])]
        extras = {"grad_scale": scale, "max_norm": max_norm, "zero_grad": zero, "skip_nonfinite": skip}
        separate = [g.copy() for g in grads]
        for _ in range(2 if how == "again" else 1):
            if elsewhere:  # from another thread
                outcome = []
                in_thread(lambda outcome=outcome: outcome.append(pair.opt.step(*given, **extras)))
                norm = outcome[0]
            else:
                norm = pair.opt.step(*given, **extras)
            expected = pair.model.step(separate, **extras)
            assert repr(norm) == repr(expected)
            for found, wanted in zip(grads, separate, strict=True):
                assert_same_bits(found, wanted, "gradient")
            pair.check()

    @rule(which=which, seed=seeds)
    def bind(self, which, seed):
        pair = self.pair(which)
        pair.bound = gradients(self.like, seed, shared=False)
        pair.opt.bind(pair.model.arranged(pair.bound))

    @precondition(lambda self: self.form in ("list", "mapping", "groups"))
    @rule(
        which=which,
        seed=seeds,
        place=st.integers(0, 3),
        kind=st.integers(0, 17),
        bind=st.booleans(),
        zero=st.booleans(),
    )
    def bad_gradients(self, which, seed, place, kind, bind, zero):
        pair = self.pair(which)
        grads = gradients(self.like, seed)
        place %= len(grads)
        good, param = grads[place], pair.opt.params[place]
        doubles = np.zeros(good.shape)
        bad = [
            None, Failing(), good.astype(np.longdouble), doubles.astype(np.int32), good.astype(">f4"),
            np.ones((*good.shape, 2), good.dtype), doubles.astype(complex), "1.0", "x", [1.0] * 3,
            np.ma.masked_array(doubles), Gradient(doubles, fail), Gradient(doubles, lambda: 1 / 0), param,
            np.zeros(doubles.nbytes + 1, np.uint8)[1:].view(float).reshape(good.shape) if good.size else None,
            param[::-1] if param.ndim else param[...],
            doubles.astype(object), doubles.astype(bool),
        ][kind]  # fmt: skip
        if kind in (13, 15) and not good.size:
            return  # a tensor without elements shares no memory
        grads[place] = bad
        before = [g.tobytes() for g in grads if isinstance(g, np.ndarray)]
        use = pair.opt.bind if bind else lambda grads: pair.opt.step(grads, zero_grad=zero)
        with pytest.raises((TypeError, ValueError)) as caught:
            use(pair.model.arranged(grads))  # the error may also be about another one, which cannot be zeroed
        assert type(caught.value) in (TypeError, ValueError)
        assert [g.tobytes() for g in grads if isinstance(g, np.ndarray)] == before
        if pair.bound is not None:  # the former binding is kept
            pair.opt.step()
            pair.model.step(pair.bound)

    @rule(which=which, seed=seeds, kind=st.integers(0, 8))
    def bad_structure(self, which, seed, kind):
        pair = self.pair(which)
        grads = gradients(self.like, seed)
        whole = pair.model.arranged(grads)
        as_list = list(whole) if isinstance(whole, (list, tuple)) else grads
        mapping = {"x": grads[0], **dict(enumerate(grads))}
        bad = [
            [*as_list, as_list[0]], as_list[1:], mapping, 3.0, iter(int, 1), FailingList(as_list), "abc", [[]], {},
        ][kind]  # fmt: skip
        if self.form == "one" and kind == 1 and len(bad) == 0:
            bad = None if pair.bound is None else [[]]
        with pytest.raises((TypeError, ValueError, Mischief)) as caught:
            pair.opt.step(bad)
        assert type(caught.value) in (TypeError, ValueError, Mischief)

    @precondition(lambda self: self.form == "list")
    @rule(which=which, seed=seeds, kind=st.integers(0, 4))
    def a_list_that_changes_while_it_is_read(self, which, seed, kind):
        pair = self.pair(which)
        grads = gradients(self.like, seed, dlpack=True)
        separate = [g.copy() for g in grads]
        whole = list(grads)
        act = [
            whole.clear,
            lambda: whole.append(None),
            lambda: whole.__setitem__(len(whole) - 1, None),
            lambda: whole.__setitem__(0, np.ones(99)),  # this item has already been read
            lambda: None,
        ][kind]
        whole[0] = Gradient(grads[0], act)
        if kind == 4:
            whole = LongList(whole)
        last = len(grads) - 1
        if last and kind in (0, 2):
            with pytest.raises((TypeError, ValueError)):
                pair.opt.step(whole)
        else:
            pair.opt.step(whole)
            pair.model.step(separate)

    @rule(which=which, bad=st.sampled_from([
        {"grad_scale": math.nan}, {"grad_scale": math.inf}, {"grad_scale": "1"}, {"grad_scale": 10**400},
        {"max_norm": -1.0}, {"max_norm": math.nan}, {"max_norm": Failing()}, {"zero_grad": np.ones(2)}, {"scale": 1.0},
    ]), seed=seeds)  # fmt: skip
    def bad_extras(self, which, bad, seed):
        pair = self.pair(which)
        with pytest.raises((TypeError, ValueError)) as caught:
            pair.opt.step(pair.model.arranged(gradients(self.like, seed)), **bad)
        assert type(caught.value) in (TypeError, ValueError)

    # ---- From several threads and processes. ----

    @rule(which=which, seed=seeds)
    def two_steps_at_once(self, which, seed):
        """Each of the two steps is done as a whole or refused."""
        pair = self.pair(which)
        grads = gradients(self.like, seed)
        whole = pair.model.arranged(grads)
        barrier, done, refused, others = threading.Barrier(2), [], [], []

        def run():
            barrier.wait()
            try:
                pair.opt.step(whole)
                done.append(1)
            except RuntimeError:
                refused.append(1)
            except BaseException as error:
                others.append(error)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not others
        assert done
        assert len(done) + len(refused) == 2
        for _ in done:
            pair.model.step(grads)

    @rule(which=which, seed=seeds, elsewhere=st.booleans())
    def a_gradient_that_uses_the_optimizer(self, which, seed, elsewhere):
        """A gradient is asked for its memory during the step, when everything that changes the optimizer is refused."""
        pair = self.pair(which)
        opt, grads, refused = pair.opt, gradients(self.like, seed, dlpack=True), []
        saved = opt.state_dict()
        misuses = [
            lambda: opt.step(pair.model.arranged(grads)), lambda: setattr(opt, "lr", 9.0), lambda: opt.bind(None),
            lambda: opt.load_state_dict(saved), lambda: setattr(opt, "threads", 7), opt.state_dict,
        ]  # fmt: skip

        def misuse():
            for act in misuses:
                try:
                    act()
                except RuntimeError:
                    refused.append(act)

        wrapped = [Gradient(g, (lambda: in_thread(misuse)) if elsewhere else misuse) for g in grads[:1]]
        opt.step(pair.model.arranged([*wrapped, *grads[1:]]))
        assert refused == misuses
        pair.model.step(grads)

    @rule(which=which, seed=seeds)
    def step_in_a_child(self, which, seed):
        pair = self.pair(which)
        grads = gradients(self.like, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads
            child = os.fork()
        if child == 0:
            status = 1
            try:
                pair.opt.step(pair.model.arranged(grads))
                pair.model.step(grads)
                pair.check()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    # ---- Hyperparameters and threads. ----

    @rule(which=which, data=st.data(), one_group=st.booleans())
    def set_hyperparameter(self, which, data, one_group):
        pair = self.pair(which)
        name = data.draw(st.sampled_from([n for n in pair.opt._hypers() if n not in pair.opt._fixed]), "name")
        value = data.draw(st.sampled_from(valid(name)), "value")
        groups = range(len(self.sizes))
        if one_group:
            groups = [data.draw(st.sampled_from(list(groups)), "group")]
        changes = {k: {name: value} for k in groups}

        def change():
            if one_group:
                pair.opt.param_groups[groups[0]][name] = value
            else:
                setattr(pair.opt, name, value)

        if words := pair.model.refused(changes):
            with pytest.raises(ValueError, match=words):
                change()
        else:
            change()
            pair.model.set(changes)

    @precondition(lambda self: len(self.sizes) > 1)
    @rule(which=which)
    def set_what_one_group_refuses(self, which):
        """The change is refused, and all groups stay as they were."""
        pair = self.pair(which)
        changes = {k: {"lr": 1e39} for k in range(len(self.sizes))}
        if pair.model.refused(changes):
            with pytest.raises(ValueError, match="lr"):
                pair.opt.lr = 1e39

    @rule(which=which, data=st.data(), bad=st.sampled_from(INVALID), last_group=st.booleans())
    def set_bad_hyperparameter(self, which, data, bad, last_group):
        pair = self.pair(which)
        name = data.draw(st.sampled_from([*pair.opt._hypers()]), "name")
        use = pair.opt.param_groups[-1].update if last_group else lambda change: setattr(pair.opt, name, bad)
        with pytest.raises((TypeError, ValueError)) as caught:
            use({name: bad})
        assert type(caught.value) in (TypeError, ValueError)
        with pytest.raises(KeyError, match="rate"):
            pair.opt.param_groups[-1]["rate"] = 0.5
        with pytest.raises(AttributeError, match="rate"):
            pair.opt.rate = 0.5

    @rule(
        which=which,
        threads=st.sampled_from([None, 1, 2, 5, 10**30, 0, -1, 1.5, "2", -(10**400)]),
        everyone=st.booleans(),
    )
    def set_threads(self, which, threads, everyone):
        pair = self.pair(which)
        before, at_all = pair.opt.threads, fastopt.get_num_threads()
        good = threads is None or (isinstance(threads, int) and threads > 0)
        try:
            if everyone:
                fastopt.set_num_threads(threads)
            else:
                pair.opt.threads = threads
            assert good
        except (TypeError, ValueError):
            assert not good
            assert (pair.opt.threads, fastopt.get_num_threads()) == (before, at_all)

    # ---- State. ----

    @rule(into=which, source=which)
    def load(self, into, source):
        pair, other = self.pair(into), self.pair(source)
        fits = [*pair.opt._hypers()] == [*other.opt._hypers()] and RULES[pair.model.rule].states == RULES[
            other.model.rule
        ].states
        if fits and pair.model.cls._shared:
            fits = pair.opt.at_lookahead == other.opt.at_lookahead
        saved = other.opt.state_dict()
        kept = pickle.dumps(saved)
        if fits:
            pair.opt.load_state_dict(saved)
            pair.model.load(other.model)
        else:
            with pytest.raises(ValueError, match="state_dict"):
                pair.opt.load_state_dict(saved)
        assert pickle.dumps(saved) == kept

    @rule(into=which, source=which, params=st.booleans())
    def save_and_load(self, into, source, params):
        """Through a file, with the parameters or without them."""
        pair, other = self.pair(into), self.pair(source)
        path = Path(self.folder.name) / "checkpoint.npz"
        other.opt.save(path, params=params)
        fits = pair.model.rule == other.model.rule
        if fits and pair.model.cls._shared:
            fits = pair.opt.at_lookahead == other.opt.at_lookahead
        if not fits:
            with pytest.raises(ValueError, match="cannot be loaded"):
                pair.opt.load(path, params=params)
            return
        pair.opt.load(path, params=params)
        pair.model.load(other.model)
        if params:
            for mine, saved in zip(pair.model.params, other.model.params, strict=True):
                mine[...] = saved

    @rule(which=which, data=st.data())
    def load_damaged(self, which, data):
        pair = self.pair(which)
        saved = pair.opt.state_dict()
        for one in saved["param_groups"]:  # so that a value that is set before the error is seen
            one["lr"] = 0.125
        for one in saved["state"].values():
            one.update({name: value + 1 for name, value in one.items()})
        last = len(self.like) - 1
        group, state = saved["param_groups"][-1], saved["state"][last]
        damages = [
            lambda: saved.pop("state"), lambda: saved.pop("param_groups"), lambda: group.pop("lr"),
            lambda: saved.update(more=1), lambda: group.update(lr=math.nan), lambda: group.update(lr=10**400),
            lambda: group.update(lr="fast"), lambda: group.update(maximize=1),
            lambda: group.update(params=[*group["params"], 9]),
            lambda: group.update(params=iter(int, 1)), lambda: saved.update(param_groups=iter(int, 1)),
            lambda: saved.update(state={last + 1: {}}), lambda: saved["state"].update({last: 3}),
            lambda: state.update(step=-1), lambda: state.update(step=10**400), lambda: state.update(step=math.nan),
            lambda: state.update(strange=1), lambda: saved["param_groups"].append(group),
            lambda: saved.update(param_groups=[None] * len(self.sizes)), lambda: saved.update(state=None),
        ]  # fmt: skip
        buffers = [name for name in state if name != "step"]
        if buffers:
            name = data.draw(st.sampled_from(buffers), "buffer")
            good = state[name]
            other = np.float64 if good.dtype == np.float32 else np.float32
            damages += [
                lambda: state.update({name: good.astype(other)}), lambda: state.update({name: good[None]}),
                lambda: state.update({name: Failing()}), lambda: state.update({name: "x"}),
                lambda: state.update({name: range(10**15)}),
                lambda: state.update({name: np.ma.masked_array(good)}),
                lambda: state.update({name: good.astype(">c16")}),
            ]  # fmt: skip
        data.draw(st.sampled_from(damages), "damage")()
        with pytest.raises((TypeError, ValueError)) as caught:
            pair.opt.load_state_dict(saved)
        assert type(caught.value) in (TypeError, ValueError)

    @rule(which=which, data=st.data())
    def load_own_buffers(self, which, data):
        """Loads live state buffers, perhaps those of one parameter or buffer for another."""
        pair = self.pair(which)
        saved = pair.opt.state_dict()
        live = list(pair.opt.state.values())
        names = sorted(live[0].keys() - {"step"})
        if not names:
            return
        order = data.draw(st.permutations(names), "order")
        wanted = [
            {name: state[source].copy() for name, source in zip(names, order, strict=True) if source in state}
            for state in live
        ]
        if not all(name in state for state in live for name in names):
            return
        for i, state in enumerate(live):
            saved["state"][i] |= {name: state[source] for name, source in zip(names, order, strict=True)}
        pair.opt.load_state_dict(saved)
        pair.model.load(pair.model)
        for i, state in enumerate(wanted):
            pair.model.state[i].update(state)

    @rule(which=which, protocol=st.sampled_from([None, 2, pickle.HIGHEST_PROTOCOL]))
    def duplicate(self, which, protocol):
        pair = self.pair(which)
        twin = copy.deepcopy(pair.opt) if protocol is None else pickle.loads(pickle.dumps(pair.opt, protocol))
        assert not any(np.may_share_memory(a, b) for a, b in zip(twin.params, pair.opt.params, strict=True) if a.size)
        model = copy.deepcopy(pair.model)
        model.form = "list" if model.form == "tuple" else model.form
        self.pairs.append(Pair(twin, model))
        if len(self.pairs) > 4:
            self.pairs.pop(0)

    # ---- Deleting optimizers and bindings. ----

    @precondition(lambda self: len(self.pairs) > 1)
    @rule(which=which)
    def delete_optimizer(self, which):
        """The optimizer's arrays, and views of them, must stay valid."""
        pair = self.pairs.pop(which % len(self.pairs))
        for state in pair.opt.state.values():
            self.kept += [(a[...], a.tobytes()) for name, a in state.items() if name != "step"]
        self.kept += [(p[...], p.tobytes()) for p in pair.opt.params]
        del pair.opt, pair, state
        gc.collect()
        self.kept = self.kept[-20:]
        for array, bits in self.kept:
            assert array.tobytes() == bits

    @precondition(lambda self: any(pair.bound is not None for pair in self.pairs))
    @rule(which=which)
    def unbind(self, which):
        """A step with bound gradients that only the optimizer still refers to; then they are unbound."""
        pairs = [pair for pair in self.pairs if pair.bound is not None]
        pair = pairs[which % len(pairs)]
        grads, pair.bound = [g.copy() for g in pair.bound], None
        gc.collect()
        pair.opt.step()
        pair.model.step(grads)
        pair.opt.bind(None)
        with pytest.raises(TypeError, match="no gradients are bound"):
            pair.opt.step()

    # ---- NAG's look-ahead, and the norm. ----

    @precondition(lambda self: any(pair.model.cls is fastopt.NAG for pair in self.pairs))
    @rule(which=which, seed=seeds, raising=st.booleans())
    def lookahead(self, which, seed, raising):
        pairs = [pair for pair in self.pairs if pair.model.cls is fastopt.NAG]
        pair = pairs[which % len(pairs)]
        if pair.model.of(0)["at_lookahead"]:
            with pytest.raises(RuntimeError, match="already"), pair.opt.lookahead():
                pass
            return
        try:
            with pair.opt.lookahead():
                for i, (found, p) in enumerate(zip(pair.opt.params, pair.model.params, strict=True)):
                    mu = p.dtype.type(pair.model.of(i)["momentum"])
                    with np.errstate(all="ignore"):
                        assert_same_bits(found, p - mu * pair.model.state[i]["momentum_buffer"])
                for misuse in (
                    lambda: pair.opt.step(pair.model.arranged(tensors(self.like, seed))),
                    lambda: copy.copy(pair.opt),
                    lambda: pair.opt.load_state_dict({"state": {}, "param_groups": pair.opt._saved_groups()}),
                ):
                    with pytest.raises(RuntimeError):
                        misuse()
                if raising:
                    raise Mischief
        except Mischief:
            assert raising

    @rule(seed=seeds, odd=st.booleans(), max_norm=st.sampled_from([0.0, 1.0, 1e3, math.inf]), form=layouts)
    def norms(self, seed, odd, max_norm, form):
        grads = gradients(self.like, seed, odd, shared=False)
        expected = [g.copy() for g in grads]
        whole = {"one": lambda: grads[0], "mapping": lambda: dict(enumerate(grads))}.get(form, lambda: list(grads))()
        used = expected[:1] if form == "one" else expected
        assert repr(fastopt.global_norm(whole)) == repr(reference.global_norm(used))
        for bad in (math.nan, -1, "x", 10**400):
            with pytest.raises((TypeError, ValueError), match="max_norm"):
                fastopt.clip_grad_norm(whole, bad)
        with pytest.raises((TypeError, ValueError)):
            fastopt.clip_grad_norm([*grads, np.ones(2, int)], max_norm)
        assert repr(fastopt.clip_grad_norm(whole, max_norm)) == repr(reference.clip_grad_norm(used, max_norm))
        for found, wanted in zip(grads, expected, strict=True):
            assert_same_bits(found, wanted)

    @invariant()
    def as_the_model(self):
        Machine.compared += 1
        for pair in self.pairs:
            pair.check()

    def teardown(self):
        self.folder.cleanup()
        fastopt.set_num_threads(None)


def normal(chosen):
    return {
        name: tuple(map(float, value)) if name == "betas" else bool(value) if is_switch(name) else float(value)
        for name, value in chosen.items()
    }


def in_thread(work):
    """Runs `work` in another thread, waits for it, and raises its error here."""
    errors = []

    def run():
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("examples", [FEW, pytest.param(EXAMPLES, marks=pytest.mark.slow)])
def test_random_sequences_of_uses(examples, tried):
    profile = settings.get_current_profile_name()
    before = Machine.compared
    suite = settings(SUITE, max_examples=examples)
    run_state_machine_as_test(Machine, settings=settings() if profile == "fuzz" else suite)
    tried(Machine.compared - before, "uses in any order, each compared with a model")


def test_the_classes_cover_every_rule():
    assert {cls.rule for cls in CLASSES} == set(RULES)
