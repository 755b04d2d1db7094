"""A forked process runs kernels, whatever its parent did before: right, on several threads, and it never hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_a_kernel
from torch.utils.data import DataLoader

from tilewright.runtime import forks

HERE = Path(__file__).parent

if not hasattr(os, "fork"):
    pytest.skip("no fork here", allow_module_level=True)


@pytest.mark.parametrize("before", ["nothing", "import", "kernel", "compiling"])
def test_children_run_kernels_whatever_the_parent_did(before: str):
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "forked.py"), before],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.stdout.splitlines() == ["Python threads: right"] * 2, ended.stderr
    assert ended.returncode == 0


class KernelRuns:
    """A data set of two items, each whether a kernel that ran in the worker was right."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> bool:
        return run_a_kernel()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_a_data_loader_run_kernels():
    assert run_a_kernel()
    loader = DataLoader(
        KernelRuns(),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        timeout=100,
    )
    assert list(loader) == [True, True]


def test_only_a_process_that_was_forked_and_started_nothing_is_a_copy(tmp_path: Path):
    stat = tmp_path / "stat"
    fields = ["S", "1", "2", "3", "0", "-1"]
    for flags, copy in ((0x400040, True), (0x400000, False)):
        stat.write_text(f"77 (a name) 1) {' '.join(fields)} {flags} 5 6")
        assert forks.forked_with_openmp(stat) is (copy and bool(forks.loaded_openmp()))
    stat.write_text("what is this")
    assert forks.forked_with_openmp(stat) is False
    assert forks.forked_with_openmp(tmp_path / "absent") is False
