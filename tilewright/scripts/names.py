"""`pypto` and `golden` in a script: ours, unless the real ones are there and were not turned down.

Installed in the process that runs a script and nowhere else: importing tilewright shadows nothing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

STAND_INS = {
    "pypto": "tilewright.scripts.pypto",
    "pypto.backend": "tilewright.scripts.pypto.backend",
    "pypto.ir": "tilewright.scripts.pypto.ir",
    "pypto.ir.pass_manager": "tilewright.scripts.pypto.ir.pass_manager",
    "pypto.language": "tilewright.language",
    "pypto.language.tensor": "tilewright.language.tensor",
    "pypto.language.tile": "tilewright.language.tile",
    "pypto.runtime": "tilewright.scripts.pypto.runtime",
    "golden": "tilewright.golden",
    "golden.runner": "tilewright.golden.run",
    "golden.spec": "tilewright.golden.spec",
    "golden.tensor_spec": "tilewright.golden.spec",
    "golden.validation": "tilewright.golden",
}

PACKAGES = {name.rpartition(".")[0] for name in STAND_INS}


class StandIns(MetaPathFinder, Loader):
    """Finds our modules under the names of `roots`, before anything else is asked."""

    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = tuple(roots)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root = fullname.partition(".")[0]
        if root not in self.roots:
            return None
        if fullname not in STAND_INS:
            raise ModuleNotFoundError(
                f"tilewright stands in for {root} and has no {fullname}; "
                f"there are {', '.join(n for n in STAND_INS if n.startswith(root))}",
                name=fullname,
            )
        return ModuleSpec(fullname, self, is_package=fullname in PACKAGES)

    def exec_module(self, module: ModuleType) -> None:
        """Put our module where the import system expects the one it made."""
        sys.modules[module.__name__] = importlib.import_module(STAND_INS[module.__name__])


def install(folder: Path, ours: bool) -> str:
    """Let `pypto` and `golden` be ours where they should be; a remark when something else is used.

    A `golden.py` beside the script is the script's own. The real `pypto` is used with the real
    `golden`, and ours with ours: neither fits the other. ours: whatever is installed.
    """
    real, beside = installed("pypto"), installed("golden", folder)
    remarks = []
    roots = ["pypto", "golden"]
    if real is not None and not ours:
        roots = []
        remarks.append(f"pypto is installed ({real}) and is what runs; --ours takes tilewright")
    elif beside is not None and not ours:
        roots.remove("golden")
        remarks.append(f"golden is the script's own ({beside}); --ours takes tilewright's")
    if roots:
        sys.meta_path.insert(0, StandIns(roots))
    return "; ".join(remarks)


def installed(name: str, folder: Path | None = None) -> Path | None:
    """Where a package or module is, in a folder or on the path. A folder without code is none."""
    spec = PathFinder.find_spec(name, None if folder is None else [str(folder)])
    return None if spec is None or spec.origin is None else Path(spec.origin)
