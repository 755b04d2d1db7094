"""Memory that machine code works in: page-aligned, in huge pages where the system has them."""

from __future__ import annotations

import ctypes
import mmap

# One entry of the address translation cache covers 2 MiB of a huge page and 4 KiB of a small one; a kernel
# that streams tens of MiB of weights misses it for every small page.
HUGE_PAGE = 2 << 20


class Pages:
    """`nbytes` of zeroed memory at `address`; given back when this object goes.

    Blocks of a huge page and more start at a huge page, and the system is asked to back them with such.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        align = HUGE_PAGE if nbytes >= HUGE_PAGE else mmap.PAGESIZE
        self._map = mmap.mmap(-1, max(1, nbytes) + align, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if align == HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                self.huge = (
                    False  # a kernel built without them: small pages do as well, only slower
                )
            else:
                self.huge = True
        else:
            self.huge = False
        self._view = ctypes.c_char.from_buffer(self._map)  # holds the map open
        start = ctypes.addressof(self._view)
        self.address = -(-start // align) * align

    def bytes(self, offset: int, count: int) -> memoryview:
        """`count` bytes at `offset`, to read and write from Python."""
        start = self.address - ctypes.addressof(self._view) + offset
        return memoryview(self._map)[start : start + count]

    def words(self, offset: int, count: int) -> ctypes.Array[ctypes.c_int64]:
        """`count` 64-bit words at `offset`, to read and write from Python."""
        array = (ctypes.c_int64 * count).from_address(self.address + offset)
        array._pages = self  # type: ignore[attr-defined]
        return array
