"""The docs are true: docstring examples and Python blocks of pages run, and links, paths and make targets exist.

Docstrings are found by import, and their examples run by doctest itself, since most of them are in compiled modules, of
which pytest's doctest and Sybil would read no source.
"""

import doctest
import inspect
import re
from importlib import metadata

import numpy as np
import pytest
from commands import ROOT
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import fastopt
from fastopt import kernels, reference
from fastopt._rules import RULES
from fastopt.optimizers._hyper import Hyper

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "bench/NOTES.md", "docs/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)


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


def members(cls):
    """What a class defines itself; the optimizers' compiled bases count as theirs."""
    bases = [
        base for base in cls.__mro__ if base.__module__ in ("fastopt._buffers", "fastopt._groups", "fastopt._engine")
    ]
    own = [*bases, cls] if cls is fastopt.Optimizer else [cls]
    return {name: inner for each in own for name, inner in vars(each).items()}


def public_members():
    """Methods and properties that the classes define themselves."""
    found = {}
    for name, value in public_objects().items():
        if inspect.isclass(value):
            for member, inner in members(value).items():
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


@pytest.fixture
def same_isa():
    before = fastopt.isa()
    yield
    fastopt.use_isa(before)
    fastopt.set_num_threads(None)


def test_the_collection_has_all_public_objects():
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


# Findings of numpydoc that are no faults in this project.
ALLOWED = {
    "ES01": "a summary can say all",
    "SA01": "no section See Also",
    "PR03": "parameters of one kind are described together, in an order of their own",
    "PR04": "the types of `params` are in its description",
    "PR08": "a description may begin with a name",
    "RT01": "a summary that says what is returned needs no section for it",
    "YD01": "a context manager yields nothing to its user",
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_numpydoc_finds_no_fault_in_the_docstring(name):
    """A summary that is a sentence, known sections in order, all parameters and no others, an example."""
    allowed = set(ALLOWED)
    if name not in OBJECTS or name == "fastopt.Optimizer":  # an abstract class; its methods have examples where needed
        allowed.add("EX01")
    found = validate(name)["errors"]
    if name == "fastopt.Optimizer":  # in which `hyper` stands for the arguments of the subclasses
        found = [(code, text) for code, text in found if "hyper" not in text]
    assert [(code, text) for code, text in found if code not in allowed] == []


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_docstring_has_no_parameter_twice(name):
    entries = NumpyDocString(inspect.cleandoc(DOCUMENTED[name].__doc__))["Parameters"]
    names = [each.strip() for entry in entries for each in entry.name.split(",")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("rule", RULES)
def test_the_docstrings_of_a_rule_have_their_sections(rule):
    (cls,) = (value for value in OBJECTS.values() if getattr(value, "rule", None) == rule)
    kernel = getattr(kernels, rule)
    assert f"docstring of `fastopt.{cls.__name__}` has the formula" in kernel.__doc__
    for value, expected in ((kernel, set()), (cls, {"Notes", "Raises"})):
        sections = NumpyDocString(inspect.cleandoc(value.__doc__))
        found = {name for name, text in sections.items() if text} - {"Summary", "Extended Summary"}
        assert found == {"Parameters", "Examples"} | expected


@pytest.mark.parametrize("rule", RULES)
def test_the_reference_points_to_the_kernel(rule):
    assert f"see `fastopt.kernels.{rule}`" in getattr(reference, rule).__doc__


# ---- Pages. ----


def blocks(page, language):
    """The code blocks of a page in one language."""
    found = []
    parser = CodeBlockParser(language, evaluator=lambda example: found.append(example.parsed))
    for example in Sybil([parser]).parse(ROOT / page).examples():
        example.evaluate()
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_the_page_runs(page, tmp_path, monkeypatch, same_isa):
    """Block after block, in one namespace: a block may continue those above it. Other languages: `test_examples.py`."""
    monkeypatch.chdir(tmp_path)
    for example in Sybil([PythonCodeBlockParser()]).parse(ROOT / page).examples():
        example.evaluate()


def test_all_blocks_are_in_a_language_that_is_run_or_checked():
    """`test_examples.py` runs all of docs/embedding.md; on other pages, tests below check the shell commands."""
    languages = {page: set(re.findall(r"^```(\w+)$", text_of(page), re.MULTILINE)) for page in PAGES}
    assert languages.pop("docs/embedding.md") == {"c", "cpp", "cython", "python", "sh"}
    assert languages["README.md"] == {"python", "sh"}
    assert set().union(*languages.values()) <= {"python", "sh"}


def test_the_training_loop_of_the_readme_learns(capsys):
    (loop,) = (code for code in blocks("README.md", "python") if "for epoch in" in code)
    exec(loop, {"__name__": "__main__"})
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < losses[0] / 100


def test_the_readmes_table_has_the_defaults():
    """The third column of the table of rules: `lr 1e-3, betas 0.9 and 0.999`."""
    rows = re.findall(r"^\| \[`(\w+)`\]\([\w./]+\) \| .*? \| ([^|]*) \|$", text_of("README.md"), re.MULTILINE)
    assert sorted(getattr(fastopt, name).rule for name, _ in rows) == sorted(RULES)
    for name, stated in rows:
        parameters = inspect.signature(getattr(fastopt, name)).parameters
        entries = re.findall(r"(\w+) ([\d.e-]+)(?: and ([\d.e-]+))?(?:, |$)", stated)
        assert len(entries) == stated.count(",") + 1, stated
        for hyper, first, second in entries:
            value = (float(first), float(second)) if second else float(first)
            assert parameters[hyper].default == value, (name, hyper)


def prose(page):
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def spans(page):
    """The code of a page: what stands between backticks, and the lines of its shell blocks."""
    inline = [
        span.replace("\n", " ")
        for paragraph in prose(page).split("\n\n")
        for span in re.findall(r"`([^`]+)`", paragraph)
    ]
    return [*inline, *(line for block in blocks(page, "sh") for line in block.splitlines())]


def test_the_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {found for page in PAGES for span in spans(page) for found in re.findall(r"\bmake ([a-z-]+)", span)}
    assert {"demo", "test", "bench", "audit"} <= named
    assert named <= targets


def test_the_extras_exist():
    named = {
        extra
        for page in PAGES
        for span in spans(page)
        for found in re.findall(r"(?:EXTRAS=|\.\[)([\w,]+)", span)
        for extra in found.split(",")
    }
    assert {"bench", "peers", "test", "torch"} <= named
    assert named <= set(metadata.metadata("fastopt").get_all("Provides-Extra"))


@pytest.mark.parametrize("page", PAGES)
def test_its_links_and_paths_exist(page):
    """Links start from the page's folder, paths from the root; docs/guarantees.md says how it names tests."""
    links = [link for link in re.findall(r"\]\(([^)#]+)", prose(page)) if "://" not in link]
    assert all((ROOT / page).parent.joinpath(link).exists() for link in links), links
    words = [word.strip(":,;.") for span in spans(page) for word in span.split()]
    paths = [
        word
        for word in words
        if re.fullmatch(r"(csrc|examples|fastopt|tests|bench|docs|tools)/[\w./*]*", word) and "NAME" not in word
    ]
    for path in paths:
        assert list(ROOT.glob(path.rstrip("/"))), path
    for name in (word.removeprefix("test_") for word in words if re.fullmatch(r"test_[a-z_]+", word)):
        assert [*ROOT.glob(f"tests/**/test_{name}.py"), *ROOT.glob(f"tests/**/{name}/")], name


def test_the_links_inside_a_page_lead_to_its_headings():
    for page in PAGES:
        text = prose(page)
        anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_the_map_of_the_source_is_true():
    """Each line of the map names existing paths: folders at the margin, their files and folders indented."""
    tree = re.search(r"^```\n(csrc/ .*?)^```$", text_of("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL)[1]
    folders = {0: ROOT}
    for line in tree.splitlines():
        names, depth = re.split(r"  +", line.strip()), len(line) - len(line.lstrip())
        assert list(folders[depth].glob(names[0].rstrip("/"))), line
        if names[0].endswith("/"):
            folders[depth + 2] = folders[depth] / names[0]
            assert all((folders[depth] / name).is_dir() for name in names if name.endswith("/")), line
