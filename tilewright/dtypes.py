"""The element types of the language, with their range and their names elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["float", "int", "uint", "bool", "index", "token"]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type. `name` is what an author writes after `pl.`; `torch` the attribute of torch."""

    name: str
    bits: int
    kind: Kind
    torch: str | None = None

    def __hash__(self) -> int:
        return hash(self.name)  # looked up in every call of a kernel

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"pl.{self.name}"

    @property
    def nbytes(self) -> int:
        """Bytes of one element in memory (a BOOL takes one)."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """True for signed, unsigned and INDEX; False for BOOL."""
        return self.kind in ("int", "uint", "index")

    @property
    def is_signed(self) -> bool:
        return self.kind in ("int", "index", "float")

    def int_range(self) -> tuple[int, int]:
        """Smallest and largest value of an integer type."""
        if self.kind == "uint":
            return 0, (1 << self.bits) - 1
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1


FP32 = DType("FP32", 32, "float", "float32")
FP16 = DType("FP16", 16, "float", "float16")
BF16 = DType("BF16", 16, "float", "bfloat16")
FP8E4M3FN = DType("FP8E4M3FN", 8, "float", "float8_e4m3fn")
FP8E5M2 = DType("FP8E5M2", 8, "float", "float8_e5m2")
INT8 = DType("INT8", 8, "int", "int8")
INT16 = DType("INT16", 16, "int", "int16")
INT32 = DType("INT32", 32, "int", "int32")
INT64 = DType("INT64", 64, "int", "int64")
UINT8 = DType("UINT8", 8, "uint", "uint8")
UINT16 = DType("UINT16", 16, "uint", "uint16")
UINT32 = DType("UINT32", 32, "uint", "uint32")
UINT64 = DType("UINT64", 64, "uint", "uint64")
BOOL = DType("BOOL", 8, "bool", "bool")
INDEX = DType("INDEX", 64, "index")
TASK_ID = DType("TASK_ID", 64, "token")

ALL = (
    FP32,
    FP16,
    BF16,
    FP8E4M3FN,
    FP8E5M2,
    INT8,
    INT16,
    INT32,
    INT64,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    BOOL,
    INDEX,
    TASK_ID,
)
# Named by the language, so that a program which mentions them can be read; nothing can be done with them.
HF8 = DType("HF8", 8, "float")
FP4 = DType("FP4", 4, "float")
HF4 = DType("HF4", 4, "float")
INT4 = DType("INT4", 4, "int")
UINT4 = DType("UINT4", 4, "uint")
NAMED_ONLY = (HF8, FP4, HF4, INT4, UINT4)

# Stored, moved and cast, but not computed with.
FP8 = (FP8E4M3FN, FP8E5M2)
BY_NAME = {dtype.name: dtype for dtype in ALL}

# What a Torch argument may be made of; the wider unsigned types live inside kernels only.
ARGUMENT_DTYPES = (FP32, FP16, BF16, INT8, INT16, INT32, INT64, UINT8, BOOL, FP8E4M3FN, FP8E5M2)


def promote(a: DType, b: DType) -> DType | None:
    """Result type of two block operands; None when there is no sensible answer.

    Float beats integer; otherwise more bits win; at equal width signed beats unsigned.
    FP16 with BF16 is refused.
    """
    if a == b:
        return a
    if {a.name, b.name} == {"FP16", "BF16"}:
        return None
    if a.is_float != b.is_float:
        return a if a.is_float else b
    if a.bits != b.bits:
        return a if a.bits > b.bits else b
    return a if a.is_signed else b
