"""Expressions: names, constants and their arithmetic, scalars, attributes.

Calls and subscripts elsewhere.
"""

from __future__ import annotations

import ast
import difflib
import operator as py
from types import ModuleType
from typing import Any, NoReturn

from tilewright.dtypes import BOOL, INT64, UINT64
from tilewright.errors import (
    InvalidOperationError,
    ParserSyntaxError,
    ParserTypeError,
    UndefinedVariableError,
    UnsupportedFeatureError,
    like,
)
from tilewright.frontend.calls import call
from tilewright.frontend.complaints import Complains, instead
from tilewright.frontend.source import is_language
from tilewright.frontend.subscripts import subscript
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Block,
    Constant,
    Items,
    Method,
    Named,
    Number,
    Tensor,
    describe,
    from_python,
    is_number,
    to_number,
)
from tilewright.ir.nodes import Const
from tilewright.language.program import Program
from tilewright.language.types import Dynamic

# operator class -> (Python's meaning on constants, the scalar op at run time)
BINARY: dict[type[ast.AST], tuple[Any, str | None, str]] = {
    ast.Add: (py.add, "s.add", "+"),
    ast.Sub: (py.sub, "s.sub", "-"),
    ast.Mult: (py.mul, "s.mul", "*"),
    ast.Div: (py.truediv, "s.div", "/"),
    ast.FloorDiv: (py.floordiv, "s.floordiv", "//"),
    ast.Mod: (py.mod, "s.mod", "%"),
    ast.LShift: (py.lshift, "s.shl", "<<"),
    ast.RShift: (py.rshift, "s.shr", ">>"),
    ast.Pow: (py.pow, None, "**"),
    ast.BitAnd: (py.and_, None, "&"),
    ast.BitOr: (py.or_, None, "|"),
    ast.BitXor: (py.xor, None, "^"),
}
COMPARE: dict[type[ast.AST], tuple[Any, str]] = {
    ast.Eq: (py.eq, "s.eq"),
    ast.NotEq: (py.ne, "s.ne"),
    ast.Lt: (py.lt, "s.lt"),
    ast.LtE: (py.le, "s.le"),
    ast.Gt: (py.gt, "s.gt"),
    ast.GtE: (py.ge, "s.ge"),
}
BLOCK_OPERATOR = {
    "+": "pl.add",
    "-": "pl.sub",
    "*": "pl.mul",
    "/": "pl.div",
    "%": "pl.rem",
    "@": "pl.matmul",
    "&": "pl.and_",
    "|": "pl.or_",
    "^": "pl.xor",
    "<<": "pl.shl",
    ">>": "pl.shr",
}
# What to write where only constants have an operator.
ON_CONSTANTS = {
    "**": "write the product out: n * n",
    "&": "write n % 2 for n & 1; `and` joins conditions",
    "|": "write + where no bits meet; `or` joins conditions",
    "^": "write a != b for conditions",
}
SMALLEST, LARGEST = INT64.int_range()[0], UINT64.int_range()[1]
MOST_BITS = 1024  # of a shift or an exponent between constants
MOST_LISTED = 12  # attributes of an enumeration that a help names
EXPRESSIONS = "kernels know names, arithmetic on scalars, subscripts and calls of pl.…"
NO_EXPRESSION = {
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a generator expression",
    ast.Lambda: "a lambda",
    ast.NamedExpr: "an assignment inside an expression",
    ast.Await: "await",
    ast.Dict: "a dictionary",
    ast.Set: "a set",
    ast.Starred: "a starred value",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Slice: "a slice",
}


def evaluate(t: Tracer, node: ast.expr) -> Named:
    """The value of an expression; what it computes at run time is appended to the program."""
    value = _evaluate(t, node)
    found = value.value if isinstance(value, Constant) else 0
    if isinstance(found, int) and not SMALLEST <= found <= LARGEST:
        t.fail(
            ParserTypeError,
            f"an integer of {found.bit_length()} bits: scalars have 64",
            node,
            help="use a smaller number",
        )
    return value


def _evaluate(t: Tracer, node: ast.expr) -> Named:
    with t.at(node):
        match node:
            case ast.Constant(value=v):
                if v is ... or isinstance(v, (bytes, complex)):
                    t.fail(
                        UnsupportedFeatureError,
                        f"{ast.unparse(node)} has no place in a kernel",
                        node,
                        help="kernels know integers, floats, booleans and texts",
                    )
                return Constant(v)
            case ast.Name():
                return extent_of(t, t.lookup(node))
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return Items(tuple(evaluate(t, element) for element in elements))
            case ast.Attribute():
                return attribute(t, node)
            case ast.BinOp():
                return binary(t, node)
            case ast.UnaryOp():
                return unary(t, node)
            case ast.BoolOp():
                return logic(t, node)
            case ast.Compare():
                return compare(t, node)
            case ast.IfExp():
                return choice(t, node)
            case ast.Call():
                return call(t, node, evaluate)
            case ast.Subscript():
                return subscript(t, node, evaluate)
            case ast.JoinedStr():
                return text(t, node)
    refuse_expression(t, node)


def refuse_expression(t: Complains, node: ast.expr) -> NoReturn:
    """No kernel has expressions of this kind."""
    what = NO_EXPRESSION.get(type(node), f"a {type(node).__name__} expression")
    t.fail(
        UnsupportedFeatureError,
        f"{what} has no place in a kernel",
        node,
        help=EXPRESSIONS,
    )


def attribute(t: Tracer, node: ast.Attribute) -> Named:
    """`x.shape`, `x.dtype`, a word of the language, or a constant held by a Python object."""
    owner = evaluate(t, node.value)
    if isinstance(owner, (Tensor, Block)):
        if node.attr == "shape":
            return Items(tuple(Constant(extent) for extent in owner.shape))
        if node.attr == "dtype":
            return Constant(owner.dtype)
        if node.attr == "bind_dynamic" and isinstance(owner, Tensor):
            return Method(owner, node.attr)
        t.fail(
            InvalidOperationError,
            f"{describe(owner)} has no attribute {node.attr!r}",
            node,
            help="it has .shape and .dtype; operators are written pl.name(x)",
        )
    if not isinstance(owner, Constant):
        t.fail(
            ParserTypeError,
            f"{describe(owner)} has no attributes",
            node,
            help="names in a kernel stand for tensors, blocks and scalars; compute the rest outside",
        )
    thing = owner.value
    if isinstance(thing, Program):
        if node.attr not in thing.functions:
            near = difflib.get_close_matches(node.attr, thing.functions, 1)
            t.fail(
                UndefinedVariableError,
                f"program {thing.__name__} has no function {node.attr!r}",
                node,
                help=f"did you mean {ast.unparse(node.value)}.{near[0]}?"
                if near
                else f"its functions are {', '.join(thing.functions)}",
            )
        return Constant(thing.functions[node.attr])
    if is_language(thing):
        found = getattr(thing, node.attr, None)
        if found is None or (isinstance(found, ModuleType) and not is_language(found)):
            unknown_word(t, node, thing)
        return Constant(found)
    if not hasattr(thing, node.attr):
        no_attribute(t, node, thing)
    name = ast.unparse(node)
    found = t.consult(name, (id(thing), node.attr), lambda: getattr(thing, node.attr))
    return extent_of(t, found)


def extent_of(t: Tracer, value: Named) -> Named:
    """A symbol of `pl.dynamic` that a parameter's shape binds is the extent; other values stay."""
    if isinstance(value, Constant) and isinstance(value.value, Dynamic):
        extent = t.frame.extents.get(value.value.name)
        return value if extent is None else Constant(extent)
    return value


def unknown_word(t: Complains, node: ast.Attribute, thing: Any) -> NoReturn:
    """The language, or `thing` of it, has no such name."""
    owner = ast.unparse(node.value)
    t.fail(
        InvalidOperationError,
        f"the language has no {ast.unparse(node)}",
        node,
        help=instead(node.attr, dir(thing), f"{owner}.") or "docs/operators.md lists what there is",
    )


def no_attribute(t: Complains, node: ast.Attribute, thing: Any) -> NoReturn:
    """A Python object, such as an enumeration of the language, has no such name."""
    owner = ast.unparse(node.value)
    names = [name for name in dir(thing) if not name.startswith("_")]
    listed = f"it has {', '.join(names)}" if 0 < len(names) <= MOST_LISTED else None
    t.fail(
        UndefinedVariableError,
        f"{owner} has no attribute {node.attr!r}",
        node,
        help=like(node.attr, names, f"{owner}.")
        or listed
        or "look at what it is outside the kernel",
    )


def binary(t: Tracer, node: ast.BinOp) -> Named:
    """Arithmetic: on constants Python's own, on scalars at run time, on blocks refused."""
    left, right = evaluate(t, node.left), evaluate(t, node.right)
    compute, name, sign = BINARY.get(type(node.op), (None, None, "@"))
    for side in (left, right):
        if isinstance(side, (Tensor, Block)):
            word = BLOCK_OPERATOR.get(sign)
            t.fail(
                ParserSyntaxError,
                f"{sign} works on scalars, got {describe(side)}",
                node,
                help=f"write {word}(…, …)" if word else "compute with pl.add, pl.mul, pl.div, …",
                notes=t.notes(node),
            )
    if isinstance(left, Constant) and isinstance(right, Constant) and compute is not None:
        if sign in ("**", "<<") and isinstance(right.value, int) and right.value > MOST_BITS:
            t.fail(
                ParserTypeError,
                f"{ast.unparse(node)} is larger than any scalar",
                node,
                help="use a smaller number",
            )
        try:
            return from_python(compute(left.value, right.value))
        except (TypeError, ValueError, ZeroDivisionError, OverflowError, MemoryError) as reason:
            t.fail(
                ParserTypeError,
                f"{ast.unparse(node)}: {reason}",
                node,
                help=f"{ast.unparse(node.left)} is {describe(left)},"
                f" {ast.unparse(node.right)} is {describe(right)}",
            )
    if isinstance(left, Items) and isinstance(right, Items) and sign == "+":
        return Items(left.values + right.values)
    a, b = to_number(left), to_number(right)
    if a is None or b is None:
        t.fail(
            ParserTypeError,
            f"{sign} needs two scalars, got {describe(left)} and {describe(right)}",
            node,
            help="pl.read takes a scalar out of a tensor; what is no number stays outside the kernel",
        )
    if name is None:
        t.fail(
            UnsupportedFeatureError,
            f"{sign} works on constants only, got {describe(a)} and {describe(b)}",
            node,
            help=ON_CONSTANTS.get(sign, "compute with + - * // and %"),
        )
    if name in ("s.floordiv", "s.mod") and isinstance(b.operand, Const) and b.operand.value == 0:
        t.fail(
            ParserTypeError,
            f"{ast.unparse(node)} divides by zero",
            node,
            help="divide by something else",
        )
    return Number(t.scalar(name, a.operand, b.operand, node=node))


def unary(t: Tracer, node: ast.UnaryOp) -> Named:
    value = evaluate(t, node.operand)
    if isinstance(value, (Tensor, Block)):
        word = "pl.neg" if isinstance(node.op, ast.USub) else None
        t.fail(
            ParserSyntaxError,
            f"{ast.unparse(node)[0]} works on scalars, got {describe(value)}",
            node,
            help=f"write {word}(…)" if word else "write pl.cmp(…, 0.0, 0) or pl.not_(…)",
        )
    if isinstance(value, Constant) and is_number(value.value):
        match node.op:
            case ast.USub():
                return Constant(-value.value)
            case ast.UAdd():
                return value
            case ast.Invert() if isinstance(value.value, int):
                return Constant(~value.value)
            case ast.Not() if isinstance(value.value, bool):
                return Constant(not value.value)
    number = to_number(value)
    if number is None or isinstance(node.op, ast.Invert):
        t.fail(
            ParserTypeError,
            f"{ast.unparse(node)} needs a scalar, got {describe(value)}",
            node,
            help="pl.read takes a scalar out of a tensor",
        )
    if isinstance(node.op, ast.UAdd):
        return number
    return Number(
        t.scalar("s.not" if isinstance(node.op, ast.Not) else "s.neg", number.operand, node=node)
    )


def logic(t: Tracer, node: ast.BoolOp) -> Named:
    """`and`, `or`: both sides are evaluated, both must be BOOL."""
    values = [evaluate(t, part) for part in node.values]
    word = "and" if isinstance(node.op, ast.And) else "or"
    for value, part in zip(values, node.values, strict=True):
        number = to_number(value)
        if number is None or number.dtype != BOOL:
            t.fail(
                ParserTypeError,
                f"{word} needs BOOL scalars, got {describe(value)}",
                part,
                help=f"compare explicitly: {ast.unparse(part)} != 0",
            )
    if all(isinstance(value, Constant) for value in values):
        flags = [value.value for value in values]  # type: ignore[union-attr]
        return Constant(all(flags) if word == "and" else any(flags))
    result = to_number(values[0])
    assert result is not None
    for value in values[1:]:
        number = to_number(value)
        assert number is not None
        result = Number(t.scalar(f"s.{word}", result.operand, number.operand, node=node))
    return result


def check_comparison(t: Complains, node: ast.Compare) -> None:
    """Two sides, compared by order or equality."""
    if len(node.ops) != 1:
        t.fail(
            ParserSyntaxError,
            "only simple comparisons, one at a time",
            node,
            help="join two with `and`",
        )
    if type(node.ops[0]) not in COMPARE:
        t.fail(
            UnsupportedFeatureError,
            f"{ast.unparse(node)}: kernels compare with == != < <= > >=",
            node,
            help="compare numbers, one pair at a time; what is decided in Python is decided outside the kernel",
        )


def compare(t: Tracer, node: ast.Compare) -> Named:
    check_comparison(t, node)
    left, right = evaluate(t, node.left), evaluate(t, node.comparators[0])
    decide, name = COMPARE[type(node.ops[0])]
    for side in (left, right):
        if isinstance(side, (Tensor, Block)):
            t.fail(
                ParserSyntaxError,
                f"comparisons work on scalars, got {describe(side)}",
                node,
                help="write pl.cmp(…, …, cmp_type)",
            )
    if isinstance(left, Constant) and isinstance(right, Constant):
        try:
            return Constant(bool(decide(left.value, right.value)))
        except TypeError as reason:
            t.fail(
                ParserTypeError,
                f"{ast.unparse(node)}: {reason}",
                node,
                help="compare numbers with numbers",
            )
    if isinstance(left, Items) and isinstance(right, Items) and name in ("s.eq", "s.ne"):
        return Constant(bool(decide(left, right)))
    a, b = to_number(left), to_number(right)
    if a is None or b is None:
        t.fail(
            ParserTypeError,
            f"cannot compare {describe(left)} with {describe(right)}",
            node,
            help="compare two numbers; pl.read takes one out of a tensor",
        )
    return Number(t.scalar(name, a.operand, b.operand, node=node, hint="c"))


def choice(t: Tracer, node: ast.IfExp) -> Named:
    """`a if c else b` on a compile-time condition."""
    condition = evaluate(t, node.test)
    known = condition.value if isinstance(condition, Constant) else None
    if not isinstance(known, bool):
        t.fail(
            UnsupportedFeatureError,
            "a conditional expression needs a condition known at compile time",
            node,
            help="write an if statement",
        )
    return evaluate(t, node.body if known else node.orelse)


def text(t: Tracer, node: ast.JoinedStr) -> Named:
    """An f-string of constants, for name_hint."""
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        elif isinstance(part, ast.FormattedValue):
            value = evaluate(t, part.value)
            if not isinstance(value, Constant) or not (
                is_number(value.value) or isinstance(value.value, str)
            ):
                t.fail(
                    UnsupportedFeatureError,
                    f"an f-string takes constants, got {describe(value)}",
                    node,
                    help="build texts from numbers that are known while compiling",
                )
            parts.append(str(value.value))
    return Constant("".join(parts))
