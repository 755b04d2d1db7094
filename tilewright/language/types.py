"""Annotations of parameters: tensors with their shapes, directions, scalars, dynamic dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, NoReturn

from tilewright.dtypes import DType
from tilewright.errors import ParserTypeError, author_line


def _refuse(message: str, help: str) -> NoReturn:
    """An annotation that is none, at the line that says it."""
    raise ParserTypeError(message, author_line(), help=help)


class _Bracketed:
    """A type that takes brackets, and is never called."""

    def __new__(cls, *_: Any, **__: Any) -> _Bracketed:
        _refuse(
            f"pl.{cls.__name__} is called; its shape and dtype stand in brackets",
            help=f"write pl.{cls.__name__}[…]",
        )


@dataclass(frozen=True, slots=True)
class Dynamic:
    """A dimension whose extent is not fixed by the annotation."""

    name: str


def dynamic(name: str) -> Dynamic:
    """A symbolic dimension for annotations: `T = pl.dynamic("T")`.

    Kernels read it by pl.tensor.dim.
    """
    return Dynamic(name)


@dataclass(frozen=True, slots=True)
class TensorAnnotation:
    """`pl.Tensor[[d0, d1], dtype]`; None where nothing is said.

    `is_tile` marks pl.Tile: data, not memory.
    """

    shape: tuple[Any, ...] | None
    dtype: DType | None
    is_tile: bool = False


@dataclass(frozen=True, slots=True)
class ScalarAnnotation:
    """`pl.Scalar[dtype]`."""

    dtype: DType


@dataclass(frozen=True, slots=True)
class ArrayAnnotation:
    """`pl.Array[[n], dtype]`."""

    count: Any
    dtype: DType


@dataclass(frozen=True, slots=True)
class DirectedAnnotation:
    """`pl.Out[…]` or `pl.InOut[…]` around a tensor."""

    direction: Literal["out", "inout"]
    tensor: TensorAnnotation


class Tensor(_Bracketed):
    """`pl.Tensor[[rows, columns], pl.FP32]`, a tensor in memory.

    Bare, shape and dtype are the argument's. A pl.TensorLayout may follow; it has no effect.
    """

    placements: tuple[type, ...] = ()

    def __class_getitem__(cls, item: Any) -> TensorAnnotation:
        parts = item if isinstance(item, tuple) else (item,)
        if not isinstance(parts[0], (list, tuple)):
            _refuse(
                f"pl.{cls.__name__}[…] needs a list of extents first, got {parts[0]!r}",
                help=f"write pl.{cls.__name__}[[rows, columns], pl.FP32]",
            )
        dtype = parts[1] if len(parts) > 1 else None
        if dtype is not None and not isinstance(dtype, DType):
            _refuse(
                f"pl.{cls.__name__}[…] needs a dtype such as pl.FP32, got {dtype!r}",
                help="write pl.FP32, pl.BF16, pl.INT8 or another dtype of the language",
            )
        for place in parts[2:]:
            if not isinstance(place, cls.placements):
                wanted = " or ".join(f"a pl.{kind.__name__}" for kind in cls.placements)
                _refuse(
                    f"pl.{cls.__name__}[…] takes {wanted} after the dtype, got {place!r}",
                    help="leave it out: it has no effect on values",
                )
        return TensorAnnotation(tuple(parts[0]), dtype, cls is Tile)


class Tile(Tensor):
    """`pl.Tile[[rows, columns], pl.FP32]`, a block of data.

    A pl.MemorySpace or pl.MemRef may follow; it has no effect.
    """


def _directed(direction: Literal["out", "inout"], item: Any) -> DirectedAnnotation:
    if item is Tensor:
        item = TensorAnnotation(None, None)
    if not isinstance(item, TensorAnnotation):
        _refuse(f"only a tensor can be written to, got {item!r}", help="write pl.Out[pl.Tensor[…]]")
    return DirectedAnnotation(direction, item)


class Out(_Bracketed):
    """`pl.Out[pl.Tensor[…]]`: supplied by the caller and overwritten."""

    def __class_getitem__(cls, item: Any) -> DirectedAnnotation:
        return _directed("out", item)


class InOut(_Bracketed):
    """`pl.InOut[pl.Tensor[…]]`: read and written."""

    def __class_getitem__(cls, item: Any) -> DirectedAnnotation:
        return _directed("inout", item)


class Scalar(_Bracketed):
    """`pl.Scalar[pl.INT32]`: one number, given at the call."""

    def __class_getitem__(cls, item: Any) -> ScalarAnnotation:
        if not isinstance(item, DType):
            _refuse(f"pl.Scalar[…] needs a dtype, got {item!r}", help="write pl.Scalar[pl.INT32]")
        return ScalarAnnotation(item)


class Array(_Bracketed):
    """`pl.Array[[n], dtype]`: what pl.array.create makes, handed to an inline kernel."""

    def __class_getitem__(cls, item: Any) -> ArrayAnnotation:
        parts = item if isinstance(item, tuple) else (item,)
        if len(parts) != 2 or not isinstance(parts[0], list) or len(parts[0]) != 1:
            _refuse(
                f"pl.Array[…] needs a list of one extent and a dtype, got {item!r}",
                help="write pl.Array[[n], pl.INT32]",
            )
        if not isinstance(parts[1], DType):
            _refuse(
                f"pl.Array[…] needs a dtype such as pl.INT32, got {parts[1]!r}",
                help="write pl.Array[[n], pl.INT32]",
            )
        return ArrayAnnotation(parts[0][0], parts[1])


class AtomicType(Enum):
    """How a store combines with what is there."""

    None_ = "none"
    Add = "add"


class PadValue(Enum):
    """What fillpad writes: 0, or the least or greatest value of the dtype (infinite for floats)."""

    zero = "zero"
    min = "min"
    max = "max"


class MemorySpace(Enum):
    """Where a block lives on a device; no effect on values."""

    Vec = "Vec"
    Mat = "Mat"
    Left = "Left"
    Right = "Right"
    Acc = "Acc"
    Bias = "Bias"
    DDR = "DDR"


class MemRef:
    """`pl.MemRef(space, address, size, id)`: where a block would lie on a device; no effect on values."""

    def __init__(self, *place: Any) -> None:
        self.place = place


class TensorLayout(Enum):
    """Layout hint of create_tensor; no effect on values."""

    ND = "ND"
    DN = "DN"
    NZ = "NZ"


Tensor.placements = (TensorLayout,)
Tile.placements = (MemorySpace, MemRef)


class MaskPattern(Enum):
    """Columns kept by a mask gather, read from right to left: P0101 keeps j mod 2 == 0."""

    P0101 = 1
    P1010 = 2
    P0001 = 3
    P0010 = 4
    P0100 = 5
    P1000 = 6
    P1111 = 7
