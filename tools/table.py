"""Reads the table of rules, csrc/rules.toml, and checks it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "csrc" / "rules.toml"

# The limits of fastopt.h, which the generated code asserts again.
MAX_STATES, MAX_HYPERS, MAX_SUMS = 4, 12, 2


# The keys that an entry of a rule must have, and those that it may have.
NEEDED = ("name", "class", "title", "states", "hypers", "options", "arguments", "example")
OPTIONAL = ("docs", "extra", "sums")


@dataclass(frozen=True)
class Range:
    name: str
    words: str
    above: str
    above_f32: str
    high: str
    high_f32: str


@dataclass(frozen=True)
class Hyper:
    name: str
    range: Range
    doc: str
    default: float | None  # None: required in the kernel


@dataclass(frozen=True)
class State:
    name: str
    doc: str
    needed_by: str | None = None
    start: float | str = 0.0  # the initial value, or the argument of the class that has it
    shape: str = "p"


@dataclass(frozen=True)
class Option:
    name: str
    bit: int
    doc: str
    needs: str | None = None  # a condition on hyperparameters, in words


@dataclass(frozen=True)
class Rule:
    name: str
    cls: str
    title: str
    states: tuple[State, ...]
    hypers: tuple[Hyper, ...]
    options: tuple[Option, ...]
    arguments: tuple[str, ...]  # of the class, by position
    extra: dict[str, float]  # arguments that the core does not see
    sums: tuple[str, ...]
    example: str

    @property
    def required(self) -> tuple[State, ...]:
        return tuple(state for state in self.states if state.needed_by is None)

    @property
    def optional(self) -> tuple[State, ...]:
        return tuple(state for state in self.states if state.needed_by is not None)

    @property
    def variants(self) -> tuple[str, ...]:
        """The switches of the class that call for a buffer and are no hyperparameter in C, such as `amsgrad`."""
        names = {hyper.name for hyper in self.hypers}
        return tuple(state.needed_by for state in self.optional if state.needed_by and state.needed_by not in names)


@dataclass(frozen=True)
class Table:
    rules: tuple[Rule, ...]
    ranges: tuple[Range, ...]
    options: tuple[Option, ...]
    hyper_ranges: dict[str, Range]


class TableError(Exception):
    """An error in the table or in the headers; the message says where."""


def read(path: Path = PATH) -> Table:
    with open(path, "rb") as file:
        data = tomllib.load(file)
    ranges = {name: Range(name, **entry) for name, entry in data["ranges"].items()}
    options = {name: Option(name, **entry) for name, entry in data["options"].items()}
    hypers = {name: (ranges[entry["range"]], entry["doc"]) for name, entry in data["hypers"].items()}
    rules = tuple(_rule(entry, hypers, options) for entry in data["rule"])
    if len({rule.name for rule in rules}) < len(rules):
        raise TableError("two rules have one name")
    return Table(rules, tuple(ranges.values()), tuple(options.values()), {name: r for name, (r, _) in hypers.items()})


def _rule(entry: dict[str, Any], known_hypers: dict[str, tuple[Range, str]], options: dict[str, Option]) -> Rule:
    name = entry.get("name", "a rule without a name")

    def need(condition: bool, words: str) -> None:
        if not condition:
            raise TableError(f"{name}: {words}")

    missing = [key for key in NEEDED if key not in entry]
    need(not missing, f"there is no {', no '.join(missing)}")
    unknown = [key for key in entry if key not in NEEDED and key not in OPTIONAL]
    need(not unknown, f"there is no use for {', '.join(unknown)}")
    states = tuple(State(**state) for state in entry["states"])
    hypers, docs = [], entry.get("docs", {})
    for key, default in entry["hypers"].items():
        need(key in known_hypers, f"the hyperparameter {key} is not in [hypers]")
        allowed, doc = known_hypers[key]
        hypers.append(Hyper(key, allowed, docs.get(key, doc), None if default == "required" else default))
    names = [hyper.name for hyper in hypers]
    need("step" not in names[1:], "step must be the first hyperparameter")
    need(names[-1] == "grad_scale", "grad_scale must be the last hyperparameter")
    need(len(hypers) <= MAX_HYPERS, f"there are more than {MAX_HYPERS} hyperparameters")
    need(1 <= len(states) <= MAX_STATES, f"there must be 1 to {MAX_STATES} state buffers")  # C has no empty arrays
    needed = [state.needed_by is None for state in states]
    need(needed == sorted(needed, reverse=True), "buffers that are always needed must come first")
    need(all(state.shape == "p" for state in states), "the only shape of a state buffer so far is 'p'")
    need(all(option in options for option in entry["options"]), "an option is not in [options]")
    need("maximize" in entry["options"], "every rule has the option maximize: it is the sign of grad_scale")
    extra = entry.get("extra", {})
    need(all(key in names for key in docs), "docs has a name that is no hyperparameter of this rule")
    starts = [state.start for state in states if isinstance(state.start, str)]
    need(all(start in extra for start in starts), "a state buffer starts with an argument that is not in extra")
    variants = [state.needed_by for state in states if state.needed_by]
    arguments = {*names, *entry["options"], *variants, *extra, *(["betas"] if "beta1" in names else [])}
    arguments -= {"step", "grad_scale", "beta1", "beta2"}
    strange = [each for each in entry["arguments"] if each not in arguments]
    need(not strange, f"the class cannot take {', '.join(strange)}")
    need(("beta1" in names) == ("beta2" in names), "beta1 and beta2 must be there together")
    sums = tuple(entry.get("sums", ()))
    need(len(sums) <= MAX_SUMS and set(sums) <= {"p", "update"}, "sums may be 'p' and 'update'")
    return Rule(
        name=name,
        cls=entry["class"],
        title=entry["title"],
        states=states,
        hypers=tuple(hypers),
        options=tuple(options[option] for option in entry["options"]),
        arguments=tuple(entry["arguments"]),
        extra=extra,
        sums=sums,
        example=entry["example"].strip("\n"),
    )
