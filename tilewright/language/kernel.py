"""`pl.jit` and its siblings: a Python function becomes a Kernel.

Compiling and running are `tilewright.jit`'s.
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Callable, Mapping
from types import FrameType, FunctionType
from typing import Any, Literal, Protocol

from tilewright.errors import (
    InvalidOperationError,
    KernelError,
    UnsupportedFeatureError,
    author_line,
    like,
    line_of,
)

KernelKind = Literal["entry", "inline", "incore", "opaque", "spmd"]


class Launcher(Protocol):
    """What runs kernels; `tilewright.jit` registers the one there is."""

    def run(
        self,
        kernel: Kernel,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        backend: str | None,
        threads: int | None,
    ) -> Any: ...

    def bind(self, kernel: Kernel, tensors: dict[str, Any], release: bool) -> Any: ...

    def specialize(
        self, kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any], backend: str | None
    ) -> Any: ...

    def check(self, program: Any) -> None: ...


_launchers: list[Launcher] = []


def register_launcher(launcher: Launcher) -> None:
    """Say who runs kernels from now on."""
    _launchers[:] = [launcher]


def _launcher() -> Launcher:
    if not _launchers:
        raise KernelError(
            "nothing here can run a kernel", help="import tilewright before calling it"
        )
    return _launchers[0]


def check_program(program: Any) -> None:
    """Report the mistakes of a `@pl.program` class where it is defined."""
    _launcher().check(program)


class Kernel:
    """A function written in the language, and what kind of function it is.

    kind:      'entry' is called from Python; 'inline', 'opaque', 'incore' and 'spmd' from kernels.
    is_region: the body is one region, as that of every 'incore' kernel.
    blocks:    on how many blocks an 'spmd' kernel runs its body.
    around:    names of the enclosing function that only annotations mention.
    binding:   annotations hold whatever the knob says.
    program:   the `@pl.program` whose method this is; its first parameter is `self`.
    Made by `@pl.jit` and its siblings. Raises UnsupportedFeatureError when the source cannot be read.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        kind: KernelKind,
        check_annotations: bool = True,
        around: Mapping[str, Any] | None = None,
        program: Any = None,
    ) -> None:
        if not isinstance(function, FunctionType):
            raise UnsupportedFeatureError(
                f"only a plain function can be a kernel, got {type(function).__name__}",
                help="decorate a def",
            )
        self.function = function
        self.kind = kind
        self.check_annotations = check_annotations
        self.is_region, self.blocks = kind == "incore", 1
        self.around = around or {}
        self.binding = False
        self.program = program
        self.specializations: dict[Any, Any] = {}
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function
        code = function.__code__
        if not linecache.getlines(code.co_filename, function.__globals__):
            raise UnsupportedFeatureError(
                f"the source of {function.__name__!r} cannot be read: it is in {code.co_filename}",
                help="write the kernel in a file; a prompt and exec leave no source",
            )

    def __repr__(self) -> str:
        return f"<{self.kind} kernel {self.__qualname__}>"

    @property
    def signature(self) -> inspect.Signature:
        """The Python signature, by which arguments are bound; without the `self` of a method."""
        full = inspect.signature(self.function)
        if self.program is None:
            return full
        return full.replace(parameters=list(full.parameters.values())[1:])

    @property
    def title(self) -> str:
        """What a message calls the kernel."""
        return f"@pl.jit function {self.__name__!r}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compile for these arguments if need be, and run; `pl.Out` and `pl.InOut` tensors are written in place.

        Arguments are contiguous CPU tensors and Python numbers, positional or by name; `config=` is accepted
        and ignored. Gives None, or the tensors that the kernel itself creates and returns: one, or a tuple.
        Raises ParserError for mistakes in the kernel, before anything runs; ArgumentError and
        ArgumentValueError for arguments that it cannot take; BoundsError at the window that leaves its tensor.
        """
        self._require_entry()
        kwargs.pop("config", None)
        return _launcher().run(self, args, kwargs, None, None)

    def run(
        self, *args: Any, backend: str | None = None, threads: int | None = None, **kwargs: Any
    ) -> Any:
        """As a call, by a chosen back end and on so many threads; None for what the knobs and Torch say.

        backend: 'native', 'interpreter', or 'checked', which raises CheckFailed for races and undefined contents.
        """
        self._require_entry()
        return _launcher().run(self, args, kwargs, backend, threads)

    def specialize(self, *args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        """The program compiled for arguments like these (a `Specialization`); nothing is run, no data is read.

        Tensors may be on the meta device. Raises as a call does.
        """
        self._require_entry()
        return _launcher().specialize(self, args, kwargs, backend)

    def bind(self, *, release: bool = False, **tensors: Any) -> Any:
        """The kernel with these tensor arguments fixed, a `BoundKernel`: weights are packed once, on the first call.

        release: let go of a tensor once it is packed.
        Raises ArgumentError for a name that is no parameter, and for what is no tensor.
        """
        self._require_entry()
        return _launcher().bind(self, tensors, release)

    def _require_entry(self) -> None:
        if self.kind != "entry":
            code = self.function.__code__
            raise UnsupportedFeatureError(
                f"{self.__name__!r} is an {self.kind} kernel: only other kernels can call it",
                author_line() or line_of(code.co_filename, code.co_firstlineno),
                help="call it from a kernel decorated with @pl.jit",
            )


class Decorator:
    """One of `@pl.jit`, `@pl.jit.inline`, …: usable bare or with options in parentheses.

    Options: `check_annotations=False` lets arguments differ from the annotated shapes and dtypes;
    `level` and `auto_scope` are hints without effect on values.
    """

    def __init__(self, kind: KernelKind) -> None:
        self.kind = kind

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        *,
        check_annotations: bool = True,
        auto_scope: bool = True,
        level: Any = None,
        **unknown: Any,
    ) -> Any:
        for option in unknown:
            known = ("check_annotations", "auto_scope", "level")
            raise InvalidOperationError(
                f"@pl.jit has no option {option!r}",
                author_line(),
                help=like(option, known) or f"there are {', '.join(known)}",
            )

        def decorate(decorated: Callable[..., Any]) -> Kernel:
            return Kernel(decorated, self.kind, check_annotations, around)

        around = names_around(sys._getframe(1))
        return decorate if function is None else decorate(function)


def names_around(frame: FrameType) -> Mapping[str, Any]:
    """The names of an enclosing function, as they are at a definition.

    Annotations may mention names that the function does not close over, and Python does not keep those. Tensors
    are no part of an annotation, so they are not held.
    """
    if frame.f_locals is frame.f_globals:
        return {}
    return {n: v for n, v in frame.f_locals.items() if not hasattr(type(v), "data_ptr")}


class Jit(Decorator):
    """Makes a `Kernel` of a function: an entry, which is compiled when it is called from Python.

    `@pl.jit.inline`, `@pl.jit.incore` and `@pl.jit.opaque` make the kernels that entries call: spliced into the
    caller, one region, a function of its own.

    check_annotations: False lets arguments differ from the annotated shapes and dtypes.
    auto_scope, level: accepted, without effect on values.
    Raises UnsupportedFeatureError for what is no plain function, or has no source to read.
    """

    inline = Decorator("inline")
    incore = Decorator("incore")
    opaque = Decorator("opaque")


jit = Jit("entry")
inline = jit.inline
