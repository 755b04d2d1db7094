"""One program per author mistake under tests/errors, its message (class, place, text) as the
golden.

`pytest tests/test_frontend_errors.py --update-golden` rewrites the messages; read the diff.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tilewright.errors import KernelError
from tilewright.frontend import ScalarArgument, TensorArgument, signature_of, trace
from tilewright.language import Kernel

PROGRAMS = sorted((Path(__file__).parent / "errors").glob("*.py"))


def kernel_in(path: Path) -> Kernel:
    """The kernel of a program; a class decorated with @pl.program complains right here."""
    spec = importlib.util.spec_from_file_location(f"errors_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.kernel


def mistake_in(path: Path) -> KernelError:
    with pytest.raises(KernelError) as caught:
        trace_as_annotated(kernel_in(path))
    return caught.value


def trace_as_annotated(kernel: Kernel) -> None:
    arguments = {}
    for p in signature_of(kernel):
        if p.kind == "scalar":
            arguments[p.name] = ScalarArgument(p.dtype)
        else:
            arguments[p.name] = TensorArgument(p.shape, p.dtype)
    trace(kernel, arguments)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_the_message_names_the_line_and_one_thing_to_try(
    path: Path, request: pytest.FixtureRequest
):
    error = mistake_in(path)
    found = f"{type(error).__name__}\n{error}\n".replace(f"{path.parent}/", "")
    golden = path.with_suffix(".txt")
    if request.config.getoption("--update-golden"):
        golden.write_text(found, encoding="utf-8")
    assert golden.exists(), "no golden; run with --update-golden and read what it says"
    assert found == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_the_caret_stands_in_the_author_s_file(path: Path):
    error = mistake_in(path)
    assert error.span is not None
    assert error.span.file == str(path)
    line = path.read_text(encoding="utf-8").splitlines()[error.span.line - 1]
    assert line[error.span.col : error.span.end_col].strip(), "the caret points at nothing"
    assert "tilewright/frontend" not in str(error)
