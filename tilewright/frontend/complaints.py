"""What the front end and the lint complain with, so that both say the same."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn, Protocol

from tilewright.errors import KernelError, UndefinedVariableError, like

# Words of the wider dialect that a CPU has no use for, and what to write in their place.
INSTEAD = {
    "distributed": "there is one device: leave communication between ranks out",
    "multiply": "write pl.mul",
    "subtract": "write pl.sub",
    "divide": "write pl.div",
    "true_divide": "write pl.div",
    "negative": "write pl.neg",
    "reciprocal": "write pl.recip",
    "pow": "write pl.mul(x, x), or pl.exp(pl.mul(pl.log(x), p))",
    "square": "write pl.mul(x, x)",
    "softmax": "write it out: pl.row_max, pl.row_expand_sub, pl.exp, pl.row_sum, pl.row_expand_div",
    "sigmoid": "write pl.recip(pl.add(pl.exp(pl.neg(x)), 1.0))",
    "silu": "write pl.mul(x, pl.recip(pl.add(pl.exp(pl.neg(x)), 1.0)))",
    "tanh": "write 1 - 2 / (exp(2x) + 1) with pl.exp, pl.add, pl.recip, pl.mul",
    "gelu": "write it out with pl.exp, pl.mul, pl.add and pl.recip",
    "sum": "write pl.row_sum or pl.col_sum",
    "mean": "write pl.mul(pl.row_sum(x), 1.0 / N)",
    "amax": "write pl.row_max or pl.col_max",
    "amin": "write pl.row_min or pl.col_min",
    "argmax": "pl.sort32 and pl.mrgsort carry indices along",
    "topk": "pl.sort32 and pl.mrgsort carry indices along",
    "sort": "write pl.sort32, then pl.mrgsort",
    "where": "write pl.sel(mask, a, b)",
    "select": "write pl.sel(mask, a, b)",
    "clamp": "write pl.minimum(pl.maximum(x, low), high)",
    "clip": "write pl.minimum(pl.maximum(x, low), high)",
    "zeros": "write pl.full(shape, dtype, 0.0)",
    "ones": "write pl.full(shape, dtype, 1.0)",
    "empty": "write pl.create_tensor(shape, dtype)",
    "zeros_like": "write pl.full(shape, dtype, 0.0)",
    "ones_like": "write pl.full(shape, dtype, 1.0)",
    "full_like": "write pl.full(shape, dtype, value)",
    "empty_like": "write pl.create_tensor(shape, dtype)",
    "dot": "write pl.matmul",
    "mm": "write pl.matmul",
    "bmm": "write pl.batch_matmul",
    "einsum": "write pl.matmul of blocks; a_trans= and b_trans= turn an operand",
    "view": "write pl.reshape",
    "permute": "write pl.transpose(x, axis1, axis2)",
    "swapaxes": "write pl.transpose(x, axis1, axis2)",
    "cat": "write pl.concat(a, b)",
    "concatenate": "write pl.concat(a, b)",
    "stack": "write pl.assemble into windows of one tensor",
    "broadcast_to": "write pl.row_expand or pl.col_expand",
    "expand": "write pl.row_expand or pl.col_expand",
    "to": "write pl.cast(x, dtype)",
    "astype": "write pl.cast(x, dtype)",
    "program_id": "write for i in pl.spmd(n):, or pl.tile.get_block_idx()",
    "float32": "write pl.FP32",
    "float": "write pl.FP32",
    "F32": "write pl.FP32",
    "FLOAT32": "write pl.FP32",
    "float16": "write pl.FP16",
    "half": "write pl.FP16",
    "F16": "write pl.FP16",
    "FLOAT16": "write pl.FP16",
    "bfloat16": "write pl.BF16",
    "BFLOAT16": "write pl.BF16",
    "float64": "write pl.FP32, the widest float",
    "double": "write pl.FP32, the widest float",
    "FP64": "write pl.FP32, the widest float",
    "I8": "write pl.INT8",
    "I32": "write pl.INT32",
    "I64": "write pl.INT64",
    "bool": "write pl.BOOL",
}

# Modules that are easily forgotten.
IMPORTS = {
    "pl": "import it: import pypto.language as pl",
    "torch": "import it: import torch",
    "np": "import it: import numpy as np",
    "math": "import it: import math",
}
# What to do with a Python object where a kernel wants a value of its own.
FROM_PYTHON = (
    "take a number out of it outside the kernel: int(…), float(…); data comes as an argument"
)


class Complains(Protocol):
    """Somebody who reads a kernel and can refuse a piece of it."""

    def fail(
        self,
        kind: type[KernelError],
        message: str,
        node: ast.AST | None = None,
        help: str | None = None,
        notes: Sequence[str] = (),
    ) -> NoReturn: ...


def instead(name: str, known: Iterable[str], owner: str = "") -> str | None:
    """What to write where `name` is not known: what does its work, or what it looks like."""
    return INSTEAD.get(name) or like(name, known, owner)


def undefined(t: Complains, node: ast.Name, known: Iterable[str]) -> NoReturn:
    """A name that nothing binds."""
    near = difflib.get_close_matches(node.id, list(known), 1)
    t.fail(
        UndefinedVariableError,
        f"{node.id!r} is not defined here",
        node,
        help=IMPORTS.get(node.id) or (f"did you mean {near[0]!r}?" if near else "bind it first"),
    )
