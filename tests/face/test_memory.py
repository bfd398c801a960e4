"""Memory: where state lies, how much an optimizer needs besides, and that a steady step allocates nothing."""

import gc
import itertools
import os
import re
import subprocess
import sys
import sysconfig
import weakref
from pathlib import Path

import numpy as np
import pytest
from common import CLASSES, EVERY_STATE

import fastopt
from fastopt._rules import RULES

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")


def buffers(opt):
    """The state arrays of an optimizer, in order, from its internal lists."""
    return [buffer for slots in opt._buffers() for buffer in slots if buffer is not None]


@pytest.mark.parametrize("cls", CLASSES)
def test_one_arena_on_cache_lines(cls):
    shapes = [(3, 5), (), (1000,), (0,), (7, 7, 7)]
    params = [np.ones(shape, (np.float32, np.float64)[i % 2]) for i, shape in enumerate(shapes)]
    opt = cls(params, **EVERY_STATE[cls])
    found = buffers(opt)
    slots = len(RULES[cls.rule].states)
    assert len(found) == slots * len(shapes)
    assert all(buffer.ctypes.data % 64 == 0 for buffer in found)
    for buffer, param in zip(found, [param for param in params for _ in range(slots)], strict=True):
        assert (buffer.dtype, buffer.shape) == (param.dtype, param.shape)
        assert not buffer.any()
        assert buffer.flags.c_contiguous
        assert buffer.flags.writeable
    places = [(buffer.ctypes.data, -(-buffer.nbytes // 64) * 64) for buffer in found if buffer.size]
    for (address, size), (following, _) in itertools.pairwise(places):
        assert address + size == following
    opt.step([np.ones_like(param) for param in params])
    state = opt.state[0]
    for name, buffer in zip(RULES[cls.rule].states, found, strict=False):
        assert np.shares_memory(state[name], buffer)  # `state` shows the memory itself, no copy
    assert any(buffer.any() for buffer in found)


def test_a_large_arena_begins_on_a_large_page():
    params = [np.zeros(300_000, np.float32), np.zeros(400_000, np.float32)]
    first = buffers(fastopt.Adam(params))[0]
    assert first.ctypes.data % 2**21 == 0


def flags_of(address):
    """The flags that Linux reports for the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        if header := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(header[1], 16) <= address < int(header[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("no mapping holds it")


@linux
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no transparent huge pages"
)
def test_large_pages_are_requested_for_a_large_arena():
    opt = fastopt.Adam(np.zeros(1_000_000, np.float32))
    flags = flags_of(buffers(opt)[0].ctypes.data)
    assert "hg" in flags
    assert "sh" not in flags  # private: a forked child steps its own copy


# A library that counts the process's calls of the allocator between counter_start() and counter_stop().
COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/mman.h>

static int counting;
static long count;

void counter_start(void) { count = 0; counting = 1; }
long counter_stop(void) { counting = 0; return count; }

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *malloc(size_t n) { count += counting; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { count += counting; return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { count += counting; return __libc_realloc(p, n); }
void *mmap(void *a, size_t n, int p, int f, int d, off_t o)
{
    void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, "mmap");
    count += counting;
    return real(a, n, p, f, d, o);
}
"""

STEADY = """
import ctypes
import numpy as np
import fastopt

counter = ctypes.CDLL(None)

def allocations(way):
    for _ in range(3):
        way()
    turns = range(100)
    counter.counter_start()
    for _ in turns:
        way()
    return counter.counter_stop()

loop = allocations(lambda: None)
assert allocations(lambda: np.empty(10_000)) >= 100  # the counter counts
for cls in (fastopt.SGD, fastopt.Adam, fastopt.RMSprop):
    for sizes in ([16], [1] * 400, [300_000, 5, 70_000]):
        params, grads = ([np.ones(n, np.float32) for n in sizes] for _ in range(2))
        opt = cls(params, threads=2)
        opt.bind(grads)
        step = opt.step  # looking it up may make an object
        ways = {"same": lambda: step(grads), "bound": step, "zeroed": lambda: step(zero_grad=True)}
        for name, way in ways.items():
            assert allocations(way) <= loop, (cls, sizes, name)
print("steady")
"""


@linux
@pytest.mark.skipif(not any(Path("/lib").glob("*/libc.so.6")), reason="interposes glibc's allocator")
@pytest.mark.skipif("FASTOPT_COVERAGE" in os.environ, reason="counting lines allocates: unset FASTOPT_COVERAGE")
def test_a_steady_step_allocates_nothing(tmp_path):
    """Neither the C core allocates nor Python, whose objects all come from malloc here."""
    source, library = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER, encoding="utf-8")
    cc = (sysconfig.get_config_var("CC") or "cc").split()
    subprocess.run([*cc, "-O1", "-fno-builtin", "-fPIC", "-shared", source, "-o", library, "-ldl"], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"}
    done = subprocess.run([sys.executable, "-c", STEADY], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "steady", done.stderr


PEAK = """
import re
import numpy as np
import fastopt

def resident(what):  # VmRSS: now; VmHWM: the peak. getrusage's peak includes the parent process's
    return 1024 * int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

warm = fastopt.Adam(np.ones(500_000, np.float32), threads=2)  # allocates what a process needs once: code, workers
slope = np.ones(500_000, np.float32)  # kept, as is `warm`, so that none of its memory is used again
warm.bind(slope)
warm.step(slope, max_norm=1.0)
warm.step(zero_grad=True)
sizes = [4_000_000, *[1000] * 300, 2_500_000]
params, grads = ([np.full(n, 0.5, np.float32) for n in sizes] for _ in range(2))
needed = 2 * sum(p.nbytes for p in params)
before = resident("VmRSS")
opt = fastopt.Adam(params, threads=2)
opt.bind(grads)
for _ in range(3):
    opt.step(max_norm=1.0)
for _ in range(3):
    opt.step(grads, zero_grad=True)
print(resident("VmHWM") - before - needed)
"""


@linux
def test_an_optimizer_needs_no_memory_but_its_state():
    """The peak is that of parameters, gradients and state, and less than 1 MB besides."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert -1_000_000 < int(done.stdout) < 1_000_000


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unreferenced_optimizer_is_freed_at_once(cls):
    """It is no part of a cycle: the collector may run late, while the state takes much memory."""
    p = np.ones(4)
    gc.disable()
    try:
        opt = cls([{"params": [p]}, {"params": [np.ones(3)], "lr": 0.5}])
        opt.step([{"params": [np.ones(4)]}, {"params": [np.ones(3)]}])
        opt.lr = 0.25
        gone, group = weakref.ref(opt), opt.param_groups[0]
        del opt
        assert gone() is None
    finally:
        gc.enable()
    for use in (lambda: group["lr"], lambda: group["params"], lambda: group.update(lr=1.0), lambda: repr(group)):
        with pytest.raises(ReferenceError, match="the optimizer of this group no longer exists"):
            use()
