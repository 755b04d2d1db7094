"""What a value can be: a scalar, a tensor in memory, a tile of data, or a packed matrix panel."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tilewright.dtypes import DType


@dataclass(frozen=True, slots=True)
class ScalarType:
    """One number. Integer scalars compute in 64 bits whatever their dtype."""

    dtype: DType

    def __str__(self) -> str:
        return self.dtype.name


@dataclass(frozen=True, slots=True)
class TensorType:
    """A reference to memory: `shape` elements at `strides` (in elements) from a base address."""

    shape: tuple[int, ...]
    dtype: DType
    strides: tuple[int, ...]

    def __str__(self) -> str:
        dims = "x".join(map(str, self.shape))
        if self.strides == contiguous_strides(self.shape):
            return f"tensor<{dims}, {self.dtype}>"
        return f"tensor<{dims}, {self.dtype}, strides {'x'.join(map(str, self.strides))}>"

    @property
    def is_contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.shape)


@dataclass(frozen=True, slots=True)
class TileType:
    """An immutable block of data with a static shape, rank 1 to 4."""

    shape: tuple[int, ...]
    dtype: DType

    def __str__(self) -> str:
        return f"tile<{'x'.join(map(str, self.shape))}, {self.dtype}>"

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class PanelType:
    """The right-hand matrix of a product, `k` by `n`, copied into the order a microkernel streams it."""

    k: int
    n: int
    dtype: DType

    def __str__(self) -> str:
        return f"panel<{self.k}x{self.n}, {self.dtype}>"


Type = ScalarType | TensorType | TileType | PanelType


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements: the last axis has stride 1."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def tensor_type(shape: tuple[int, ...], dtype: DType) -> TensorType:
    """A contiguous tensor."""
    return TensorType(shape, dtype, contiguous_strides(shape))
