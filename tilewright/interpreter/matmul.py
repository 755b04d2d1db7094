"""Matrix products, computed in double and rounded once to the accumulator.

For INT8 that is exact (K stays far below 2^39); for floats it is the value that every order of FP32
accumulation approximates, and a row of the result does not depend on the other rows.
"""

from __future__ import annotations

import torch

from tilewright.dtypes import INT32
from tilewright.interpreter.arrays import leading
from tilewright.interpreter.meanings import Call, meaning
from tilewright.interpreter.memory import require_valid

Array = torch.Tensor


@meaning("matmul")
def matmul(call: Call, a: Array, b: Array, m: int, k: int, n: int) -> Array:
    """Zero outside the first m rows and n columns."""
    out = torch.zeros(call.type.shape, dtype=torch.float64)
    out[..., :m, :n] = _product(call, a, b, m, k, n)
    return _accumulator(call, out)


@meaning("matmul_acc")
def matmul_acc(call: Call, acc: Array, a: Array, b: Array, m: int, k: int, n: int) -> Array:
    """acc + product, rounded once; unchanged outside the first m rows and n columns."""
    out = acc.double()
    out[..., :m, :n] += _product(call, a, b, m, k, n)
    return _accumulator(call, out)


def _product(call: Call, a: Array, b: Array, m: int, k: int, n: int) -> Array:
    """op(a)[:m, :k] op(b)[:k, :n] in double."""
    left = a.transpose(-1, -2) if call.get("a_trans") else a
    right = b.transpose(-1, -2) if call.get("b_trans") else b
    require_valid((*left.shape[-2:], right.shape[-1]), (m, k, n), call.op.span)
    return left[..., :m, :k].double() @ right[..., :k, :n].double()


def _accumulator(call: Call, exact: Array) -> Array:
    """Doubles in the accumulator's type: FP32 to nearest even, INT32 modulo 2^32."""
    if call.dtype == INT32:
        return exact.to(torch.int64).to(torch.int32)
    return exact.float()


@meaning("pack")
def pack(call: Call, b: Array, k: int, n: int) -> Array:
    """The panel is simply op(b) [K, N], zero outside the first k rows and n columns."""
    matrix = b.T if call.get("trans") else b
    require_valid(matrix.shape, (k, n), call.op.span)
    out = torch.zeros(matrix.shape, dtype=b.dtype)
    leading(out, (k, n)).copy_(leading(matrix, (k, n)))
    return out


@meaning("panel_window")
def panel_window(call: Call, panel: Array, k0: int, n0: int) -> Array:
    """Rows and columns of the matrix that the panel holds."""
    return panel[k0 : k0 + call.get("k"), n0 : n0 + call.get("n")]


@meaning("matmul_packed")
def matmul_packed(call: Call, a: Array, panel: Array, m: int) -> Array:
    """The first m rows of a @ panel; the other rows are unspecified."""
    require_valid(a.shape[:1], (m,), call.op.span)
    out = call.blank()
    out[:m] = _accumulator(call, a[:m].double() @ panel.double())
    return out


@meaning("matmul_packed_acc")
def matmul_packed_acc(call: Call, acc: Array, a: Array, panel: Array, m: int) -> Array:
    """acc plus the product in the first m rows; the other rows are unspecified."""
    require_valid(a.shape[:1], (m,), call.op.span)
    out = call.blank()
    out[:m] = _accumulator(call, acc[:m].double() + a[:m].double() @ panel.double())
    return out
