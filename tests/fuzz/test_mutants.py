"""Scripts with a slip of the pen: whatever it is, the author is told where, by an error of ours, or it runs.

`FUZZ_MUTANTS=2000 python -m pytest tests/fuzz/test_mutants.py` tries 2000 new ones.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilewright.errors import CheckFailed, KernelError
from tilewright.frontend import signature_of
from tilewright.frontend.lint import lint
from tilewright.language import Kernel

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = (
    "hello_add", "softmax", "layer_norm", "matmul_tiled", "wrong_sign", "two_variants",
    "examples/softmax_online", "examples/cross_entropy", "examples/paged_attention",
)  # fmt: skip
TEXTS = {
    name: (SCRIPTS / f"{name}.py")
    .read_text(encoding="utf-8")
    .replace("pypto.language", "tilewright.language")
    .replace("from golden", "from tilewright.golden")
    for name in NAMES
}
ASKED = int(os.environ.get("FUZZ_MUTANTS", "0"))
EVERY_DAY = 90
PATIENCE = 20.0  # seconds for one mutant; they take hundredths
ROWS = 16  # of an axis that no annotation fixes

WORDS = (
    "add", "sub", "mul", "matmul", "matmul_acc", "row_sum", "col_max", "row_expand_mul", "cast", "full", "slice",
    "reshape", "transpose", "assemble", "read", "write", "load", "store", "concat", "fillpad", "at", "range",
    "parallel", "pipeline", "unroll", "spmd", "FP32", "INT32", "BF16", "Level", "nonsense", "create_tensor",
    "set_validshape", "sort32", "yield_", "cond", "min", "const", "static_assert", "sel", "cmp", "gather",
)  # fmt: skip
EXPRESSIONS = (
    "0", "-1", "1", "7", "1 << 40", "10 ** 400", "1.5", "True", "None", "'text'", "x", "[1, 2]", "[]", "(0, 0, 0)",
    "{}", "lambda: 0", "nothing_there", "pl", "pl.FP32", "pl.add", "float('nan')", "x[0]", "x.shape", "-x", "not x",
    "1 / 0", "range(3)", "pl.full([16, 16], pl.FP32, 0.0)", "pl.read(x, [0, 0])", "...", "b'x'", "1j", "f'{x}'",
    "pl.create_tensor([8, 8], dtype=pl.BF16)", "print(x)", "x if x else x", "0 < 1 < 2", "(y := 1)", "*x",
    "torch.exp(x)", "[i for i in x]", "x.foo", "x @ x", "x()",
)  # fmt: skip
STATEMENTS = (
    "pass", "break", "continue", "return", "return x", "x = x", "x += 1", "del x", "raise ValueError", "assert x",
    "import os", "global x", "for i in range(3):\n    pass", "while x:\n    pass", "while True:\n    pass",
    "try:\n    pass\nfinally:\n    pass", "with x:\n    pass", "def f():\n    pass", "class A:\n    pass",
    "if x:\n    y = 1", "x[0] = 1", "x.a = 1", "a, b = x", "a = b = 1", "yield x", "x: int = 1", "x: int", "x",
    "for i in pl.range(0):\n    z = i", "for i in pl.unroll(1000000):\n    pass", "with pl.at():\n    pass",
    "for i in pl.parallel(4):\n    x = i", "pl.write(x, [0, 0], 1.0)",
)  # fmt: skip


class Slip(ast.NodeTransformer):
    """One change at the node with a given number; what is changed is drawn."""

    def __init__(self, random: Random, target: int, names: list[str]) -> None:
        self.random, self.target, self.names, self.count = random, target, names, -1

    def visit(self, node: ast.AST) -> Any:
        self.count += 1
        if isinstance(node, ast.JoinedStr):  # not every tree of one can be written
            return node
        if self.count != self.target:
            return self.generic_visit(node)
        if isinstance(node, ast.stmt):
            return self.statement(node)
        return self.expression(node) if isinstance(node, ast.expr) else node

    def statement(self, node: ast.stmt) -> Any:
        new = self.named(ast.parse(self.random.choice(STATEMENTS))).body
        return self.random.choice([ast.Pass(), [node, node], [node, *new], [*new, node], new])

    def expression(self, node: ast.expr) -> ast.expr:
        kinds: list[Any] = [self.other, self.other]
        if isinstance(node, ast.Call):
            kinds += [self.arguments] * 3
        if isinstance(node, ast.Attribute):
            kinds += [self.word] * 3
        if isinstance(node, ast.BinOp):
            signs = (ast.Add(), ast.Div(), ast.Mod(), ast.Pow(), ast.MatMult(), ast.FloorDiv())
            node.op = self.random.choice(signs)
            return node
        return self.random.choice(kinds)(node)

    def other(self, node: ast.expr) -> ast.expr:
        if not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            return ast.Name(self.random.choice(self.names), ast.Store())
        if self.random.random() < 0.4:
            return ast.Name(self.random.choice(self.names), ast.Load())
        return self.named(ast.parse(f"[{self.random.choice(EXPRESSIONS)}]")).body[0].value.elts[0]

    def word(self, node: ast.Attribute) -> ast.expr:
        node.attr = self.random.choice((*WORDS, node.attr[:-1] or "q", node.attr + "s"))
        return node

    def arguments(self, node: ast.Call) -> ast.expr:
        match self.random.randrange(5):
            case 0:
                node.args.reverse()
            case 1 if node.args:
                node.args.pop(self.random.randrange(len(node.args)))
            case 2 if node.keywords:
                node.keywords.pop()
            case 3 if node.keywords:
                self.random.choice(node.keywords).arg = "nonsense"
            case _:
                node.args.append(self.other(ast.Constant(0)))
        return node

    def named(self, tree: Any) -> Any:
        """`x` is one of the names that the kernel has."""
        for inner in ast.walk(tree):
            if isinstance(inner, ast.Name) and inner.id == "x":
                inner.id = self.random.choice(self.names)
        return tree


def mutant(text: str, random: Random) -> str:
    """A script with one to three slips in the bodies of its kernels."""
    tree = ast.parse(text)
    kernels = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.decorator_list]
    for _ in range(random.randint(1, 3)):
        kernel = random.choice(kernels)
        names = sorted({n.id for n in ast.walk(kernel) if isinstance(n, ast.Name)})
        body = ast.Module(kernel.body, [])
        slip = Slip(random, random.randrange(1, sum(1 for _ in ast.walk(body))), names)
        kernel.body = slip.visit(body).body or [ast.Pass()]
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


class Hangs(BaseException):
    """Raised in a mutant that takes too long."""


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def entries(path: Path) -> list[Kernel]:
    spec = importlib.util.spec_from_file_location("mutant", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [k for k in vars(module).values() if isinstance(k, Kernel) and k.kind == "entry"]


def arguments_of(kernel: Kernel) -> list[Any]:
    made: list[Any] = []
    for p in signature_of(kernel):
        if p.kind == "scalar":
            made.append(3 if p.dtype is not None and p.dtype.is_integer else 0.5)
        else:
            dtype = "float32" if p.dtype is None or p.dtype.torch is None else p.dtype.torch
            shape = (ROWS, ROWS) if p.shape is None else [n or ROWS for n in p.shape]
            made.append(torch.zeros(tuple(shape), dtype=getattr(torch, dtype)))
    return made


def complaints(path: Path, backend: str) -> list[KernelError]:
    """Everything that reading, compiling and running a script's kernels reports.

    Anything but an error of ours comes through.
    """
    found = [finding.error for finding in lint(path).findings]
    try:
        kernels = entries(path)
    except SyntaxError:  # `return` where Python has none, and its like
        assert found, "the lint reads what Python does not"
        return found
    for kernel in kernels:
        try:
            kernel.run(*arguments_of(kernel), backend=backend)
        except KernelError as error:
            reports = error.reports if isinstance(error, CheckFailed) else (error, *error.also)
            found += reports
    return found


def check(name: str, seed: int, folder: Path, backend: str) -> None:
    path = folder / f"mutant_{seed}.py"
    path.write_text(mutant(TEXTS[name], Random(seed)), encoding="utf-8")
    count = len(path.read_text(encoding="utf-8").splitlines())
    with warnings.catch_warnings(), patience(PATIENCE):
        warnings.simplefilter("ignore")
        for error in complaints(path, backend):
            assert error.span is not None, error
            assert error.span.file == str(path)
            assert 1 <= error.span.line <= count
            assert error.message.strip()
            assert error.help, error
            assert "tilewright/" not in str(error).replace(str(folder), "")
    path.unlink()


EXAMPLES = settings(
    max_examples=ASKED or EVERY_DAY,
    derandomize=not ASKED,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no alarms")


@EXAMPLES
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**32 - 1))
def test_a_slip_is_told_at_its_line(tmp_path: Path, name: str, seed: int):
    check(name, seed, tmp_path, "interpreter")


@settings(EXAMPLES, max_examples=(ASKED or EVERY_DAY) // 10)
@given(name=st.sampled_from(NAMES[:6]), seed=st.integers(0, 2**32 - 1))
def test_a_slip_is_told_at_its_line_natively_too(tmp_path: Path, name: str, seed: int):
    check(name, seed, tmp_path, "native")
