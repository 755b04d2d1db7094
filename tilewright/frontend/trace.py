"""From a kernel and the types of its arguments to a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from tilewright.dtypes import INDEX, DType
from tilewright.errors import (
    CompilerBug,
    KernelError,
    ParserTypeError,
    UnsupportedFeatureError,
)
from tilewright.frontend.copies import drop_unused_copies
from tilewright.frontend.frame import Frame
from tilewright.frontend.inlining import run_kernel
from tilewright.frontend.merging import store_whole
from tilewright.frontend.mistakes import Follows, Mistakes, NeedsConstant
from tilewright.frontend.signature import Parameter, signature_of
from tilewright.frontend.source import Consulted, source_of
from tilewright.frontend.statements import run_body
from tilewright.frontend.tidying import drop_unused_results
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Binding,
    Block,
    Constant,
    Items,
    Named,
    Nothing,
    Number,
    Tensor,
    Unknown,
    describe,
    same,
)
from tilewright.ir.nodes import Block as Ops
from tilewright.ir.nodes import Const, Function, Op, Param, Value
from tilewright.ir.types import ScalarType, TensorType, tensor_type
from tilewright.language.kernel import Kernel


@dataclass(frozen=True, slots=True)
class TensorArgument:
    """A tensor given at the call."""

    shape: tuple[int, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class ScalarArgument:
    """A scalar given at the call; `value` is set when it is to be a constant of the program."""

    dtype: DType
    value: int | float | bool | None = None


Argument = TensorArgument | ScalarArgument


@dataclass(frozen=True, slots=True)
class FreshResult:
    """A tensor that the program makes and returns: one more `out` parameter, filled with `fill`
    before the run; `promised` when the author asked for that.
    """

    name: str
    type: TensorType
    fill: int | float
    promised: bool = False


@dataclass(frozen=True, slots=True)
class Traced:
    """A program as the author wrote it.

    consulted:     the Python values it depends on; it is stale once one has changed.
    fresh_results: parameters added at the end for tensors that the program creates and returns.
    returns:       names of the parameters that `return` names, in its order.
    constants:     names of scalar parameters that became constants; the function does not take
    them.
    """

    function: Function
    consulted: tuple[Consulted, ...]
    fresh_results: tuple[FreshResult, ...]
    returns: tuple[str, ...]
    constants: tuple[str, ...]
    prints: tuple[str, ...] = ()


def trace(kernel: Kernel, arguments: Mapping[str, Argument]) -> Traced:
    """Read a kernel for arguments of these types.

    Raises a ParserError that shows the author's line, or NeedsConstant when a run-time scalar
    stands where
    only a constant can.
    """
    try:
        return _trace(kernel, arguments, None)
    except KernelError as error:
        mistakes = Mistakes([error])
        # Nothing that a mistake upsets later on is worth more than the mistake itself.
        with suppress(Exception):
            try:
                _trace(kernel, arguments, mistakes)
            except KernelError as last:
                mistakes.note(last)
        error.also = tuple(mistakes.found[1:])
        raise


def _trace(kernel: Kernel, arguments: Mapping[str, Argument], mistakes: Mistakes | None) -> Traced:
    """The program. Given mistakes, add to them whatever else is wrong; the result is void."""
    source = source_of(kernel)
    parameters = signature_of(kernel)
    frame = Frame(kernel, source)
    t = Tracer(frame, [p.name for p in parameters])
    t.mistakes = mistakes
    params: list[Param] = []
    for parameter in parameters:
        value, param = _parameter(parameter, arguments[parameter.name])
        frame.names[parameter.name] = Binding(value, parameter.span.line)
        if param is not None:
            params.append(param)
    t.scalar_parameters = frozenset(
        p.value.name for p in params if isinstance(p.value.type, ScalarType)
    )
    t.builder.span = t.span(source.function)
    outputs = {
        p.name: frame.names[p.name].value for p in parameters if p.direction in ("out", "inout")
    }
    with _stumbling(t):
        results = _results(t, run_kernel(t, frame, run_body), outputs)
    ops, fresh = _fresh_results(t, list(t.builder.ops), results)
    names = tuple(tensor.root for tensor in results)
    with t.builder.block() as last:
        t.builder.op(
            "return", [tensor.value for tensor in results], span=t.span(source.function.body[-1])
        )
    ops += last
    directed = [
        replace(p, direction="inout") if p.direction == "in" and p.value.name in t.written else p
        for p in params
    ]
    added = [
        Param(Value(r.name, r.type), "inout" if r.promised else "out", t.span(source.function))
        for r in fresh
    ]
    function = Function(
        kernel.__name__, (*directed, *added), Ops((), tuple(ops)), t.span(source.function)
    )
    return Traced(
        drop_unused_copies(drop_unused_results(function), t.copies),
        tuple(t.consulted.values()),
        tuple(fresh),
        names,
        tuple(
            n for n, a in arguments.items() if isinstance(a, ScalarArgument) and a.value is not None
        ),
        tuple(t.prints),
    )


@contextmanager
def _stumbling(t: Tracer) -> Iterator[None]:
    """Whatever goes wrong in the reader itself is told with the author's line that it was reading."""
    try:
        yield
    except (KernelError, NeedsConstant, CompilerBug):
        raise
    except RecursionError:
        t.fail(
            UnsupportedFeatureError,
            "this is nested too deeply to be read",
            help="give parts of the expression names on lines of their own",
        )
    except Exception as error:
        text = f"the front end failed here: {type(error).__name__}: {error}"
        raise CompilerBug(text, span=t.span()) from error


def _parameter(parameter: Parameter, argument: Argument) -> tuple[Named, Param | None]:
    if isinstance(argument, TensorArgument):
        value = Value(parameter.name, tensor_type(argument.shape, argument.dtype))
        return Tensor(value, parameter.name), Param(value, parameter.direction, parameter.span)
    if argument.value is not None:
        typed: Any = argument.value
        if argument.dtype.is_integer:
            return Number(
                Const(int(typed), INDEX if argument.dtype == INDEX else argument.dtype)
            ), None
        return (
            Constant(bool(typed))
            if argument.dtype.kind == "bool"
            else Number(Const(float(typed), argument.dtype))
        ), None
    value = Value(parameter.name, ScalarType(argument.dtype))
    return Number(value), Param(value, "in", parameter.span)


def _results(t: Tracer, result: Named, outputs: Mapping[str, Named]) -> list[Tensor]:
    """What the kernel returns, as tensors.

    What is returned under the name of an output (`y = pl.add(x, 1.0)`, then `return y`) is stored
    there if it fits; any other block into a fresh tensor. A block left under the name of an output
    that nothing else is written to is stored there too.
    """
    tensors = _returned(t, result, outputs)
    for name, output in outputs.items():
        bound = t.frame.names[name].value if name in t.frame.names else None
        if not isinstance(bound, Block) or not isinstance(output, Tensor):
            continue
        if output.root not in t.written and _fits(bound, output):
            _stored(t, bound, output)
    return tensors


def _returned(t: Tracer, result: Named, outputs: Mapping[str, Named]) -> list[Tensor]:
    if isinstance(result, Nothing):
        return []
    values = result.values if isinstance(result, Items) else (result,)
    tensors = []
    for value in values:
        if isinstance(value, Unknown):
            t.fail(Follows, "what is returned depends on a mistake above")
        left = {n: x for n, x in outputs.items() if x not in tensors}
        if isinstance(value, Block) or (isinstance(value, Tensor) and value.fresh):
            output = _output_of(t, value, left)
            if output is not None or isinstance(value, Block):
                value = _stored(t, value, output)
        if not isinstance(value, Tensor):
            t.fail(
                ParserTypeError,
                f"a kernel returns tensors, got {describe(value)}",
                t.frame.source.function.body[-1],
                help="pl.write a scalar into a tensor",
            )
        tensors.append(value)
    return tensors


def _output_of(t: Tracer, value: Block | Tensor, outputs: Mapping[str, Named]) -> Tensor | None:
    """The output whose name stands for this block or fresh tensor at the end, if that fits into it."""
    for name, output in outputs.items():
        if (
            isinstance(output, Tensor)
            and name in t.frame.names
            and same(t.frame.names[name].value, value)
            and _fits(value, output)
        ):
            return output
    return None


def _fits(value: Block | Tensor, output: Tensor) -> bool:
    return (output.shape, output.dtype) == (value.shape, value.dtype)


def _stored(t: Tracer, value: Block | Tensor, output: Tensor | None) -> Tensor:
    if output is None:
        made = t.emit("create", [], "result", shape=value.shape, dtype=value.dtype)
        output = Tensor(made, made.name, fresh=True)
    store_whole(t, value, output, t.frame.source.function.body[-1], "result")
    return output


def _fresh_results(
    t: Tracer, ops: list[Op], returned: list[Tensor]
) -> tuple[list[Op], list[FreshResult]]:
    """Top-level creations that are returned become parameters."""
    roots = {tensor.root: tensor for tensor in returned}
    fresh: list[FreshResult] = []
    kept: list[Op] = []
    for op in ops:
        if op.name == "create" and op.result.name in roots:
            kind = op.result.type
            assert isinstance(kind, TensorType)
            fresh.append(
                FreshResult(op.result.name, kind, op.attr("value", 0), op.attr("value") is not None)
            )
        else:
            kept.append(op)
    return kept, fresh
