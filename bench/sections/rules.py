"""(d) Every rule against its roofline and its torch counterpart."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from measure import Contender, round_robin
from models import Case, optimizer_classes
from peers import Bound, Torch, contenders
from report import Section, Table, count, factor, seconds
from roofline import roofline
from settings import FASTOPT, LABEL, Settings

import fastopt
from fastopt._rules import RULES
from sections.common import OF_ROOFLINE, each

SIZES = (16, 50_000, 30_000_000)
QUICK = (16, 5_000)
ROOFLINE_FROM = 1_000  # on fewer elements the call takes nearly all of the time

# Rules that torch has under another name or with other settings: torch's name and hyperparameters, and those that
# fastopt needs to take the same steps. (At a constant learning rate it does not
# matter whether that stands inside the velocity.)
OTHER_NAMES = {
    "Momentum": ("SGD", {"momentum": 0.9}, {}),
    "NAG": ("SGD", {"momentum": 0.9, "nesterov": True}, {"at_lookahead": True}),
}

TEXT = """One float32 tensor under every optimizer that fastopt offers: by default, and once more with everything
switched on that takes another state buffer. torch is its fused form where it has one, else foreach, else the default;
it steps a copy of the same arrays. The roofline has as many buffers as the rule. "of the roofline" is the roofline's
time over fastopt's."""


@dataclass
class Variant:
    optimizer: type[fastopt.Optimizer]
    hypers: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        settings = (key if value is True else f"{key}={value:g}" for key, value in self.hypers.items())
        return " ".join([self.optimizer.__name__, ", ".join(settings)]).strip()


def variants() -> Iterator[Variant]:
    """Each class with the state buffers that it needs, and with all that it can have."""
    for optimizer in optimizer_classes():
        needed = OTHER_NAMES.get(optimizer.__name__, ("", {}, {}))[2]
        yield Variant(optimizer, dict(needed))
        parameters = inspect.signature(optimizer).parameters
        # A switch is turned on; a number, such as a momentum, gets a usual value.
        switches = {name: parameters[name].default is False or 0.9 for name in RULES[optimizer.rule].needed_by.values()}
        if switches:
            yield Variant(optimizer, needed | switches)


class Counterpart(Torch):
    """The optimizer of torch.optim that takes the same steps."""

    def make(self, params: list[Any]) -> Any:
        optimizer, settings = counterpart(type(self.case.opt))
        takes = inspect.signature(optimizer).parameters
        hypers = {key: value for key, value in self.case.hypers.items() if key in takes}
        return optimizer(params, **(hypers | settings | self.options))


class Fused(Counterpart):
    name, options = "torch fused", {"fused": True}


class Foreach(Counterpart):
    name, options = "torch foreach", {"foreach": True}


class Default(Counterpart):
    name, options = "torch default", {}


def counterpart(optimizer: type[fastopt.Optimizer]) -> tuple[Any, dict[str, Any]]:
    """torch's class for one of fastopt's and what must be set in it; the class is None if torch has none."""
    import torch

    name, settings, _ = OTHER_NAMES.get(optimizer.__name__, (optimizer.__name__, {}, {}))
    return getattr(torch.optim, name, None), settings


def torch_contenders(case: Case, settings: Settings) -> tuple[list[Contender], str]:
    """torch in the fastest form that it has for this rule, and what the report calls it."""
    if Torch not in settings.peers:
        return [], "torch is not here"
    if counterpart(type(case.opt))[0] is None:
        return [], "no counterpart"
    twin = case.twin()  # torch may scale a buffer otherwise, or spoil it (its centered RMSprop gives NaN)
    why: dict[str, str] = {}
    for form in (Fused, Foreach, Default):
        made, dropped = contenders(twin, [form], settings.threads)
        if made:
            return made, form.name
        why |= dropped
    return [], why[Default.name]


def run(settings: Settings) -> Section:
    section = Section("(d) Every rule", " ".join(TEXT.split()))
    sizes = QUICK if settings.quick else SIZES
    tables = {
        (size, number): Table(
            f"{count(size)} elements, {number} thread{'s' if number > 1 else ''}",
            ("rule", "fastopt", "roofline", "of the roofline", "torch", "torch / fastopt", "torch's form"),
        )
        for size in sizes
        for number in settings.threads
    }
    shares: dict[int, dict[str, float]] = {number: {} for number in settings.threads}
    for variant in variants():
        for size in sizes:
            case = Case.of_shapes([(size,)], variant.optimizer, **variant.hypers)
            torch, form = torch_contenders(case, settings)
            made = [*settings.checked(case, [Bound], f"{variant.title}, {count(size)} elements"), *torch]
            if size >= ROOFLINE_FROM:
                made += [roofline(case, number) for number in settings.threads]
            timings = round_robin(made, settings.seconds(10 if size > 10**7 else 1.5), settings.rounds())
            for number in settings.threads:
                ours, roof = timings.get((FASTOPT, number)), timings.get((LABEL, number))
                if ours is None:
                    continue
                theirs = timings.get((form, number))
                compared = (seconds(theirs), factor(theirs / ours)) if theirs else ("", "")
                bound = (seconds(roof), f"{roof / ours:.2f}") if roof else ("", "")
                row = (variant.title, seconds(ours), *bound, *compared, form)
                tables[size, number].rows.append(row)
                if roof and size == max(sizes):
                    shares[number][variant.title] = roof / ours
    for number, of_rule in shares.items():
        on = f"Every rule, {count(max(sizes))} elements, {number} thread{'s' if number > 1 else ''}"
        section.promises.append(each(f"{on}, share of its roofline", of_rule, OF_ROOFLINE, "{:.3f}".format, least=True))
    section.tables = [*tables.values()]
    without = sorted(set(RULES) - {optimizer.rule for optimizer in optimizer_classes()})
    if without:
        section.remarks.append(f"Rules of the C core that no class offers: {', '.join(without)}.")
    return section
