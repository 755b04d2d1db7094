"""What a name can stand for while a kernel is read: a constant, a scalar, a tensor, a block, a
token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tilewright.dtypes import BOOL, FP32, INDEX, DType
from tilewright.ir.nodes import Const, Operand, Value
from tilewright.ir.ops.table import dims
from tilewright.ir.types import TensorType, TileType
from tilewright.language.kernel import Kernel
from tilewright.language.program import Program

LONGEST = 40  # letters of a Python object that a message shows


@dataclass(frozen=True, slots=True)
class Constant:
    """A Python value known while compiling: a number, a string, a dtype, a function, a module, …"""

    value: Any


@dataclass(frozen=True, slots=True)
class Items:
    """A list or tuple of values, such as a shape."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A scalar of the program: a literal with a dtype, or a value known at run time."""

    operand: Operand

    @property
    def dtype(self) -> DType:
        return self.operand.type.dtype


@dataclass(frozen=True, slots=True)
class Overhang:
    """A window kept as a description, because perhaps not all of it exists in memory.

    pad:   what a block loaded from it holds where it is not valid; it is valid throughout then.
    zeros: what lies outside the tensor reads as 0 (the knob TILEWRIGHT_BOUNDS).
    """

    offsets: tuple[Operand, ...]  # in the tensor
    shape: tuple[int, ...]  # per axis of the tensor
    valid: tuple[Operand, ...]  # per axis of the tensor
    drop: tuple[int, ...]
    pad: int | float | None = None
    zeros: bool = False

    @property
    def is_whole(self) -> bool:
        """True when all of it is valid: only its place may be outside the tensor."""
        return self.valid == full_extents(self.shape) and self.pad is None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in memory.

    `fresh` marks one that create_tensor made; `root` names the memory behind it.
    """

    value: Value
    root: str
    fresh: bool = False
    overhang: Overhang | None = None

    @property
    def type(self) -> TensorType:
        assert isinstance(self.value.type, TensorType)
        return self.value.type

    @property
    def shape(self) -> tuple[int, ...]:
        if self.overhang is None:
            return self.type.shape
        return tuple(
            n for axis, n in enumerate(self.overhang.shape) if axis not in self.overhang.drop
        )

    @property
    def dtype(self) -> DType:
        return self.type.dtype


@dataclass(frozen=True, slots=True)
class Block:
    """A block of data. `valid` is its valid extent per axis, None when all of it is.

    `predicate` marks what a comparison gave: an annotation may call it packed bits.
    """

    value: Value
    valid: tuple[Operand, ...] | None = None
    predicate: bool = field(default=False, compare=False)

    @property
    def type(self) -> TileType:
        assert isinstance(self.value.type, TileType)
        return self.value.type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def extents(self) -> tuple[Operand, ...]:
        """The valid extents, written out."""
        return self.valid if self.valid is not None else full_extents(self.shape)


@dataclass(frozen=True, slots=True)
class Token:
    """A task id; it orders tasks on a device and has no value."""


@dataclass(frozen=True, slots=True)
class Array:
    """What `pl.array.create` makes: a few scalars in memory of their own, or (`memory` None) task ids."""

    count: int
    dtype: DType
    memory: Tensor | None


@dataclass(frozen=True, slots=True)
class Method:
    """`x.bind_dynamic`, or another method of a tensor."""

    owner: Tensor | Block
    name: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """What a statement with a mistake would have bound; met only while further mistakes are sought."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """What a call gives that gives nothing."""


Named = Constant | Items | Number | Tensor | Block | Token | Array | Method | Nothing | Unknown


@dataclass(frozen=True, slots=True)
class Binding:
    """A name's value, and the line it was bound on."""

    value: Named
    line: int = 0


def full_extents(shape: Sequence[int]) -> tuple[Operand, ...]:
    return tuple(Const(extent, INDEX) for extent in shape)


def with_valid(value: Value, valid: Sequence[Operand] | None) -> Block:
    """A block; valid extents that are constants equal to the shape are the same as none."""
    assert isinstance(value.type, TileType)
    if valid is None or tuple(valid) == full_extents(value.type.shape):
        return Block(value)
    return Block(value, tuple(valid))


def is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def literal(value: int | float | bool) -> Const:
    """The scalar that a Python number is."""
    if isinstance(value, bool):
        return Const(value, BOOL)
    if isinstance(value, int):
        return Const(value, INDEX)
    return Const(value, FP32)


def describe(value: Named) -> str:
    """A value in the words of a message: `a [16, 128] FP32 block`."""
    match value:
        case Constant(value=v) if is_number(v) or isinstance(v, (str, DType)) or v is None:
            return f"the constant {v!r}"
        case Constant(value=Program(__name__=name)):
            return f"the program {name}"
        case Constant(value=Kernel(__name__=name)):
            return f"the kernel {name}"
        case Constant(value=v):
            return f"the Python {type(v).__name__}{_shown(v)}"
        case Items():
            return f"a list of {len(value.values)}"
        case Number(operand=Const(value=v)):
            return f"the {value.dtype} constant {v!r}"
        case Number():
            return f"a run-time {value.dtype} scalar"
        case Tensor():
            return f"a {dims(value.shape)} {value.dtype} tensor"
        case Block():
            return f"a {dims(value.shape)} {value.dtype} block"
        case Token():
            return "a task id"
        case Array():
            return f"an array of {value.count} {value.dtype}"
        case Method():
            return f"the method {value.name}"
        case Nothing():
            return "a call without a result"
        case Unknown():
            return "a value that a mistake left open"


def _shown(thing: Any) -> str:
    """What a message shows of a Python object: its name, its shape, or its text where that is short."""
    name, shape = getattr(thing, "__name__", None), getattr(thing, "shape", None)
    if isinstance(name, str):
        return f" {name}"
    if isinstance(shape, tuple) and shape:
        return f" {dims(shape)}"
    text = repr(thing)
    return f" {text}" if len(text) <= LONGEST and " at 0x" not in text and "\n" not in text else ""


def from_python(value: Any) -> Named:
    """A Python value as a kernel sees it."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return Items(tuple(from_python(item) for item in value))
    return Constant(value)


def to_number(value: Named) -> Number | None:
    """A scalar, if the value is one."""
    if isinstance(value, Number):
        return value
    if isinstance(value, Constant) and is_number(value.value):
        return Number(literal(value.value))
    return None


def same(a: Named, b: Named) -> bool:
    """Whether two names stand for one thing. Constants compare with their type: 1 is not True."""
    if isinstance(a, Constant) and isinstance(b, Constant):
        return a.value is b.value or (type(a.value) is type(b.value) and a.value == b.value)
    return a == b


def operands_of(value: Named) -> tuple[Operand, ...]:
    """The operands a value is made of, outermost first."""
    match value:
        case Number():
            return (value.operand,)
        case Block():
            return (value.value, *(value.valid or ()))
        case Tensor():
            hang = value.overhang
            return (value.value, *(() if hang is None else (*hang.offsets, *hang.valid)))
        case Array(memory=Tensor() as memory):
            return (memory.value,)
        case Items():
            return tuple(x for v in value.values for x in operands_of(v))
    return ()


def renamed(value: Named, new: Callable[[Operand], Operand]) -> Named:
    """The value with every operand replaced by `new(operand)`."""
    match value:
        case Number():
            return Number(new(value.operand))
        case Block():
            valid = None if value.valid is None else tuple(map(new, value.valid))
            tile = new(value.value)
            assert isinstance(tile, Value)
            return replace(value, value=tile, valid=valid)
        case Tensor(overhang=Overhang() as hang):
            moved = replace(
                hang, offsets=tuple(map(new, hang.offsets)), valid=tuple(map(new, hang.valid))
            )
            return replace(value, overhang=moved)
        case Array(memory=Tensor() as memory):
            found = new(memory.value)
            assert isinstance(found, Value)
            return replace(value, memory=replace(memory, value=found))
        case Items():
            return Items(tuple(renamed(v, new) for v in value.values))
    return value
