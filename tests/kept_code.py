"""What tests of kept code share: a folder of their own, what a process is told, other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tilewright import knobs
from tilewright.runtime import cache
from tilewright.runtime.cache import CacheWarning, DiskCache


@pytest.fixture
def store(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "kernels")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What this process is told about the cache, as if it had not been told anything yet."""
    monkeypatch.setattr(cache, "_told", threading.Event())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        messages: list[str] = []
        yield messages
        messages += [str(w.message) for w in caught if w.category is CacheWarning]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that programs of this test are kept in."""
    place = tmp_path / "programs"
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(place))
    # Whoever edits the compiler while its tests run still wants them to run.
    monkeypatch.setattr(knobs, "LOADED_AT", time.time() + 3600)
    return place


def warned(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What the call gives, and every CacheWarning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(w.message) for w in caught if w.category is CacheWarning]


def run_python(program: str, *arguments: Any, **settings: str) -> str:
    environment = {**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parents[1])}
    words = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
