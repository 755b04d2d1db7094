"""`tilewright VERB ...`: the verbs and what happens when one fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from tilewright.cli.accuracy import accuracy
from tilewright.cli.bench import bench
from tilewright.cli.cache import cache
from tilewright.cli.check import check
from tilewright.cli.checkpoint import checkpoint
from tilewright.cli.doctor import doctor
from tilewright.cli.lint import lint
from tilewright.cli.run import EXAMPLES, RunCommand, run
from tilewright.cli.show import show
from tilewright.errors import KernelError

app = typer.Typer(
    help="Tile kernels in Python, compiled for this CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=RunCommand, epilog=EXAMPLES)(run)
app.command()(lint)
app.command()(check)
app.command()(accuracy)
app.command()(bench)
app.command()(show)
app.command()(doctor)
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(cache, name="cache")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 a mismatch or a mistake in a kernel, 2 a bad option.

    A KernelError is printed as it is, the author's line with a caret; anything else keeps its
    traceback.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="tilewright")
    except KernelError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
