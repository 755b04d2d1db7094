"""A kernel called from a kernel: its body is read as if pasted, its names kept private."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence

from tilewright.dtypes import TASK_ID
from tilewright.errors import InvalidOperationError, ParserTypeError, UnsupportedFeatureError
from tilewright.frontend.expressions import evaluate
from tilewright.frontend.options import TASK_HELP, is_task
from tilewright.frontend.signature import Parameter, signature_of
from tilewright.frontend.source import source_of
from tilewright.frontend.tracer import Frame, Tracer, from_python, to_number
from tilewright.frontend.values import Array, Binding, Block, Named, Nothing, Tensor, describe
from tilewright.ir.ops.table import dims
from tilewright.language.kernel import Kernel

RunBody = Callable[[Tracer, Sequence[ast.stmt]], None]
RESULT = "return.value"  # what a function gives back goes by this name while it is read


def inline(t: Tracer, kernel: Kernel, node: ast.Call, run_body: RunBody) -> Named:
    """The result of `kernel(…)`: what it returns, Nothing if it returns nothing."""
    if kernel.kind == "entry":
        t.fail(
            UnsupportedFeatureError,
            f"{kernel.__name__!r} is an entry; a kernel cannot call it",
            node,
            help="decorate it with @pl.jit.inline",
        )
    if any(frame.kernel is kernel for frame in t.frames):
        t.fail(
            InvalidOperationError,
            f"{kernel.__name__!r} calls itself",
            node,
            help="write a loop: kernels do not recurse",
        )
    parameters = signature_of(kernel)
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
    if kernel.kind == "incore":
        t.region(kernel.__name__, frame.source.function, lambda: run_function(t, frame, run_body))
    else:
        run_function(t, frame, run_body)
    result = returned(frame)
    t.frames.pop()
    t.frame, t.node = outer, blamed
    t.builder.span = t.span()
    for name in sorted(frame.written_back):
        t.update(frame.aliases[name], frame.names[name].value)
    return result


def run_function(t: Tracer, frame: Frame, run_body: RunBody) -> None:
    """Read a function's body up to its return."""
    frame.depth = len(t.inside)
    run_body(t, frame.source.function.body)


def returned(frame: Frame) -> Named:
    """What a function gave back."""
    found = frame.names.pop(RESULT, None)
    return Nothing() if found is None else found.value


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
    t.frame.returned = True


def _bind(
    t: Tracer, kernel: Kernel, node: ast.Call, parameters: Sequence[Parameter]
) -> dict[str, ast.expr]:
    positional = []
    for argument in node.args:
        if isinstance(argument, ast.Starred):
            t.fail(UnsupportedFeatureError, "a starred argument has no place in a kernel", argument)
        positional.append(argument)
    named = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            t.fail(UnsupportedFeatureError, "** arguments have no place in a kernel", node)
        named[keyword.arg] = keyword.value
    try:
        return dict(inspect.signature(kernel.function).bind(*positional, **named).arguments)
    except TypeError as reason:
        t.fail(
            InvalidOperationError,
            f"{kernel.__name__}: {reason}",
            node,
            help=f"its parameters are {', '.join(p.name for p in parameters)}",
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
            )
        return
    if not isinstance(value, (Tensor, Block)):
        t.fail(ParserTypeError, f"{what} must be a tensor, got {describe(value)}", node)
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
        t.fail(ParserTypeError, f"{what} must be {wanted}, got {describe(value)}", node)
