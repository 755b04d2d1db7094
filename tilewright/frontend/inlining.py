"""A kernel called from a kernel: its body is read as if pasted, its names kept private."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Sequence

from tilewright.dtypes import INDEX, TASK_ID
from tilewright.errors import InvalidOperationError, ParserTypeError, UnsupportedFeatureError
from tilewright.frontend.annotations import check_result
from tilewright.frontend.calls import written_arguments
from tilewright.frontend.carrying import run_loop
from tilewright.frontend.expressions import evaluate
from tilewright.frontend.frame import Frame
from tilewright.frontend.options import TASK_HELP, is_task
from tilewright.frontend.signature import Parameter, receiver_of, signature_of
from tilewright.frontend.source import source_of
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.turns import Loop
from tilewright.frontend.values import (
    Array,
    Binding,
    Block,
    Constant,
    Named,
    Nothing,
    Tensor,
    describe,
    from_python,
    to_number,
)
from tilewright.ir.nodes import Const
from tilewright.ir.ops.table import dims
from tilewright.language.kernel import Kernel
from tilewright.language.operator import why_not_bound

RunBody = Callable[[Tracer, Sequence[ast.stmt]], None]
RESULT = "return.value"  # what a function gives back goes by this name while it is read


def inline(t: Tracer, kernel: Kernel, node: ast.Call, run_body: RunBody) -> Named:
    """The result of `kernel(…)`: what it returns, Nothing if it returns nothing."""
    if kernel.kind == "entry":
        t.fail(
            UnsupportedFeatureError,
            f"{kernel.function.__name__!r} is an entry; a kernel cannot call it",
            node,
            help="decorate it with @pl.jit.inline"
            if kernel.program is None
            else "call a function of another type than the entry's",
        )
    if any(frame.kernel is kernel for frame in t.frames):
        t.fail(
            InvalidOperationError,
            f"{kernel.__name__!r} calls itself",
            node,
            help="write a loop: kernels do not recurse",
        )
    parameters = signature_of(kernel)
    if kernel.kind == "inline" and kernel.program is None:
        _warn_of_out(t, parameters)
    names = _bind(t, kernel, node, parameters)
    values: dict[str, Binding] = {}
    aliases: dict[str, str] = {}
    for parameter in parameters:
        if parameter.name in names:
            argument = names[parameter.name]
            value = evaluate(t, argument)
            _check(t, kernel, parameter, value, argument)
            if isinstance(argument, ast.Name):
                aliases[parameter.name] = argument.id
        else:
            value = from_python(parameter.default)
        values[parameter.name] = Binding(value, parameter.span.line)
    t.calls += 1
    frame = Frame(kernel, source_of(kernel), t.span(node), values, {}, aliases)
    outer, blamed = t.frame, t.node
    t.frames.append(frame)
    t.frame = frame
    result = run_kernel(t, frame, run_body)
    t.frames.pop()
    t.frame, t.node = outer, blamed
    t.builder.span = t.span()
    for name in sorted(frame.written_back):
        t.update(frame.aliases[name], frame.names[name].value)
    return result


def _warn_of_out(t: Tracer, parameters: Sequence[Parameter]) -> None:
    """pl.Out says nothing on a parameter of an inlined function: it is the caller's variable."""
    for parameter in parameters:
        if parameter.direction == "out" and parameter.span not in t.warned:
            t.warned.add(parameter.span)
            warnings.warn_explicit(
                f"pl.Out has no effect on parameter {parameter.name!r} of an inline function; write pl.Tensor",
                DeprecationWarning,
                parameter.span.file,
                parameter.span.line,
            )


def run_kernel(t: Tracer, frame: Frame, run_body: RunBody) -> Named:
    """Read a kernel's body as its kind wants it, and give what it returns."""
    kernel = frame.kernel
    for parameter in signature_of(kernel):
        value = frame.names[parameter.name].value
        if isinstance(value, (Tensor, Block)):
            symbols = zip(parameter.symbols, value.shape, strict=False)
            frame.extents.update((name, extent) for name, extent in symbols if name is not None)
    receiver = receiver_of(kernel)
    if receiver is not None:
        frame.names[receiver] = Binding(Constant(kernel.program))
    if kernel.is_region:
        function = frame.source.function
        t.region(kernel.__name__, function, lambda: _run_function(t, frame, run_body))
    else:
        _run_function(t, frame, run_body)
    result = frame.names.pop(RESULT, None)
    return Nothing() if result is None else result.value


def _run_function(t: Tracer, frame: Frame, run_body: RunBody) -> None:
    """Read a function's body up to its return: once, or once per block of an Spmd function."""
    frame.depth = len(t.inside)
    statements = frame.source.function.body
    if frame.kernel.kind == "spmd":
        blocks = statements[:-1] if isinstance(statements[-1], ast.Return) else statements
        bounds = (Const(0, INDEX), Const(frame.kernel.blocks, INDEX), Const(1, INDEX))
        node, name = frame.source.function, frame.kernel.__name__
        run_loop(t, Loop(node, "spmd", blocks, bounds, name=name), run_body)
        statements = statements[len(blocks) :]
    run_body(t, statements)


def return_statement(t: Tracer, node: ast.Return, run_body: RunBody) -> None:
    """`return` of an expression reads like `result = expression`; nothing after it is read."""
    around = t.inside[t.frame.depth :]
    if around:
        in_branch = around[-1] == "if"
        t.fail(
            UnsupportedFeatureError,
            "return under a run-time condition" if in_branch else "return inside a loop",
            node,
            help="return stands at the end, or under a condition known at compile time;"
            + (" bind the result in both arms" if in_branch else " leave a loop with break"),
        )
    value = node.value
    if isinstance(value, ast.Name):
        t.bind(RESULT, t.lookup(value))
    elif isinstance(value, ast.Tuple) and all(isinstance(item, ast.Name) for item in value.elts):
        t.bind(RESULT, evaluate(t, value))
    elif value is not None and not (isinstance(value, ast.Constant) and value.value is None):
        pasted = ast.Assign([ast.Name(RESULT, ast.Store())], value)
        ast.copy_location(pasted, value)
        ast.copy_location(pasted.targets[0], value)
        run_body(t, [pasted])
    if RESULT in t.frame.names:
        check_result(t, t.frame, t.frame.names[RESULT].value)
    t.frame.returned = True


def _bind(
    t: Tracer, kernel: Kernel, node: ast.Call, parameters: Sequence[Parameter]
) -> dict[str, ast.expr]:
    positional, named = written_arguments(t, node)
    try:
        return dict(kernel.signature.bind(*positional, **named).arguments)
    except TypeError as reason:
        text, near = why_not_bound(kernel.signature, len(positional), named, reason)
        t.fail(
            InvalidOperationError,
            f"{kernel.__name__}: {text}",
            node,
            help=near or f"its parameters are {', '.join(p.name for p in parameters)}",
        )


def _check(t: Tracer, kernel: Kernel, parameter: Parameter, value: Named, node: ast.expr) -> None:
    """The argument's kind, and its shape and dtype where the annotation fixes them."""
    what = f"{kernel.__name__}: argument {parameter.name!r}"
    if parameter.kind == "array":
        _check_array(t, what, parameter, value, node)
        return
    if parameter.dtype == TASK_ID:
        if not is_task(value):
            text = f"{what} must be a task id, got {describe(value)}"
            t.fail(ParserTypeError, text, node, TASK_HELP)
        return
    if parameter.kind == "scalar":
        number = to_number(value)
        if number is None:
            t.fail(
                ParserTypeError,
                f"{what} must be a {parameter.dtype} scalar, got {describe(value)}",
                node,
                help="pl.read takes a scalar out of a tensor",
            )
        return
    if not isinstance(value, (Tensor, Block)):
        t.fail(
            ParserTypeError,
            f"{what} must be a tensor, got {describe(value)}",
            node,
            help="pass a tensor or a block; a number goes to a pl.Scalar[…] parameter",
        )
    if not kernel.check_annotations:
        return
    wanted = parameter.shape
    if wanted is not None and (
        len(wanted) != len(value.shape)
        or any(w not in (None, n) for w, n in zip(wanted, value.shape, strict=True))
    ):
        text = dims(["?" if n is None else n for n in wanted])  # type: ignore[misc]
        t.fail(
            ParserTypeError,
            f"{what} is annotated {text}, got {describe(value)}",
            node,
            help="pass a window of that shape, or annotate it with a bare pl.Tensor",
            notes=[f"{parameter.span}: declared here"],
        )
    if parameter.dtype is not None and parameter.dtype != value.dtype:
        t.fail(
            ParserTypeError,
            f"{what} is annotated {parameter.dtype}, got {describe(value)}",
            node,
            help="pl.cast it first, or annotate it with a bare pl.Tensor",
            notes=[f"{parameter.span}: declared here"],
        )


def _check_array(t: Tracer, what: str, parameter: Parameter, value: Named, node: ast.expr) -> None:
    count = parameter.shape[0] if parameter.shape else None
    fits = isinstance(value, Array) and value.dtype == parameter.dtype
    if not fits or (count is not None and value.count != count):  # type: ignore[union-attr]
        wanted = describe(Array(count or 0, parameter.dtype or TASK_ID, None))
        t.fail(
            ParserTypeError,
            f"{what} must be {wanted}, got {describe(value)}",
            node,
            help="make it with pl.array.create(n, dtype)",
        )
