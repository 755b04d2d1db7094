"""`pl.jit` and its siblings: a Python function becomes a Kernel.

Compiling and running are `tilewright.jit`'s.
"""

from __future__ import annotations
import __future__

import inspect
import linecache
import sys
from collections.abc import Callable, Mapping
from types import FrameType, FunctionType
from typing import Any, Literal, Protocol

from tilewright.errors import KernelError, UnsupportedFeatureError

KernelKind = Literal["entry", "inline", "incore", "opaque"]


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


class Kernel:
    """A function written in the language, and what kind of function it is.

    kind: 'entry' is called from Python; 'inline', 'opaque' and 'incore' from other kernels
    ('incore'
    bodies are one region). Raises UnsupportedFeatureError when the source cannot be read.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        kind: KernelKind,
        check_annotations: bool = True,
        around: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(function, FunctionType):
            raise UnsupportedFeatureError(
                f"only a plain function can be a kernel, got {type(function).__name__}",
                help="decorate a def",
            )
        self.function = function
        self.kind = kind
        self.check_annotations = check_annotations
        self.around = around or {}  # for annotations that Python left as text
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
        """The Python signature, by which arguments are bound."""
        return inspect.signature(self.function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compile for these arguments if need be, and run. `config=` is accepted and ignored."""
        self._require_entry()
        kwargs.pop("config", None)
        return _launcher().run(self, args, kwargs, None, None)

    def run(
        self, *args: Any, backend: str | None = None, threads: int | None = None, **kwargs: Any
    ) -> Any:
        """As a call, with a chosen back end ('native' or 'interpreter') and number of threads."""
        self._require_entry()
        return _launcher().run(self, args, kwargs, backend, threads)

    def specialize(self, *args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        """The program compiled for arguments like these; nothing is run and no data is read."""
        self._require_entry()
        return _launcher().specialize(self, args, kwargs, backend)

    def bind(self, *, release: bool = False, **tensors: Any) -> Any:
        """The kernel with these tensor arguments fixed: weights are packed once, on the first call.

        release: let go of a tensor once it is packed. See `tilewright.bound.BoundKernel`.
        """
        self._require_entry()
        return _launcher().bind(self, tensors, release)

    def _require_entry(self) -> None:
        if self.kind != "entry":
            raise UnsupportedFeatureError(
                f"{self.__name__!r} is an {self.kind} kernel: only other kernels can call it",
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
    ) -> Any:
        def decorate(decorated: Callable[..., Any]) -> Kernel:
            return Kernel(decorated, self.kind, check_annotations, around)

        around = _locals_for_annotations(sys._getframe(1))
        return decorate if function is None else decorate(function)


def _locals_for_annotations(frame: FrameType) -> Mapping[str, Any]:
    """The names around a definition whose annotations Python does not evaluate.

    Under `from __future__ import annotations` a name that occurs in annotations only is not closed over,
    so it must be looked at while the enclosing function runs.
    """
    postponed = frame.f_code.co_flags & __future__.annotations.compiler_flag
    return dict(frame.f_locals) if postponed and frame.f_locals is not frame.f_globals else {}


class Jit(Decorator):
    """`@pl.jit` makes an entry; its attributes make the kernels that entries call."""

    inline = Decorator("inline")
    incore = Decorator("incore")
    opaque = Decorator("opaque")


jit = Jit("entry")
