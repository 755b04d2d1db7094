"""Compiled code that is kept: found again, never trusted blindly, and no trouble with the disk stops a run."""

from __future__ import annotations

import errno
import gc
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tilewright import knobs, native
from tilewright.errors import BoundsError
from tilewright.ir.nodes import Function
from tilewright.ir.parser import parse
from tilewright.ir.types import PanelType
from tilewright.machine import avx2, host
from tilewright.native import NativeProgram
from tilewright.passes.prepare import prepare
from tilewright.runtime import cache, record
from tilewright.runtime.cache import CacheWarning, DiskCache, Entry, Usage

KEY, OTHER = "0" * 64, "1" * 64
ENTRY = Entry({"small": True, "checks": [["for", {}, 1]]}, bytes(range(256)))


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


def file_of(store: DiskCache, key: str = KEY) -> Path:
    return store.folder / f"{key}.kernel"


# Entries


def test_what_is_put_is_got_and_belongs_to_the_user_alone(store: DiskCache):
    assert store.get(KEY) is None
    assert store.put(KEY, ENTRY)
    assert store.get(KEY) == ENTRY
    assert store.get(OTHER) is None
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert file_of(store).stat().st_mode & 0o077 == 0
    assert [p.name for p in store.folder.iterdir()] == [f"{KEY}.kernel"]


def test_folders_on_the_way_are_made_for_the_user_alone(tmp_path: Path):
    umask = os.umask(0)
    try:
        assert DiskCache(tmp_path / "a" / "b").put(KEY, ENTRY)
    finally:
        os.umask(umask)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")} == {0o700}


@pytest.mark.parametrize("keep", [0, 1, 60, 86, 100, -256, -1])
def test_a_truncated_entry_is_removed_and_can_be_put_again(store: DiskCache, keep: int):
    store.put(KEY, ENTRY)
    file_of(store).write_bytes(file_of(store).read_bytes()[:keep])
    assert store.get(KEY) is None
    assert not file_of(store).exists()
    assert store.put(KEY, ENTRY)
    assert store.get(KEY) == ENTRY


def test_every_changed_byte_is_noticed(store: DiskCache):
    store.put(KEY, ENTRY)
    good = file_of(store).read_bytes()
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 0x20
        file_of(store).write_bytes(bad)
        assert store.get(KEY) is None, position
    file_of(store).write_bytes(good + b"\0")
    assert store.get(KEY) is None


def test_an_entry_under_the_name_of_another_is_not_taken_for_it(store: DiskCache):
    store.put(KEY, ENTRY)
    file_of(store).rename(file_of(store, OTHER))
    assert store.get(OTHER) is None
    assert not file_of(store, OTHER).exists()


def test_a_link_a_pipe_and_a_file_that_others_may_write_are_no_entries(
    store: DiskCache, tmp_path: Path
):
    store.put(KEY, ENTRY)
    elsewhere = tmp_path / "elsewhere"
    file_of(store).rename(elsewhere)
    file_of(store).symlink_to(elsewhere)
    assert store.get(KEY) is None
    assert elsewhere.exists()
    os.mkfifo(file_of(store))
    assert store.get(KEY) is None  # and does not wait for a writer
    shutil.copy(elsewhere, file_of(store))
    file_of(store).chmod(0o666)
    assert store.get(KEY) is None
    shutil.copy(elsewhere, file_of(store))
    file_of(store).chmod(0o600)
    assert store.get(KEY) == ENTRY


# Room


def test_what_was_not_used_for_longest_makes_room(store: DiskCache):
    names = [f"{n}" * 64 for n in range(4)]
    store.put(names[0], ENTRY)
    store.limit = 3 * file_of(store, names[0]).stat().st_size
    for age, name in enumerate(names[:3]):
        store.put(name, ENTRY)
        os.utime(file_of(store, name), (1000 + age, 1000 + age))
    assert store.get(names[0]) == ENTRY  # used just now
    store.put(names[3], ENTRY)
    assert [store.get(name) is not None for name in names] == [True, False, True, True]
    assert store.usage() == Usage(3, store.limit)


def test_the_newest_entry_stays_even_where_clocks_are_wrong(store: DiskCache):
    store.put(OTHER, ENTRY)
    store.limit = file_of(store, OTHER).stat().st_size
    late = time.time() + 1e6
    os.utime(file_of(store, OTHER), (late, late))
    store.put(KEY, ENTRY)
    assert store.get(KEY) == ENTRY
    assert store.usage().entries == 1


def test_an_entry_larger_than_the_limit_is_not_kept(store: DiskCache):
    store.limit = 100
    assert not store.put(KEY, ENTRY)
    assert store.usage() == Usage(0, 0)


def test_unfinished_files_of_killed_writers_go_after_a_while_and_strangers_stay(store: DiskCache):
    store.put(OTHER, ENTRY)
    names = (".00ff.tmp", ".11ee.tmp", "notes.txt")
    for name in names:
        (store.folder / name).write_text("x")
    for name in (".00ff.tmp", "notes.txt"):
        os.utime(store.folder / name, (1000, 1000))
    store.put(KEY, ENTRY)
    assert [(store.folder / name).exists() for name in names] == [False, True, True]
    assert store.clear().entries == 2
    assert [p.name for p in store.folder.iterdir()] == ["notes.txt"]


# Folders that cannot be trusted, disks that do not work


def test_a_folder_that_others_may_write_to_is_not_used(store: DiskCache, told: list[str]):
    store.put(KEY, ENTRY)
    for mode in (0o770, 0o707, 0o722):
        store.folder.chmod(mode)
        first, messages = warned(lambda: store.get(KEY))
        assert first is None
        assert not store.put(OTHER, ENTRY)
        if mode == 0o770:
            (message,) = messages
            assert f"{store.folder} is not used: others may write" in message
            assert "chmod go-w" in message
        else:
            assert messages == []  # one warning a process
    store.folder.chmod(0o700)
    assert store.get(KEY) == ENTRY
    assert store.usage().entries == 1


def test_a_folder_of_another_user_is_not_used(
    store: DiskCache, told: list[str], monkeypatch: pytest.MonkeyPatch
):
    store.put(KEY, ENTRY)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    found, (message,) = warned(lambda: store.get(KEY))
    assert found is None
    assert "belongs to another user" in message
    assert "TILEWRIGHT_CACHE_DIR" in message


def test_a_linked_folder_is_judged_by_where_it_leads(tmp_path: Path, told: list[str]):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir(0o700)
    link.symlink_to(real)
    store = DiskCache(link)
    assert store.put(KEY, ENTRY)
    assert store.get(KEY) == ENTRY
    assert (real / f"{KEY}.kernel").exists()
    real.chmod(0o777)
    assert store.get(KEY) is None
    real.rename(tmp_path / "gone")
    assert store.get(KEY) is None
    assert not store.put(KEY, ENTRY)


def test_a_file_in_the_place_of_the_folder_is_no_disaster(tmp_path: Path, told: list[str]):
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert DiskCache(place).get(KEY) is None
        assert not DiskCache(place).put(KEY, ENTRY)


def test_a_write_that_stops_half_way_leaves_nothing(store: DiskCache, told: list[str]):
    store.put(OTHER, ENTRY)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        kept, (message,) = warned(lambda: store.put(KEY, ENTRY))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not kept
    assert "cannot be kept" in message
    assert [p.name for p in store.folder.iterdir()] == [f"{OTHER}.kernel"]
    assert store.put(KEY, ENTRY)


def test_a_full_disk_is_told_once_and_leaves_nothing(
    store: DiskCache, told: list[str], monkeypatch: pytest.MonkeyPatch
):
    def full(file: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    kept, messages = warned(lambda: [store.put(KEY, ENTRY), store.put(OTHER, ENTRY)])
    assert kept == [False, False]
    assert len(messages) == 1
    assert "No space left" in messages[0]
    assert list(store.folder.iterdir()) == []


READ_ONLY = """
import os, sys, warnings
from pathlib import Path
from tilewright.runtime.cache import DiskCache, Entry
folder = Path(sys.argv[1])
store = DiskCache(folder)
store.put("0" * 64, Entry({}, b"code"))
folder.chmod(0o500)
if os.geteuid() == 0:  # whom modes do not stop
    os.chown(folder, 65534, 65534)
    for file in folder.iterdir():
        os.chown(file, 65534, 65534)
    os.seteuid(65534)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert store.get("0" * 64) == Entry({}, b"code")
    assert not caught
    assert not store.put("1" * 64, Entry({}, b"code"))
    assert store.get("0" * 64) == Entry({}, b"code")
assert "cannot be kept" in str(caught[0].message)
assert len(caught) == 1
print(len(os.listdir(folder)))
"""


def test_a_read_only_folder_is_read():
    with tempfile.TemporaryDirectory() as folder:
        assert run_python(READ_ONLY, folder).split() == ["1"]


def test_without_a_home_nothing_is_kept(told: list[str], monkeypatch: pytest.MonkeyPatch):
    import pwd

    def nobody(number: int) -> Any:
        raise KeyError(number)

    for name in ("TILEWRIGHT_CACHE_DIR", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    found, (message,) = warned(cache.user_cache)
    assert found is None
    assert "no home folder" in message


def test_the_default_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("TILEWRIGHT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache.user_folder() == tmp_path / "tilewright" / "kernels"
    assert cache.user_folder().is_absolute()


def test_the_knob_switches_it_off(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert cache.user_cache() is not None
    monkeypatch.setenv("TILEWRIGHT_CACHE", "0")
    assert cache.user_cache() is None


def test_a_compiler_that_was_edited_while_it_runs_keeps_nothing(
    folder: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
):
    assert cache.user_cache() is not None
    monkeypatch.setattr(knobs, "LOADED_AT", 0.0)
    found, (message,) = warned(cache.user_cache)
    assert found is None
    assert "sources changed" in message


# Keys


def test_a_key_says_program_machine_and_compiler(monkeypatch: pytest.MonkeyPatch):
    here = host()
    changed = [
        replace(here, l2=here.l2 * 2),
        replace(here, cores=here.cores + 1),
        replace(here, name="generic"),
        here.without("avx2"),
        avx2(),
    ]
    keys = [cache.key_of("program", "text", machine) for machine in (here, *changed)]
    keys += [cache.key_of("program", "text ", here), cache.key_of("prepack", "text", here)]
    monkeypatch.setattr(cache, "_compiler", lambda: "another")
    keys.append(cache.key_of("program", "text", here))
    assert len(set(keys)) == len(keys)


def test_the_compiler_is_known_by_its_sources_and_versions():
    import llvmlite

    rooms = {Path(p).relative_to(cache._package()).parts[0] for p in cache._sources()}
    assert {"codegen", "passes", "ir", "runtime", "native.py", "machine.py"} <= rooms
    assert not rooms & {"cli", "models", "frontend"}
    assert f"llvmlite {llvmlite.__version__} LLVM " in cache._compiler()


# Programs


SCALE = """
func scale(%x: tensor<8x64, FP32>, out %y: tensor<8x64, FP32>) {
  %a = load %x[0, 0] valid [8, 64] {shape = [8, 64]} : tile<8x64, FP32>
  %v = mul %a, FACTOR : tile<8x64, FP32>
  store %v to %y[0, 0] valid [8, 64] {shape = [8, 64]}
}
"""


def scale(factor: float = 2.0) -> Function:
    return prepare(parse(SCALE.replace("FACTOR", repr(factor))), host())


def scaled(program: NativeProgram) -> torch.Tensor:
    x, y = torch.arange(512.0).reshape(8, 64), torch.zeros(8, 64)
    program.run([x, y])
    return y / x.clamp(min=1)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held in memory, as in a new process."""
    monkeypatch.setattr(native, "_held", weakref.WeakValueDictionary())


def test_a_program_comes_back_from_disk_and_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    cold = NativeProgram(scale())
    assert not cold.cached
    forget(monkeypatch)
    monkeypatch.setattr(
        "tilewright.runtime.engine.compile_object", lambda *_: pytest.fail("compiled again")
    )
    warm = NativeProgram(scale())
    assert warm.cached
    assert scaled(warm)[1:].unique().tolist() == scaled(cold)[1:].unique().tolist() == [2.0]
    assert (warm.params, warm.small) == (cold.params, cold.small)
    assert warm.lowered == cold.lowered  # made when asked for
    assert warm.text == cold.text
    assert (warm.stages.passes, warm.stages.codegen) == (0, 0)


def test_constants_are_part_of_the_program(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert scaled(NativeProgram(scale(2.0)))[1, 0] == 2
    forget(monkeypatch)
    assert scaled(NativeProgram(scale(3.0)))[1, 0] == 3
    assert len(list(folder.iterdir())) == 2


def test_a_second_program_in_a_process_does_not_ask_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    first = NativeProgram(scale())
    monkeypatch.setattr(DiskCache, "get", lambda *_: pytest.fail("asked the disk"))
    monkeypatch.setattr(DiskCache, "put", lambda *_: pytest.fail("wrote to the disk"))
    second = NativeProgram(scale())
    assert second.cached
    assert second._code is first._code
    assert scaled(second)[1, 0] == 2


def test_code_that_nobody_holds_is_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch):
    forget(monkeypatch)
    program = NativeProgram(scale())
    assert len(native._held) == 1
    del program
    gc.collect()
    assert len(native._held) == 0


@pytest.mark.parametrize("damage", [lambda _: b"", lambda b: b[:-1], lambda b: b"x" * len(b)])
def test_a_damaged_program_is_compiled_anew_and_replaced(
    folder: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
):
    NativeProgram(scale())
    (file,) = folder.iterdir()
    good = file.read_bytes()
    file.write_bytes(damage(good))
    forget(monkeypatch)
    program = NativeProgram(scale())
    assert not program.cached
    assert scaled(program)[1, 0] == 2
    assert file.read_bytes()[:100] == good[:100]


def test_programs_run_without_a_cache(
    folder: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
):
    folder.mkdir(0o777)
    folder.chmod(0o777)
    for _ in range(2):
        program = NativeProgram(scale())
        assert not program.cached
        assert scaled(program)[1, 0] == 2
        forget(monkeypatch)
    assert list(folder.iterdir()) == []
    monkeypatch.setenv("TILEWRIGHT_CACHE", "0")
    assert not NativeProgram(scale()).cached


KERNEL = """\
import tilewright.language as pl
from tilewright import jit


@jit
def pick(x: pl.Tensor[[64, 32], pl.FP32], at: pl.Scalar[pl.INDEX],
         y: pl.Out[pl.Tensor[[8, 32], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="pick"):
        y[0:8, 0:32] = pl.mul(x[at : at + 8, 0:32], 2.0)


@jit
def project(x: pl.Tensor[[8, 64], pl.FP32], w: pl.Tensor[[64, 96], pl.FP32],
            y: pl.Out[pl.Tensor[[8, 96], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="project"):
        y[0:8, 0:96] = pl.matmul(x[0:8, 0:64], w[0:64, 0:96])
"""


def kernels(file: Path, source: str = KERNEL) -> ModuleType:
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_failure_names_the_line_of_the_file_as_it_is_now(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = []
    for name, source in (("first", KERNEL), ("moved", "# one\n# two\n# three\n" + KERNEL)):
        pick = kernels(tmp_path / f"{name}.py", source).pick
        x, y = torch.arange(2048.0).reshape(64, 32), torch.zeros(8, 32)
        pick(x, 3, y)
        assert torch.equal(y, 2 * x[3:11])
        with pytest.raises(BoundsError) as caught:
            pick(x, 60, y)
        assert caught.value.span is not None
        assert Path(caught.value.span.file).stem == name
        lines.append(caught.value.span.line)
        assert pick.specialize(x, 3, y).executable.cached == (name == "moved")
        forget(monkeypatch)
    assert lines == [9, 12]


def test_programs_that_share_spans_differently_are_kept_apart():
    function = scale()
    first, second, *rest = function.body.ops
    merged = (first, replace(second, span=replace(first.span, line=7)), *rest)
    apart = replace(function, body=replace(function.body, ops=merged))
    assert apart == function  # spans take no part in equality
    assert record.identity(apart) != record.identity(function)


def test_bound_weights_are_packed_by_code_that_was_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    x, w = torch.randn(8, 64), torch.randn(64, 96)
    results = []
    for turn in range(2):
        project = kernels(tmp_path / "kernels.py").project
        bound = project.bind(w=w)
        y = torch.zeros(8, 96)
        bound(x, y)
        program = bound.specialize(x, y).executable
        assert program.cached == (turn == 1)
        assert [isinstance(p.value.type, PanelType) for p in program.params] == [0, 1, 0]
        results.append(y)
        forget(monkeypatch)
        monkeypatch.setattr("tilewright.bound._prepackers", {})
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], x @ w)


def test_a_record_survives_its_way_through_json():
    function = scale()
    check = replace(
        function.body.ops[0],
        name="check_window",
        operands=(),
        results=(),
        attrs=(("access", "read"), ("extents", (64, 32)), ("subject", "x")),
    )
    known = record.Record(4096, 128, function.params, (check,), True)
    text = json.dumps(record.to_json(known, function))
    assert record.from_json(json.loads(text), function) == known


# Processes


def run_python(program: str, *arguments: Any, **settings: str) -> str:
    environment = {**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parents[1])}
    words = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SECOND_PROCESS = """
import json, sys, time
import torch
from tilewright import knobs
knobs.LOADED_AT = time.time() + 3600
sys.path.insert(0, sys.argv[1])
from kernels import project
x, w = torch.ones(8, 64), torch.ones(64, 96)
y = torch.zeros(8, 96)
special = project.specialize(x, w, y)
heavy = [name for name in ("tilewright.passes.pipeline", "tilewright.codegen.llvm.function")
         if name in sys.modules]
special.run([x, w, y])
assert torch.equal(y, torch.full((8, 96), 64.0))
print(json.dumps([special.executable.cached, heavy]))
"""


def test_a_second_process_neither_lowers_nor_generates(folder: Path, tmp_path: Path):
    (tmp_path / "kernels.py").write_text(KERNEL)
    cold, heavy = json.loads(run_python(SECOND_PROCESS, tmp_path))
    assert (cold, len(heavy)) == (False, 2)
    assert json.loads(run_python(SECOND_PROCESS, tmp_path)) == [True, []]


RACE = """
import sys
from pathlib import Path
from tilewright.runtime.cache import DiskCache, Entry
store, me = DiskCache(Path(sys.argv[1]), limit=20_000), int(sys.argv[2])
seen = set()
for number in range(300):
    key = f"{number % 3}" * 64
    assert store.put(key, Entry({"by": me}, bytes([me]) * (3000 + 1000 * me)))
    entry = store.get(key)
    if entry is not None:  # the other may have made room
        by = entry.header["by"]
        assert entry.data == bytes([by]) * (3000 + 1000 * by)
        seen.add(by)
print(sorted(seen))
"""


def test_two_processes_that_write_the_same_entries_read_whole_ones(store: DiskCache):
    root = str(Path(__file__).parents[1])
    racers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RACE, str(store.folder), str(me)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        for me in (1, 2)
    ]
    for me, racer in enumerate(racers, 1):
        out, err = racer.communicate(timeout=60)
        assert racer.returncode == 0, err
        assert str(me) in out
    left = list(store.folder.iterdir())
    assert all(cache.ENTRY.match(path.name) for path in left)
    assert sum(path.stat().st_size for path in left) <= 20_000


def test_two_processes_that_compile_the_same_program_both_run_it(folder: Path, tmp_path: Path):
    (tmp_path / "kernels.py").write_text(KERNEL)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(run_python(SECOND_PROCESS, tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert len([p for p in folder.iterdir() if p.suffix == ".kernel"]) == 1
    assert json.loads(run_python(SECOND_PROCESS, tmp_path))[0] is True
