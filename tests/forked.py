"""A process that does something, forks, and runs a kernel in the child and in the child's child.

`forked.py BEFORE` prints, of both, who provided the threads and whether the result was right. BEFORE is what
the parent did with Torch's team of OpenMP threads running: nothing more, import, kernel, compiling.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

PATIENCE = 60  # seconds after which a child that hangs is ended; its parent tells


def run_a_kernel() -> bool:
    """Here, on several threads."""
    import forked_kernel

    return forked_kernel.right(threads=3) and forked_kernel.right(threads=2)


def in_child(then: Callable[[], int] = lambda: 0) -> int:
    """Fork; there, run a kernel, tell, and go on. The child's status, not 0 when it hung or was wrong."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    signal.alarm(PATIENCE)
    try:
        right = run_a_kernel()
        from tilewright.runtime.threads import provider

        print(f"{provider()}: {'right' if right else 'wrong'}", flush=True)
        os._exit(0 if right and then() == 0 else 1)
    finally:
        os._exit(2)


def compile_without_end() -> None:
    """One new program after the other, in this thread."""
    import forked_kernel
    import torch

    x, w, y = forked_kernel.inputs()
    for rows in range(8, 100_000, 8):
        like = (x.new_empty(rows, x.shape[1], device="meta"), w, torch.empty(rows, y.shape[1]))
        forked_kernel.two_phases.specialize(*like)


def main(before: str) -> int:
    import torch

    torch.set_num_threads(2)
    torch.ones(1 << 20).add_(1)  # Torch's team is there now
    if before == "import":
        import tilewright  # noqa: F401
    if before in ("kernel", "compiling"):
        assert run_a_kernel()
    if before == "compiling":
        threading.Thread(target=compile_without_end, daemon=True).start()
        time.sleep(0.3)
    status = in_child(in_child)
    sys.stdout.flush()
    os._exit(0 if status == 0 else 1)  # without waiting for a thread that compiles


if __name__ == "__main__":
    main(sys.argv[1])
