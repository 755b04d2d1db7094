"""What every test gets: verified passes, and `@pytest.mark.isa("avx512f")` for CPU features."""

from __future__ import annotations

import os
import tempfile

import pytest
from kept_code import folder, store, told  # noqa: F401  (fixtures)
from long_calls import long  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden texts; read the diff"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Compiled code is kept, so that the cache is tried by all tests, but not in the user's own folder.
    kept = tempfile.TemporaryDirectory(prefix="tilewright-tests-")
    config.add_cleanup(kept.cleanup)
    os.environ["TILEWRIGHT_CACHE_DIR"] = kept.name
    # Tests look at the program after every pass; in production the knob is off.
    os.environ.setdefault("TILEWRIGHT_VERIFY", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = [feature for mark in item.iter_markers("isa") for feature in mark.args]
    if not wanted:
        return
    from tilewright.machine import host

    missing = [feature for feature in wanted if not host().has(feature)]
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
