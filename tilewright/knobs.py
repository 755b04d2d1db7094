"""Every environment variable, with its default and one sentence.

Read when asked for, never at import.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.errors import ArgumentValueError

BACKENDS = ("native", "interpreter", "checked")
BOUNDS_MODES = ("error", "zeros")

# When this process loaded the package: code written later is not the code that runs.
LOADED_AT = time.time()


@dataclass(frozen=True, slots=True)
class Knob:
    """One environment variable."""

    name: str
    default: str
    meaning: str

    @property
    def value(self) -> str:
        """The setting in force; an empty variable is the same as none."""
        if os.environ.encodekey(self.name) not in _variables:
            return self.default
        return os.environ.get(self.name) or self.default

    def flag(self) -> bool:
        """The setting as a yes or no. ArgumentValueError for anything else."""
        text = self.value.lower()
        if text in ("1", "true", "yes", "on"):
            return True
        if text in ("0", "false", "no", "off"):
            return False
        raise ArgumentValueError(f"{self.name} is {self.value!r}", help="set it to 1 or 0")


# The dict behind `os.environ`, which raises an exception inside for a variable that is not set. That takes
# 0.7 us, and a call of a kernel asks for four that hardly ever are.
_variables: Mapping[Any, Any] = os.environ._data  # type: ignore[attr-defined]


BACKEND = Knob(
    "TILEWRIGHT_BACKEND", "native", "How kernels run by default: native, interpreter or checked."
)
THREADS = Knob(
    "TILEWRIGHT_THREADS", "0", "Threads a kernel may use; 0 means as many as Torch uses."
)
CHECK = Knob(
    "TILEWRIGHT_CHECK",
    "0",
    "Run every kernel checked, whatever back end was asked for: races, bounds, undefined contents.",
)
VERIFY = Knob("TILEWRIGHT_VERIFY", "0", "Look for broken programs between passes (1) or not (0).")
ANNOTATIONS = Knob(
    "TILEWRIGHT_CHECK_ANNOTATIONS",
    "1",
    "Refuse arguments that differ from their annotated shape or dtype.",
)
CACHE = Knob("TILEWRIGHT_CACHE", "1", "Keep compiled code on disk between runs (1) or not (0).")
CACHE_DIR = Knob(
    "TILEWRIGHT_CACHE_DIR", "", "Folder for compiled code; empty means the user's cache folder."
)
BOUNDS = Knob(
    "TILEWRIGHT_BOUNDS",
    "error",
    "What reading a window past the end of its tensor does: error, or zeros for what is not there.",
)
SEED = Knob(
    "TILEWRIGHT_SEED",
    "",
    "Seed of golden runs that name none; empty leaves Torch's generator alone.",
)
TRACEBACKS = Knob(
    "TILEWRIGHT_TRACEBACKS",
    "0",
    "Show Python's whole traceback under a mistake in a script, tilewright's own frames too.",
)
# These keep the names that existing scripts set.
BENCH = Knob(
    "PYPTO_BENCH", "0", "Time the kernel after a golden run has validated it (1) or not (0)."
)
BENCH_ROUNDS = Knob("PYPTO_BENCH_ROUNDS", "100", "Calls that PYPTO_BENCH times.")
BENCH_WARMUP = Knob("PYPTO_BENCH_WARMUP", "3", "Calls before those that PYPTO_BENCH times.")
GOLDEN_THREADS = Knob(
    "PYPTO_GOLDEN_NUM_THREADS",
    "",
    "Torch's threads while a golden is computed; empty leaves them as they are.",
)

KNOBS = (
    BACKEND,
    THREADS,
    CHECK,
    VERIFY,
    ANNOTATIONS,
    CACHE,
    CACHE_DIR,
    BOUNDS,
    SEED,
    TRACEBACKS,
    BENCH,
    BENCH_ROUNDS,
    BENCH_WARMUP,
    GOLDEN_THREADS,
)


def settings() -> list[Any]:
    """What the environment says, unread, of the knobs that a call of a kernel depends on; None for nothing.

    They are BACKEND, THREADS, CHECK and BOUNDS, in this order.
    """
    return [*map(_variables.get, _OF_CALLS)]


_OF_CALLS = [os.environ.encodekey(knob.name) for knob in (BACKEND, THREADS, CHECK, BOUNDS)]


def tracebacks() -> bool:
    """Whether to show tracebacks with our own frames."""
    return TRACEBACKS.flag()


def backend() -> str:
    """The default back end. ArgumentValueError for an unknown one."""
    chosen = BACKEND.value
    if chosen not in BACKENDS:
        raise ArgumentValueError(
            f"{BACKEND.name} is {chosen!r}", help=f"set it to one of {', '.join(BACKENDS)}"
        )
    return chosen


def zero_reads() -> bool:
    """Whether a window that overhangs its tensor reads zeros there. ArgumentValueError for another word."""
    mode = BOUNDS.value
    if mode not in BOUNDS_MODES:
        raise ArgumentValueError(
            f"{BOUNDS.name} is {mode!r}", help=f"set it to {' or '.join(BOUNDS_MODES)}"
        )
    return mode == "zeros"


def threads() -> int | None:
    """The number of threads asked for, None for the default.

    ArgumentValueError unless 0 or positive.
    """
    return _count(THREADS) or None


def checking() -> bool:
    """Whether every kernel runs checked."""
    return CHECK.flag()


def verify() -> bool:
    """Whether the verifier runs between passes."""
    return VERIFY.flag()


def check_annotations() -> bool:
    """Whether annotated shapes and dtypes bind."""
    return ANNOTATIONS.flag()


def cache_folder() -> Path | None:
    """The folder asked for, None for the user's own."""
    return Path(CACHE_DIR.value) if CACHE_DIR.value else None


def caching() -> bool:
    """Whether compiled code is kept on disk."""
    return CACHE.flag()


def bench_rounds() -> int:
    """How many timed calls a golden run makes after validation, 0 for none.

    ArgumentValueError unless positive.
    """
    return _positive(BENCH_ROUNDS) if BENCH.flag() else 0


def bench_warmup() -> int:
    """How many calls of a bench are not timed. ArgumentValueError unless 0 or positive."""
    return _count(BENCH_WARMUP)


def seed() -> int | None:
    """The seed of golden runs that name none. ArgumentValueError unless 0 or positive."""
    return _count(SEED) if SEED.value else None


def golden_threads() -> int | None:
    """Torch's threads while a golden is computed, None to leave them.

    ArgumentValueError unless positive.
    """
    return _positive(GOLDEN_THREADS) if GOLDEN_THREADS.value else None


def _count(knob: Knob) -> int:
    text = knob.value
    if not text.isascii() or not text.isdigit():
        raise ArgumentValueError(
            f"{knob.name} is {text!r}", help="set it to 0 or a positive number"
        )
    return int(text)


def _positive(knob: Knob) -> int:
    text = knob.value
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ArgumentValueError(f"{knob.name} is {text!r}", help="set it to a positive number")
    return int(text)
