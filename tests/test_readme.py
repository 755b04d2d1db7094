"""The README's program does what the README prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_first_program_prints_what_stands_below_it(tmp_path):
    program = tmp_path / "scale_rows.py"
    program.write_text("\n".join(blocks("python")), encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

    def without_times(text):
        return re.sub(r"\d+\.\d\ds", "0.00s", text).strip().splitlines()

    assert without_times(done.stdout) == without_times(blocks("text")[0])


def test_every_folder_it_names_exists():
    folders = re.findall(r"`((?:tilewright|tests)/[\w/]*/)`", README.read_text(encoding="utf-8"))
    assert len(folders) > 8
    assert [f for f in folders if not (README.parent / f).is_dir()] == []
