"""What Python says of a script's mistakes with our modules, said as everything else is: place, found, wanted."""

from __future__ import annotations

import inspect
import re
import sys
from types import ModuleType

from tilewright.errors import KernelError, SpecTypeError, UnsupportedFeatureError, like, raised_at
from tilewright.scripts.names import STAND_INS
from tilewright.span import Span


def in_our_words(error: BaseException, script: str) -> BaseException:
    """The error of a script as one of ours: what it lacks, and how it calls what we offer."""
    if isinstance(error, KernelError):
        error.span = error.span or raised_at(error, script)
        return error
    place = raised_at(error, script)
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        module = error.obj.__name__
        if module.startswith("tilewright."):
            name = str(error.name)
            advice = like(name, dir(error.obj)) or "docs/operators.md lists what there is"
            return UnsupportedFeatureError(f"{_theirs(module)} has no {name}", place, help=advice)
    if isinstance(error, ImportError):
        return UnsupportedFeatureError(*_not_there(error, place))
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    called = last is not None and last.tb_frame.f_code.co_filename == script
    if isinstance(error, TypeError) and called and (found := CALL.match(str(error))):
        owner, text = found[1].removesuffix(".__init__"), found[2]
        if owner in OFFERED:
            return SpecTypeError(f"{owner} {text}", place, help=_help(owner, text))
    return error


CALL = re.compile(r"([\w.]+)\(\) (.*)", re.DOTALL)
# What a script calls of ours, by the name that Python's complaints begin with.
OFFERED = ("run_jit", "run", "RunConfig", "TensorSpec", "ScalarSpec")


def _help(owner: str, text: str) -> str:
    """The keyword that was meant, or else all there are."""
    from tilewright import golden

    names = list(inspect.signature(getattr(golden, owner)).parameters)
    stray = re.search(r"keyword argument '(\w+)'", text)
    return (like(stray[1], names) if stray else None) or f"its parameters are {', '.join(names)}"


def _theirs(module: str) -> str:
    """A module of ours under the name that scripts know it by."""
    return next((name for name, ours in STAND_INS.items() if ours == module), module)


def _not_there(error: ImportError, place: Span | None) -> tuple[str, Span | None, list[str], str]:
    """Message, place, notes and help for an import that failed."""
    module = error.name or ""
    asked = re.search(r"cannot import name '(\w+)'", str(error))
    name = asked[1] if asked else ""
    if isinstance(error, ModuleNotFoundError):
        root = module.partition(".")[0]
        offered = [n for n in STAND_INS if n.partition(".")[0] == root]
        if offered:
            listed = f"there are {', '.join(offered)}"
            text = f"tilewright stands in for {root} and has no {module}"
            return text, place, [listed], like(module, offered) or "leave it out"
        text = f"there is no module {module}"
        return text, place, [], f"install it: pip install {root}; or leave it out"
    held = sys.modules.get(module)
    text = f"{_theirs(module)} has no {name}" if name else " ".join(str(error).split())
    near = like(name, dir(held)) if name and held is not None else None
    return text, place, [], near or "look at what the module offers"
