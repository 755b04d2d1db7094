"""The folder of kept code: whole entries only, none from strangers, and a full disk stops no run."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from kept_code import run_python, warned

from tilewright.runtime import cache
from tilewright.runtime.cache import DiskCache, Entry, Usage

KEY, OTHER = "0" * 64, "1" * 64
ENTRY = Entry({"small": True, "checks": [["for", {}, 1]]}, bytes(range(256)))


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
