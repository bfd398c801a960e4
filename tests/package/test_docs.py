"""What the docs say is run: every example in a docstring, every snippet of the README, every path and make target."""

import doctest
import inspect
import re
from importlib import metadata

import numpy as np
import pytest
from commands import ROOT

import fastopt
from fastopt import kernels, reference
from fastopt._engine import Engine
from fastopt._rules import RULES
from fastopt.optimizers._hyper import Hyper

PAGES = ["README.md", "CONTRIBUTING.md"]


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


# ---- Docstrings. ----


def public_objects():
    """Kernels, classes and functions, by the names that users call them by."""
    found = {f"fastopt.kernels.{name}": getattr(kernels, name) for name in kernels.__all__}
    for name in fastopt.__all__:
        value = getattr(fastopt, name)
        if callable(value):
            found[f"fastopt.{name}"] = value
    return {**found, "fastopt.reference.Optimizer": reference.Optimizer}


def public_members():
    """Methods and properties that the classes define themselves; the optimizers' compiled half counts as theirs."""
    found = {}
    for name, value in public_objects().items():
        if inspect.isclass(value):
            for member, inner in {**(vars(Engine) if value is fastopt.Optimizer else {}), **vars(value)}.items():
                documented = inspect.isroutine(inner) or inspect.isdatadescriptor(inner)
                if not member.startswith("_") and documented and not isinstance(inner, Hyper):
                    found[f"{name}.{member}"] = inner
    return found


OBJECTS, MEMBERS = public_objects(), public_members()
DOCUMENTED = {**OBJECTS, **MEMBERS}
EXAMPLES = {
    name: examples
    for name, value in DOCUMENTED.items()
    if (examples := doctest.DocTestParser().get_examples(value.__doc__ or ""))
}


def sections(docstring):
    return re.findall(r"^([A-Z]\w+)\n-+$", inspect.cleandoc(docstring), re.MULTILINE)


def documented_parameters(docstring):
    """The names in the section of parameters: `a, b : type` at the margin of each entry."""
    text = inspect.cleandoc(docstring)
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+$|\Z)", text, re.MULTILINE | re.DOTALL)
    if section is None:
        return []
    entries = re.findall(r"^(\S[^:\n]*?)(?: :.*)?$", section[1], re.MULTILINE)
    return [name.strip().lstrip("*") for entry in entries for name in entry.split(",")]


@pytest.fixture
def same_isa():
    before = fastopt.isa()
    yield
    fastopt.use_isa(before)
    fastopt.set_num_threads(None)


def test_the_collection_finds_what_is_public():
    assert {"fastopt.kernels.adam", "fastopt.Adam", "fastopt.use_isa", "fastopt.global_norm"} <= OBJECTS.keys()
    assert {
        "fastopt.Optimizer.step",
        "fastopt.Optimizer.threads",
        "fastopt.NAG.lookahead",
        "fastopt.Optimizer.state",
    } <= MEMBERS.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_is_true(name, same_isa):
    globs = {"np": np, "fastopt": fastopt}
    test = doctest.DocTestParser().get_doctest(DOCUMENTED[name].__doc__, globs, name, None, None)
    report = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert result.attempted == len(EXAMPLES[name])
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_it_has_a_docstring_that_starts_with_a_sentence(name):
    first = inspect.cleandoc(DOCUMENTED[name].__doc__ or "").split("\n\n")[0]
    assert re.match(r"[A-Z`]", first), name
    assert first.rstrip("`").endswith((".", "::")), first


@pytest.mark.parametrize("name", sorted(OBJECTS.keys() - {"fastopt.Optimizer"}))  # of which nobody makes one
def test_every_object_has_an_example(name):
    assert name in EXAMPLES


# A property takes nothing, and the optimizers make the groups.
@pytest.mark.parametrize(
    "name", [name for name, value in DOCUMENTED.items() if callable(value) and "Group" not in name]
)
def test_the_docstring_has_each_parameter_once(name):
    parameters = [each for each in inspect.signature(DOCUMENTED[name]).parameters if each != "self"]
    assert sorted(documented_parameters(DOCUMENTED[name].__doc__)) == sorted(parameters)


@pytest.mark.parametrize("rule", RULES)
def test_the_sections_of_a_rule(rule):
    (cls,) = (value for value in OBJECTS.values() if getattr(value, "rule", None) == rule)
    assert sections(getattr(kernels, rule).__doc__) == ["Parameters", "Notes", "Examples"]
    assert sections(cls.__doc__) == ["Parameters", "Raises", "Notes", "Examples"]


@pytest.mark.parametrize("rule", RULES)
def test_the_reference_points_to_the_kernel(rule):
    assert f"see `fastopt.kernels.{rule}`" in getattr(reference, rule).__doc__


# ---- Pages. ----


def snippets(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(snippets("README.md", "python"))))
def test_the_snippet_runs(number, tmp_path, monkeypatch, same_isa):
    monkeypatch.chdir(tmp_path)
    code = snippets("README.md", "python")[number]
    exec(compile(code, f"README.md, snippet {number + 1}", "exec"), {"__name__": "__main__"})


def test_the_training_loop_of_the_readme_learns(capsys):
    loops = [code for code in snippets("README.md", "python") if "for epoch in" in code]
    assert loops
    exec(loops[0], {"__name__": "__main__"})
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < losses[0] / 100


def test_the_readmes_table_has_the_defaults():
    """The third column of the table of rules: `lr 1e-3, betas 0.9 and 0.999`."""
    rows = re.findall(r"^\| `(\w+)` \|.*", text_of("README.md"), re.MULTILINE)
    assert {getattr(fastopt, name).rule for name in rows} == set(RULES)
    for name, stated in re.findall(r"^\| `(\w+)` \| .*? \| ([^|]*) \|[^|]*\|$", text_of("README.md"), re.MULTILINE):
        parameters = inspect.signature(getattr(fastopt, name)).parameters
        entries = re.findall(r"(\w+) ([\d.e-]+)(?: and ([\d.e-]+))?(?:, |$)", stated)
        assert len(entries) == stated.count(",") + 1, stated
        for hyper, first, second in entries:
            value = (float(first), float(second)) if second else float(first)
            assert parameters[hyper].default == value, (name, hyper)


def prose(page):
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def spans(page):
    """What stands in code on a page: between backticks, and the lines of its shell blocks."""
    inline = [
        span.replace("\n", " ")
        for paragraph in prose(page).split("\n\n")
        for span in re.findall(r"`([^`]+)`", paragraph)
    ]
    return [*inline, *(line for block in snippets(page, "sh") for line in block.splitlines())]


@pytest.mark.parametrize("page", PAGES)
def test_its_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {found for span in spans(page) for found in re.findall(r"\bmake ([a-z-]+)", span)}
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_its_extras_exist(page):
    named = {
        extra
        for span in spans(page)
        for found in re.findall(r"(?:EXTRAS=|\.\[)([\w,]+)", span)
        for extra in found.split(",")
    }
    assert named
    assert named <= set(metadata.metadata("fastopt").get_all("Provides-Extra"))


@pytest.mark.parametrize("page", PAGES)
def test_its_links_and_paths_exist(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)", prose(page)) if "://" not in link]
    words = [word.strip(":,;.") for span in spans(page) for word in span.split()]
    paths = [
        word
        for word in words
        if re.fullmatch(r"(csrc|examples|fastopt|tests|bench|tools)/[\w./*]*", word) and "NAME" not in word
    ]
    assert links + paths
    for path in links + paths:
        assert list(ROOT.glob(path.rstrip("/"))), path


def test_the_map_of_the_source_is_true():
    """Each line of the map names what there is: folders at the margin, their files indented."""
    (tree,) = (block for block in snippets("CONTRIBUTING.md", "") if "csrc/" in block)
    folder = None
    for line in tree.splitlines():
        names = re.split(r"  +", line.strip())
        if not line.startswith(" "):
            folder = ROOT / names[0]
            assert all((ROOT / name).is_dir() for name in names if name.endswith("/")), line
        else:
            assert list(folder.glob(names[0].rstrip("/"))), line
