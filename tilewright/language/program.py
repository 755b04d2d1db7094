"""`@pl.program`: a class whose methods are functions of one program, one of them its entry."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import CellType
from types import FunctionType as PythonFunction
from typing import Any

from tilewright.errors import InvalidOperationError, ParserTypeError, UnsupportedFeatureError
from tilewright.language.kernel import Kernel, KernelKind, check_program, names_around
from tilewright.span import Span


class FunctionType(Enum):
    """What a function of a program is.

    Opaque has regions inside, Orchestration is host logic and the entry, InCore (on either kind of
    core: AIC, AIV) is one region as a whole, Group calls functions that run side by side, Spmd runs
    its body on `attrs={"core_num": n}` blocks, Inline is pasted into its caller.
    """

    Opaque = "Opaque"
    Orchestration = "Orchestration"
    InCore = "InCore"
    AIC = "AIC"
    AIV = "AIV"
    Group = "Group"
    Spmd = "Spmd"
    Inline = "Inline"


KINDS: Mapping[FunctionType, KernelKind] = {
    FunctionType.Opaque: "opaque",
    FunctionType.Orchestration: "opaque",
    FunctionType.InCore: "incore",
    FunctionType.AIC: "incore",
    FunctionType.AIV: "incore",
    FunctionType.Group: "opaque",
    FunctionType.Spmd: "spmd",
    FunctionType.Inline: "inline",
}


@dataclass(frozen=True, slots=True)
class Method:
    """A function marked by `@pl.function`, until its class becomes a program."""

    function: Callable[..., Any]
    type: FunctionType
    blocks: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedFeatureError(
            f"{self.function.__name__!r} is a function of a program, and its class is none yet",
            help="decorate the class with @pl.program, then call the class",
        )


def function(
    decorated: Callable[..., Any] | None = None,
    *,
    type: FunctionType = FunctionType.Opaque,
    level: Any = None,
    role: Any = None,
    attrs: Mapping[str, Any] | None = None,
    strict_ssa: bool = False,
    auto_scope: bool = True,
) -> Any:
    """Mark a method of a `@pl.program` class; usable bare or with options in parentheses.

    `attrs={"core_num": n}` says on how many blocks an Spmd function runs. The other options are
    hints without effect on values.
    """
    frame = sys._getframe(1)
    place = _line(frame.f_code.co_filename, frame.f_lineno)
    if not isinstance(type, FunctionType):
        raise InvalidOperationError(
            f"@pl.function: type must be a pl.FunctionType, got {type!r}",
            place,
            help="write @pl.function(type=pl.FunctionType.InCore)",
        )
    blocks = (attrs or {}).get("core_num", 1)
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise InvalidOperationError(
            f"@pl.function: core_num must be a positive integer, got {blocks!r}",
            place,
            help='write attrs={"core_num": 4}',
        )

    def mark(found: Callable[..., Any]) -> Method:
        return Method(found, type, blocks)

    return mark if decorated is None else mark(decorated)


class Program(Kernel):
    """A program of several functions, called through its entry like any kernel.

    functions: every function by name; the entry's name gives the program itself.
    Calling it without any argument gives the program, so that `Twice()` may stand for `Twice`.
    """

    def __init__(
        self, decorated: type[Any], methods: Mapping[str, Method], around: Mapping[str, Any]
    ) -> None:
        entry = _entry_of(decorated.__name__, methods)
        kind = KINDS[methods[entry].type]
        super().__init__(
            _with_scope_of_now(methods[entry].function), "entry", around=around, program=self
        )
        self.is_region, self.blocks = kind == "incore", methods[entry].blocks
        self.binding = True
        self.functions: dict[str, Kernel] = {entry: self}
        for name, method in methods.items():
            if name == entry:
                continue
            made = Kernel(
                _with_scope_of_now(method.function), KINDS[method.type], True, around, program=self
            )
            made.blocks = method.blocks
            self.functions[name] = made
        self.__name__ = decorated.__name__
        self.__qualname__ = decorated.__qualname__
        self.__doc__ = decorated.__doc__
        self.__module__ = decorated.__module__

    def __repr__(self) -> str:
        return f"<program {self.__qualname__}: {', '.join(self.functions)}>"

    @property
    def title(self) -> str:
        return f"@pl.program {self.__name__!r}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a kernel's call; without arguments, the program itself."""
        if not args and not kwargs and self.signature.parameters:
            return self
        return super().__call__(*args, **kwargs)


def program(decorated: type[Any] | None = None, *, strict_ssa: bool = False) -> Any:
    """Make a program of a class whose methods are marked by `@pl.function`.

    Names around the class mean what they mean now, and mistakes are reported now. `strict_ssa` is
    accepted; rebinding a name is allowed all the same.
    """
    frame = sys._getframe(1)
    around, place = names_around(frame), _line(frame.f_code.co_filename, frame.f_lineno)

    def make(found: type[Any]) -> Program:
        if not isinstance(found, type):
            raise InvalidOperationError(
                f"@pl.program decorates a class, got the {type(found).__name__}"
                f" {getattr(found, '__name__', found)}",
                place,
                help="a single function is decorated with @pl.jit",
            )
        made = Program(found, _methods_of(found, place), {**around, **_constants_of(found)})
        check_program(made)
        return made

    return make if decorated is None else make(decorated)


def _methods_of(decorated: type[Any], place: Span) -> dict[str, Method]:
    methods: dict[str, Method] = {}
    for name, value in vars(decorated).items():
        if isinstance(value, Method):
            methods[name] = value
        elif isinstance(value, PythonFunction):
            raise UnsupportedFeatureError(
                f"method {name!r} of program {decorated.__name__} is not marked",
                _place(value),
                help="decorate it with @pl.function(type=pl.FunctionType.…)",
            )
    if not methods:
        raise InvalidOperationError(
            f"program {decorated.__name__} has no functions",
            place,
            help="decorate its methods with @pl.function(type=pl.FunctionType.…)",
        )
    for name, method in methods.items():
        code = method.function.__code__
        if code.co_argcount == 0:
            raise ParserTypeError(
                f"method {name!r} of program {decorated.__name__} takes no self",
                _place(method.function),
                help=f"write def {name}(self, …)",
            )
    return methods


def _constants_of(decorated: type[Any]) -> dict[str, Any]:
    """Class variables: annotations of the methods may name them."""
    return {
        name: value
        for name, value in vars(decorated).items()
        if not name.startswith("__") and not isinstance(value, Method)
    }


def _entry_of(name: str, methods: Mapping[str, Method]) -> str:
    """The Orchestration function; without one, the only function that no other calls by its name."""
    found = [n for n, m in methods.items() if m.type is FunctionType.Orchestration]
    if not found:
        called = {
            callee
            for n, m in methods.items()
            for callee in m.function.__code__.co_names
            if callee in methods and callee != n
        }
        found = [n for n, m in methods.items() if n not in called and KINDS[m.type] != "inline"]
    if len(found) == 1:
        return found[0]
    guilty = methods[found[1] if found else next(iter(methods))]
    raise InvalidOperationError(
        f"program {name} needs one entry, found "
        + (" and ".join(repr(n) for n in found) if found else "none"),
        _place(guilty.function),
        help="mark exactly one function with type=pl.FunctionType.Orchestration",
    )


def _place(decorated: Callable[..., Any]) -> Span:
    """The first line of a function: its decorator, where it has one."""
    code = decorated.__code__
    return _line(code.co_filename, code.co_firstlineno)


def _line(file: str, number: int) -> Span:
    """A whole line of the author's."""
    text = linecache.getline(file, number).rstrip()
    return Span(file, number, len(text) - len(text.lstrip()), number, len(text.encode()))


def _with_scope_of_now(decorated: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the names around it frozen at their present values."""
    assert isinstance(decorated, PythonFunction)
    copy = PythonFunction(
        decorated.__code__,
        dict(decorated.__globals__),
        decorated.__name__,
        decorated.__defaults__,
        tuple(map(_copied, decorated.__closure__ or ())) or None,
    )
    copy.__kwdefaults__ = decorated.__kwdefaults__
    copy.__annotations__ = decorated.__annotations__
    copy.__qualname__, copy.__module__ = decorated.__qualname__, decorated.__module__
    copy.__doc__ = decorated.__doc__
    return copy


def _copied(cell: CellType) -> CellType:
    try:
        return CellType(cell.cell_contents)
    except ValueError:  # the name has no value yet
        return cell
