"""Loops, branches, regions and scalars."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ir_programs import run_text

from tilewright.dtypes import INDEX, INT32, INT64
from tilewright.errors import KernelError
from tilewright.ir.build import _EVALUATE, fold_scalar
from tilewright.ir.nodes import Const, Value
from tilewright.ir.ops import lookup
from tilewright.ir.types import ScalarType

CARRY = """
func f(%n: INDEX, out %y: tensor<1, INT64>) {
  for %i in range(0, %n, 1) carry (%k = 0) -> (%last) {
    %big = s.gt %i, 2 : BOOL
    if %big -> (%j: INDEX) {
      %sum = s.add %k, %i : INDEX
      yield %sum
    } else {
      yield %k
    }
    yield %j
  }
  %out = s.cast %last {to = INT64} : INT64
  write %y, %out at [0]
}"""


@pytest.mark.parametrize(("trips", "wanted"), [(5, 7), (0, 0)])
def test_a_carried_value_leaves_the_loop(trips: int, wanted: int):
    out = torch.full((1,), -1)
    run_text(CARRY, trips, out)
    assert out.item() == wanted


ORDER = """
func f(inout %y: tensor<1, INT32>) {
  for %i in KIND(0, 4, 1) {
    %old = read %y[0] : INT32
    %ten = s.mul %old, 10:INT32 : INT32
    %more = s.cast %i {to = INT32} : INT32
    %new = s.add %ten, %more : INT32
    write %y, %new at [0]
    yield
  }
}"""


def digits(kind: str, order: str) -> int:
    out = torch.zeros(1, dtype=torch.int32)
    run_text(ORDER.replace("KIND", kind), out, order=order)
    return int(out.item())


def test_loops_run_in_ascending_order():
    for kind in ("range", "parallel", "pipeline", "spmd", "unroll"):
        assert digits(kind, "ascending") == 123


def test_only_parallel_loops_may_be_reordered():
    assert digits("range", "reverse") == digits("pipeline", "shuffled") == 123
    assert digits("parallel", "reverse") == digits("spmd", "reverse") == 3210
    assert sorted(f"{digits('parallel', 'shuffled'):04}") == list("0123")


def test_a_region_hands_out_its_results():
    out = torch.zeros(1, 2)
    run_text(
        """
        func f(out %y: tensor<1x2, FP32>) {
          serial -> (%s: INDEX) {
            yield 1
          }
          at "fill" -> (%t: tile<1x1, FP32>) {
            sweep {rows = 1} -> (%u: tile<1x1, FP32>) {
              %v = full {dtype = FP32, shape = [1, 1], value = 4.0} : tile<1x1, FP32>
              yield %v
            }
            yield %u
          }
          store %t to %y[0, %s] valid [1, 1] {shape = [1, 1]}
        }""",
        out,
    )
    assert out.tolist() == [[0, 4]]


def test_a_loop_with_a_step_of_zero_is_refused_at_run_time():
    text = "func f(%n: INDEX) {\nfor %i in range(0, 4, %n) {\nyield\n}\n}"
    run_text(text, 1)
    with pytest.raises(KernelError, match="the step of a loop is 0"):
        run_text(text, 0)


def scalar(op: str, a: float, b: float, type: str, result: str | None = None):
    """One scalar operator on run-time operands; FP32 comes back through memory."""
    result = result or type
    out = torch.zeros(
        1, dtype={"INT64": torch.int64, "FP32": torch.float32, "BOOL": torch.bool}[result]
    )
    run_text(
        f"""
        func f(%a: {type}, %b: {type}, out %y: tensor<1, {result}>) {{
          %c = {op} %a, %b : {result}
          write %y, %c at [0]
        }}""",
        a,
        b,
        out,
    )  # fmt: skip
    return out.item()


@pytest.mark.parametrize(
    ("op", "a", "b", "wanted"),
    [
        ("s.floordiv", -7, 2, -4),
        ("s.mod", -7, 2, 1),
        ("s.mod", 7, -2, -1),
        ("s.shr", -5, 1, -3),
        ("s.shl", 3, 4, 48),
        ("s.min", 3, -4, -4),
        ("s.add", 2**63 - 1, 1, -(2**63)),
    ],
)
def test_integer_scalars_floor_and_compute_in_64_bits(op: str, a: int, b: int, wanted: int):
    assert scalar(op, a, b, "INT64") == wanted


@pytest.mark.parametrize("op", ["s.floordiv", "s.mod"])
def test_integer_division_by_zero_is_an_error_with_a_reason(op: str):
    with pytest.raises(KernelError, match="integer division by zero"):
        scalar(op, 1, 0, "INT64")


def fp32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


@given(st.floats(-(2.0**60), 2.0**60, width=32), st.floats(-(2.0**60), 2.0**60, width=32))
def test_float_scalars_round_to_fp32_after_every_step(a: float, b: float):
    # A double holds the exact FP32 product and, rounded once more, the correctly rounded FP32 sum.
    assert scalar("s.mul", a, b, "FP32") == fp32(a * b)
    assert scalar("s.add", a, b, "FP32") == fp32(a + b)


def test_float_scalars_are_ieee_at_the_edges():
    assert scalar("s.div", 1.0, 0.0, "FP32") == math.inf
    assert math.isnan(scalar("s.div", 0.0, 0.0, "FP32"))
    assert scalar("s.mul", 3e38, 10.0, "FP32") == math.inf
    assert math.isnan(scalar("s.max", 1.0, math.nan, "FP32"))
    assert math.isnan(scalar("s.min", math.nan, 1.0, "FP32"))
    assert scalar("s.ne", math.nan, math.nan, "FP32", "BOOL") is True
    assert scalar("s.le", math.nan, 1.0, "FP32", "BOOL") is False


def test_the_interpreter_knows_every_operator_of_the_table():
    from tilewright.interpreter.meanings import MEANINGS
    from tilewright.ir.ops import TABLE

    steering = {name for name, row in TABLE.items() if row.effect == "control"}
    assert set(TABLE) == set(MEANINGS) | steering


INT64S = st.integers(-(2**63), 2**63 - 1) | st.integers(-70, 70)
FOLDABLE = [name for name in sorted(_EVALUATE) if name not in ("s.and", "s.or", "s.not", "s.neg")]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FOLDABLE), INT64S, INT64S)
@example("s.shl", 1, -1)
@example("s.shl", 1, 10**9)
@example("s.mod", 5, 0)
@example("s.add", 2**63 - 1, 1)
def test_what_is_folded_is_what_would_have_been_computed(op: str, a: int, b: int):
    folded = fold_scalar(op, (Const(a, INT64), Const(b, INT64)))
    if folded is not None:
        kind = "BOOL" if op[2:] in ("eq", "ne", "lt", "le", "gt", "ge") else "INT64"
        assert (folded.value, folded.dtype.name) == (scalar(op, a, b, "INT64", kind), kind)


@pytest.mark.parametrize("op", ["s.add", "s.sub", "s.mul", "s.floordiv"])
@pytest.mark.parametrize("dtype", [INDEX, INT32])
@pytest.mark.parametrize("literal", [0, 1])
def test_an_identity_never_changes_a_type(op: str, dtype, literal: int):
    n, k = Value("n", ScalarType(INT32)), Const(literal, dtype)
    for operands in ((n, k), (k, n)):
        folded = fold_scalar(op, operands)
        if folded is not None:
            assert (folded.type,) == lookup(op).infer(operands, {})
