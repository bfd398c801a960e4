"""The generated files are as tools/generate.py writes them, and a wrong table is refused with the reason."""

import sys

import pytest
from commands import ROOT, compiler

TABLE = ROOT / "csrc" / "rules.toml"


@pytest.fixture(scope="module")
def generated(tools):
    compiler("cc")  # the structures are measured with it
    if sys.maxsize < 2**32:
        pytest.skip("the record of the interface has the layouts of 64-bit machines: generate it there")
    return tools["generate"].generated(tools["table"].read())


def test_generating_again_changes_nothing(generated):
    unlike = [path for path, text in generated.items() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert not unlike, "run `make generate`"


def test_the_check_command_finds_no_difference(tools, generated, capsys):
    assert tools["generate"].main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_whole_files_say_that_they_are_generated(tools, generated):
    rules = tools["table"].read()
    parts = tools["emit_python"].parts(rules)
    whole = generated.keys() - parts.keys()
    assert {
        "csrc/fastopt_rules.h",
        "fastopt/kernels.pyx",
        "fastopt/memoryviews.pyx",
        "tests/core/interface.txt",
    } <= whole
    for path in whole:
        head = generated[path].splitlines()[:3]
        assert any("enerated by tools/generate.py from csrc/rules.toml" in line for line in head), path
        assert path.endswith(".pyx") == head[0].startswith("# cython:"), path


def test_lines_are_of_the_usual_length(generated):
    for path, text in generated.items():
        if path.startswith(("fastopt/", "csrc/")):
            assert max(map(len, text.splitlines())) <= 120, path


def test_a_missing_generated_part_is_named(tools):
    with pytest.raises(
        SystemExit, match=r"README\.md must have one part between BEGIN and END GENERATED weather; it has 0"
    ):
        tools["generate"]._replaced("README.md", {"weather": ""})


BROKEN = {
    "there is no class": ("class = ", "klass = "),
    "there is no use for note": ('title = "Adagrad"', 'note = ""\ntitle = "Adagrad"'),
    "not in [hypers]": ("lr_decay = 0.0, eps = 1e-10", "lr_decya = 0.0, eps = 1e-10"),
    "step must be the first": ('{ step = "required", lr = 1e-2, lr_decay', '{ lr = 1e-2, step = "required", lr_decay'),
    "grad_scale must be the last": (
        ", weight_decay = 0.0, grad_scale = 1.0 }",
        ", grad_scale = 1.0, weight_decay = 0.0 }",
    ),
    "always needed must come first": ('"exp_avg", doc', '"exp_avg", needed_by = "amsgrad", doc'),
    "an option is not in [options]": ('"nesterov"]\narguments', '"nestorev"]\narguments'),
    "must be 1 to 4 state buffers": ('states = [{ name = "momentum_buffer", doc = "The velocity." }]', "states = []"),
    "every rule has the option maximize": ('options = ["maximize", "at_lookahead"]', 'options = ["at_lookahead"]'),
    "the class cannot take": ('"weight_decay", "amsgrad"]', '"weight_decay", "amsgard"]'),
    "not in extra": ("extra = { initial_accumulator_value = 0.0 }\n", ""),
    "two rules have one name": ('name = "adamw"', 'name = "adam"'),
    "beta1 and beta2": (
        "beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 1e-2",
        "beta1 = 0.9, eps = 1e-8, weight_decay = 1e-2",
    ),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_wrong_table_is_refused_with_the_reason(words, tools, tmp_path):
    text, (right, wrong) = TABLE.read_text(encoding="utf-8"), BROKEN[words]
    assert right in text
    path = tmp_path / "rules.toml"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(tools["table"].TableError) as error:
        tools["table"].read(path)
    assert words.lower() in str(error.value).lower()
