"""`tilewright show`: a kernel's program at any point between source and machine code."""

from __future__ import annotations

import difflib
import enum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax

from tilewright.cli import options
from tilewright.cli.console import console

if TYPE_CHECKING:
    from tilewright.ir.nodes import Function
    from tilewright.machine import Machine

START = "front end"  # the name of the program before any pass
SPAN_COLUMN = 96  # most lines of IR are shorter


class Stage(str, enum.Enum):
    ir = "ir"
    lowered = "lowered"
    llvm = "llvm"
    asm = "asm"


def show(
    kernel: options.KernelName,
    stage: Annotated[
        Stage,
        typer.Option(
            help="ir: as read; lowered: after all passes; llvm: optimised; asm: for this CPU."
        ),
    ] = Stage.ir,
    after: Annotated[
        str | None,
        typer.Option(metavar="PASS", help="The program after this pass, whatever the stage."),
    ] = None,
    diff: Annotated[
        bool, typer.Option(help="Only what the pass of --after (or else all of them) changed.")
    ] = False,
    preset: Annotated[options.Preset, typer.Option(help="Model size.")] = options.Preset.demo,
    tokens: options.Tokens = None,
    spans: Annotated[
        bool, typer.Option(help="End each line of IR with the author's file:line.")
    ] = False,
    blocking: Annotated[
        bool,
        typer.Option("--blocking", help="Instead: how each product is cut on this CPU, and why."),
    ] = False,
) -> None:
    """Print a kernel's program: IR text, IR after any pass, LLVM IR or assembly."""
    out = console()
    function = front_end(kernel, preset.value, tokens)
    if blocking:
        from tilewright.cli.blocking import paragraphs, products
        from tilewright.machine import host

        print(paragraphs(products(function, host())))
        return
    if stage in (Stage.llvm, Stage.asm) and after is None and not diff:
        _print(machine_text(function, stage), out)
        return
    from tilewright.machine import host

    programs = history(function, host())
    names = [name for name, _ in programs]
    if after is not None:
        if after not in names:
            raise typer.BadParameter(
                f"no pass is named {after!r}; there are {', '.join(names[1:])}"
            )
        at = len(names) - 1 - names[::-1].index(after)
    else:
        at = 0 if stage is Stage.ir and not diff else len(names) - 1
    text = text_of(programs[at][1], spans)
    if diff:
        before = at - 1 if after is not None and at > 0 else 0
        text = changes(text_of(programs[before][1], spans), text, names[before], names[at])
    _print(text, out)


def front_end(kernel: str, preset: str, tokens: int | None) -> Function:
    """The IR of a kernel for a preset, as the front end reads it. No data is made."""
    import torch

    from tilewright.golden import ScalarSpec
    from tilewright.models.deepseek_v4.config import PRESETS
    from tilewright.models.deepseek_v4.registry import Inputs, find

    try:
        entry = find(kernel)
    except KeyError as error:
        raise typer.BadParameter(str(error.args[0])) from error
    cfg = PRESETS[preset]
    specs = entry.specs(cfg, Inputs(entry.tokens if tokens is None else tokens))
    arguments = [
        s.to_python()
        if isinstance(s, ScalarSpec)
        else torch.empty(tuple(s.shape), dtype=s.dtype, device="meta")
        for s in specs
    ]
    function: Function = entry.build(cfg).specialize(*arguments, backend="interpreter").function
    return function


def history(function: Function, machine: Machine) -> list[tuple[str, Function]]:
    """The program before any pass and after each, in order, with the pass's name."""
    from tilewright.passes import pipeline

    programs = [(START, function)]

    def observe(name: str, program: Function) -> None:
        programs.append((name, program))

    pipeline.lower(pipeline.prepare(function, machine, observe), machine, observe)
    return programs


def text_of(function: Function, spans: bool) -> str:
    """The program's text; with `spans`, the author's `file:line` after each operator."""
    from tilewright.ir.printer import to_lines

    lines = to_lines(function)
    if not spans:
        return "\n".join(line.text for line in lines)
    return "\n".join(
        line.text if line.op is None else f"{line.text:<{SPAN_COLUMN}}  # {line.op.span.short}"
        for line in lines
    )


def changes(before: str, after: str, name_before: str, name_after: str) -> str:
    """A unified diff of two program texts; a sentence when they are equal."""
    lines = difflib.unified_diff(
        before.splitlines(),
        after.splitlines(),
        f"after {name_before}",
        f"after {name_after}",
        lineterm="",
    )
    return "\n".join(lines) or f"{name_after} changed nothing"


def machine_text(function: Function, stage: Stage) -> str:
    """LLVM IR after its middle end, or assembly for this CPU."""
    from tilewright.machine import host
    from tilewright.native import compile_native
    from tilewright.passes import pipeline

    program = compile_native(pipeline.prepare(function, host()))
    return program.optimised() if stage is Stage.llvm else program.assembly()


def _print(text: str, out: Console) -> None:
    """Plain text, lines unbroken; a diff in colour on a terminal."""
    if out.is_terminal and text.startswith("---"):
        out.print(Syntax(text, "diff", background_color="default"))
    else:
        print(text)
