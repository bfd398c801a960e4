"""Every way to take an Adam step that fastopt is measured against: one small class each, and a table of them.

A peer steps the parameters of a `Case` and, where it is a function on arrays, the case's states. It is made while the
case is at its start. `step()` takes one step with the gradients of the case or, after `feed`, with others.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from measure import Contender, looped, prepared
from models import Array, Case

import fastopt
from fastopt import reference


class Threads(Enum):
    """Whether a peer's threads can be chosen."""

    ONE = "has one"
    CHOSEN = "can be set"
    OWN = "as many as it likes: they cannot be set"


class Peer:
    """A way to take an Adam step."""

    name: ClassVar[str]
    threading: ClassVar[Threads] = Threads.ONE
    exact: ClassVar[bool] = False  # whether it promises the bits of fastopt.reference
    tuned: ClassVar[bool] = False  # whether it is tuned beyond what users write, and so is no "best peer"
    package: ClassVar[str | None] = None  # the package that must be installed, as PyPI names it
    step: Callable[[], object]
    prepare: Callable[[], object] | None = None  # called before each step, if steps spoil the gradients

    @classmethod
    def load(cls) -> None:
        """Imports and compiles what the peer needs; raises an error if that fails."""

    def __init__(self, case: Case, threads: int) -> None:
        self.case, self.threads, self.grads = case, threads, case.grads

    def enter(self) -> None:
        """Called at the beginning of a turn."""

    def feed(self, grads: Sequence[Array]) -> None:
        """Gives other gradients for the next steps, as after a backward pass."""
        self.grads = list(grads)

    def sync(self) -> None:
        """Copies the parameters into the case's arrays, if the peer keeps its own."""

    @classmethod
    def thread_counts(cls, threads: Sequence[int]) -> Sequence[int | None]:
        if cls.threading is Threads.CHOSEN:
            return threads
        return [1 if cls.threading is Threads.ONE else None]


# ---- fastopt. ----


class Bound(Peer):
    """fastopt with gradients bound once, for a backward pass that writes to the same arrays every time."""

    name, exact, threading = "fastopt", True, Threads.CHOSEN

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        self.step = case.opt.step

    def enter(self) -> None:
        self.case.opt.threads = self.threads
        self.case.opt.bind(self.grads)

    def feed(self, grads: Sequence[Array]) -> None:
        super().feed(grads)
        self.case.opt.bind(self.grads)


class Given(Peer):
    """fastopt with gradients given in every step."""

    name, exact, threading = "fastopt, step(grads)", True, Threads.CHOSEN

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        self.step = functools.partial(case.opt.step, self.grads)

    def enter(self) -> None:
        self.case.opt.threads = self.threads

    def feed(self, grads: Sequence[Array]) -> None:
        self.step = functools.partial(self.case.opt.step, list(grads))


OURS: tuple[type[Peer], ...] = (Bound, Given)


# ---- NumPy. ----


class States(Peer):
    """The base of peers that are functions on arrays: hyperparameters, and a count of the steps."""

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        self.count = 0
        self.lr, self.betas, self.eps = (case.hypers[name] for name in ("lr", "betas", "eps"))
        self.moments = list(zip(case.states["exp_avg"], case.states["exp_avg_sq"], strict=True))


class Naive(States):
    """The formula as one writes it down."""

    name = "NumPy naive"

    def step(self) -> None:  # type: ignore[override]
        self.count += 1
        (beta1, beta2), t = self.betas, self.count
        for p, g, (m, v) in zip(self.case.params, self.grads, self.moments, strict=True):
            m[...] = beta1 * m + (1 - beta1) * g
            v[...] = beta2 * v + (1 - beta2) * g**2
            m_hat = m / (1 - beta1**t)
            v_hat = v / (1 - beta2**t)
            p -= self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


class AdamInPlace:
    """`fastopt.reference.adam` as one writes it for speed: in place, every temporary allocated once.

    It does what the reference does, operation by operation; `lean` leaves out those that change nothing without
    gradient scale and weight decay. `scratch` are two arrays of the parameter's shape, three unless lean.
    """

    def __init__(self, scratch: Sequence[Array], lean: bool) -> None:
        self.scratch, self.lean = scratch, lean

    def __call__(self, p: Array, g: Array, m: Array, v: Array, step: int, lr: float) -> None:
        a, b, *rest = self.scratch
        real, beta1, beta2, scale, decay, keep = p.dtype.type, 0.9, 0.999, 1.0, 0.0, 1.0
        if not self.lean:
            scaled = np.multiply(g, real(scale), out=rest[0])
            np.multiply(p, real(decay), out=a)
            g = np.add(scaled, a, out=scaled)
        np.multiply(g, real(1 - beta1), out=a)
        np.multiply(m, real(beta1), out=m)
        np.add(m, a, out=m)
        np.multiply(g, real(1 - beta2), out=a)
        np.multiply(a, g, out=a)
        np.multiply(v, real(beta2), out=v)
        np.add(v, a, out=v)
        np.sqrt(v, out=a)
        np.multiply(a, real(1 / np.sqrt(1 - reference._power(beta2, step))), out=a)
        np.add(a, real(1e-8), out=a)
        np.multiply(m, real(lr / (1 - reference._power(beta1, step))), out=b)
        np.divide(b, a, out=b)
        if not self.lean:
            np.multiply(p, real(keep), out=p)
        np.subtract(p, b, out=p)


class InPlace(States):
    """The formula in place, without temporaries."""

    name, exact = "NumPy in place", True

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        largest = max(param.size for param in case.params)
        scratch = [np.empty(largest, param.dtype) for param in case.params[:1] for _ in range(2)]
        self.rules = [
            AdamInPlace([array[: param.size].reshape(param.shape) for array in scratch], lean=True)
            for param in case.params
        ]

    def step(self) -> None:  # type: ignore[override]
        self.count += 1
        for rule, p, g, (m, v) in zip(self.rules, self.case.params, self.grads, self.moments, strict=True):
            rule(p, g, m, v, self.count, self.lr)


# ---- numba. ----


class Numba(States):
    """A plain compiled loop, called for each tensor; on more than one thread its parallel form."""

    name, package, threading = "numba", "numba", Threads.CHOSEN
    options: ClassVar[dict[str, Any]] = {}

    @classmethod
    def load(cls) -> None:
        import numba

        cls.set_threads = numba.set_num_threads
        cls.loops = {
            parallel: numba.njit(parallel=parallel, **cls.options)(cls.loop(numba.prange)) for parallel in (False, True)
        }

    @staticmethod
    def loop(each: Any) -> Callable[..., None]:
        def adam(
            p: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, eps: float
        ) -> None:
            step_size = lr / (1 - beta1**t)
            root = np.sqrt(1 - beta2**t)
            for i in each(p.size):
                m[i] = beta1 * m[i] + (1 - beta1) * g[i]
                v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i]
                p[i] -= step_size * m[i] / (np.sqrt(v[i]) / root + eps)

        return adam

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        self.flat = [
            (p.reshape(-1), m.reshape(-1), v.reshape(-1)) for p, (m, v) in zip(case.params, self.moments, strict=True)
        ]
        self.feed(case.grads)

    def enter(self) -> None:
        type(self).set_threads(self.threads)

    def feed(self, grads: Sequence[Array]) -> None:
        self.grads = [grad.reshape(-1) for grad in grads]

    def step(self) -> None:  # type: ignore[override]
        self.count += 1
        loop, hypers = self.loops[self.threads > 1], self.hypers()
        for (p, m, v), g in zip(self.flat, self.grads, strict=True):
            loop(p, g, m, v, *hypers)

    def hypers(self) -> tuple[float, ...]:
        """The arguments of the loop after the arrays."""
        return self.count, self.lr, *self.betas, self.eps


class NumbaTuned(Numba):
    """All in float32, without Python's rules for a division by zero, which forbid vectors, and with few arguments."""

    name, tuned, options = "numba, tuned", True, {"error_model": "numpy"}

    @staticmethod
    def loop(each: Any) -> Callable[..., None]:
        one = np.float32(1)
        beta1, beta2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)

        def adam(p: Array, g: Array, m: Array, v: Array, step_size: float, root: float) -> None:
            a, r = np.float32(step_size), np.float32(root)
            for i in each(p.size):
                m[i] = beta1 * m[i] + (one - beta1) * g[i]
                v[i] = beta2 * v[i] + (one - beta2) * g[i] * g[i]
                p[i] -= a * m[i] / (np.sqrt(v[i]) * r + eps)

        return adam

    def hypers(self) -> tuple[float, ...]:
        return self.lr / (1 - self.betas[0] ** self.count), (1 - self.betas[1] ** self.count) ** -0.5


# ---- torch and DeepSpeed. ----


class Torch(Peer):
    """torch.optim's namesake of the case's optimizer, on the case's parameters and gradients.

    torch makes the states itself, as in any program: where they lie in memory is part of its performance.
    """

    name, package, threading = "torch default", "torch", Threads.CHOSEN
    options: ClassVar[dict[str, bool]] = {}

    @classmethod
    def load(cls) -> None:
        importlib.import_module("torch")

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        import torch

        self.torch = torch
        self.params = [torch.nn.Parameter(torch.from_numpy(param)) for param in case.params]
        self.opt = self.make(self.params)
        self.feed(case.grads)
        self.step = self.opt.step

    def make(self, params: list[Any]) -> Any:
        hypers = {name: self.case.hypers[name] for name in ("lr", "betas", "eps", "weight_decay")}
        return self.torch.optim.Adam(params, **hypers, **self.options)

    def enter(self) -> None:
        self.torch.set_num_threads(self.threads)

    def feed(self, grads: Sequence[Array]) -> None:
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = self.torch.from_numpy(grad)


class TorchForeach(Torch):
    name, options = "torch foreach", {"foreach": True}


class TorchFused(Torch):
    name, options = "torch fused", {"fused": True}


class DeepSpeed(Torch):
    """DeepSpeedCPUAdam, which compiles itself when it is first made."""

    name, package = "DeepSpeed CPUAdam", "deepspeed"

    @classmethod
    def load(cls) -> None:
        # DeepSpeed needs ninja on the path, and a folder for what it builds.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        os.environ.setdefault(
            "TORCH_EXTENSIONS_DIR", str(Path(tempfile.gettempdir()) / "fastopt-bench-torch-extensions")
        )
        import torch

        with quiet():
            adam = importlib.import_module("deepspeed.ops.adam")
            cls.build = adam.DeepSpeedCPUAdam
            cls.build([torch.nn.Parameter(torch.zeros(1))])
        from threadpoolctl import ThreadpoolController

        cls.openmp = ThreadpoolController().select(user_api="openmp").lib_controllers

    def make(self, params: list[Any]) -> Any:
        hypers = {name: self.case.hypers[name] for name in ("lr", "betas", "eps", "weight_decay")}
        with quiet():
            return self.build(params, **hypers, adamw_mode=False)

    def enter(self) -> None:
        super().enter()
        for library in self.openmp:  # DeepSpeed's OpenMP may be another one than torch's
            library.set_num_threads(self.threads)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses standard output and standard error, those of C++ and subprocesses too."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(stream) for stream in (1, 2)]
    try:
        with open(os.devnull, "w") as nowhere:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
            yield
    finally:
        for stream, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, stream)
            os.close(copy)


# ---- Other libraries. ----


class Optax(Peer):
    """optax.adam and apply_updates, compiled as one function whose inputs are donated."""

    name, package, threading = "optax jit", "optax", Threads.OWN

    @classmethod
    def load(cls) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax
        import optax

        cls.jax, cls.optax = jax, optax

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        jax, optax = self.jax, self.optax
        rule = optax.adam(case.hypers["lr"], *case.hypers["betas"], eps=case.hypers["eps"])

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = rule.update(grads, state)
            return optax.apply_updates(params, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 1))
        self.params = [jax.numpy.array(param) for param in case.params]
        self.state = rule.init(self.params)
        self.feed(case.grads)

    def feed(self, grads: Sequence[Array]) -> None:
        self.grads = [self.jax.numpy.asarray(grad) for grad in grads]

    def step(self) -> None:  # type: ignore[override]
        self.params, self.state = self.update(self.params, self.state, self.grads)
        self.jax.block_until_ready((self.params, self.state))

    def sync(self) -> None:
        for param, value in zip(self.case.params, self.params, strict=True):
            param[...] = np.asarray(value)


class Thinc(States):
    """thinc.api.Adam without clipping and averages; it clears the gradients that it is given."""

    name, package = "thinc", "thinc"

    @classmethod
    def load(cls) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cls.api = importlib.import_module("thinc.api")

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        beta1, beta2 = self.betas
        self.opt = self.api.Adam(
            self.lr, beta1=beta1, beta2=beta2, eps=self.eps, L2=0.0, grad_clip=0.0, use_averages=False
        )
        for i, (m, v) in enumerate(self.moments):
            self.opt.mom1[i, "w"], self.opt.mom2[i, "w"] = m.reshape(-1), v.reshape(-1)
        self.keys = [(i, "w") for i in range(len(self.moments))]
        self.spoiled = [grad.copy() for grad in self.grads]

    def prepare(self) -> None:  # type: ignore[override]
        for spoiled, grad in zip(self.spoiled, self.grads, strict=True):
            spoiled[...] = grad

    def step(self) -> None:  # type: ignore[override]
        for key, param, grad in zip(self.keys, self.case.params, self.spoiled, strict=True):
            self.opt(key, param, grad)


class ScikitLearn(States):
    """The optimizer inside MLPClassifier; it has its own states, of which it makes new ones in each step."""

    name, package = "scikit-learn", "scikit-learn"

    @classmethod
    def load(cls) -> None:
        cls.build = importlib.import_module("sklearn.neural_network._stochastic_optimizers").AdamOptimizer

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        self.opt = self.build(case.params, self.lr, *self.betas, self.eps)

    def step(self) -> None:  # type: ignore[override]
        self.opt.update_params(self.case.params, self.grads)


PEERS: tuple[type[Peer], ...] = (
    Naive,
    InPlace,
    Numba,
    NumbaTuned,
    Torch,
    TorchForeach,
    TorchFused,
    DeepSpeed,
    Optax,
    Thinc,
    ScikitLearn,
)
NAMES = [peer.name for peer in PEERS]


def load(names: Sequence[str]) -> tuple[list[type[Peer]], dict[str, str]]:
    """The peers of these names that can be loaded, and for each other one the reason."""
    here, missing = [], {}
    for peer in PEERS:
        if peer.name not in names:
            continue
        try:
            if peer.package is not None:
                importlib.metadata.version(peer.package)
            peer.load()
        except importlib.metadata.PackageNotFoundError:
            missing[peer.name] = "not installed"
        except Exception as error:  # other libraries raise any error when they fail to load
            missing[peer.name] = f"failed to load: {_first_line(error)}"
        else:
            here.append(peer)
    return here, missing


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


CHECKED_STEPS = 2


def contenders(
    case: Case, peers: Sequence[type[Peer]], threads: Sequence[int]
) -> tuple[list[Contender], dict[str, str]]:
    """Contenders of those peers that step `case` as the reference does, and for each other one what is wrong."""
    made, dropped = [], {}
    expected = case.expected(CHECKED_STEPS)
    for peer in peers:
        for count in peer.thread_counts(threads):
            try:
                case.reset()
                contender = peer(case, count or max(threads))
                timed = prepared(contender.step, contender.prepare) if contender.prepare else looped(contender.step)
                contender.enter()
                timed(CHECKED_STEPS)
                contender.sync()
                difference = differs(case, expected, peer.exact)
            except Exception as error:  # as above
                difference = _first_line(error)
            if difference:
                dropped[peer.name] = difference
            else:
                made.append(Contender(peer.name, count, timed, contender.enter))
    case.settle()
    return made, dropped


def differs(case: Case, expected: Sequence[Array], exact: bool) -> str:
    """A description of how the parameters of the case differ from those expected; empty if they do not."""
    for found, wanted, start in zip(case.params, expected, case.start, strict=True):
        if exact:
            if found.tobytes() != wanted.tobytes():
                return "other bits than fastopt.reference"
        # The tolerance: a thousandth of the distance from the start, and a few units in the last place.
        elif not np.all(np.abs(found - wanted) <= 1e-3 * np.abs(wanted - start) + 1e-6):
            return f"other values than fastopt.reference, by up to {np.abs(found - wanted).max():.1e}"
    return ""


def versions() -> dict[str, str]:
    """The versions of the installed packages that take part."""
    found = {}
    for package in dict.fromkeys(["numpy", *(peer.package for peer in PEERS if peer.package), "jax"]):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def default_threads() -> list[int]:
    """One thread, and as many as fastopt uses by default."""
    return sorted({1, fastopt.get_num_threads()})
