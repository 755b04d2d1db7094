"""Element-wise operators: FP32 or 64-bit integers inside, one rounding or wrap at the end.

exp, log, sin, cos and sqrt are evaluated in double and rounded to FP32, so that they do not depend
on the machine's vector library (some of those round a square root wrongly). Sums and products keep
IEEE FP32 with nothing contracted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from tilewright.dtypes import BOOL, UINT64, DType
from tilewright.interpreter.arrays import compute_in, rounded, scalar_operand, storage, wrapped
from tilewright.interpreter.casts import cast_tile
from tilewright.interpreter.meanings import Call, meaning
from tilewright.ir.ops.elementwise import mask_pattern

Array = torch.Tensor
INT64_MIN = -(1 << 63)


def _operands(call: Call, a: Array, b: Array | float) -> tuple[Array, Array]:
    """Both operands in the type that the arithmetic happens in."""
    dtype = call.dtype
    right = compute_in(b, dtype) if isinstance(b, Array) else scalar_operand(b, dtype)
    return compute_in(a, dtype), right


@meaning("add")
def add(call: Call, a: Array, b: Array) -> Array:
    x, y = _operands(call, a, b)
    return rounded(x + y, call.dtype)


@meaning("sub")
def sub(call: Call, a: Array, b: Array) -> Array:
    x, y = _operands(call, a, b)
    return rounded(x - y, call.dtype)


@meaning("mul")
def mul(call: Call, a: Array, b: Array) -> Array:
    x, y = _operands(call, a, b)
    return rounded(x * y, call.dtype)


@meaning("div")
def div(call: Call, a: Array, b: Array) -> Array:
    """IEEE quotient; integers truncate toward zero, and x / 0 is 0."""
    x, y = _operands(call, a, b)
    if call.dtype.is_float:
        return rounded(x / y, call.dtype)
    x, y = torch.broadcast_tensors(x, y)
    if call.dtype == UINT64:
        return _unsigned(lambda p, q: np.where(q == 0, 0, p // np.where(q == 0, 1, q)), x, y)
    # INT64_MIN / -1 does not fit and traps on x86; wrapping gives INT64_MIN, as negation does.
    plain = (y != 0) & (y != -1)
    quotient = torch.div(x, torch.where(plain, y, 1), rounding_mode="trunc")
    quotient = torch.where(y == -1, -x, quotient)
    return wrapped(torch.where(y == 0, 0, quotient), call.dtype)


@meaning("rem")
def rem(call: Call, a: Array, b: Array) -> Array:
    """x - floor(x / y) * y, with the sign of y; of integers by 0 it is 0."""
    x, y = _operands(call, a, b)
    x, y = torch.broadcast_tensors(x, y)
    if call.dtype.is_float:
        with np.errstate(all="ignore"):
            rest = torch.from_numpy(np.fmod(x.double().numpy(), y.double().numpy())).float()
        return rounded(
            torch.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest), call.dtype
        )
    if call.dtype == UINT64:
        return _unsigned(lambda p, q: np.where(q == 0, 0, p % np.where(q == 0, 1, q)), x, y)
    plain = (y != 0) & (y != -1)  # INT64_MIN rem -1 traps on x86
    rest = torch.remainder(x, torch.where(plain, y, 1))
    return wrapped(torch.where(plain, rest, 0), call.dtype)


# Bits


def _bitwise(name: str, compute: Callable[[Array, Array], Array]) -> None:
    @meaning(name)
    def run(call: Call, a: Array, b: Array) -> Array:
        return rounded(compute(*_operands(call, a, b)), call.dtype)


_bitwise("and_", torch.bitwise_and)
_bitwise("or_", torch.bitwise_or)
_bitwise("xor", torch.bitwise_xor)


@meaning("not_")
def not_(call: Call, a: Array) -> Array:
    return ~a if call.dtype == BOOL else wrapped(~compute_in(a, call.dtype), call.dtype)


@meaning("shl")
def shl(call: Call, a: Array, b: Array) -> Array:
    """Zeros come in; a count of the width or more (or below 0) leaves nothing."""
    x, y = _operands(call, a, b)
    beyond = (y < 0) | (y >= call.dtype.bits)
    return wrapped(torch.where(beyond, 0, x << torch.where(beyond, 0, y)), call.dtype)


@meaning("shr")
def shr(call: Call, a: Array, b: Array) -> Array:
    """Signed numbers bring in their sign, unsigned ones zeros."""
    x, y = torch.broadcast_tensors(*_operands(call, a, b))
    beyond = (y < 0) | (y >= call.dtype.bits)
    if call.dtype == UINT64:
        count = torch.where(beyond, 0, y)
        return torch.where(beyond, 0, _unsigned(lambda p, q: p >> q, x, count))
    if call.dtype.is_signed:
        return wrapped(x >> torch.where(beyond, call.dtype.bits - 1, y), call.dtype)
    return wrapped(torch.where(beyond, 0, x >> torch.where(beyond, 0, y)), call.dtype)


@meaning("maximum")
def maximum(call: Call, a: Array, b: Array) -> Array:
    """The larger; NaN if either is. 0 is larger than -0."""
    return _ordered(call, _larger, a, b)


@meaning("minimum")
def minimum(call: Call, a: Array, b: Array) -> Array:
    """The smaller; NaN if either is. -0 is smaller than 0."""
    return _ordered(call, _smaller, a, b)


def _larger(x: Array, y: Array) -> Array:
    """torch.maximum, but of two zeros always the positive one: Torch's choice depends on the lane."""
    return torch.where((x == 0) & (y == 0), x + y, torch.maximum(x, y))


def _smaller(x: Array, y: Array) -> Array:
    return torch.where((x == 0) & (y == 0), -(-x + -y), torch.minimum(x, y))


def _ordered(call: Call, choose: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    x, y = _operands(call, a, b)
    if call.dtype == UINT64:  # flipping the top bit turns unsigned order into signed order
        return choose(x ^ INT64_MIN, y ^ INT64_MIN) ^ INT64_MIN
    return rounded(choose(x, y), call.dtype)


def _unsigned(compute: Callable, x: Array, y: Array) -> Array:
    """Run a NumPy function on the bits as UINT64."""
    p, q = (v.contiguous().numpy().view(np.uint64) for v in (x, y))
    return torch.from_numpy(compute(p, q).astype(np.uint64).view(np.int64).copy())


COMPARE = {
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
}


@meaning("cmp")
def cmp(call: Call, a: Array, b: Array) -> Array:
    """1 or 0 in the operands' dtype; NaN compares false except `ne`."""
    x, y = _operands(call, a, b)
    if call.dtype == UINT64:
        x, y = x ^ INT64_MIN, y ^ INT64_MIN
    return COMPARE[call["kind"]](x, y).to(storage(call.dtype))


@meaning("sel")
def sel(call: Call, mask: Array, a: Array, b: Array) -> Array:
    return torch.where(mask != 0, a, b)


@meaning("cast")
def cast(call: Call, a: Array) -> Array:
    return cast_tile(a, call.dtype_of(0), call["to"], call["mode"])


# One operand


def _unary(call: Call, a: Array, compute: Callable[[Array], Array]) -> Array:
    return rounded(compute(compute_in(a, call.dtype)), call.dtype)


def _in_double(compute: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: compute(x.double()).float()


@meaning("neg")
def neg(call: Call, a: Array) -> Array:
    return _unary(call, a, torch.neg)


@meaning("abs")
def absolute(call: Call, a: Array) -> Array:
    return a.clone() if call.dtype == UINT64 else _unary(call, a, torch.abs)


@meaning("exp")
def exp(call: Call, a: Array) -> Array:
    return _unary(call, a, _in_double(torch.exp))


@meaning("log")
def log(call: Call, a: Array) -> Array:
    """log(0) = -inf, log(x < 0) = NaN."""
    return _unary(call, a, _in_double(torch.log))


@meaning("sin")
def sin(call: Call, a: Array) -> Array:
    return _unary(call, a, _in_double(torch.sin))


@meaning("cos")
def cos(call: Call, a: Array) -> Array:
    return _unary(call, a, _in_double(torch.cos))


@meaning("sqrt")
def sqrt(call: Call, a: Array) -> Array:
    return _unary(call, a, _in_double(torch.sqrt))


@meaning("recip")
def recip(call: Call, a: Array) -> Array:
    return _unary(call, a, lambda x: torch.ones_like(x) / x)


@meaning("rsqrt")
def rsqrt(call: Call, a: Array) -> Array:
    """1 / sqrt(x), both IEEE FP32: the same bits as recip(sqrt(x)) on FP32."""
    root = _in_double(torch.sqrt)
    return _unary(call, a, lambda x: torch.ones_like(x) / root(x))


@meaning("relu")
def relu(call: Call, a: Array) -> Array:
    """max(x, 0); NaN stays."""
    return _unary(call, a, lambda x: _larger(x, torch.zeros_like(x)))


# Columns rearranged


@meaning("broadcast")
def broadcast(call: Call, a: Array) -> Array:
    return a.broadcast_to(call.type.shape).clone()


@meaning("gather_mask")
def gather_mask(call: Call, a: Array) -> Array:
    """Columns j with j mod stride == phase; `to` reinterprets their bits."""
    stride, phase = mask_pattern(call["pattern"])
    kept = a[..., phase::stride].contiguous()
    return same_bits(kept, call.dtype_of(0), call.dtype)


def same_bits(x: Array, source: DType, target: DType) -> Array:
    """The bits of `x` read as another type of the same width."""
    if source == target:
        return x.clone()
    signed = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[source.bits]
    if source.is_float or source.torch is not None:
        bits = x.view(signed)
    else:
        bits = x.to(signed)
    if target.kind == "uint" and target.bits > 8:
        return wrapped(bits.to(torch.int64), target)
    return bits.view(storage(target))


@meaning("scatter_mask")
def scatter_mask(call: Call, a: Array, dst: Array) -> Array:
    stride, phase = mask_pattern(call["pattern"])
    out = dst.clone()
    out[..., phase::stride] = a
    return out


@meaning("interleave")
def interleave(call: Call, even: Array, odd: Array) -> Array:
    return torch.stack((even, odd), -1).reshape(call.type.shape)
