"""The C core as projects use it that vendor csrc/: with other compilers and flags, and without Python."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from commands import CSRC, STRICT, build_core, compiler
from commands import run_well as run
from common import DRAWS, ISAS, VARIANTS

from fastopt import reference
from fastopt._rules import RULES

pytestmark = pytest.mark.slow

SOURCES = sorted(CSRC.glob("*.c"))
NATIVE = ["-O3", "-march=native"]
TYPES = {"f32": ("float", np.float32, "f"), "f64": ("double", np.float64, "")}
N = 37
STEPS = 3


def literals(array, end):
    """The elements as hexadecimal constants of C, which are exact."""
    return ", ".join(float(x).hex() + end for x in array.reshape(-1))


def case(number, variant, suffix):
    """A C function that takes some steps of one variant and returns how many buffers differ from the reference's."""
    (real, dtype, end), rule = TYPES[suffix], RULES[variant.rule]
    rng = np.random.default_rng(number)
    p, grads = rng.normal(size=N).astype(dtype), rng.normal(size=(STEPS, N)).astype(dtype)
    hypers = {name: float(DRAWS[name](rng)) for name in rule.hypers if name != "step"}
    final, states = p.copy(), [np.zeros_like(p) for _ in variant.states]
    for step, g in enumerate(grads, start=1):
        arguments = variant.arguments(hypers, step)
        variant.reference(final, g, states, arguments)
    values = {**hypers, **arguments, "step": "step"}
    call = ", ".join(
        [
            *(str(N), "p", f"g + {N} * (step - 1)"),
            *(name if name in variant.states else "NULL" for name in rule.states),
            *(str(values[name]) for name in rule.hypers),
            str(sum(bit for name, bit in rule.options.items() if variant.options[name])),
        ]
    )
    buffers = dict(zip(["p", *variant.states], [final, *states], strict=True))
    lines = [
        f"    static {real} p[] = {{{literals(p, end)}}};",
        f"    static const {real} g[] = {{{literals(grads, end)}}};",
        *(f"    static {real} {name}[{N}];" for name in variant.states),
        *(f"    static const {real} {name}_expected[] = {{{literals(x, end)}}};" for name, x in buffers.items()),
        f"    for (int step = 1; step <= {STEPS}; step++)",
        f"        if (fastopt_{variant.rule}_{suffix}({call}) != FASTOPT_OK)",
        "            return 1;",
        "    return "
        + "\n        + ".join(f"differs({name}, {name}_expected, sizeof {name})" for name in buffers)
        + ";",
    ]
    return "\n".join([f"static int case_{number}(void) /* {variant} {suffix} */", "{", *lines, "}", ""])


def program():
    """A C program that runs all cases and prints those that fail, then the instruction set in use."""
    names = [f"{variant} {suffix}" for variant in VARIANTS for suffix in TYPES]
    cases = [case(number, *each) for number, each in enumerate(itertools.product(VARIANTS, TYPES))]
    runs = [f'    if (case_{number}())\n        printf("{name} differs\\n");' for number, name in enumerate(names)]
    head = """#include "fastopt.h"
#include <stdio.h>
#include <string.h>

static int differs(const void *a, const void *b, size_t size) { return memcmp(a, b, size) != 0; }
"""
    main = ["int main(void)", "{", *runs, '    printf("%s", fastopt_isa());', "    return 0;", "}", ""]
    return "\n".join([head, *cases, *main])


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_the_core_compiles_without_a_warning(name, tmp_path):
    for flags in (["-O3"], NATIVE):
        build_core(compiler(name), [*flags, "-std=c11", *STRICT], tmp_path)


# -march=native brings fused multiply-add where the processor has it, and gcc contracts by default.
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        *itertools.product(["gcc", "clang"], [["-O3"], ["-O0"], NATIVE]),
        ("gcc", [*NATIVE, "-ffp-contract=fast", "-funsafe-math-optimizations"]),  # the sources switch them off
        ("clang", [*NATIVE, "-funsafe-math-optimizations"]),
    ],
)
def test_the_core_gives_the_bits_of_the_reference(name, flags, tmp_path):
    cc = compiler(name)
    if "-ffp-contract=fast" in flags and "clang" in run(cc, "--version"):
        pytest.skip("this gcc is clang, for which the header rules these flags out: put GCC first on the PATH")
    objects = build_core(cc, flags, tmp_path)
    (tmp_path / "main.c").write_text(program(), encoding="utf-8")
    run(cc, "-std=c11", *STRICT, "-I", CSRC, "-c", "main.c", cwd=tmp_path)
    run(cc, "main.o", *objects, "-o", "main", cwd=tmp_path)  # without -lm
    for isa in ISAS:
        assert run(tmp_path / "main", env={**os.environ, "FASTOPT_ISA": isa}) == isa


@pytest.mark.parametrize("flag", ["-ffast-math", "-ffinite-math-only"])
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_all_sources_refuse_fast_math(name, flag, tmp_path):
    for source in SOURCES:
        command = [compiler(name), "-O3", flag, "-c", str(source)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "without -ffast-math and -ffinite-math-only" in done.stderr


@pytest.mark.parametrize("flags", [[], ["-DFASTOPT_NAMESPACE=mine_"]], ids=["plain", "namespace"])
@pytest.mark.parametrize("name", ["g++", "clang++"])
def test_cpp_programs_include_the_header_and_link(name, flags, tmp_path):
    objects = build_core(compiler("cc"), ["-O3", *flags], tmp_path)
    (tmp_path / "main.cpp").write_text(
        '#include "fastopt.h"\n#include <vector>\nint main()\n{\n'
        "    std::vector<float> p(3, 1.0f), g(3, 1.0f);\n"
        "    const int error = fastopt_momentum_f32(p.size(), p.data(), g.data(), std::vector<float>(3).data(),\n"
        "                                           0.5, 0.0, 0.0, 1.0, FASTOPT_MAXIMIZE);\n"
        "    return error != FASTOPT_OK || p[2] != 1.5f;\n}\n",
        encoding="utf-8",
    )
    strict = ["-std=c++17", *STRICT, *flags]
    run(compiler(name), *strict, "-I", CSRC, "main.cpp", *objects, "-pthread", "-o", "main", cwd=tmp_path)
    run(tmp_path / "main")


@pytest.mark.parametrize("name", ["gcc", "clang", "g++", "clang++"])
def test_extension_modules_include_the_capsules_header(name, tmp_path):
    language, standard = ("cpp", "c++17") if "++" in name else ("c", "c11")
    source = '#include <Python.h>\n#include "fastopt_capi.h"\nint use(void);\n'
    source += (
        "int use(void)\n{\n    const fastopt_capi *table = fastopt_import();\n    return table && table->isa();\n}\n"
    )
    (tmp_path / f"use.{language}").write_text(source, encoding="utf-8")
    python = ["-isystem", sysconfig.get_path("include")]
    run(compiler(name), f"-std={standard}", *STRICT, *python, "-I", CSRC, "-c", f"use.{language}", cwd=tmp_path)


# ---- Names: several copies of the core in one program, and no visible symbols but the public functions. ----

COPY = r"""
#include "fastopt.h"

#define JOIN(a, b) JOIN_NOW(a, b)
#define JOIN_NOW(a, b) a##b

/* Steps one number and says with how many threads this copy would step a model. */
float JOIN(step_of_, FASTOPT_NAMESPACE)(float p, float g, int threads);
float JOIN(step_of_, FASTOPT_NAMESPACE)(float p, float g, int threads)
{
    float v = 0;
    fastopt_tensor tensor = {.size = sizeof tensor, .n = 1, .p = &p, .g = &g, .state = {&v}};
    fastopt_group group;
    fastopt_model model;
    if (fastopt_group_init(&group, sizeof group, "momentum", FASTOPT_F32) || fastopt_model_init(&model, sizeof model) ||
        fastopt_set(&group, "lr", 0.5) || fastopt_set(&group, "momentum", 0))
        return 0;
    group.tensors = &tensor, group.count = 1;
    model.groups = &group, model.count = 1;
    fastopt_set_num_threads(threads);
    return fastopt_momentum_f32(1, &p, &g, &v, 0.5, 0, 0, 1, 0) || fastopt_step(&model) ? 0 : p;
}
int JOIN(threads_of_, FASTOPT_NAMESPACE)(void);
int JOIN(threads_of_, FASTOPT_NAMESPACE)(void)
{
    return fastopt_get_num_threads();
}
"""
BOTH = r"""
#include <stdio.h>

float step_of_one_(float, float, int), step_of_two_(float, float, int);
int threads_of_one_(void), threads_of_two_(void);

int main(void)
{
    const float a = step_of_one_(1, 2, 3), b = step_of_two_(5, 4, 7);
    printf("%g %g %d %d", (double)a, (double)b, threads_of_one_(), threads_of_two_());
    return 0;
}
"""


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_two_copies_in_one_program(name, tmp_path):
    cc, objects = compiler(name), []
    for space in ("one_", "two_"):
        folder = tmp_path / space
        folder.mkdir()
        flags = ["-O3", "-std=c11", *STRICT, f"-DFASTOPT_NAMESPACE={space}"]
        (folder / "copy.c").write_text(COPY, encoding="utf-8")
        run(cc, *flags, "-I", CSRC, "-c", "copy.c", cwd=folder)
        objects += [folder / "copy.o", *build_core(cc, flags, folder)]
        for built in objects[-len(SOURCES) :]:
            assert all(symbol.startswith(f"{space}fastopt_") for symbol in global_symbols(built))
    (tmp_path / "main.c").write_text(BOTH, encoding="utf-8")
    run(cc, "main.c", *objects, "-pthread", "-o", "main", cwd=tmp_path)
    # Each copy takes two steps of lr 0.5 on its number, and has its own number of threads.
    assert run(tmp_path / "main") == "-1 1 3 7"


def global_symbols(built):
    listing = run(compiler("nm"), "-g", "--defined-only", built)
    return [name.removeprefix("_") for name in re.findall(r"^\w* ?[A-Z] (\w+)$", listing, re.MULTILINE)]


def header_functions():
    text = "".join((CSRC / name).read_text(encoding="utf-8") for name in ("fastopt.h", "fastopt_rules.h"))
    return set(re.findall(r"FASTOPT_API [^;]*?(fastopt_\w+)\(", text))


@pytest.mark.parametrize("flags", [["-DFASTOPT_API=", "-fvisibility=hidden"], []], ids=["none", "public"])
def test_the_symbols_of_a_shared_library(flags, tmp_path):
    run(compiler("cc"), "-O1", "-shared", "-fPIC", *flags, *SOURCES, "-pthread", "-o", "library.so", cwd=tmp_path)
    shown = set(global_symbols(tmp_path / "library.so"))
    assert shown == (set() if flags else header_functions())


def test_every_symbol_of_the_core_has_its_prefix(tmp_path):
    for built in build_core(compiler("cc"), ["-O3"], tmp_path):
        names = global_symbols(built)
        assert names
        assert all(name.startswith("fastopt_") for name in names), names


# ---- The amalgamation: the whole core in one file. ----


@pytest.fixture(scope="module")
def amalgamation(tmp_path_factory):
    """The folder of the amalgamation, made by the Makefile's own recipe in the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("amalgamation")
    environment = Path(sys.prefix)
    if not (environment / "bin/quom").exists():
        pytest.skip("needs quom: pip install 'fastopt[test]'")
    made = [f"VENV={environment}", f"AMALGAMATION={folder}", "-o", environment / ".installed-amalgamation"]
    run(compiler("make"), "amalgamation", *made, cwd=CSRC.parent)
    return folder


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_the_amalgamation_compiles_alone_and_gives_the_bits_of_the_reference(name, amalgamation, tmp_path):
    cc = compiler(name)
    assert sorted(path.name for path in amalgamation.iterdir()) == ["fastopt.c", "fastopt.h"]
    shutil.copy(amalgamation / "fastopt.c", tmp_path)  # alone: nothing is left to include
    run(cc, "-O3", "-std=c11", *STRICT, "-c", "fastopt.c", cwd=tmp_path)
    assert set(global_symbols(tmp_path / "fastopt.o")) == header_functions()
    (tmp_path / "main.c").write_text(program(), encoding="utf-8")
    run(cc, "-I", amalgamation, "main.c", "fastopt.o", "-pthread", "-o", "main", cwd=tmp_path)
    for isa in ISAS:
        assert run(tmp_path / "main", env={**os.environ, "FASTOPT_ISA": isa}) == isa


def test_the_amalgamation_may_be_included_with_static_functions(amalgamation, tmp_path):
    (tmp_path / "main.c").write_text('#define FASTOPT_API static\n#include "fastopt.c"\n' + program(), encoding="utf-8")
    run(compiler("cc"), "-O3", "-I", amalgamation, "main.c", "-pthread", "-o", "main", cwd=tmp_path)
    assert run(tmp_path / "main") in ISAS
    assert not [name for name in global_symbols(tmp_path / "main") if "fastopt" in name]


# ---- Many tensors in one call, from C. ----

# A program that steps a model of both types in three groups, and prints a hash of its buffers after each step.
MODEL = r"""
#include "fastopt.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS = 5 };
static const size_t sizes[TENSORS] = {500000, 0, 7, 300001, 65};
static const int types[TENSORS] = {FASTOPT_F32, FASTOPT_F32, FASTOPT_F32, FASTOPT_F64, FASTOPT_F64};
static const size_t starts[] = {0, 3, 3, TENSORS}; /* of the groups; one is empty */
static fastopt_tensor tensors[TENSORS];
static fastopt_group groups[3];

static size_t bytes(int i) { return sizes[i] * (types[i] == FASTOPT_F32 ? sizeof(float) : sizeof(double)); }

static void *numbers(int i, unsigned seed)
{
    void *memory = malloc(bytes(i) + 1);
    for (size_t j = 0; j < sizes[i]; j++) {
        const double x = (double)((j * 7919 + seed * 104729) % 2001) / 1000.0 - 1.0; /* from -1 to 1 */
        if (types[i] == FASTOPT_F32)
            ((float *)memory)[j] = (float)x;
        else
            ((double *)memory)[j] = x;
    }
    return memory;
}

static uint64_t hash(const void *memory, size_t size, uint64_t h)
{
    for (size_t j = 0; j < size; j++)
        h = (h ^ ((const unsigned char *)memory)[j]) * 1099511628211u;
    return h;
}

static uint64_t hash_all(void)
{
    uint64_t h = 14695981039346656037u;
    for (int i = 0; i < TENSORS; i++) {
        h = hash(tensors[i].p, bytes(i), h);
        h = hash(tensors[i].g, bytes(i), h);
        for (int k = 0; k < 2; k++)
            h = hash(tensors[i].state[k], bytes(i), h);
    }
    return h;
}

#define MUST(condition) do { if (!(condition)) { printf("line %d: %s", __LINE__, #condition); return 1; } } while (0)

int main(int argc, char **argv)
{
    fastopt_model model;

    MUST(fastopt_model_init(&model, sizeof model) == FASTOPT_OK);
    model.groups = groups;
    model.count = 3;
    model.grad_scale = 0.5;
    model.max_norm = 20.0;
    model.extras = FASTOPT_CLIP_NORM;
    model.threads = argc > 1 ? atoi(argv[1]) : 0;
    for (int i = 0; i < TENSORS; i++) {
        tensors[i].size = sizeof tensors[i];
        tensors[i].n = sizes[i];
        tensors[i].p = numbers(i, 1);
        tensors[i].g = numbers(i, 2);
        for (int k = 0; k < 2; k++)
            tensors[i].state[k] = calloc(bytes(i) + 1, 1);
    }
    for (int k = 0; k < 3; k++) {
        MUST(fastopt_group_init(&groups[k], sizeof groups[k], "adam", types[starts[k + 1] - 1]) == FASTOPT_OK);
        MUST(fastopt_set(&groups[k], "lr", 1e-2) == FASTOPT_OK);
        groups[k].hyper[FASTOPT_ADAM_WEIGHT_DECAY] = 0.1;
        groups[k].count = starts[k + 1] - starts[k];
        groups[k].tensors = tensors + starts[k];
    }
    tensors[1] = (fastopt_tensor){.size = sizeof tensors[1]}; /* a tensor without elements needs no memory, */
    groups[1].tensors = NULL;                                 /* and a group without tensors no array */
    MUST(fastopt_get_num_threads() == 1 && fastopt_workspace(&model) == 0);
    for (int step = 1; step <= 3; step++) {
        for (int k = 0; k < 3; k++)
            MUST(fastopt_set(&groups[k], "step", step) == FASTOPT_OK);
        MUST(fastopt_step(&model) == FASTOPT_OK);
        printf("%016llx %a\n", (unsigned long long)hash_all(), model.norm);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def expected_of_model():
    """What the program must print, from the reference."""
    sizes, types = [500_000, 0, 7, 300_001, 65], [np.float32] * 3 + [np.float64] * 2

    def numbers(seed):
        rows = [(np.arange(n, dtype=np.uint64) * 7919 + seed * 104729) % 2001 for n in sizes]
        return [(row.astype(np.float64) / 1000.0 - 1.0).astype(dtype) for row, dtype in zip(rows, types, strict=True)]

    grads = numbers(2)
    model = reference.Optimizer("adam", numbers(1), lr=1e-2, weight_decay=0.1)
    lines = []
    for _ in range(3):
        norm = model.step(grads, grad_scale=0.5, max_norm=20.0)
        tensors = zip(model.params, grads, model.state, strict=True)
        arrays = [a for p, g, state in tensors for a in (p, g, state["exp_avg"], state["exp_avg_sq"])]
        lines.append((fnv(arrays), norm.hex()))
    return lines


def fnv(arrays):
    """FNV-1a of the bytes of arrays, as hash() in the program."""
    digest = 14695981039346656037
    for byte in b"".join(array.tobytes() for array in arrays):
        digest = (digest ^ byte) * 1099511628211 & 0xFFFFFFFFFFFFFFFF
    return digest


@pytest.mark.parametrize("flags", [[], ["-DFASTOPT_NO_THREADS"]], ids=["threads", "no threads"])
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_a_model_in_one_call_gives_the_bits_of_the_reference(name, flags, tmp_path, expected_of_model):
    cc = compiler(name)
    objects = build_core(cc, ["-O3", "-std=c11", *STRICT, *flags], tmp_path)
    (tmp_path / "model.c").write_text(MODEL, encoding="utf-8")
    run(cc, "-std=c11", *STRICT, "-I", CSRC, "model.c", *objects, "-pthread", "-o", "model", cwd=tmp_path)
    for threads in ("0", "1", "2", "5"):
        printed = [line.split() for line in run(tmp_path / "model", threads).splitlines()]
        found = [(int(digest, 16), float.fromhex(norm).hex()) for digest, norm in printed]
        assert found == expected_of_model


# A step of tensors without elements is no error and needs no buffers; a bad hyperparameter is an error even there.
NOTHING = r"""
#include "fastopt.h"
#include <stdio.h>
#include <string.h>

int main(void)
{
    for (int rule = 0; fastopt_rule(rule); rule++) {
        const fastopt_rule_info *info = fastopt_rule(rule);
        fastopt_tensor tensors[2] = {{.size = sizeof *tensors}, {.size = sizeof *tensors}};
        fastopt_group group;
        fastopt_model model;
        if (fastopt_group_init(&group, sizeof group, info->name, FASTOPT_F64) ||
            fastopt_model_init(&model, sizeof model))
            return 1;
        group.tensors = tensors, group.count = 2;
        model.groups = &group, model.count = 1;
        for (int i = 0; i < info->hyper_count; i++)
            if (!strcmp(info->hypers[i].name, "momentum"))
                group.hyper[i] = 0.5; /* which needs a buffer */
        if (fastopt_step(&model) || fastopt_check(&model) || fastopt_global_norm(&model))
            printf("%s: error\n", info->name);
        group.hyper[info->hyper_count - 1] = 1.0 / 0.0;
        if (fastopt_step(&model) != FASTOPT_ERR_HYPER - (info->hyper_count - 1))
            printf("%s: no error\n", info->name);
    }
    printf("%d%d", fastopt_adam_f32(0, NULL, NULL, NULL, NULL, NULL, 1, 1e-3, 0.9, 0.999, 1e-8, 0, 1, 0),
           fastopt_sgd_f64(0, NULL, NULL, NULL, 1, 1e-3, 0.9, 0, 0, 1, 0));
    return 0;
}
"""


def test_tensors_without_elements_need_no_memory(tmp_path):
    cc = compiler("cc")
    (tmp_path / "nothing.c").write_text(NOTHING, encoding="utf-8")
    run(cc, "-I", CSRC, "nothing.c", *build_core(cc, ["-O3"], tmp_path), "-pthread", "-o", "nothing", cwd=tmp_path)
    assert run(tmp_path / "nothing") == "00"


# Loads the core, has it start workers, and unloads it: the workers must end before their code is unmapped.
UNLOAD = r"""
#include "fastopt.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    enum { N = 1000000 };
    float *p = calloc(N, sizeof *p), *g = calloc(N, sizeof *g);
    for (int turn = 0; argc && turn < 5; turn++) {
        void *library = dlopen(argv[1], RTLD_NOW);
        int (*step)(fastopt_model *);
        fastopt_tensor tensor = {.size = sizeof tensor, .n = N, .p = p, .g = g};
        fastopt_group group = {.size = sizeof group, .type = FASTOPT_F32, .count = 1, .tensors = &tensor}; /* SGD */
        fastopt_model model = {.size = sizeof model, .count = 1, .groups = &group, .grad_scale = 1, .threads = 4};
        if (!library)
            return 2;
        group.hyper[FASTOPT_SGD_STEP] = group.hyper[FASTOPT_SGD_GRAD_SCALE] = 1;
        *(void **)&step = dlsym(library, "fastopt_step");
        for (int i = 0; i < 3; i++)
            if (step(&model))
                return 3;
        if (turn % 2)
            usleep(1000); /* then the workers are asleep; else they are just done */
        if (dlclose(library) || dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD))
            return 4;
        usleep(1000);
    }
    free(p);
    free(g);
    return 0;
}
"""


def test_unloading_leaves_no_thread_behind(tmp_path):
    cc = compiler("cc")
    run(cc, "-O3", "-fPIC", "-shared", *SOURCES, "-pthread", "-o", "libfastopt.so", cwd=tmp_path)
    (tmp_path / "main.c").write_text(UNLOAD, encoding="utf-8")
    run(cc, "-I", CSRC, "main.c", "-ldl", "-pthread", "-o", "main", cwd=tmp_path)
    run(tmp_path / "main", tmp_path / "libfastopt.so")
