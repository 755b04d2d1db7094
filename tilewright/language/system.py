"""`pl.system.…`: tasks and the blocks of a launch."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator("system.task_dummy")
def task_dummy(*, deps=()):
    """A task that does nothing; its id stands for all of `deps`."""


@operator("system.syncall")
def syncall(*, core_type="mix"):
    """In the body of pl.spmd: no block goes on before every block is here.

    What a block wrote before is then visible to all. It may stand in loops whose bounds are the same for
    all blocks, not under a run-time condition.
    """


__all__ = ["syncall", "task_dummy"]
