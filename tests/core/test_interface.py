"""interface.txt, the record of the interface, agrees line by line with what was built."""

import ctypes
import re
from functools import cache
from pathlib import Path

import pytest
from commands import ROOT, compiler, run, run_well

from fastopt import capi, memoryviews

CSRC = ROOT / "csrc"
RECORD = Path(__file__).with_name("interface.txt")
SECTIONS = ["symbols", "prototypes", "declarations", "capsule", "cython", "memoryviews", "values", "layouts"]

UNLIKE = """
What was built is not what the section [{section}] of tests/core/interface.txt says.
Only in the record:
{gone}
Only in what was built:
{new}
Until version 1.0.0 the interface may change, and this record only has to be current: `python tools/generate.py` writes
it. From 1.0.0 on lines are only ever added: what must change gets a new name beside the old one."""


def recorded(text):
    found = {}
    for line in text.splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = found[heading[1]] = []
        elif line and not line.startswith("#"):
            section.append(line)
    return found


@pytest.fixture(scope="module")
def record():
    return recorded(RECORD.read_text(encoding="utf-8"))


@pytest.fixture
def interface(tools):
    """The module that writes the record: tools/interface.py."""
    return tools["interface"]


def compare(section, expected, found):
    gone = [line for line in expected if line not in found]
    new = [line for line in found if line not in expected]
    assert not gone, UNLIKE.format(section=section, gone="\n".join(gone), new="\n".join(new))
    assert not new, UNLIKE.format(section=section, gone="\n".join(gone), new="\n".join(new))


def symbols(folder):
    """The symbols that a shared library of the core exports."""
    sources = sorted(CSRC.glob("*.c"))
    run_well(compiler("cc"), "-O1", "-shared", "-fPIC", *sources, "-pthread", "-o", folder / "libfastopt.so")
    listing = run_well(compiler("nm"), "-g", "--defined-only", folder / "libfastopt.so")
    return sorted(line.split()[-1].removeprefix("_") for line in listing.splitlines())


@cache
def name_of_capsule():
    function = ctypes.pythonapi.PyCapsule_GetName
    function.restype, function.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return function


def cython(module):
    """The signatures of a module's functions, which `cimport` compares when a module is imported."""
    return sorted(f"{name}: {name_of_capsule()(each).decode()}" for name, each in module.__pyx_capi__.items())


def measured(folder, lines):
    """Lines of the record, written again with the values, sizes and places that the C compiler finds."""
    body = []
    for line in lines:
        name = re.match(r"[\w.\[\]]+", line)[0]
        struct, _, member = name.partition(".")
        if " = " in line:
            body.append(f'printf("{name} = %lld\\n", (long long){name});')
        elif member:
            size = f"sizeof((({struct} *)0)->{member})"
            body.append(f'printf("{name}: at %zu, %zu\\n", offsetof({struct}, {member}), {size});')
        else:
            body.append(f'printf("{name}: %zu\\n", sizeof({name}));')
    source = "#include <stddef.h>\n#include <stdio.h>\n\nint main(void)\n{\n" + "\n".join(body) + "\n    return 0;\n}\n"
    (folder / "main.c").write_text(f'#include "fastopt.h"\n{source}', encoding="utf-8")
    run_well(compiler("cc"), "-std=c11", "-I", CSRC, "main.c", "-o", "main", cwd=folder)
    return run_well(folder / "main").splitlines()


def test_the_record_has_all_sections(record):
    assert list(record) == SECTIONS
    assert all(record.values())


def test_a_shared_library_exports_the_recorded_symbols(record, tmp_path):
    compare("symbols", record["symbols"], symbols(tmp_path))


def test_the_recorded_prototypes_are_those_of_the_header(record, tmp_path):
    """Each function is declared again as recorded, which the compiler refuses where the header differs."""
    repeated = "".join(f"{prototype};\n" for prototype in record["prototypes"])
    (tmp_path / "again.c").write_text(f'#include "fastopt.h"\n{repeated}', encoding="utf-8")
    done = run(compiler("cc"), "-std=c11", "-Werror", "-I", CSRC, "-c", "again.c", cwd=tmp_path)
    assert done.returncode == 0, UNLIKE.format(section="prototypes", gone=done.stderr, new="")
    assert sorted(re.search(r"(fastopt_\w+)\(", line)[1] for line in record["prototypes"]) == record["symbols"]


def test_cimport_has_the_recorded_functions(record):
    compare("cython", record["cython"], cython(capi))
    compare("memoryviews", record["memoryviews"], cython(memoryviews))


def test_the_capsule_has_its_members_in_their_places(record):
    """After its version and size the table has the sizes of structures and a pointer for each function."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    start = get(capi._C_API, b"fastopt.capi._C_API")
    words = (ctypes.c_size_t * (2 + len(record["capsule"]))).from_address(start)
    assert words[1] == ctypes.sizeof(words)
    for line in record["capsule"]:
        place, name = line.split()
        found = words[2 + int(place)]
        if name.startswith("sizeof_") and ctypes.sizeof(ctypes.c_void_p) == 8:
            assert f"fastopt_{name.removeprefix('sizeof_')}: {found}" in record["layouts"], line
        elif not name.startswith("sizeof_"):
            assert found == capi.capi_address(f"fastopt_{name}"), line


@pytest.mark.parametrize("section", ["values", "layouts"])
def test_the_compiler_finds_the_recorded_values_and_layouts(section, record, tmp_path):
    if section == "layouts" and ctypes.sizeof(ctypes.c_void_p) != 8:
        pytest.skip("the record has the layouts of 64-bit machines: compare them there")
    lines = [line for line in record[section] if not line.startswith("FASTOPT_CAPI_")]
    assert lines
    compare(section, lines, measured(tmp_path, lines))


def test_all_doors_have_the_same_functions(record):
    """Shared library, capsule, addresses and `cimport` have the same function names."""
    names = record["symbols"]
    functions = [name for _, name in map(str.split, record["capsule"]) if not name.startswith("sizeof_")]
    assert sorted(f"fastopt_{name}" for name in functions) == names
    assert sorted(f"fastopt_{line.partition(':')[0]}" for line in record["cython"]) == names
    for name in names:
        assert capi.capi_address(name) > 0


def test_every_function_can_have_a_prefix(record):
    headers = "".join((CSRC / name).read_text(encoding="utf-8") for name in ("fastopt.h", "fastopt_rules.h"))
    renamed = re.findall(r"^#define (fastopt_\w+) FASTOPT_NAME\((\w+)\)$", headers, re.MULTILINE)
    assert sorted(name for name, _ in renamed) == record["symbols"]
    assert all(name == f"fastopt_{rest}" for name, rest in renamed)


# ---- The generator. ----

HEADER = """
enum { ONE = 1, TWO = /* not 3 */ 2, };
#define FASTOPT_VERSION_MAJOR 7
#define FASTOPT_THREE 3
typedef struct {
    size_t size; /* ; */
    const char *name, *other;
    double hyper[ONE], *more;
    void (*run)(int a, int b);
    struct {
        int x;
        union { int y; float z; };
    } inner, several[2];
} outer;
typedef struct later later_t;
typedef struct named { outer whole; } named;
"""


def test_structures_are_parsed_with_all_members(interface):
    found = interface.structures(HEADER)
    assert list(found) == ["outer", "named"]
    inner = ["inner", "inner.x", "inner.y", "inner.z", "several", "several[0].x", "several[0].y", "several[0].z"]
    assert interface.members(found["outer"]) == ["size", "name", "other", "hyper", "more", "run", *inner]
    assert interface.members(found["named"]) == ["whole"]
    assert interface.constants(HEADER) == ["ONE", "TWO", "FASTOPT_THREE"]


def test_from_version_1_on_no_line_may_be_removed(interface, record, monkeypatch):
    sections = {**record, "symbols": record["symbols"][1:]}
    gone = record["symbols"][0]
    monkeypatch.setattr(interface, "sections", lambda rules: sections)
    monkeypatch.setattr(interface, "major", lambda rules: 0)
    assert recorded(interface.text(None)) == sections
    monkeypatch.setattr(interface, "major", lambda rules: 1)
    with pytest.raises(interface.TableError, match=rf"would go:\n{gone}\n"):
        interface.text(None)


def test_the_major_version_is_that_of_the_header(interface, monkeypatch):
    monkeypatch.setattr(interface.headers, "source", lambda rules, name: HEADER)
    assert interface.major(None) == 7
