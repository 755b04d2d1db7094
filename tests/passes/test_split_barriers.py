"""Barriers end one loop and begin the next; what a block needs behind one waits in memory."""

from __future__ import annotations

import pytest
from pass_programs import MACHINE, assert_unchanged

from tilewright.errors import KernelError
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.verify import verify
from tilewright.passes.split_barriers import split_barriers


def split(text: str) -> str:
    program = parse(text)
    verify(program)
    result = split_barriers(program, MACHINE)
    verify(result, after="split_barriers")
    return to_text(result)


def test_a_launch_becomes_two_and_a_block_keeps_its_own():
    assert (
        split("""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          for %b in spmd(0, 4, 1) {
            at "meet" {
              %next = s.add %b, 1 : INDEX
              %a = load %x[%b, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
              %s = read %x[%b, 0] : FP32
              syncall
              %k = s.mod %next, 4 : INDEX
              %v = add %a, %s : tile<1x16, FP32>
              store %v to %y[%k, 0] valid [1, 16] {shape = [1, 16]}
              yield
            }
            yield
          }
        }""")
        == """\
func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
  %a.1 = create {dtype = FP32, shape = [4, 16]} : tensor<4x16, FP32>
  %s.1 = create {dtype = FP32, shape = [4]} : tensor<4, FP32>
  for %b.1 in spmd(0, 4, 1) {
    at "meet" {
      %next = s.add %b.1, 1 : INDEX
      %a = load %x[%b.1, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
      %s = read %x[%b.1, 0] : FP32
      store %a to %a.1[%b.1, 0] valid [1, 16] {shape = [1, 16]}
      write %s.1, %s at [%b.1]
      yield
    }
    yield
  }
  for %b.2 in spmd(0, 4, 1) {
    at "meet" {
      %next.1 = s.add %b.2, 1 : INDEX
      %kept = load %a.1[%b.2, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
      %s.2 = read %s.1[%b.2] : FP32
      %k = s.mod %next.1, 4 : INDEX
      %v = add %kept, %s.2 : tile<1x16, FP32>
      store %v to %y[%k, 0] valid [1, 16] {shape = [1, 16]}
      yield
    }
    yield
  }
}
"""
    )


def test_a_loop_around_a_barrier_goes_around_the_launch():
    text = split("""
        func f(%n: INDEX, out %y: tensor<4x16, FP32>) {
          for %b in spmd(0, 4, 1) {
            %twice = s.mul %n, 2 : INDEX
            for %k in range(0, %twice, 1) carry (%c = %b) -> (%d) {
              %v = full {dtype = FP32, shape = [1, 16], value = 1.0} : tile<1x16, FP32>
              store %v to %y[%b, 0] valid [1, 16] {shape = [1, 16]}
              syncall
              %e = s.add %c, 1 : INDEX
              yield %e
            }
            %f = s.cast %d {to = FP32} : FP32
            write %y, %f[%b, 0]
            yield
          }
        }""")
    order = [line.strip().split(" in ")[-1] for line in text.splitlines() if "for %" in line]
    assert order == [
        "spmd(0, 4, 1) {",  # puts what is carried in place
        "range(0, %twice.1, 1) {",
        "spmd(0, 4, 1) {",
        "spmd(0, 4, 1) {",
        "spmd(0, 4, 1) {",
    ]


def test_programs_without_barriers_are_left_alone():
    assert_unchanged(
        split_barriers,
        """
        func f(out %y: tensor<4x16, FP32>) {
          for %b in spmd(0, 4, 1) {
            write %y, 1.0 at [%b, 0]
            yield
          }
        }
        """,
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("for %k in range(0, %b, 1) {\nsyncall\nyield\n}", "the same for all blocks"),
        ("%c = s.lt %b, 2 : BOOL\nif %c {\nsyncall\nyield\n} else {\nyield\n}", "as often"),
        ("for %k in parallel(0, 3, 1) {\nsyncall\nyield\n}", "as often"),
    ],
)
def test_a_barrier_that_blocks_meet_differently_often_is_refused(body: str, message: str):
    with pytest.raises(KernelError, match=message):
        split(f"func f() {{\nfor %b in spmd(0, 4, 1) {{\n{body}\nyield\n}}\n}}")
