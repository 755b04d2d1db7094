"""The lint says what the front end would say, of the whole file, without running any of it."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from test_frontend_errors import PROGRAMS, mistake_in

from tilewright.frontend.lint import Lint, lint

SCRIPTS = Path(__file__).parent / "scripts"
REPOSITORY = Path(__file__).parents[1]
# What can be seen without knowing an argument; a mistake that leaves this list is found later.
BY_READING = {
    "assert_statement", "augmented_assignment", "chained_assignment", "chained_comparison",
    "comprehension", "import_in_a_kernel", "lambda_in_a_kernel", "missing_operand",
    "missing_annotation", "python_builtin", "python_function", "python_print", "python_range", "region_option_unknown",
    "unknown_name", "unknown_operator",
}  # fmt: skip


def lint_text(tmp_path: Path, text: str, **siblings: str) -> Lint:
    """The lint of a script with this text, beside others."""
    for name, other in siblings.items():
        (tmp_path / f"{name}.py").write_text(dedent(other), encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(dedent(text), encoding="utf-8")
    return lint(script)


def messages(found: Lint) -> list[str]:
    return [finding.error.message for finding in found.findings]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_what_the_lint_finds_is_what_the_front_end_refuses_word_for_word(path: Path):
    found = [(type(f.error), str(f.error)) for f in lint(path).findings]
    error = mistake_in(path)
    assert found in ([], [(type(error), str(error))])
    assert found or path.stem not in BY_READING


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_one_mistake_is_reported_as_one(path: Path):
    assert mistake_in(path).also == ()


@pytest.mark.parametrize("folder", ["examples", "tilewright/models", "tests/fuzz", "tests/passes"])
def test_programs_that_work_are_left_in_peace(folder: str):
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    assert files
    assert [str(f.error) for file in files for f in lint(file).findings] == []


@pytest.mark.parametrize(
    "name",
    ["hello_add", "matmul_tiled", "softmax", "layer_norm", "rms_norm/rms_norm", "wrong_sign"],
)
def test_scripts_that_run_are_left_in_peace(name: str):
    found = lint(SCRIPTS / f"{name}.py")
    assert (found.findings, found.blocked, found.program) == ([], False, True)


def test_all_mistakes_of_all_kernels_are_listed_in_order():
    found = lint(SCRIPTS / "three_mistakes.py")
    assert [(f.error.span.line, f.kernel) for f in found.findings] == [
        (12, "step"),
        (20, "three_mistakes"),
        (21, "three_mistakes"),
    ]
    assert found.blocked


def test_an_entry_without_a_mistake_can_run_beside_one_that_has_some():
    found = lint(SCRIPTS / "two_variants.py")
    assert messages(found) == ["the language has no pl.double_all"]
    assert (found.blocked, found.runnable) == (False, ("doubled",))


@pytest.mark.parametrize("name", ["rms_norm/config", "rms_norm/steps"])
def test_a_module_that_others_import_is_no_program(name: str):
    assert not lint(SCRIPTS / f"{name}.py").program


PRELUDE = "import pypto.language as pl\n"
KERNEL = "@pl.jit\ndef k(x: pl.Tensor[[8, 8], pl.FP32], y: pl.Out[pl.Tensor[[8, 8], pl.FP32]]):\n"


@pytest.mark.parametrize(
    ("line", "message", "help"),
    [
        ("t = pl.row_summ(x)", "the language has no pl.row_summ", "did you mean pl.row_sum?"),
        (
            "t = pl.distributed.put(x)",
            "the language has no pl.distributed",
            "there is one device: leave communication between ranks out",
        ),
        ("t = pl.tile.relux(x)", "the language has no pl.tile.relux", "did you mean pl.tile.relu?"),
        ("t = pl.load(x, [0, 0], [8, 8], target_memory=pl.MemorySpace.L9)",
         "pl.MemorySpace has no attribute 'L9'", None),
        ("t = max(x, 0)", "a kernel cannot call max",
         "write pl.max(a, b) for scalars, pl.maximum for blocks"),
        ("with open('f'):\n        pass", "with open('f') is no scope of the language",
         "write with pl.at(level=pl.Level.CORE_GROUP):"),
        ("for t in x:\n        pass", "a loop must use pl.range, pl.parallel, pl.pipeline, "
         "pl.unroll or pl.spmd, got x", None),
        ("with pl.at(level=pl.Level.CORE_GROUP, prio=3):\n        pass",
         "pl.at: got an unexpected keyword argument 'prio'", None),
        ("t = xx", "'xx' is not defined here", "did you mean 'x'?"),
        ("pl.add(*x)", "a starred argument has no place in a kernel", None),
        ("try:\n        t = pl.nope(x)\n    except ValueError:\n        pass",
         "try has no place in a kernel", None),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_to_write(tmp_path, line, message, help):
    found = lint_text(tmp_path, f"{PRELUDE}\n{KERNEL}    {line}\n")
    assert messages(found)[0] == message
    if help is not None:
        assert found.findings[0].error.help == help
    assert found.findings[0].error.span.line == 5
    assert found.blocked


@pytest.mark.parametrize(
    "body",
    [
        "n = N\n    t = pl.full([n, n], pl.FP32, 0.0)",
        "for i in pl.range(N):\n        t = pl.write(y, [i, 0], 1.0)",
        "with pl.at(level=pl.Level.CORE_GROUP) as tid:\n        y[:, :] = pl.add(x, float_of)",
        "y = helper(x, y)",
        "pl.static_print('n', N)",
    ],
)
def test_names_from_around_the_kernel_are_known(tmp_path, body):
    helper = "@pl.jit.inline\ndef helper(a: pl.Tensor, b: pl.Tensor):\n    return b\n"
    text = f"{PRELUDE}N = 8\nfloat_of = 1.0\n{helper}{KERNEL}    {body}\n"
    assert messages(lint_text(tmp_path, text)) == []


@pytest.mark.parametrize(
    "line",
    [
        "from sizes import *",
        "globals()['N'] = 8",
        "def later():\n    global N\n    N = 8",
        "try:\n    from sizes import N\nexcept ImportError:\n    N = 8",
        "N: int = 8",
        "with open('sizes') as N:\n    pass",
    ],
)
def test_a_name_that_may_be_there_is_not_missed(tmp_path, line):
    text = f"{PRELUDE}{line}\n{KERNEL}    y[:, :] = pl.add(x, N)\n"
    assert messages(lint_text(tmp_path, text)) == []


def test_a_function_made_a_kernel_by_a_call_is_no_plain_function(tmp_path):
    helper = (
        "def helper(a: pl.Tensor, b: pl.Tensor):\n    return b\nhelper = pl.jit.inline(helper)\n"
    )
    assert messages(lint_text(tmp_path, f"{PRELUDE}{helper}{KERNEL}    y = helper(x, y)\n")) == []


def test_a_name_that_the_kernel_binds_hides_the_language():
    # `tile` is a parameter here, and whatever it has is not for the lint to judge.
    assert messages(lint(SCRIPTS / "hidden_name.py")) == []


def test_other_spellings_of_the_import_are_followed(tmp_path):
    for line, word in [
        ("import pypto.language", "pypto.language"),
        ("from pypto import language as lang", "lang"),
        ("import tilewright.language as tl", "tl"),
    ]:
        text = f"{line}\n@{word}.jit\ndef k(x: {word}.Tensor):\n    y = {word}.addd(x, x)\n"
        assert messages(lint_text(tmp_path, text)) == [f"the language has no {word}.addd"]


def test_a_missing_word_where_python_runs_first_blocks_the_script(tmp_path):
    found = lint_text(tmp_path, f"{PRELUDE}DT = pl.FLOAT99\n{KERNEL}    y[:, :] = x\n")
    assert messages(found) == ["the language has no pl.FLOAT99"]
    assert found.blocked


def test_a_word_that_is_imported_must_be_there(tmp_path):
    found = lint_text(tmp_path, "from pypto.language import add, adder\n")
    assert messages(found) == ["the language has no adder"]
    assert found.findings[0].error.help == "did you mean add?"
    assert found.blocked


def test_what_the_author_tries_and_catches_is_his_own_affair(tmp_path):
    text = """
        import pypto.language as pl
        try:
            from pypto.language import adder
            DT = pl.FLOAT99
        except (ImportError, AttributeError):
            DT = pl.FP32
        """
    assert messages(lint_text(tmp_path, text)) == []


def test_a_missing_word_in_a_function_that_may_never_run_blocks_nothing(tmp_path):
    text = f"{PRELUDE}{KERNEL}    y[:, :] = x\n\ndef spare():\n    return pl.FLOAT99\n"
    found = lint_text(tmp_path, text)
    assert messages(found) == ["the language has no pl.FLOAT99"]
    assert not found.blocked


def test_a_kernel_made_by_a_function_shares_the_mistakes_around_it(tmp_path):
    inner = KERNEL.replace("\n", "\n    ")
    text = f"{PRELUDE}def build():\n    dt = pl.FLOAT99\n    {inner}    y[:, :] = x\n    return k\n"
    assert lint_text(tmp_path, text).blocked


def test_a_program_class_is_read_method_by_method(tmp_path):
    text = """
        import pypto.language as pl

        @pl.program
        class P:
            @pl.function(type=pl.FunctionType.InCore)
            def inner(self, x: pl.Tensor[[8, 8], pl.FP32]):
                assert x
                return x

            @pl.function(type=pl.FunctionType.Orchestration)
            def main(self, x: pl.Tensor[[8, 8], pl.FP32]):
                y = self.inner(x)
                print(y)
                return y
        """
    found = messages(lint_text(tmp_path, text))
    assert "assert has no place in a kernel" in found
    assert "a kernel cannot call print" in found


def test_kernels_from_files_beside_the_script_are_read_where_they_are_used(tmp_path):
    text = f"{PRELUDE}from steps import good, bad\n{KERNEL}    bad(x, y)\n"
    steps = f"""
        {PRELUDE}
        @pl.jit.inline
        def good(a: pl.Tensor, b: pl.Tensor):
            b[:, :] = a

        @pl.jit.inline
        def bad(a: pl.Tensor, b: pl.Tensor):
            b[:, :] = pl.addd(a, a)

        @pl.jit.inline
        def unused(a: pl.Tensor, b: pl.Tensor):
            b[:, :] = pl.subb(a, a)
        """
    found = lint_text(tmp_path, text, steps=steps)
    assert messages(found) == ["the language has no pl.addd"]
    assert found.findings[0].error.span.file == str(tmp_path / "steps.py")
    assert found.blocked


def test_files_that_import_each_other_are_read_once(tmp_path):
    text = f"{PRELUDE}from steps import lost\n{KERNEL}    lost(x, y)\n"
    assert messages(lint_text(tmp_path, text, steps="from script import lost\n")) == []


def test_a_script_that_is_no_python_is_told_where(tmp_path):
    found = lint_text(tmp_path, "import os\nx = (1,\n")
    assert found.blocked
    assert found.findings[0].error.span.line == 2


def test_nothing_is_run_or_imported(tmp_path):
    text = f"import does_not_exist\nraise SystemExit('ran')\n{PRELUDE}{KERNEL}    y[:, :] = x\n"
    assert messages(lint_text(tmp_path, text)) == []
