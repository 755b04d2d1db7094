"""A process whose address space has one hole of a page and then nothing for gigabytes, as large tensors leave it.

Loads code with a table of constants there and prints what it computes. The table must end up within reach of
the code.
"""

from __future__ import annotations

import ctypes
import mmap

from tilewright.runtime import engine

TABLE = """
@table = internal constant [4 x float] [float 1.0, float 2.0, float 3.0, float 4.0]
define float @from_table(i64 %i) {
  %place = getelementptr [4 x float], ptr @table, i64 0, i64 %i
  %value = load float, ptr %place
  ret float %value
}"""
RESERVED = 8 << 30
SMALL_HOLES = 3000  # above the reserved stretch; all of them are filled
NO_ACCESS, UNBACKED = 0, 0x4022  # PROT_NONE; MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE of Linux

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def reserve(nbytes: int) -> int:
    address: int = libc.mmap(None, nbytes, NO_ACCESS, UNBACKED, -1, 0)
    return address


def main() -> None:
    data = engine.compile_object(TABLE)
    engine.load_object(data, ["from_table"])  # whatever the linker keeps for itself is there
    start = reserve(RESERVED)
    for _ in range(SMALL_HOLES):
        reserve(mmap.PAGESIZE)
    libc.munmap(start + RESERVED // 2, mmap.PAGESIZE)
    code = engine.load_object(data, ["from_table"])
    print(code.function("from_table", ctypes.c_int64, result=ctypes.c_float)(2))


if __name__ == "__main__":
    main()
