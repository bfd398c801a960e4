"""The interface is frozen: what others compile against is held against interface.txt, line by line."""

import ctypes
import re
from functools import cache
from pathlib import Path

import pytest
from commands import compiler, run_well

from fastopt import capi

pytestmark = pytest.mark.core

CSRC = Path(__file__).parents[1] / "csrc"
RECORD = Path(__file__).with_name("interface.txt")

CHANGED = """
These lines of tests/interface.txt are no longer true:
{gone}
Code that others have compiled relies on them. Restore what they say, and give what is new a new name beside it
(fastopt_NAME2, a new structure, a new value): names, prototypes, values and layouts are never changed or removed."""
ADDED = """
This is new and not yet in tests/interface.txt:
{new}
Once it is released it stays for good. If that is meant, add these lines to the section [{section}]."""


def text(name):
    """A header without its comments, all white space made one blank."""
    source = re.sub(r"/\*.*?\*/", "", (CSRC / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    source = re.sub(r"^#(?:.*\\\n)*.*$", "", source, flags=re.MULTILINE)
    return " ".join(source.split())


def structures():
    """{structure: its members} of the header."""
    bodies = re.findall(r"typedef struct \{ (.*?) \} (\w+);", text("fastopt.h"))
    return {name: re.findall(r"(\w+)(?:\[\w+\])?;|\(\*(\w+)\)\(void\);", body) for body, name in bodies}


def printed(folder, body, include="fastopt.h"):
    """The lines that a C program prints."""
    source = f'#include "{include}"\n#include <stdio.h>\nint main(void)\n{{\n{body}\n    return 0;\n}}\n'
    (folder / "main.c").write_text(source, encoding="utf-8")
    run_well(compiler("cc"), "-std=c11", "-I", CSRC, "main.c", "-o", "main", cwd=folder)
    return run_well(folder / "main").splitlines()


def symbols(folder):
    """What a shared library of the core shows to programs."""
    sources = sorted(CSRC.glob("*.c"))
    run_well(compiler("cc"), "-O1", "-shared", "-fPIC", *sources, "-pthread", "-o", folder / "libfastopt.so")
    listing = run_well(compiler("nm"), "-g", "--defined-only", folder / "libfastopt.so")
    return sorted(line.split()[-1].removeprefix("_") for line in listing.splitlines())


def prototypes(folder):
    found = re.findall(r"FASTOPT_API ([^;]*);", text("fastopt.h"))
    return sorted(prototype.replace("( ", "(") for prototype in found)


def declarations(folder):
    """The structures as they are written: also the types of their members."""
    found = [re.findall(r"typedef (struct \{ .*? \} \w+);", text(name)) for name in ("fastopt.h", "fastopt_capi.h")]
    return sorted(declaration for each in found for declaration in each)


def capsule(folder):
    """The members of the table and their places: a new one may only come after the last."""
    functions = re.search(r"#define FASTOPT_FUNCTIONS\(X\)((?:.*\\\n)*.*)", (CSRC / "fastopt_capi.h").read_text())[1]
    return [f"{i} {name}" for i, name in enumerate(re.findall(r"X\((\w+)\)", functions))]


@cache
def name_of_capsule():
    function = ctypes.pythonapi.PyCapsule_GetName
    function.restype, function.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return function


def cython(folder):
    """What `cimport` compares when a module is imported."""
    return sorted(f"{name}: {name_of_capsule()(each).decode()}" for name, each in capi.__pyx_capi__.items())


def values(folder):
    enums = re.findall(r"enum \{ (.*?) \};", text("fastopt.h"))
    names = [entry.split("=")[0].strip() for body in enums for entry in body.rstrip(", ").split(",")]
    macros = re.findall(r"^#define (FASTOPT_CAPI_\w+) (.+)$", (CSRC / "fastopt_capi.h").read_text(), re.MULTILINE)
    found = printed(folder, "\n".join(f'    printf("{name} = %d\\n", (int){name});' for name in names))
    return [*found, *(f"{name} = {value}" for name, value in macros)]


def layouts(folder):
    """Where each member of each structure lies, in bytes, on a machine with pointers of eight."""
    lines = []
    for struct, members in structures().items():
        lines.append(f'    printf("{struct}: %zu\\n", sizeof({struct}));')
        for member in (name for pair in members for name in pair if name):
            size = f"sizeof((({struct} *)0)->{member})"
            lines.append(f'    printf("{struct}.{member}: at %zu, %zu\\n", offsetof({struct}, {member}), {size});')
    return printed(folder, "\n".join(lines))


SECTIONS = {each.__name__: each for each in (symbols, prototypes, declarations, capsule, cython, values, layouts)}


def recorded():
    found = {}
    for line in RECORD.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = found[heading[1]] = []
        elif line and not line.startswith("#"):
            section.append(line)
    return found


def test_the_record_has_all_sections():
    assert list(recorded()) == list(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_it_is_as_recorded(section, tmp_path):
    if section == "layouts" and ctypes.sizeof(ctypes.c_void_p) != 8:
        pytest.skip("the record has the layouts of 64-bit machines: compare them there")
    record, found = recorded()[section], SECTIONS[section](tmp_path)
    gone = [line for line in record if line not in found]
    assert not gone, CHANGED.format(gone="\n".join(gone))
    new = [line for line in found if line not in record]
    assert not new, ADDED.format(new="\n".join(new), section=section)


def test_the_doors_show_the_same_functions(tmp_path):
    """Header, shared library, capsule and addresses: one set of names."""
    names = symbols(tmp_path)
    assert sorted(re.findall(r"(fastopt_\w+)\(", " ".join(prototypes(tmp_path)))) == names
    assert sorted(f"fastopt_{line.split()[1]}" for line in capsule(tmp_path)) == names
    for name in names:
        assert capi.capi_address(name) > 0
    renamed = re.findall(
        r"^#define (fastopt_\w+) FASTOPT_NAME\((\w+)\)$", (CSRC / "fastopt.h").read_text(), re.MULTILINE
    )
    assert sorted(name for name, _ in renamed) == names
    assert all(name == f"fastopt_{rest}" for name, rest in renamed)


def test_cimport_has_every_rule(tmp_path):
    rules = {name.removeprefix("fastopt_") for name in symbols(tmp_path) if name.endswith(("_f32", "_f64"))}
    assert rules <= capi.__pyx_capi__.keys()


def test_cython_signatures_are_of_builtin_types():
    """No type that could change under a module that was compiled before."""
    for line in cython(None):
        types = re.findall(r"[A-Za-z_]\w*", line.partition(": ")[2])
        assert set(types) <= {"int", "unsigned", "size_t", "double", "float", "void", "char", "const"}, line
