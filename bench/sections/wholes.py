"""(c) Whole models."""

from __future__ import annotations

import plots
from measure import Contender, Timings, looped
from models import Case, elements, gpt2, mlp, resnet50
from report import Plot, Promise, Section, count, factor, timings_table
from settings import FASTOPT, Settings

from sections.common import best_peer, roofline_promises

MLP = (64, 128, 64, 10)
SMALL, EACH = 400, 528
UNDER_PEERS = {"small MLP": 5.0, "small tensors": 10.0}
OVER_ONE = 1.6
ONE = "fastopt, one tensor of this size"

TEXT = f"""Adam over all tensors of a model, float32. The small MLP is {"-".join(map(str, MLP))}; the small tensors are
{SMALL} of {EACH} elements, in one row with a single tensor of as many elements. ResNet-50 has torchvision's shapes,
GPT-2 those of the model of 124 M parameters with its head tied. The roofline passes over tensor after tensor."""


def run(settings: Settings) -> Section:
    section = Section("(c) Whole models", " ".join(TEXT.split()))
    small = [(EACH,)] * (20 if settings.quick else SMALL)
    models = {"small MLP": (mlp(*MLP), 8), "small tensors": (small, 15)}
    if not settings.quick:
        models |= {"ResNet-50": (resnet50(), 45), "GPT-2 124M": (gpt2(), 45)}
    results: dict[str, Timings] = {}
    for name, (shapes, budget) in models.items():
        case = Case.of_shapes(shapes)
        extra = one_tensor(case.elements, settings) if name == "small tensors" else []
        title = f"{name}: {len(shapes)} tensors, {count(elements(shapes))} elements"
        results[name] = timings = settings.race(case, name, budget, 5 if case.elements < 10**8 else 3, extra)
        section.tables.append(timings_table(title, timings, (FASTOPT, settings.most)))
        if name in UNDER_PEERS and settings.peers:
            section.promises.append(best_peer(title, timings, settings, UNDER_PEERS[name]))
        if extra:
            for number in settings.threads:
                ratio = timings[FASTOPT, number] / timings[ONE, number]
                text = f"{title}, threads: {number}: at most {OVER_ONE}x one tensor of this size"
                section.promises.append(Promise(text, factor(ratio), ratio <= OVER_ONE))
        if name == "ResNet-50":
            section.promises += roofline_promises(name, timings, settings)
        del case, extra  # before the next model is made
    shows = "Whole models: how many times as long as fastopt the others take"
    section.plots = [
        Plot("models.png", shows, lambda path: plots.models(results, settings.peer_names, settings.most, path))
    ]
    return section


def one_tensor(size: int, settings: Settings) -> list[Contender]:
    """fastopt on a single tensor of as many elements."""
    case = Case.of_shapes([(size,)])
    case.settle()
    made = []
    for number in settings.threads:

        def enter(number: int = number) -> None:
            case.opt.threads = number
            case.opt.bind(case.grads)

        made.append(Contender(ONE, number, looped(case.opt.step), enter))
    return made
