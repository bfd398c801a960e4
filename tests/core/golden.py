"""Writes `golden.txt` from the NumPy reference: what `golden.c` must print on every machine.

Run it as `python tests/core/golden.py` after a new rule or a new case; the line of a case that has not changed may not
change. The functions are those of `golden.c`, under the same names and in the same order; the comments there say what
they do.
"""

import math
import re
import sys
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python tests/core/golden.py`

from commands import CSRC, run_well
from common import VARIANTS, Variant

from fastopt import reference
from fastopt._rules import RULES

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden.txt"

STEPS, MODEL_STEPS, TENSORS, LARGE = 20, 3, 3, 150000
SIZES = [0, 1, 7, 64, 301]
INPUTS = {"plain": "n", "wild": "nnnn0sth", "nonfinite": "nnnn0sthix", "tiny": "0sst", "edges": "nuuoomm"}
# For each type its NumPy type, the type of its bits, and how many bits its fraction has. NumPy has no bfloat16:
# here its arrays are arrays of bits.
TYPES = [
    (np.float32, np.uint32, 23),
    (np.float64, np.uint64, 52),
    (np.float16, np.uint16, 10),
    (np.uint16, np.uint16, 7),
]
NAMES = ["f32", "f64", "f16", "bf16"]
RANGES = dict(re.findall(r"FASTOPT_HYPER\((\w+), (\w+)\)\n", (HERE / "rules.def").read_text(encoding="utf-8")))


# ---- Inputs. ----


def mix(x):
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def draw(stream, i):
    """The i-th number of a stream, as an array, because NumPy warns when a scalar overflows."""
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
    double = top == 2047
    exponent = np.select(
        [letters == kind for kind in "0sthixuo"],
        [
            0 * little,
            0 * little,
            1 + little,
            top - 16 - little,
            top,
            top,
            1023 - 153 + 2 * little if double else little,
            1023 + 120 + little if double else top - 1 - little,
        ],
        exponent,
    )
    fraction = np.where((letters == "0") | (letters == "i"), np.uint64(0), fraction)
    if double:
        fraction = np.where(letters == "m", fraction >> np.uint64(29) << np.uint64(29) | np.uint64(1 << 28), fraction)
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


def exact_scale(step):
    r = int(draw((1 << 41) + step, 0)[0])
    return math.copysign(2 * math.ldexp(r >> 40, -24), -1 if r & 1 else 1)


def arguments_of(variant, step, *, exact=False):
    hypers = {name: hyper_of(RANGES[name], step, index) for index, name in enumerate(RULES[variant.rule].hypers)}
    if exact:
        hypers["grad_scale"] = exact_scale(step)
    return variant.arguments(hypers, step * (step + 1) // 2)


def bits_of(variant):
    """The variant's states, and its options, as C's integers."""
    table = RULES[variant.rule]
    states = sum(1 << table.states.index(name) for name in variant.states)
    return states, sum(table.options[name] for name, on in variant.options.items() if on)


# ---- Stored types. ----


def numbers(stored):
    """Stored values as numbers. Bits of bfloat16 become float32 numbers, of which they are the upper halves."""
    return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32) if stored.dtype == np.uint16 else stored


def rounded(array, dtype):
    """An array rounded to a stored type, to nearest even; 16-bit types are rounded to float32 first."""
    with np.errstate(all="ignore"):
        if TYPES[dtype][0] == np.float64:
            return array.astype(np.float64)
        array = array.astype(np.float32)
        if TYPES[dtype][0] != np.uint16:
            return array.astype(TYPES[dtype][0])
    bits = array.view(np.uint32).astype(np.uint64)
    nearest = bits + np.uint64(0x7FFF) + (bits >> np.uint64(16) & np.uint64(1))
    return (np.where(np.isnan(array), bits | np.uint64(0x400000), nearest) >> np.uint64(16)).astype(np.uint16)


# ---- Outputs. ----


def digest(arrays):
    """The hash of the elements of all arrays, and how many are NaN."""
    arrays = [array.reshape(-1) for array in arrays]
    nan = [np.isnan(numbers(array)) for array in arrays]
    words = [
        np.where(where, canonical(array.dtype), array.view(f"u{array.itemsize}")).astype(np.uint64)
        for array, where in zip(arrays, nan, strict=True)
    ]
    words, nans = np.concatenate(words), sum(int(where.sum()) for where in nan)
    return f" {int(draw(np.arange(len(words)), words).sum(dtype=np.uint64)):016x}/{nans}"


def canonical(dtype):
    infinity = np.array(0x7F80 if dtype == np.uint16 else np.array(np.inf, dtype).view(f"u{dtype.itemsize}"))
    return infinity.astype(np.uint64) + np.uint64(1)


def digest_double(x):
    return digest([np.array([x], np.float64)])


# ---- Cases. ----


def of_sizes(variant, stepped):
    """The buffers after the steps, for each size. Of a rule without sums a smaller size is the start of the largest."""
    if RULES[variant.rule].sums:
        return [stepped(n) for n in SIZES]
    largest = stepped(SIZES[-1])
    return [[array[:n] for array in largest] for n in SIZES]


def rule_case(variant, dtype, name, step_with=Variant.reference, *, exact=False):
    kinds = INPUTS[name]

    def stepped(n):
        p, *states = tensor_of(dtype, kinds, 0, n, variant)
        for step in range(1, STEPS + 1):
            g = gradient(dtype, kinds, 0, step, n)
            step_with(variant, p, g, states, arguments_of(variant, step, exact=exact))
        return [p, *states]

    kept, options = bits_of(variant)
    digests = [digest(arrays) for arrays in zip(*of_sizes(variant, stepped), strict=True)]
    words = f"{variant.rule}_{NAMES[dtype]} states {kept} options {options} {name}{' exact' * exact}"
    return words + "".join(digests)


def with_everything(rule, dtype):
    """A rule with all its buffers; for double with all its options."""
    return Variant(rule, RULES[rule].states, dict.fromkeys(RULES[rule].options, bool(dtype)))


def clip_factor(norm, max_norm):
    return 1.0 if norm + 1e-6 <= max_norm else max_norm / np.float64(norm + 1e-6)


def steps_of(tensors, gradients_of, extras, factor, *, exact=False):
    """
    Steps a model. Returns what golden.c prints of each step, and the hashes of all buffers after the last. Each tensor
    is a variant and a list of the parameter and its states.
    """
    clip, skip, zero = extras & 1, extras & 2, extras & 4
    line, norm = "", 0.0
    for step in range(1, MODEL_STEPS + 1):
        stored = gradients_of(step)
        with np.errstate(all="ignore"):
            grads = [numbers(g).reshape(-1).astype(p.dtype) for (_, (p, *_)), g in zip(tensors, stored, strict=True)]
        max_norm, scale, skipped = 1e9 if step == 2 else 1.5, factor, False
        if clip or skip:
            norm = abs(scale) * reference.global_norm(grads)
            skipped = bool(skip and not norm <= np.finfo(np.float64).max)
        if clip:
            scale *= clip_factor(norm, max_norm)
        line += f" {int(skipped)}{digest_double(norm)}"
        if skipped:
            continue
        for (variant, (p, *states)), g in zip(tensors, grads, strict=True):
            arguments = arguments_of(variant, step, exact=exact)
            arguments["grad_scale"] *= scale
            variant.reference(p, g, states, arguments)
        if zero:
            stored = [np.zeros_like(g) for g in stored]
    buffers = [[p for _, (p, *_) in tensors], stored, [state for _, (_, *states) in tensors for state in states]]
    return line + "".join(map(digest, buffers))


def model_case(name, extras, threads, large):
    kinds, tensors, drawn = INPUTS[name], [], []
    for k, (rule, dtype) in enumerate(product(RULES, range(2))):
        variant = with_everything(rule, dtype)
        for i, n in enumerate([k, large if k == len(RULES) * 2 - 1 else 0, 67]):
            tensors.append((variant, tensor_of(dtype, kinds, TENSORS * k + i, n, variant)))
            drawn.append((dtype, kinds, TENSORS * k + i, n))
    line = steps_of(tensors, lambda step: [gradient(*where, step, n) for *where, n in drawn], extras, -0.75)
    return f"model {large} extras {extras} threads {threads} {name}" + line


def norm_case(name, first, last):
    grads = [
        gradient(dtype, INPUTS[name], TENSORS * dtype + i, 1, n)
        for dtype in range(first, last + 1)
        for i, n in enumerate([9001, 1, 777])
    ]
    norm = reference.clip_grad_norm(grads, 0.5)
    return f"norm types {first} to {last} {name}{digest_double(norm)}{digest(grads)}"


def rule_cases(name, step_with=Variant.reference, *, exact=False):
    """The lines of all rules on inputs of this name, in the order of C."""
    variants = sorted(VARIANTS, key=lambda variant: (list(RULES).index(variant.rule), *bits_of(variant)))
    types = range(1 if exact else 2)
    return [rule_case(variant, dtype, name, step_with, exact=exact) for variant, dtype in product(variants, types)]


# ---- Gradients of other types. ----


def type_case(rule, dtype, stored, name, step_with=Variant.reference):
    kinds, variant = INPUTS[name], Variant(rule, RULES[rule].states, dict.fromkeys(RULES[rule].options, False))

    def stepped(n):
        p, *states = tensor_of(dtype, kinds, 0, n, variant)
        for step in range(1, MODEL_STEPS + 1):
            g = numbers(gradient(stored, kinds, 0, step, n))
            step_with(variant, p, g, states, arguments_of(variant, step, exact=step % 2 == 0))
        return [p, *states]

    found = of_sizes(variant, stepped)
    digests = digest([p for p, *_ in found]) + digest([state for _, *states in found for state in states])
    return f"{rule}_{NAMES[dtype]} gradients {NAMES[stored]} {name}" + digests


def type_cases(name, step_with=Variant.reference):
    return [type_case(*case, name, step_with) for case in product(RULES, range(2), range(4))]


def clipped(grads, dtype, stored, max_norm):
    """The norm of stored gradients, computed in `dtype`, and the gradients after clipping."""
    with np.errstate(all="ignore"):
        converted = [numbers(g).reshape(-1).astype(TYPES[dtype][0]) for g in grads]
        norm = reference.global_norm(converted)
        factor = clip_factor(norm, max_norm)
        if factor != 1.0:
            grads = [rounded((factor * g.astype(np.float64)).astype(g.dtype), stored) for g in converted]
    return f"{digest_double(norm)}{digest(grads)}"


def short_case(dtype, stored, max_norm):
    real, bits, places = TYPES[stored]
    everything = np.arange(1 << 16, dtype=np.uint16)
    p = np.zeros(1 << 16, TYPES[dtype][0])
    reference.sgd(p, numbers(everything.view(real)), lr=1.0)
    top = 2 ** (15 - places) - 1
    finite = np.where(everything >> places & top == top, 0, everything).astype(bits).view(real)
    words = f"all of {NAMES[stored]} as {NAMES[dtype]}"
    return words + digest([p]) + clipped([finite], dtype, stored, max_norm)


# ---- Layouts. ----

# A layout changes no bit, so all arrays are contiguous here. An entry is a shape and, where the gradient's stride is 0
# along an axis, that axis: the last value along it, which golden.c writes last, stands for all.
ARRANGEMENTS = [
    ((37, 300), None),
    ((300, 37), None),
    ((20, 37), None),
    ((40, 37), None),
    ((33, 47), None),
    ((18, 40), None),
    ((1100,), None),
    ((21, 60), None),
    ((21, 60), None),
    ((3, 601), None),
    ((19, 33), 0),
    ((33, 19), 1),
    ((4, 9, 35), None),
    ((4, 9, 35), None),
    ((1, 50, 1), None),
    ((1, 1), None),
    ((0, 5), None),
    ((55,), None),
    ((77,), None),
]
LARGE_ARRANGEMENTS = [((331, 453), None), ((91, 131), None)]
CONFIGS = [("wild", 0, True), ("plain", 4, True), ("nonfinite", 0, False), ("plain", 5, False), ("wild", 1, False)]


def layout_case(rule, dtype, config, arrangements, threads):
    name, extras, exact = CONFIGS[config]
    kinds, variant = INPUTS[name], with_everything(rule, dtype)
    sizes = [math.prod(shape) for shape, _ in arrangements]
    tensors = [(variant, tensor_of(dtype, kinds, i, n, variant)) for i, n in enumerate(sizes)]

    def gradients_of(step):
        grads = []
        for i, (shape, axis) in enumerate(arrangements):
            stored = (i + config) % 5
            g = gradient(stored - 1 if stored else dtype, kinds, i, step, sizes[i]).reshape(shape)
            if axis is not None and not extras & 4:
                g[...] = np.take(g, [-1], axis)
            grads.append(g)
        return grads

    line = steps_of(tensors, gradients_of, extras, -0.75, exact=exact)
    words = f"layouts {len(arrangements)} {rule}_{NAMES[dtype]} extras {extras} threads {threads} {name}"
    return words + " exact" * exact + line


def layout_norm_case(dtype, stored, name):
    grads = [gradient(stored, INPUTS[name], i, 1, math.prod(shape)) for i, (shape, _) in enumerate(ARRANGEMENTS)]
    return f"norm layouts {NAMES[stored]} as {NAMES[dtype]} {name}" + clipped(grads, dtype, stored, 0.5)


# ---- All. ----


def with_threads(line):
    """The same line for one to three threads."""
    return [line.replace("threads 1", f"threads {threads}") for threads in (1, 2, 3)]


def golden():
    """All lines of golden.txt."""
    names = ["plain", "wild", "nonfinite"]
    norms = [*names, "tiny"]
    lines = [line for name in names for line in rule_cases(name)]
    lines += [model_case(name, extras, 1, 0) for name, extras in product(names, range(8))]
    lines += with_threads(model_case("plain", 7, 1, LARGE))
    lines += [norm_case(name, *types) for name, types in product(norms, [(0, 0), (0, 1), (1, 1)])]
    lines += rule_cases("wild", exact=True)
    by_kinds = [type_cases(name) for name in [*names, "edges"]]
    lines += [line for lines_of_case in zip(*by_kinds, strict=True) for line in lines_of_case]
    for dtype in range(2):
        lines += [short_case(dtype, 2, 1e5), short_case(dtype, 3, 1e38)]
    for rule, dtype in product(RULES, range(2)):
        lines += [layout_case(rule, dtype, config, ARRANGEMENTS, 1) for config in range(0, len(CONFIGS), 1 + 2 * dtype)]
    for config in (3, 4):
        lines += with_threads(layout_case([*RULES][-1], 1, config, LARGE_ARRANGEMENTS, 1))
    lines += [layout_norm_case(*case) for case in product(range(2), range(4), norms)]
    return "".join(f"{line}\n" for line in lines)


# ---- The C program. ----


def build(compile, folder, *, csrc=CSRC):
    """golden.c and the core, compiled by this command with its flags."""
    sources = [HERE / "golden.c", *sorted(csrc.glob("*.c"))]
    run_well(*compile, "-I", csrc, *sources, "-pthread", "-o", folder / "golden")
    return folder / "golden"


if __name__ == "__main__":
    GOLDEN.write_text(golden(), encoding="utf-8")
