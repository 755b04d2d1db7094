"""Making nodes: fresh names, inferred result types, the span of the author's line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tilewright.dtypes import BOOL
from tilewright.ir.nodes import Attr, Block, Const, Op, Operand, Value, make_attrs
from tilewright.ir.ops import lookup
from tilewright.ir.types import Type
from tilewright.span import NOWHERE, Span


class Builder:
    """Appends ops to the current block; one builder (and one set of names) per function."""

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self._taken: dict[str, int] = dict.fromkeys(taken, 0)
        self._blocks: list[list[Op]] = [[]]
        self.span: Span = NOWHERE

    def fresh(self, type: Type, hint: str = "v") -> Value:
        """A new value; `hint` is the author's name for it where there is one."""
        base = hint.split(".")[0] or "v"
        count = self._taken.get(base, -1) + 1
        self._taken[base] = count
        name = base if count == 0 else f"{base}.{count}"
        if count and name in self._taken:  # an author's own name may look like one of ours
            return self.fresh(type, hint)
        self._taken.setdefault(name, 0)
        return Value(name, type)

    def op(
        self,
        name: str,
        /,
        operands: Sequence[Operand] = (),
        hint: str = "v",
        span: Span | None = None,
        **attrs: Attr,
    ) -> Op:
        """Append a plain op, its result types inferred. Raises RuleBroken when the operator's rule is."""
        types = lookup(name).infer(
            tuple(operands), {k: v for k, v in attrs.items() if v is not None}
        )
        results = tuple(self.fresh(t, hint) for t in types)
        op = Op(name, tuple(operands), results, make_attrs(attrs), (), span or self.span)
        self._blocks[-1].append(op)
        return op

    def value(
        self, name: str, /, operands: Sequence[Operand] = (), hint: str = "v", **attrs: Attr
    ) -> Value:
        """Append an op with one result and give that result."""
        return self.op(name, operands, hint, **attrs).result

    def structured(
        self,
        name: str,
        /,
        operands: Sequence[Operand],
        blocks: Sequence[Block],
        types: Sequence[Type] = (),
        hints: Sequence[str] = (),
        span: Span | None = None,
        **attrs: Attr,
    ) -> Op:
        """Append an op that owns blocks; its result types are given."""
        results = tuple(
            self.fresh(t, hints[i] if i < len(hints) else "v") for i, t in enumerate(types)
        )
        op = Op(name, tuple(operands), results, make_attrs(attrs), tuple(blocks), span or self.span)
        self._blocks[-1].append(op)
        return op

    def append(self, op: Op) -> None:
        """Append an op made elsewhere."""
        self._blocks[-1].append(op)

    @contextmanager
    def block(self) -> Iterator[list[Op]]:
        """Collect what is appended inside into a list of its own."""
        ops: list[Op] = []
        self._blocks.append(ops)
        try:
            yield ops
        finally:
            self._blocks.pop()

    def mark(self) -> dict[str, int]:
        """The names in use so far, to go back to when an attempt is discarded."""
        return dict(self._taken)

    def reset(self, mark: dict[str, int]) -> None:
        """Forget the names made since `mark`; the ops that carry them must be gone."""
        self._taken = dict(mark)

    @property
    def ops(self) -> tuple[Op, ...]:
        """What the outermost block holds so far."""
        return tuple(self._blocks[0])

    # Scalar arithmetic that folds as it goes: passes and the front end write offsets with it.

    def scalar(self, name: str, *operands: Operand, hint: str = "i") -> Operand:
        """A scalar op, folded when its operands are constants or an identity applies."""
        folded = fold_scalar(name, operands)
        return self.value(name, operands, hint) if folded is None else folded

    def add(self, a: Operand, b: Operand, hint: str = "i") -> Operand:
        return self.scalar("s.add", a, b, hint=hint)

    def sub(self, a: Operand, b: Operand, hint: str = "i") -> Operand:
        return self.scalar("s.sub", a, b, hint=hint)

    def mul(self, a: Operand, b: Operand, hint: str = "i") -> Operand:
        return self.scalar("s.mul", a, b, hint=hint)

    def floordiv(self, a: Operand, b: Operand, hint: str = "i") -> Operand:
        return self.scalar("s.floordiv", a, b, hint=hint)

    def min(self, a: Operand, b: Operand, hint: str = "i") -> Operand:
        return self.scalar("s.min", a, b, hint=hint)


_EVALUATE: dict[str, Callable[..., int]] = {
    "s.add": lambda a, b: a + b,
    "s.sub": lambda a, b: a - b,
    "s.mul": lambda a, b: a * b,
    "s.floordiv": lambda a, b: a // b,
    "s.mod": lambda a, b: a % b,
    "s.min": min,
    "s.max": max,
    "s.shl": lambda a, b: a << b,
    "s.shr": lambda a, b: a >> b,
    "s.eq": lambda a, b: a == b,
    "s.ne": lambda a, b: a != b,
    "s.lt": lambda a, b: a < b,
    "s.le": lambda a, b: a <= b,
    "s.gt": lambda a, b: a > b,
    "s.ge": lambda a, b: a >= b,
    "s.and": lambda a, b: a and b,
    "s.or": lambda a, b: a or b,
    "s.not": lambda a: not a,
    "s.neg": lambda a: -a,
}


def fold_scalar(name: str, operands: Sequence[Operand]) -> Operand | None:
    """The value of an integer or BOOL scalar op on constants, or by an identity (x + 0); None if neither.

    Float scalars are left to run time, where they compute in FP32.
    """
    if name not in _EVALUATE:
        return None
    known = [x for x in operands if isinstance(x, Const)]
    if len(known) == len(operands) and all(x.dtype.is_integer or x.dtype == BOOL for x in known):
        values = [x.value for x in known]
        if name in ("s.floordiv", "s.mod") and values[1] == 0:
            return None  # left for the verifier and the run to report
        if name in ("s.shl", "s.shr") and not 0 <= values[1] < 64:
            return None  # likewise
        result = _EVALUATE[name](*values)
        (rule,) = lookup(name).infer(tuple(operands), {})
        return Const(result, rule.dtype) if -(1 << 63) <= result < 1 << 63 else None
    if len(operands) == 2 and all(x.type.dtype.is_integer for x in operands):
        folded = _identity(name, *operands)
        (rule,) = lookup(name).infer(tuple(operands), {})
        if isinstance(folded, int):
            return Const(folded, rule.dtype)
        # INT32 + 0 is an INDEX by its rule: not the INT32 that it adds to.
        return folded if folded is not None and folded.type == rule else None
    return None


def _identity(name: str, a: Operand, b: Operand) -> Operand | int | None:
    """What an integer op gives whatever its unknown operand is: an operand, a number, or None."""
    x, y = (v.value if isinstance(v, Const) else None for v in (a, b))
    match name:
        case "s.add" | "s.sub" if y == 0:
            return a
        case "s.mul" | "s.floordiv" if y == 1:
            return a
        case "s.add" if x == 0:
            return b
        case "s.mul" if x == 1:
            return b
        case "s.mul" if 0 in (x, y):
            return 0
        case "s.sub" if a == b:
            return 0
        case "s.min" | "s.max" if a == b:
            return a
    return None
