"""Scripts that say all that the later dialect can say in one breath, run unchanged."""

from __future__ import annotations

import json
from pathlib import Path

from test_scripts import tilewright

SCRIPTS = Path(__file__).parent / "scripts" / "later"
NAMES = ("hyper_connections", "moe_dispatch", "paged_decode", "streaming_topk")


def verdicts(tmp_path: Path, *names: str, backend: str) -> dict[str, tuple[str, int]]:
    """How every script ended, and how many golden runs it had."""
    report = tmp_path / "all.json"
    scripts = [SCRIPTS / f"{name}.py" for name in names]
    done = tilewright("run", *scripts, "--backend", backend, "--seed", 0, "--json", report)
    outcomes = json.loads(report.read_text(encoding="utf-8"))["scripts"]
    found = {Path(s["script"]).stem: (s["status"], len(s["runs"])) for s in outcomes}
    assert all(status == "pass" for status, _ in found.values()), done.stdout
    return found


def test_launches_barriers_counters_and_running_sorts_agree_with_their_goldens(tmp_path):
    assert verdicts(tmp_path, *NAMES, backend="native") == {
        "hyper_connections": ("pass", 2),
        "moe_dispatch": ("pass", 1),
        "paged_decode": ("pass", 2),
        "streaming_topk": ("pass", 1),
    }


def test_the_interpreter_says_so_too(tmp_path):
    verdicts(tmp_path, "moe_dispatch", backend="interpreter")
