"""Running one function on a team of threads at once.

A worker is compiled code of one signature, `void worker(void* data, i64 tid, i64 nthreads)`. All
workers of a team run at the same time, so they may wait for each other.

The team comes from the OpenMP library that the array library has already loaded: the same threads,
still warm, and no more of them than processors. Where there is none, or in a forked child (whose
OpenMP team died with the parent's threads: `forks`), it comes from a pool of Python threads; both
look the same to the worker, except that an OpenMP team may be smaller than asked for: `nthreads` is
the size it really has.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from queue import Empty, SimpleQueue

from tilewright.runtime import engine
from tilewright.runtime.forks import is_copy, loaded_openmp

Worker = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class _Packet(ctypes.Structure):
    """What the trampoline is handed: the worker's address and its data."""

    _fields_ = [("worker", ctypes.c_void_p), ("data", ctypes.c_void_p)]


class Launch:
    """The worker at an address and its data, made ready to be run many times, one after the other."""

    def __init__(self, worker: int, data: int) -> None:
        self._packet = _Packet(worker, data)
        self._packet_address = ctypes.addressof(self._packet)
        self._alone = partial(Worker(worker), data, 0, 1)

    def run(self, threads: int) -> None:
        """Run on up to `threads` threads; return when all have. Raises ValueError for less than one."""
        if threads == 1:
            self._alone()
            return
        if threads < 1:
            raise ValueError(f"a team of {threads} threads; it needs 1 or more")
        openmp = None if is_copy() else _openmp()
        if openmp is None:
            _pool().run(self._packet.worker, self._packet.data, threads)
        else:
            openmp.run(self._packet_address, threads)


def team(worker: int, data: int, threads: int) -> None:
    """Run the worker at address `worker` with `data` on up to `threads` threads; return when all
    have.

    Raises ValueError for less than one thread. Safe to call from several Python threads at once.
    """
    Launch(worker, data).run(threads)


def provider() -> str:
    """Where teams come from, for people: a library's path, or `Python threads`."""
    openmp = None if is_copy() else _openmp()
    return "Python threads" if openmp is None else openmp.path


TRAMPOLINE = """
declare i32 @omp_get_thread_num()
declare i32 @omp_get_num_threads()
define void @tw_team_member(ptr %packet) nounwind {
  %worker = load ptr, ptr %packet
  %slot = getelementptr i8, ptr %packet, i64 8
  %data = load ptr, ptr %slot
  %tid = call i32 @omp_get_thread_num()
  %nthreads = call i32 @omp_get_num_threads()
  %tid64 = sext i32 %tid to i64
  %nthreads64 = sext i32 %nthreads to i64
  call void %worker(ptr %data, i64 %tid64, i64 %nthreads64)
  ret void
}
"""


class OpenMP:
    """Teams by `GOMP_parallel` of a loaded OpenMP library."""

    def __init__(self, path: str, library: ctypes.CDLL) -> None:
        self.path = path
        self._parallel = library.GOMP_parallel
        self._parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = None
        symbols = {
            name: _address(library, name) for name in ("omp_get_thread_num", "omp_get_num_threads")
        }
        self._code = engine.load(TRAMPOLINE, ["tw_team_member"], symbols=symbols)
        self._member = self._code["tw_team_member"]

    def run(self, packet: int, threads: int) -> None:
        """Run the worker of the packet at that address on up to `threads` threads."""
        self._parallel(self._member, packet, threads, 0)


class Pool:
    """Teams of Python threads that wait between calls. A call takes idle ones and makes those
    missing, so that calls at the same time never share a thread and a team is always complete.
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Callable[[], None]]] = []
        self._lock = threading.Lock()

    def run(self, worker: int, data: int, threads: int) -> None:
        call = Worker(worker)
        finished: list[int] = []
        wake: SimpleQueue[None] = SimpleQueue()

        def member(tid: int) -> None:
            call(data, tid, threads)
            finished.append(tid)
            wake.put(None)

        with self._lock:
            mine = [self._idle.pop() if self._idle else _start_thread() for _ in range(threads - 1)]
        for tid, inbox in enumerate(mine, 1):
            inbox.put(partial(member, tid))
        call(data, 0, threads)
        interrupt: KeyboardInterrupt | None = None
        while len(finished) < len(mine):
            # Even an interrupted caller must wait: the others still use `data`. The list decides,
            # not the number of wake-ups, because an interrupt may swallow one.
            try:
                wake.get(timeout=1.0)
            except Empty:
                continue
            except KeyboardInterrupt as err:
                interrupt = err
        with self._lock:
            self._idle += mine
        if interrupt is not None:
            raise interrupt


def _start_thread() -> SimpleQueue[Callable[[], None]]:
    """A thread that runs what is put into its inbox, for ever."""
    inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def serve() -> None:
        while True:
            inbox.get()()

    threading.Thread(target=serve, name="tilewright", daemon=True).start()
    return inbox


@cache
def _pool() -> Pool:
    """This process's pool."""
    return Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads are the parent's


_opening = threading.Lock()
_opened: list[OpenMP | None] = []


def _openmp() -> OpenMP | None:
    """The OpenMP library to use, or None.

    Settled for good once torch is there to bring one: reading the list of loaded files takes most
    of a millisecond, starting a team a few microseconds.
    """
    if not _opened:
        with _opening:
            found = next((lib for lib in map(_open, loaded_openmp()) if lib is not None), None)
            if found is None and "torch" not in sys.modules:
                return None
            _opened.append(found)
    return _opened[0]


def _open(path: str) -> OpenMP | None:
    try:
        return OpenMP(path, ctypes.CDLL(path))
    except (OSError, AttributeError):  # not to be opened by this name, or not GNU's interface
        return None


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
