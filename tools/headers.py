"""Reads the public functions of the C core from its headers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import emit_c
from table import ROOT, Table


@dataclass(frozen=True)
class Function:
    """One public function; its name is without the prefix `fastopt_`."""

    result: str  # "const char *", "int"
    name: str
    parameters: tuple[tuple[str, str], ...]  # type and name of each

    @property
    def prototype(self) -> str:
        return f"{_before(self.result)}fastopt_{self.name}({self.listed() or 'void'})"

    def listed(self) -> str:
        return ", ".join(f"{_before(kind)}{name}" for kind, name in self.parameters)


def _before(kind: str) -> str:
    """A type as C writes it before a name: `int `, `float *`."""
    return kind if kind.endswith("*") else f"{kind} "


def functions(rules: Table) -> list[Function]:
    """Every public function: those of the rules, then those of fastopt.h in its order."""
    return [function for name in ("fastopt_rules.h", "fastopt.h") for function in parsed(source(rules, name))]


def source(rules: Table, name: str) -> str:
    """The text of a header in csrc/: newly generated if it comes from the table, else as the file has it."""
    path = f"csrc/{name}"
    generated = emit_c.files(rules)
    return generated[path] if path in generated else (ROOT / path).read_text(encoding="utf-8")


def bare(text: str) -> str:
    """C without comments and directives, each run of white space as one blank."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"^[ \t]*#(?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)
    return " ".join(text.split())


def parsed(text: str) -> list[Function]:
    found = re.findall(r"\bFASTOPT_API ([^;()]*?)\bfastopt_(\w+) ?\(([^;]*?)\) ?;", bare(text))
    return [Function(result.strip(), name, _parameters(name, given)) for result, name, given in found]


def _parameters(function: str, given: str) -> tuple[tuple[str, str], ...]:
    if given.strip() == "void":
        return ()
    parameters = []
    for part in given.split(","):
        match = re.fullmatch(r" ?([\w ]+?[ *]+)(\w+) ?", part)
        if match is None:
            raise SystemExit(f"fastopt_{function}: the parameter {part.strip()!r} is not a plain type and a name")
        parameters.append((match[1].strip(), match[2]))
    return tuple(parameters)


def structures_named(found: list[Function]) -> list[str]:
    """The structures that the prototypes name, in alphabetical order."""
    text = " ".join([f.result for f in found] + [kind for f in found for kind, _ in f.parameters])
    return sorted(set(re.findall(r"\bfastopt_\w+", text)))
