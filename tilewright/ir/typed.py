"""What an operand surely is, where the operator table has already said so.

The table checks operands when an op is made and when the verifier looks; code behind it asks here for
the shape of a tile or the number in a literal. Each function asserts, so a broken promise stops at once.
"""

from __future__ import annotations

from tilewright.ir.nodes import Const, Op, Operand, Value
from tilewright.ir.types import ScalarType, TensorType, TileType


def as_value(x: Operand) -> Value:
    """The operand as a named value."""
    assert isinstance(x, Value), f"{x} is a literal"
    return x


def whole_number(x: Operand) -> int:
    """The literal integer that the operand is."""
    assert isinstance(x, Const), f"{x} is no literal"
    return int(x.value)


def tile_type_of(x: Operand) -> TileType:
    assert isinstance(x.type, TileType), f"{x} is no tile"
    return x.type


def tensor_type_of(x: Operand) -> TensorType:
    assert isinstance(x.type, TensorType), f"{x} is no tensor"
    return x.type


def scalar_type_of(x: Operand) -> ScalarType:
    assert isinstance(x.type, ScalarType), f"{x} is no scalar"
    return x.type


def shape_of(x: Operand) -> tuple[int, ...]:
    """The shape of a tile or a tensor."""
    assert isinstance(x.type, TileType | TensorType), f"{x} has no shape"
    return x.type.shape


def literal_range(loop: Op) -> range | None:
    """The values of a loop's variable; None when a bound is not a literal or the step is 0."""
    if not all(isinstance(x, Const) for x in loop.operands[:3]):
        return None
    start, stop, step = map(whole_number, loop.operands[:3])
    return range(start, stop, step) if step else None
