"""The accumulator idiom without its branch."""

from __future__ import annotations

import pytest
import torch
from pass_programs import MACHINE, assert_pass, assert_same_results, assert_unchanged

import tilewright.language as pl
from tilewright.ir.parser import parse
from tilewright.ir.walk import ops_in
from tilewright.passes.pipeline import lower, prepare
from tilewright.passes.start_products import start_products


def test_first_matmul_then_matmul_acc_is_an_accumulator_that_starts_at_zero():
    assert_pass(
        start_products,
        before="""
        func f(%x: tensor<4x32, BF16>, %w: tensor<32x16, BF16>, out %y: tensor<4x16, FP32>) {
          %acc = full {dtype = FP32, shape = [4, 16], value = 5.0} : tile<4x16, FP32>
          for %k in range(0, 32, 8) carry (%c = %acc) -> (%last) {
            %a = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, BF16>
            %b = load %w[%k, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, BF16>
            %first = s.eq %k, 0 : BOOL
            if %first -> (%r: tile<4x16, FP32>) {
              %p = matmul %a, %b, 4, 8, 16 : tile<4x16, FP32>
              yield %p
            } else {
              %q = matmul_acc %c, %a, %b, 4, 8, 16 : tile<4x16, FP32>
              yield %q
            }
            yield %r
          }
          store %last to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x32, BF16>, %w: tensor<32x16, BF16>, out %y: tensor<4x16, FP32>) {
          %acc = full {dtype = FP32, shape = [4, 16], value = 5.0} : tile<4x16, FP32>
          %zero = full {dtype = FP32, shape = [4, 16], value = 0} : tile<4x16, FP32>
          for %k in range(0, 32, 8) carry (%c = %zero) -> (%last) {
            %a = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, BF16>
            %b = load %w[%k, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, BF16>
            %first = s.eq %k, 0 : BOOL
            %r = matmul_acc %c, %a, %b, 4, 8, 16 : tile<4x16, FP32>
            yield %r
          }
          store %last to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


PRODUCTS = """
        func f(%x: tensor<4x32, BF16>, %w: tensor<32x16, BF16>, %n: INDEX, out %y: tensor<4x16, FP32>) {{
          %acc = full {{dtype = FP32, shape = [4, 16], value = 5.0}} : tile<4x16, FP32>
          for %k in range({bounds}) carry (%c = %acc) -> (%last) {{
            %a = load %x[0, 8] valid [4, 8] {{shape = [4, 8]}} : tile<4x8, BF16>
            %b = load %w[8, 0] valid [8, 16] {{shape = [8, 16]}} : tile<8x16, BF16>
            %first = s.eq %k, {first} : BOOL
            if %first -> (%r: tile<4x16, FP32>) {{
              %p = matmul %a, {b}, 4, 8, 16 : tile<4x16, FP32>
              yield %p
            }} else {{
              %q = matmul_acc %c, %a, %b, 4, 8, 16 : tile<4x16, FP32>
              yield %q
            }}
            {end}
          }}
          store %last to %y[0, 0] valid [4, 16] {{shape = [4, 16]}}
        }}
        """


def program(bounds: str = "0, 4, 1", first: str = "0", b: str = "%b", end: str = "yield %r") -> str:
    return PRODUCTS.format(bounds=bounds, first=first, b=b, end=end)


def test_the_program_that_the_next_tests_change_is_one_that_the_pass_rewrites():
    before = parse(program())
    assert start_products(before, MACHINE) != before


def test_a_loop_that_may_not_run_keeps_its_first_accumulator():
    assert_unchanged(start_products, program(bounds="0, %n, 1"), n=0)
    assert_unchanged(start_products, program(bounds="0, 4, -1"), n=0)
    assert_unchanged(start_products, program(bounds="0, 0, 1"), n=0)


def test_a_branch_on_another_iteration_than_the_first_stays():
    assert_unchanged(start_products, program(first="1"), n=0)


def test_an_accumulator_that_something_else_reads_stays():
    assert_unchanged(
        start_products,
        program(end="%m = maximum %c, %r : tile<4x16, FP32>\n            yield %m"),
        n=0,
    )


def test_arms_that_multiply_different_things_stay():
    assert_unchanged(
        start_products,
        program(b="%d").replace(
            "            %first",
            "            %d = neg %b : tile<8x16, BF16>\n            %first",
        ),
        n=0,
    )


def test_loads_in_both_arms_are_the_same_when_the_first_iteration_makes_them_so():
    assert_pass(
        start_products,
        before="""
        func f(%x: tensor<4x32, BF16>, %w: tensor<32x16, BF16>, out %y: tensor<4x16, FP32>) {
          %acc = full {dtype = FP32, shape = [4, 16], value = 5.0} : tile<4x16, FP32>
          for %k in range(0, 4, 1) carry (%c = %acc) -> (%last) {
            %first = s.eq %k, 0 : BOOL
            if %first -> (%r: tile<4x16, FP32>) {
              %a = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, BF16>
              %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, BF16>
              %p = matmul %a, %b, 4, 8, 16 : tile<4x16, FP32>
              yield %p
            } else {
              %k0 = s.mul %k, 8 : INDEX
              %d = load %x[0, %k0] valid [4, 8] {shape = [4, 8]} : tile<4x8, BF16>
              %e = load %w[%k0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, BF16>
              %q = matmul_acc %c, %d, %e, 4, 8, 16 : tile<4x16, FP32>
              yield %q
            }
            yield %r
          }
          store %last to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x32, BF16>, %w: tensor<32x16, BF16>, out %y: tensor<4x16, FP32>) {
          %acc = full {dtype = FP32, shape = [4, 16], value = 5.0} : tile<4x16, FP32>
          %zero = full {dtype = FP32, shape = [4, 16], value = 0} : tile<4x16, FP32>
          for %k in range(0, 4, 1) carry (%c = %zero) -> (%last) {
            %first = s.eq %k, 0 : BOOL
            %k0 = s.mul %k, 8 : INDEX
            %d = load %x[0, %k0] valid [4, 8] {shape = [4, 8]} : tile<4x8, BF16>
            %e = load %w[%k0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, BF16>
            %r = matmul_acc %c, %d, %e, 4, 8, 16 : tile<4x16, FP32>
            yield %r
          }
          store %last to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


ARMS = """
        func f(%x: tensor<4x32, BF16>, %w: tensor<40x16, BF16>, out %y: tensor<4x16, FP32>) {{
          %acc = full {{dtype = FP32, shape = [4, 16], value = 5.0}} : tile<4x16, FP32>
          for %k in range({bounds}) carry (%c = %acc) -> (%last) {{
            %test = {test} : BOOL
            if %test -> (%r: tile<4x16, FP32>) {{
              {then}
            }} else {{
              {other}
            }}
            yield %r
          }}
          store %last to %y[0, 0] valid [4, 16] {{shape = [4, 16]}}
        }}
        """
FIRST = """%a = load %x[0, {column}] valid [4, 8] {{shape = [4, 8]}} : tile<4x8, BF16>
              %b = load %w[{row}, 0] valid [8, 16] {{shape = [8, 16]}} : tile<8x16, BF16>
              %p = matmul %a, %b, 4, 8, 16 : tile<4x16, FP32>
              yield %p"""
LATER = """%d = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, BF16>
              %e = load %w[%k, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, BF16>
              %q = matmul_acc %c, %d, %e, 4, 8, 16 : tile<4x16, FP32>
              yield %q"""


def arms(
    test: str = "s.eq %k, 0",
    bounds: str = "0, 32, 8",
    column: int = 0,
    row: int = 0,
    swapped: bool = False,
) -> str:
    then, other = FIRST.format(column=column, row=row), LATER
    if swapped:
        then, other = other, then
    return ARMS.format(test=test, bounds=bounds, then=then, other=other)


def branches(text: str) -> int:
    """How many branches are left; the program gives the same bits."""
    before = parse(text)
    after = start_products(before, MACHINE)
    assert_same_results(before, after)
    return sum(op.name == "if" for op in ops_in(after))


def test_the_first_iteration_may_stand_in_either_arm():
    for test in ("s.ne %k, 0", "s.gt %k, 0", "s.lt 0, %k"):
        assert branches(arms(test, swapped=True)) == 0
    assert branches(arms("s.eq 8, %k", bounds="8, 32, 8", column=8, row=8)) == 0
    down = {"bounds": "24, -1, -8", "column": 24, "row": 24, "swapped": True}
    assert branches(arms("s.lt %k, 24", **down)) == 0


def test_a_test_that_does_not_single_out_the_first_iteration_stays():
    assert branches(arms("s.gt %k, 0", bounds="24, -1, -8", column=24, row=24, swapped=True)) == 1
    assert branches(arms("s.lt %k, 0", bounds="0, 32, 8")) == 1
    assert branches(arms("s.ge %k, 0", swapped=True)) == 1


def test_a_first_iteration_that_reads_something_else_stays():
    assert branches(arms(column=8)) == 1
    assert branches(arms(row=8)) == 1
    assert branches(arms(bounds="8, 32, 8", test="s.eq %k, 8")) == 1


# The same from the author's text


@pl.jit
def literal_first_window(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=pl.Level.CORE_GROUP):
        for n in pl.range(0, 64, 32):
            acc = pl.create_tensor([16, 32], dtype=pl.FP32)
            for k in pl.range(4):
                if k == 0:
                    a = x[:, 0:32]
                    b = w[0:32, n : n + 32]
                    acc = pl.matmul(a, b)
                else:
                    k0 = k * 32
                    a = x[:, k0 : k0 + 32]
                    b = w[k0 : k0 + 32, n : n + 32]
                    acc = pl.matmul_acc(acc, a, b)
            y[:, n : n + 32] = acc


@pl.jit
def two_accumulators(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=pl.Level.CORE_GROUP):
        whole = pl.create_tensor([16, 64], dtype=pl.FP32)
        negated = pl.create_tensor([16, 64], dtype=pl.FP32)
        for k in pl.pipeline(0, 128, 32, stage=2):
            a = pl.load(x, [0, k], [16, 32], target_memory=pl.MemorySpace.Mat)
            if k == 0:
                b = pl.neg(w[k : k + 32, :])
                negated = pl.matmul(a, b)
                whole = pl.matmul(a, w[k : k + 32, :])
            else:
                b = pl.neg(w[k : k + 32, :])
                negated = pl.matmul_acc(negated, a, b)
                whole = pl.matmul_acc(whole, a, w[k : k + 32, :])
        y[:, :] = pl.add(pl.mul(whole, 2.0), negated)


@pl.jit
def later_arm_first(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    for n in pl.spmd(2):
        n0 = n * 32
        acc = pl.create_tensor([16, 32], dtype=pl.FP32)
        for k in pl.range(4):
            a = pl.slice(x, [16, 32], [0, k * 32])
            if k > 0:
                acc = pl.matmul_acc(acc, a, pl.slice(w, [32, 32], [k * 32, n0]))
            else:
                acc = pl.matmul(a, pl.slice(w, [32, 32], [0, n0]))
        y[:, n0 : n0 + 32] = acc


@pl.jit
def regions_in_the_arms(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    acc = pl.create_tensor([16, 64], dtype=pl.FP32)
    for k in pl.range(4):
        k0 = k * 32
        if k == 0:
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="first"):
                acc = pl.matmul(x[:, k0 : k0 + 32], w[k0 : k0 + 32, :])
        else:
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="later"):
                acc = pl.matmul_acc(acc, x[:, k0 : k0 + 32], w[k0 : k0 + 32, :])
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = acc


@pytest.mark.parametrize(
    "kernel",
    [literal_first_window, two_accumulators, later_arm_first, regions_in_the_arms],
    ids=lambda kernel: kernel.__name__,
)
def test_no_branch_is_left_however_the_author_writes_it(kernel):
    x, w = torch.randint(-8, 9, (16, 128)).float(), torch.randint(-8, 9, (128, 64)).float()
    for backend in ("interpreter", "native"):
        y = torch.zeros(16, 64)
        kernel.run(x, w, y, backend=backend)
        assert torch.equal(y, x @ w), backend
    function = kernel.specialize(x, w, y, backend="interpreter").function
    program = lower(prepare(function, MACHINE), MACHINE)
    assert not any(op.name == "if" for op in ops_in(program))
