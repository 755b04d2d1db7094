"""Chains of row-wise work as sweeps."""

from __future__ import annotations

import pytest
from pass_programs import MACHINE, assert_native_agrees, assert_pass

from tilewright.ir.nodes import Op
from tilewright.ir.parser import parse
from tilewright.ir.walk import ops_in
from tilewright.passes.fuse_sweeps import fuse_sweeps


def test_a_chain_is_one_sweep_that_hands_out_nothing_but_what_others_read():
    assert_pass(
        fuse_sweeps,
        before="""
        func f(%x: tensor<4x64, FP32>, out %y: tensor<4x64, FP32>, out %z: tensor<1x64, FP32>) {
          %a = load %x[0, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, FP32>
          %b = mul %a, 2.0 : tile<4x64, FP32>
          %m = row_max %b valid [4, 64] : tile<4x1, FP32>
          %c = sub %b, %m : tile<4x64, FP32>
          store %c to %y[0, 0] valid [4, 64] {shape = [4, 64]}
          %s = col_sum %b valid [4, 64] : tile<1x64, FP32>
          store %s to %z[0, 0] valid [1, 64] {shape = [1, 64]}
        }""",
        after="""
        func f(%x: tensor<4x64, FP32>, out %y: tensor<4x64, FP32>, out %z: tensor<1x64, FP32>) {
          %a = load %x[0, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, FP32>
          sweep -> (%b: tile<4x64, FP32>) {
            %b.1 = mul %a, 2.0 : tile<4x64, FP32>
            %m = row_max %b.1 valid [4, 64] : tile<4x1, FP32>
            %c = sub %b.1, %m : tile<4x64, FP32>
            store %c to %y[0, 0] valid [4, 64] {shape = [4, 64]}
            yield %b.1
          }
          %s = col_sum %b valid [4, 64] : tile<1x64, FP32>
          sweep {
            store %s to %z[0, 0] valid [1, 64] {shape = [1, 64]}
            yield
          }
        }
        """,
    )


def test_what_is_independent_of_the_open_chain_comes_before_it():
    assert_pass(
        fuse_sweeps,
        before="""
        func f(%x: tensor<4x64, FP32>, %g: tensor<1x64, FP32>, out %y: tensor<4x64, FP32>) {
          %a = load %x[0, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, FP32>
          %b = neg %a : tile<4x64, FP32>
          %gamma = load %g[0, 0] valid [1, 64] {shape = [1, 64]} : tile<1x64, FP32>
          %twice = mul %gamma, 2.0 : tile<1x64, FP32>
          %c = mul %b, %twice : tile<4x64, FP32>
          store %c to %y[0, 0] valid [4, 64] {shape = [4, 64]}
        }""",
        after="""
        func f(%x: tensor<4x64, FP32>, %g: tensor<1x64, FP32>, out %y: tensor<4x64, FP32>) {
          %a = load %x[0, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, FP32>
          %gamma = load %g[0, 0] valid [1, 64] {shape = [1, 64]} : tile<1x64, FP32>
          sweep -> (%twice: tile<1x64, FP32>) {
            %twice.1 = mul %gamma, 2.0 : tile<1x64, FP32>
            yield %twice.1
          }
          sweep {
            %b = neg %a : tile<4x64, FP32>
            %c = mul %b, %twice : tile<4x64, FP32>
            store %c to %y[0, 0] valid [4, 64] {shape = [4, 64]}
            yield
          }
        }
        """,
    )


def test_a_load_of_what_the_chain_has_stored_waits_for_it():
    assert_pass(
        fuse_sweeps,
        before="""
        func f(%x: tensor<4x64, FP32>, inout %y: tensor<4x64, FP32>) {
          %a = load %x[0, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, FP32>
          %b = neg %a : tile<4x64, FP32>
          store %b to %y[0, 0] valid [4, 64] {shape = [4, 64]}
          %v = reshape_view %y {shape = [4, 64]} : tensor<4x64, FP32>
          %c = load %v[1, 0] valid [2, 64] {shape = [2, 64]} : tile<2x64, FP32>
          %d = add %c, %c : tile<2x64, FP32>
          store %d to %y[0, 0] valid [2, 64] {shape = [2, 64]}
        }""",
        after="""
        func f(%x: tensor<4x64, FP32>, inout %y: tensor<4x64, FP32>) {
          %a = load %x[0, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, FP32>
          sweep {
            %b = neg %a : tile<4x64, FP32>
            store %b to %y[0, 0] valid [4, 64] {shape = [4, 64]}
            yield
          }
          %v = reshape_view %y {shape = [4, 64]} : tensor<4x64, FP32>
          %c = load %v[1, 0] valid [2, 64] {shape = [2, 64]} : tile<2x64, FP32>
          sweep {
            %d = add %c, %c : tile<2x64, FP32>
            store %d to %y[0, 0] valid [2, 64] {shape = [2, 64]}
            yield
          }
        }
        """,
    )


# Between a chain and the store that ends it: things that must not move before what the chain reads or writes.
BETWEEN = {
    "a region that stores": """
          at "other" {
            %z = full {dtype = FP32, shape = [4, 64], value = 1.0} : tile<4x64, FP32>
            store %z to %x[0, 0] valid [4, 64] {shape = [4, 64]}
            yield
          }""",
    "a loop that writes an element": """
          for %i in range(0, 4, 1) {
            write %x, 3.0 at [%i, 5]
            yield
          }""",
    "an atomic store": """
          store %a to %x[0, 0] valid [4, 64] {atomic = "add", shape = [4, 64]}""",
    "a check": """
          check_window at [%n, 0] valid [1, 1] {access = "read", extents = [4, 4], subject = "x"}""",
    "a read of the element just stored": """
          store %b to %y[0, 0] valid [4, 64] {shape = [4, 64]}
          %e = read %y[0, 0] : FP32
          write %x, %e at [3, 3]""",
}


@pytest.mark.parametrize("what", BETWEEN)
def test_the_order_with_the_chain_before_is_kept_by(what: str):
    text = f"""
        func f(inout %x: tensor<4x64, FP32>, %n: INDEX, inout %y: tensor<4x64, FP32>) {{
          %a = load %x[0, 0] valid [4, 64] {{shape = [4, 64]}} : tile<4x64, FP32>
          %b = add %a, 2.0 : tile<4x64, FP32>{BETWEEN[what]}
          %c = mul %b, 3.0 : tile<4x64, FP32>
          store %c to %y[0, 0] valid [4, 64] {{shape = [4, 64]}}
        }}"""
    first, second, *_ = top_level(text, ("sweep", "at", "for", "store", "write", "check_window"))
    assert first.name == "sweep"
    assert second.name != "sweep"
    assert_native_agrees(text, n=1)


def test_stores_of_two_tensors_share_a_sweep():
    assert sweeps("""
        func f(%x: tensor<4x64, FP32>, out %y: tensor<4x64, FP32>, out %z: tensor<4x64, FP32>) {
          %a = load %x[0, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, FP32>
          %b = neg %a : tile<4x64, FP32>
          store %b to %y[0, 0] valid [4, 64] {shape = [4, 64]}
          store %a to %z[0, 0] valid [4, 64] {shape = [4, 64]}
        }""") == [["neg", "store", "store"]]


# Two stores into one tensor: where the second one goes, and which sweeps that leaves.
TWO_STORES = """
        func f(%x: tensor<4x128, FP32>, %n: INDEX, inout %y: tensor<16x512, FP32>) {{
          %n4 = s.add %n, 4 : INDEX
          %n80 = s.add 80, %n : INDEX
          %a = load %x[0, 0] valid [4, 128] {{shape = [4, 128]}} : tile<4x128, FP32>
          %s = row_sum %a valid [4, 128] : tile<4x1, FP32>
          %c = sub %a, %s : tile<4x128, FP32>
          %b = gather_mask %a {{pattern = "P0101"}} : tile<4x64, FP32>
          store %c to %y[{first}] valid [4, 128] {{shape = [4, 128]}}
          store %b to %y[{second}] valid [4, 64] {{shape = [4, 64]}}
        }}"""
APART = [
    ("0, 0", "0, 128"),  # the next columns
    ("0, 64", "0, 0"),  # the columns before
    ("0, 0", "4, 0"),  # the next rows
    ("%n, 0", "%n4, 0"),  # the next rows, wherever these are
]
OVERLAPPING = [
    ("0, 0", "0, 0"),  # the same columns
    ("0, 0", "0, 127"),  # one column in common
    ("0, 0", "1, 0"),  # rows of the first are written again, at other rows of the sweep
    ("0, 0", "0, %n"),  # nobody knows
    ("0, %n", "0, %n80"),
    ("0, 10", "0, %n"),
    ("0, %n", "%n, 256"),
]


@pytest.mark.parametrize(("first", "second"), APART)
def test_stores_that_are_surely_apart_share_a_sweep(first: str, second: str):
    text = TWO_STORES.format(first=first, second=second)
    assert len(sweeps(text)) == 1
    assert_native_agrees(text, n=3)


@pytest.mark.parametrize(("first", "second"), OVERLAPPING)
def test_a_store_that_may_overwrite_another_one_waits_for_its_sweep(first: str, second: str):
    text = TWO_STORES.format(first=first, second=second)
    assert [names[-1] for names in sweeps(text)] == ["store", "store"]
    assert_native_agrees(text, n=3)


def test_a_store_through_a_view_waits_for_the_sweep_that_stored_into_its_tensor():
    text = """
        func f(%x: tensor<4x64, FP32>, inout %y: tensor<4x128, FP32>) {
          %v = window %y[0, 32] {shape = [4, 64]} : tensor<4x64, FP32, strides 128x1>
          %a = load %x[0, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, FP32>
          %s = row_sum %a valid [4, 64] : tile<4x1, FP32>
          %c = sub %a, %s : tile<4x64, FP32>
          store %c to %y[0, 0] valid [4, 64] {shape = [4, 64]}
          store %a to %v[0, 0] valid [4, 64] {shape = [4, 64]}
        }"""
    assert [names[-1] for names in sweeps(text)] == ["store", "store"]
    assert_native_agrees(text)


def test_what_moves_data_across_rows_stays_outside():
    assert sweeps("""
        func f(%x: tensor<8x16, FP32>, out %y: tensor<16x8, FP32>) {
          %a = load %x[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, FP32>
          %b = neg %a : tile<8x16, FP32>
          %low = extract %b[4, 0] {shape = [4, 16]} : tile<4x16, FP32>
          %high = extract %b[0, 0] {shape = [4, 16]} : tile<4x16, FP32>
          %c = add %low, %high : tile<4x16, FP32>
          %t = transpose %c {axis1 = 0, axis2 = 1} : tile<16x4, FP32>
          store %t to %y[0, 2] valid [16, 4] {shape = [16, 4]}
        }""") == [["neg"], ["add"], ["store"]]


def top_level(text: str, names: tuple[str, ...]) -> list[Op]:
    return [op for op in fuse_sweeps(parse(text), MACHINE).body.ops if op.name in names]


def sweeps(text: str) -> list[list[str]]:
    """The operators in each sweep."""
    found = [op for op in ops_in(fuse_sweeps(parse(text), MACHINE)) if op.name == "sweep"]
    return [[inner.name for inner in op.blocks[0].ops[:-1]] for op in found]
