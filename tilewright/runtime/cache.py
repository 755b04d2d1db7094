"""Compiled code kept on disk between runs: one file an entry, in a folder that only its user can write.

Nothing here raises because of the disk. What cannot be read is not there, what is damaged is removed,
what cannot be written is not kept, and a folder that others may write to is not used at all; the
first such trouble of a process is told in one CacheWarning.

An entry is a line with a magic word and the SHA-256 of all that follows, a line of JSON, and bytes.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from tilewright import knobs
from tilewright.machine import Machine

MIB = 1 << 20
# Ten thousand programs of the size of a fused projection, which take 20 to 30 KB each.
LIMIT = 256 * MIB
# A writer that was killed leaves its unfinished file; after an hour nobody is still writing it.
ABANDONED_SECONDS = 3600

MAGIC = "tilewright-kernel-1"
ENTRY = re.compile(r"[0-9a-f]{64}\.kernel\Z")
UNFINISHED = re.compile(r"\.[0-9a-f]+\.tmp\Z")
PRIVATE = 0o700
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

# Rooms of the package that have no say in what code a given program becomes: the others have.
NO_SAY = ("cli", "models", "golden", "bench", "viz", "frontend", "language", "interpreter")


class CacheWarning(UserWarning):
    """Compiled code is not kept, or not used, and why."""


class Unusable(Exception):
    """The folder must not be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under one key: a header of JSON values, and bytes."""

    header: dict[str, Any]
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """How much is kept."""

    entries: int
    nbytes: int


class DiskCache:
    """Entries in one folder; beyond `limit` bytes those that were not used for longest go."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit

    def get(self, key: str) -> Entry | None:
        """The entry, None when there is none that can be used. A damaged one is removed."""
        try:
            with self._opened() as folder:
                return self._read(folder, key)
        except FileNotFoundError:
            return None
        except Unusable as reason:
            _warn(str(reason))
        except OSError as reason:
            _warn(f"compiled code in {self.folder} cannot be read: {reason}")
        return None

    def put(self, key: str, entry: Entry) -> bool:
        """Keep an entry, in place of an older one; whether that worked. Makes room afterwards."""
        content = _pack(key, entry)
        if len(content) > self.limit:
            return False
        try:
            with self._opened(create=True) as folder:
                _write(folder, _file_name(key), content)
                self._make_room(folder, _file_name(key))
        except Unusable as reason:
            _warn(str(reason))
        except OSError as reason:
            _warn(f"compiled code cannot be kept in {self.folder}: {reason}")
        else:
            return True
        return False

    def usage(self) -> Usage:
        """What is there now. Raises Unusable, or OSError when the folder cannot be read."""
        try:
            with self._opened() as folder:
                sizes = [status.st_size for name, status in _files(folder) if ENTRY.match(name)]
        except FileNotFoundError:
            return Usage(0, 0)
        return Usage(len(sizes), sum(sizes))

    def clear(self) -> Usage:
        """Remove every entry and leave other files alone; what was removed. Raises as `usage` does."""
        sizes = []
        try:
            with self._opened() as folder:
                for name, status in _files(folder):
                    with suppress(FileNotFoundError):  # another process was faster
                        os.unlink(name, dir_fd=folder)
                        if ENTRY.match(name):
                            sizes.append(status.st_size)
        except FileNotFoundError:
            return Usage(0, 0)
        return Usage(len(sizes), sum(sizes))

    @contextmanager
    def _opened(self, create: bool = False) -> Iterator[int]:
        """The folder as a descriptor, checked; files are reached through it, so that what was checked
        is what is used even when a name on the way to it changes.
        """
        if create:
            _make_folder(self.folder)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _require_private(self.folder, os.fstat(folder))
            yield folder
        finally:
            os.close(folder)

    def _read(self, folder: int, key: str) -> Entry | None:
        name = _file_name(key)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(name, flags, dir_fd=folder)
        except OSError as reason:
            if reason.errno != errno.ELOOP:
                raise
            entry = None  # a link where an entry should be
        else:
            try:
                entry = _unpack(key, file)
                if entry is not None:
                    _touch(file)
            finally:
                os.close(file)
        if entry is None:
            with suppress(
                OSError
            ):  # in a folder that cannot be written it stays, and is never used
                os.unlink(name, dir_fd=folder)
        return entry

    def _make_room(self, folder: int, newest: str) -> None:
        kept = []
        now = time.time()
        for name, status in _files(folder):
            if ENTRY.match(name):
                kept.append((name == newest, status.st_mtime_ns, name, status.st_size))
            elif now - status.st_mtime > ABANDONED_SECONDS:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
        total = sum(size for *_, size in kept)
        for _, _, name, size in sorted(kept):
            if total <= self.limit:
                return
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            total -= size


# Which cache, which key


def user_cache() -> DiskCache | None:
    """The cache that the knobs name; None when they switch it off, or there is no place for one, or
    this process may run compiler code that is no longer what its files say.
    """
    if not knobs.caching():
        return None
    try:
        folder = user_folder()
        _require_loaded_code()
    except Unusable as reason:
        _warn(str(reason))
        return None
    return DiskCache(folder)


def user_folder() -> Path:
    """Where compiled code is kept: the knob's folder, else the user's own. Unusable without a home."""
    asked = knobs.cache_folder()
    if asked is not None:
        return asked.absolute()
    import platformdirs

    try:
        folder = platformdirs.user_cache_path("tilewright", appauthor=False) / "kernels"
    except RuntimeError:  # what newer versions do without a home; older ones give a relative path
        folder = Path("~")
    if not folder.is_absolute():
        raise Unusable(
            f"compiled code is not kept: this user has no home folder; set {knobs.CACHE_DIR.name}"
        )
    return folder


def key_of(kind: str, identity: str, machine: Machine) -> str:
    """The name of what `identity` is compiled to: for this machine, by this compiler, in this version."""
    digest = hashlib.sha256()
    for part in (MAGIC, kind, identity, _machine_text(machine), _compiler()):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _machine_text(machine: Machine) -> str:
    """Everything that passes and code generation can know about the machine."""
    values = [machine.target_features]
    for field in dataclasses.fields(machine):
        value = getattr(machine, field.name)
        values.append(f"{field.name}={sorted(value) if isinstance(value, frozenset) else value}")
    return "\n".join(values)


@cache
def _compiler() -> str:
    """Everything that turns a program into code besides the machine: versions, and our own sources.

    Options of code generation are constants in these sources.
    """
    import llvmlite
    import llvmlite.binding as llvm

    digest = hashlib.sha256()
    package = _package()
    for path in _sources():
        with open(path, "rb") as file:
            data = file.read()
        digest.update(f"{os.path.relpath(path, package)} {len(data)}\n".encode())
        digest.update(data)
    python = ".".join(map(str, sys.version_info[:2]))
    version = ".".join(map(str, llvm.llvm_version_info))
    return f"python {python} llvmlite {llvmlite.__version__} LLVM {version} {digest.hexdigest()}"


def _package() -> Path:
    return Path(__file__).parents[1]


@cache
def _sources() -> tuple[str, ...]:
    found = []
    package = str(_package())
    for folder, inner, files in os.walk(package):
        if folder == package:
            inner[:] = [room for room in inner if room not in NO_SAY]
        found += [os.path.join(folder, name) for name in files if name.endswith(".py")]
    return tuple(sorted(found))


def _require_loaded_code() -> None:
    """Unusable when a source of the compiler was written after this process loaded it (or cannot be
    read): what runs is then not what its hash says.
    """
    try:
        newest = max((os.stat(path).st_mtime for path in _sources()), default=float("inf"))
    except OSError:
        newest = float("inf")
    if newest > knobs.LOADED_AT:
        raise Unusable(
            "compiled code is not kept: the compiler's sources changed while this process runs"
        )


# Files


def _file_name(key: str) -> str:
    name = f"{key}.kernel"
    assert ENTRY.match(name), key
    return name


def _pack(key: str, entry: Entry) -> bytes:
    header = json.dumps({"key": key, **entry.header}, separators=(",", ":")).encode()
    content = header + b"\n" + entry.data
    return f"{MAGIC} {hashlib.sha256(content).hexdigest()}\n".encode() + content


def _unpack(key: str, file: int) -> Entry | None:
    """The entry in an open file; None when it is not whole, not of this key, or not this user's."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or _foreign(status):
        return None
    with open(file, "rb", closefd=False) as stream:
        first, content = stream.readline(200), stream.read()
    if first != f"{MAGIC} {hashlib.sha256(content).hexdigest()}\n".encode():
        return None
    text, _, data = content.partition(b"\n")
    header = json.loads(text)
    return Entry(header, data) if header.pop("key", None) == key else None


def _write(folder: int, name: str, content: bytes) -> None:
    """A whole file or none: others see the old one until the new one is complete."""
    unfinished = f".{os.urandom(8).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(unfinished, flags, 0o600, dir_fd=folder)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]
        finally:
            os.close(file)
        os.replace(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=folder)
        raise


def _touch(file: int) -> None:
    """Note the use. File systems often do not: they are mounted without access times."""
    with suppress(OSError):  # a read-only folder: nothing is evicted from it either
        os.utime(file)


def _files(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """Our files, finished or not."""
    for name in os.listdir(folder):
        if ENTRY.match(name) or UNFINISHED.match(name):
            with suppress(FileNotFoundError):  # another process was faster
                yield name, os.stat(name, dir_fd=folder, follow_symlinks=False)


def _make_folder(folder: Path) -> None:
    """The folder and its parents, each its user's alone."""
    if not folder.is_dir():
        for path in (*reversed(folder.parents), folder):
            if not path.is_dir():
                with suppress(FileExistsError):
                    path.mkdir(PRIVATE)


def _require_private(folder: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise Unusable(
            f"compiled code in {folder} is not used: the folder belongs to another user"
            f" (number {status.st_uid}); set {knobs.CACHE_DIR.name} to one of your own"
        )
    if status.st_mode & WRITABLE_BY_OTHERS:
        raise Unusable(
            f"compiled code in {folder} is not used: others may write to the folder"
            f" (mode {stat.S_IMODE(status.st_mode):04o}); run chmod go-w on it"
        )


def _foreign(status: os.stat_result) -> bool:
    return status.st_uid != os.geteuid() or bool(status.st_mode & WRITABLE_BY_OTHERS)


_told = threading.Event()


def _warn(reason: str) -> None:
    """Once in a process: the next kernel meets the same folder."""
    if not _told.is_set():
        _told.set()
        warnings.warn(reason, CacheWarning, stacklevel=2)
