"""`tilewright lint`: what a script says and the language does not have, without running it."""

from __future__ import annotations

from typing import Annotated

import typer

from tilewright.cli.console import console
from tilewright.errors import ArgumentValueError


def lint(
    scripts: Annotated[
        list[str],
        typer.Argument(metavar="SCRIPT...", help="Files, folders, or globs in quotes."),
    ],
) -> None:
    """List every mistake in the kernels of scripts, each at its line with what to write instead.

    Nothing is run or imported. What needs arguments, shapes and dtypes above all, is found when the
    script runs: then too all mistakes of a kernel are listed, before anything is computed. Exit status
    1 if something was found.
    """
    from tilewright.cli.run import show_lint
    from tilewright.scripts.batch import scripts_in

    try:
        files = scripts_in(scripts)
    except ArgumentValueError as error:
        raise typer.BadParameter(f"{error.message}; {error.help}") from error
    raise typer.Exit(show_lint(files, console()))
