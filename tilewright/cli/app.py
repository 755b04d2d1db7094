"""`tilewright VERB ...`: the verbs and what happens when one fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from tilewright.cli.accuracy import EXAMPLES as ACCURACY_EXAMPLES
from tilewright.cli.accuracy import accuracy
from tilewright.cli.bench import EXAMPLES as BENCH_EXAMPLES
from tilewright.cli.bench import bench
from tilewright.cli.cache import cache
from tilewright.cli.check import EXAMPLES as CHECK_EXAMPLES
from tilewright.cli.check import check
from tilewright.cli.checkpoint import checkpoint
from tilewright.cli.doctor import doctor
from tilewright.cli.lint import lint
from tilewright.cli.run import EXAMPLES as RUN_EXAMPLES
from tilewright.cli.run import RunCommand, run
from tilewright.cli.show import show
from tilewright.errors import KernelError

EXAMPLES = """
\b
Is all well here? A small kernel against Torch, and what the compiler makes of this CPU:
    tilewright check prefill --preset demo
    tilewright doctor
A checkpoint of DeepSeek-V4:
    tilewright checkpoint show DIR
    tilewright check prefill --checkpoint DIR --layer 2
A script that imports pypto.language:
    tilewright run kernel.py
"""

app = typer.Typer(
    help="Tile kernels in Python, compiled for this CPU.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=RunCommand, epilog=RUN_EXAMPLES)(run)
app.command()(lint)
app.command(epilog=CHECK_EXAMPLES)(check)
app.command(epilog=ACCURACY_EXAMPLES)(accuracy)
app.command(epilog=BENCH_EXAMPLES)(bench)
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
