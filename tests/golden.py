"""Writes `golden.txt` from the NumPy reference: what `golden.c` must print on every machine.

Run it as `python tests/golden.py` after a new rule or a new case; where no case has changed, no line may. The functions
are those of `golden.c`, under the same names and in the same order; what they do is said there.
"""

import math
import re
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from commands import run_well
from common import VARIANTS, Variant

from fastopt import reference
from fastopt._core import RULES

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
GOLDEN = ROOT / "tests" / "golden.txt"

STEPS, MODEL_STEPS, TENSORS, LARGE = 20, 3, 3, 150000
SIZES = [0, 1, 7, 64, 301]
INPUTS = {"plain": "n", "wild": "nnnn0sth", "nonfinite": "nnnn0sthix", "tiny": "0sst"}
TYPES = [(np.float32, np.uint32, 23), (np.float64, np.uint64, 52)]
RANGES = dict(re.findall(r"FASTOPT_HYPER\((\w+), (\w+)\)\n", (CSRC / "rules.def").read_text(encoding="utf-8")))


# ---- Inputs. ----


def mix(x):
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def draw(stream, i):
    """The i-th number of a stream; arrays, because NumPy warns when a scalar overflows."""
    stream, i = (np.atleast_1d(np.asarray(x, np.uint64)) for x in (stream, i))
    return mix(mix(stream + np.uint64(1)) + i * np.uint64(0x9E3779B97F4A7C15))


@cache
def fill(dtype, kinds, buffer, step, n, *, positive=False):
    real, bits, places = TYPES[dtype]
    width = np.dtype(bits).itemsize * 8
    top = 2 ** (width - 1 - places) - 1
    i = np.arange(n)
    r = draw(buffer + step, i)
    letters = np.array(list(kinds))[(draw(buffer, i) % np.uint64(len(kinds))).astype(int)]
    little, fraction = (r >> np.uint64(1) & np.uint64(15)).astype(np.int64), r >> np.uint64(64 - places)
    exponent = top // 2 - 8 + little
    exponent = np.select(
        [letters == kind for kind in "0sthix"],
        [0 * little, 0 * little, 1 + little, top - 16 - little, top, top],
        exponent,
    )
    fraction = np.where((letters == "0") | (letters == "i"), np.uint64(0), fraction)
    fraction |= np.where(letters == "x", np.uint64(1 << places - 1), np.uint64(0))
    sign = r & np.uint64(not positive)
    return (
        (sign << np.uint64(width - 1) | exponent.astype(np.uint64) << np.uint64(places) | fraction)
        .astype(bits)
        .view(real)
    )


def stream(tensor, buffer):
    return (tensor * 8 + buffer) * 32


def gradient(dtype, kinds, number, step, n):
    return fill(dtype, kinds, stream(number, 1), step, n).copy()


def tensor_of(dtype, kinds, number, n, variant):
    """A parameter and its states."""
    where = [RULES[variant.rule].states.index(name) for name in variant.states]
    drawn = [fill(dtype, kinds, stream(number, 2 + j), 1, n, positive=True) for j in where]
    return [array.copy() for array in (fill(dtype, kinds, stream(number, 0), 1, n), *drawn)]


# ---- The table of rules. ----


@cache
def hyper_of(kind, step, index):
    r = int(draw((1 << 40) + step, index)[0])
    unit = math.ldexp(r >> 11, -53)
    if kind == "NON_NEGATIVE":
        return math.ldexp(unit, -(r & 31)) if r >> 5 & 7 else 0.0
    if kind == "FINITE":
        return -2 * unit if r & 1 else 2 * unit
    return unit


def arguments_of(variant, step):
    hypers = {name: hyper_of(RANGES[name], step, index) for index, name in enumerate(RULES[variant.rule].hypers)}
    return variant.arguments(hypers, step * (step + 1) // 2)


def bits_of(variant):
    """The variant's states, and its options, as C's integers."""
    table = RULES[variant.rule]
    states = sum(1 << table.states.index(name) for name in variant.states)
    return states, sum(table.options[name] for name, on in variant.options.items() if on)


# ---- Outputs. ----


def digest(arrays):
    """The hash of the elements of all arrays, and how many are NaN."""
    words = [np.where(np.isnan(a), canonical(a.dtype), a.view(f"u{a.itemsize}")).astype(np.uint64) for a in arrays]
    words = np.concatenate(words)
    nans = sum(int(np.isnan(a).sum()) for a in arrays)
    return f" {int(draw(np.arange(len(words)), words).sum(dtype=np.uint64)):016x}/{nans}"


def canonical(dtype):
    infinity = np.array(np.inf, dtype).view(f"u{dtype.itemsize}")
    return infinity + infinity.dtype.type(1)


def digest_double(x):
    return digest([np.array([x], np.float64)])


# ---- Cases. ----


def rule_case(variant, dtype, name, step_with=Variant.reference):
    """Steps are taken on the largest size alone: a rule works element by element, so the smaller are its beginnings."""
    kinds = INPUTS[name]
    p, *states = tensor_of(dtype, kinds, 0, SIZES[-1], variant)
    for step in range(1, STEPS + 1):
        g = gradient(dtype, kinds, 0, step, SIZES[-1])
        step_with(variant, p, g, states, arguments_of(variant, step))
    kept, options = bits_of(variant)
    digests = [digest([array[:n] for n in SIZES]) for array in (p, *states)]
    return f"{variant.rule}_f{8 * p.itemsize} states {kept} options {options} {name}" + "".join(digests)


def model_case(name, extras, threads, large):
    kinds, clip, skip, zero = INPUTS[name], extras & 1, extras & 2, extras & 4
    groups, tensors = [], []
    for k, (rule, dtype) in enumerate(product(RULES, range(2))):
        groups.append((Variant(rule, RULES[rule].states, dict.fromkeys(RULES[rule].options, bool(dtype))), dtype))
        for i, n in enumerate([k, large if k == len(RULES) * 2 - 1 else 0, 67]):
            tensors.append((*groups[-1], TENSORS * k + i, tensor_of(dtype, kinds, TENSORS * k + i, n, groups[-1][0])))
    line, norm = f"model {large} extras {extras} threads {threads} {name}", 0.0
    for step in range(1, MODEL_STEPS + 1):
        grads = [gradient(dtype, kinds, number, step, p.size) for _, dtype, number, (p, *_) in tensors]
        max_norm, factor, skipped = 1e9 if step == 2 else 1.5, -0.75, False
        if clip or skip:
            norm = abs(factor) * reference.global_norm(grads)
            skipped = bool(skip and not norm <= np.finfo(np.float64).max)
        if clip and not norm + 1e-6 <= max_norm:
            factor *= max_norm / (norm + 1e-6)
        line += f" {int(skipped)}{digest_double(norm)}"
        if skipped:
            continue
        for (variant, _, _, (p, *states)), g in zip(tensors, grads, strict=True):
            arguments = arguments_of(variant, step)
            arguments["grad_scale"] *= factor
            variant.reference(p, g, states, arguments)
            g[...] = 0 if zero else g
    buffers = [[p for *_, (p, *_) in tensors], grads, [state for *_, (_, *states) in tensors for state in states]]
    return line + "".join(map(digest, buffers))


def norm_case(name, first, last):
    grads = [
        gradient(dtype, INPUTS[name], TENSORS * dtype + i, 1, n)
        for dtype in range(first, last + 1)
        for i, n in enumerate([9001, 1, 777])
    ]
    norm = reference.clip_grad_norm(grads, 0.5)
    return f"norm types {first} to {last} {name}{digest_double(norm)}{digest(grads)}"


def rule_cases(name, step_with=Variant.reference):
    """The lines of all rules on inputs of this name, in the order of C."""
    variants = sorted(VARIANTS, key=lambda variant: (list(RULES).index(variant.rule), *bits_of(variant)))
    return [rule_case(variant, dtype, name, step_with) for variant, dtype in product(variants, range(2))]


def golden():
    """All lines of golden.txt."""
    names = ["plain", "wild", "nonfinite"]
    lines = [line for name in names for line in rule_cases(name)]
    lines += [model_case(name, extras, 1, 0) for name, extras in product(names, range(8))]
    large = model_case("plain", 7, 1, LARGE)
    lines += [large.replace("threads 1", f"threads {threads}") for threads in (1, 2, 3)]
    lines += [norm_case(name, *types) for name, types in product(INPUTS, [(0, 0), (0, 1), (1, 1)])]
    return "".join(f"{line}\n" for line in lines)


# ---- The C program. ----


def build(compile, folder, *, csrc=CSRC):
    """golden.c and the core, compiled by this command with its flags."""
    sources = [ROOT / "tests" / "golden.c", *sorted(csrc.glob("*.c"))]
    run_well(*compile, "-I", csrc, *sources, "-pthread", "-o", folder / "golden")
    return folder / "golden"


if __name__ == "__main__":
    GOLDEN.write_text(golden(), encoding="utf-8")
