"""Threads: the same bits on any number, forks, other threads of the program, other libraries, and the exit."""

import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT
from common import (
    CLASSES,
    DTYPES,
    LARGE,
    VARIANTS,
    assert_same_as_reference,
    assert_same_bits,
    calling_for,
    model,
    random_tensor,
    three_steps,
)

import fastopt
from fastopt import reference
from fastopt._rules import RULES
from fastopt._threads import cgroup_quotas


@pytest.fixture(autouse=True)
def same_number_of_threads():
    before = fastopt.get_num_threads()
    yield
    fastopt.set_num_threads(before)


def python(code, timeout=60, **environment):
    env = {key: value for key, value in os.environ.items() if key != "FASTOPT_NUM_THREADS"} | environment
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=timeout
    )


# PYTHONPATH for processes that are started here, which import this file and the modules that it imports.
PATHS = os.pathsep.join(map(str, [ROOT / "tests", Path(__file__).parent]))

# ---- The same bits. ----

# One tensor; many small ones; both types with empty ones; sizes around the cache lines at which pieces are cut.
MODELS = {
    "one": [LARGE],
    "many": [2001] * 400,
    "mixed": [300_000, 0, 3, 17, 250_001, 64, 0, 1, 200_003],
    "few lines": [300_007, 31, 15, 16, 17, 8, 7, 9, 299_993],
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("variant", [v for v in VARIANTS if not any(v.options.values())], ids=str)
def test_any_number_of_threads_gives_the_bits_of_the_reference(variant, name):
    """Also more threads than cores, and steps that find the workers asleep or awake."""
    cls = next(cls for cls in CLASSES if cls.rule == variant.rule)
    hypers = calling_for(variant.rule, variant.states)
    rng = np.random.default_rng(len(name))
    start = [random_tensor(rng, n, DTYPES[i % 2 if name == "mixed" else 0]) for i, n in enumerate(MODELS[name])]
    grads = [[random_tensor(rng, p.size, p.dtype) for p in start] for _ in range(2)]

    expected = reference.Optimizer(variant.rule, [p.copy() for p in start], lr=0.01, **hypers)
    for gs in grads:
        expected.step(gs)
    for threads in (1, 2, 3, 7):
        params = [p.copy() for p in start]
        opt = cls(params, lr=0.01, threads=threads, **hypers)
        for gs in grads:
            opt.step(gs)
        assert_same_as_reference(opt, expected)


def test_groups_with_their_own_step_counts_give_the_same_bits_on_any_number_of_threads():
    rng = np.random.default_rng(1)
    start = [rng.standard_normal(n).astype(np.float32) for n in (200_000, 5, 300_000, 100_003)]
    grads = [rng.standard_normal(p.size).astype(np.float32) for p in start]

    def run(threads):
        params = [p.copy() for p in start]
        opt = fastopt.Adam(
            [{"params": params[:2]}, {"params": params[2:], "lr": 0.5, "amsgrad": True}], threads=threads
        )
        both = [{"params": grads[:2]}, {"params": grads[2:]}]
        opt.step(both)
        saved = opt.state_dict()
        saved["state"][1]["step"] = 7
        opt.load_state_dict(saved)
        opt.step(both, max_norm=1.0)
        assert [state["step"] for state in opt.state.values()] == [2, 8, 2, 2]
        return params

    for found, expected in zip(run(4), run(1), strict=True):
        assert_same_bits(found, expected)


# ---- The number of threads. ----


def test_the_number_of_threads():
    fastopt.set_num_threads(3)
    assert fastopt.get_num_threads() == 3
    assert fastopt.show_config("dicts")["threads"] == "3"
    fastopt.set_num_threads(10**6)
    assert fastopt.get_num_threads() == 256
    fastopt.set_num_threads(np.int64(2))
    for bad, error in ((0, ValueError), (-3, ValueError), (1.0, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="threads must be"):
            fastopt.set_num_threads(bad)
    assert fastopt.get_num_threads() == 2
    opt = fastopt.SGD(np.ones(3))
    assert opt.threads is None
    opt.threads = 5
    assert opt.threads == 5
    with pytest.raises(ValueError, match="threads must be >= 1, got 0"):
        opt.threads = 0
    assert opt.threads == 5
    opt.threads = None
    assert opt.threads is None


COUNT = "import fastopt; print(fastopt.get_num_threads())"


def test_the_default_is_the_number_of_usable_cores():
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    quota = min(cgroup_quotas(), default=len(allowed))
    assert int(python(COUNT).stdout) == max(1, min(len(allowed), int(-(-quota // 1))))
    if hasattr(os, "sched_setaffinity"):
        one = f"import os; os.sched_setaffinity(0, [{allowed[0]}]); {COUNT}"
        assert int(python(one).stdout) == 1


def test_the_environment_sets_the_number_of_threads():
    for text, threads in (("1", 1), ("5", 5), ("", None), ("1000", 256)):
        found = python(f"{COUNT}; fastopt.set_num_threads(2); fastopt.set_num_threads(None); {COUNT}",
                       FASTOPT_NUM_THREADS=text)  # fmt: skip
        assert found.stdout.split() == [str(threads or fastopt._threads.default_num_threads())] * 2, found.stderr
    for text in ("0", "-1", "two", "1.5"):
        found = python(COUNT, FASTOPT_NUM_THREADS=text)
        assert found.returncode == 1
        assert f"ValueError: the environment variable FASTOPT_NUM_THREADS is {text!r}; it must be" in found.stderr


CGROUPS = {
    "no cgroups": ({}, []),
    "version 2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, [1.5]),
    "version 2, unlimited": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, []),
    "version 2, above": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
        },
        [3.0],
    ),
    "version 2, in a container": (
        {"proc/self/cgroup": "0::/docker/123\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
        [0.5],
    ),
    "version 1": (
        {
            "proc/self/cgroup": "12:memory:/x\n4:cpu,cpuacct:/x\n",
            "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        [4.0],
    ),
    "nonsense": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "many\n"}, []),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_quotas_of_control_groups(case, tmp_path):
    files, expected = CGROUPS[case]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(cgroup_quotas(tmp_path)) == expected


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the process's threads in /proc")
def test_threads_are_started_when_they_are_needed():
    code = f"""
import os, numpy as np, fastopt
def alive(): return len(os.listdir("/proc/self/task"))
before = alive()
small, large = fastopt.Adam(np.ones(1000)), fastopt.Adam(np.ones({LARGE}))
steps = lambda opt: [opt.step(np.ones_like(p)) for p in opt.params]
fastopt.set_num_threads(4)
steps(small); print(alive() - before)
large.threads = 1
steps(large); print(alive() - before)
large.threads = 3
steps(large); print(alive() - before)
large.threads = None
steps(large); steps(large); print(alive() - before)
"""
    assert python(code).stdout.split() == ["0", "0", "2", "3"]


def test_threadpoolctl_finds_and_limits_them():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="needs threadpoolctl: pip install threadpoolctl")
    fastopt.set_num_threads(3)
    (found,) = (pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "fastopt")
    assert found["num_threads"] == 3
    assert found["version"] == fastopt.__version__
    with threadpoolctl.threadpool_limits(limits=1):
        assert fastopt.get_num_threads() == 1
    assert fastopt.get_num_threads() == 3
    with threadpoolctl.threadpool_limits(limits={"fastopt": 2}):
        assert fastopt.get_num_threads() == 2
    assert fastopt.get_num_threads() == 3


# ---- Forks. ----


def after_steps(count, seed=0):
    p, g, opt = model(threads=1, seed=seed)
    for _ in range(count):
        opt.step(g)
    return p.tobytes()


def child_steps(step, p, expected):
    """Forks; the child takes a step and exits with 0 if `p` then has the expected bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns that the process has threads, as is intended
        child = os.fork()
    if child == 0:
        code = 1
        try:
            step()
            code = int(p.tobytes() != expected)
        finally:
            os._exit(code)
    return child


def wait_for(child, seconds=30):
    for _ in range(seconds * 1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_before_and_after_the_workers_start():
    expected = [after_steps(n) for n in range(6)]
    code = """
import common
import test_threads as t
p, g, opt = common.model()
child = t.child_steps(lambda: opt.step(g), p, t.after_steps(1))
assert t.wait_for(child) == 0
opt.step(g)
assert p.tobytes() == t.after_steps(1)
"""
    found = python(code, PYTHONPATH=PATHS)  # in a process that has no workers yet
    assert found.returncode == 0, found.stderr
    p, g, opt = model()
    opt.step(g)
    for count in range(2, 6):
        children = [child_steps(lambda: opt.step(g), p, expected[count]) for _ in range(3)]
        opt.step(g)
        assert p.tobytes() == expected[count]
        assert [wait_for(child) for child in children] == [0, 0, 0]


FORKS = 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
def test_fork_while_another_thread_steps(tried):
    """The child can step: the pool is free, although the thread that used it does not exist in the child."""
    p, g, opt = model(seed=1)
    mine, slope, other = model(seed=2)
    other.step(slope)
    expected = after_steps(2, seed=2)
    stop = threading.Event()

    def step_on():
        while not stop.is_set():
            opt.step(g)

    thread = threading.Thread(target=step_on)
    thread.start()
    try:
        for _ in range(FORKS):
            assert wait_for(child_steps(lambda: other.step(slope), mine, expected)) == 0
    finally:
        stop.set()
        thread.join()
    taken = opt.state[0]["step"]
    assert taken > 0
    assert p.tobytes() == after_steps(taken, seed=1)
    tried(FORKS, "forks while another thread steps")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the process's threads in /proc")
@pytest.mark.parametrize("busy", [False, True])
def test_a_child_starts_its_own_workers_and_exits(busy):
    """Also when the child is forked while another thread uses the pool."""
    code = f"""
import os, sys, threading, common
p, g, opt = common.model()
opt.step(g)
mine, slope, other = common.model(seed=1)
if {busy}:
    def forever():
        while True: opt.step(g)
    threading.Thread(target=forever, daemon=True).start()
for turn in range(10):
    child = os.fork()
    if child == 0:
        other.step(slope)
        print(len(os.listdir("/proc/self/task")), flush=True)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
"""
    found = python(code, PYTHONPATH=PATHS, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert found.stdout.split() == ["3"] * 10, found.stderr


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing(method):
    three_steps(0)  # starts workers, which a forked child does not have
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.map_async(three_steps, [1, 2]).get(timeout=60)
    assert found == [after_steps(3, 1), after_steps(3, 2)]


# ---- Several Python threads, and the exit. ----


def test_several_python_threads_step_their_own_optimizers():
    """One of them uses the pool at a time, and the others do not wait for it."""
    results, errors = {}, []

    def run(seed):
        try:
            results[seed] = three_steps(seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert results == {seed: after_steps(3, seed) for seed in range(6)}


def test_many_short_jobs_between_naps():
    """Whether workers are asleep, about to sleep or spinning, no part of a job is lost or done twice."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal(300_000).astype(np.float32)
    expected = fastopt.global_norm(g, threads=1)
    for turn in range(1500):
        assert fastopt.global_norm(g, threads=2 + turn % 3) == expected
        if turn % 50 == 0:
            time.sleep(0.001)


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise SystemExit(3)", "1/0", "os._exit(3)"])
@pytest.mark.parametrize("daemon", [False, True])
def test_the_process_ends(ending, daemon):
    """The process exits while workers sleep, and while a daemon thread is in the middle of a step."""
    code = f"""
import os, sys, threading, time
import numpy as np, fastopt
p = np.ones(3 * {LARGE}, np.float32)
opt = fastopt.Adam(p, threads=3)
opt.step(p * 0.5)
if {daemon}:
    def forever():
        while True: opt.step(grad)
    grad = p * 0.5
    threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.05)
{ending}
"""
    for _ in range(3):
        done = python(code, timeout=30)
        assert done.returncode == {"": 0, "1/0": 1}.get(ending, 3), done.stderr
        assert ("ZeroDivisionError" in done.stderr) == (ending == "1/0")
        assert not re.search(r"[Ff]atal|[Ss]egmentation", done.stderr)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the masks of the threads in /proc")
def test_workers_leave_signals_to_the_program():
    """Workers block all signals but those for faults of their own."""
    code = f"""
import os, signal, numpy as np, fastopt
def tasks(): return set(os.listdir("/proc/self/task"))
before = tasks()
fastopt.Adam(np.ones({LARGE}), threads=4).step(np.ones({LARGE}))
faults = {{signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGKILL, signal.SIGSTOP}}
assert len(tasks() - before) == 3
for task in tasks() - before:
    status = open(f"/proc/self/task/{{task}}/status").read()
    mask = int(status.split("SigBlk:")[1].split()[0], 16)
    blocked = {{number for number in range(1, 32) if mask >> number - 1 & 1}}
    assert blocked == set(range(1, 32)) - faults, blocked
assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])  # the caller's own mask is as it was
print("left")
"""
    found = python(code)
    assert found.stdout.strip() == "left", found.stderr


def test_the_cases_cover_every_rule():
    assert {cls.rule for cls in CLASSES} == set(RULES)
    assert len(list(itertools.chain.from_iterable(MODELS.values()))) > 400
