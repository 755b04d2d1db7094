"""What one region stores and the next loads stays a tile."""

from __future__ import annotations

import pytest
from pass_programs import (
    MACHINE,
    assert_native_agrees,
    assert_pass,
    assert_pass_changes_no_bit,
    assert_same_results,
)

from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.verify import verify
from tilewright.ir.walk import ops_in
from tilewright.passes.forward_stores import forward_stores

TWO_REGIONS = """
        func f(%x: tensor<4x32, FP32>, %n: INDEX, inout %t: tensor<8x32, FP32>, out %y: tensor<4x32, FP32>) {
          at "first" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %b = neg %a : tile<4x32, FP32>
            store %b to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
          at "second" {
            %c = load %t[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            store %c to %y[0, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
        }
        """
LOAD = "%c = load %t[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>"


def test_neighbouring_regions_are_one_and_the_load_is_the_stored_tile():
    assert_pass(
        forward_stores,
        before=TWO_REGIONS,
        after="""
        func f(%x: tensor<4x32, FP32>, %n: INDEX, inout %t: tensor<8x32, FP32>, out %y: tensor<4x32, FP32>) {
          at "first_second" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %b = neg %a : tile<4x32, FP32>
            store %b to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            store %b to %y[0, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
        }
        """,
        n=0,
    )


def test_a_load_of_some_of_its_columns_is_an_extract():
    text = changed(
        LOAD,
        "%c = load %t[0, 8] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>",
        "store %c to %y[0, 0] valid [4, 32] {shape = [4, 32]}",
        "store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}",
    )
    assert_pass(
        forward_stores,
        before=text,
        after="""
        func f(%x: tensor<4x32, FP32>, %n: INDEX, inout %t: tensor<8x32, FP32>, out %y: tensor<4x32, FP32>) {
          at "first_second" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %b = neg %a : tile<4x32, FP32>
            store %b to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            %c.1 = extract %b[0, 8] {shape = [4, 16]} : tile<4x16, FP32>
            store %c.1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
        n=0,
    )


def changed(*pairs: str) -> str:
    text = TWO_REGIONS
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


STILL_LOADS = {
    "of other rows": changed("%c = load %t[0, 0]", "%c = load %t[1, 0]"),
    "of rows that nobody knows": changed("%c = load %t[0, 0]", "%c = load %t[%n, 0]"),
    "after an element was written": changed(LOAD, "write %t, 3.0 at [%n, 5]\n            " + LOAD),
    "after a loop wrote": changed(
        LOAD,
        "for %i in range(0, 2, 1) {\n              write %t, 3.0 at [%i, 5]\n"
        "              yield\n            }\n            " + LOAD,
    ),
    "after a branch wrote": changed(
        LOAD,
        "%p = s.gt %n, 0 : BOOL\n            if %p {\n"
        "              write %t, 3.0 at [0, 5]\n              yield\n"
        "            } else {\n              yield\n            }\n            " + LOAD,
    ),
    "after a store through a view": changed(
        LOAD,
        "%e = load %x[0, 0] valid [1, 32] {shape = [1, 32]} : tile<1x32, FP32>\n"
        "            store %e to %v[0, 0] valid [1, 32] {shape = [1, 32]}\n            " + LOAD,
        '          at "second"',
        "          %v = window %t[2, 0] {shape = [2, 32]} : tensor<2x32, FP32>\n"
        '          at "second"',
    ),
    "through a view of other rows": changed(
        LOAD,
        LOAD.replace("%t", "%v"),
        '          at "second"',
        "          %v = window %t[1, 0] {shape = [4, 32]} : tensor<4x32, FP32>\n"
        '          at "second"',
    ),
    "of more rows than were stored": changed(
        LOAD,
        "%e = load %t[0, 0] valid [5, 32] {shape = [5, 32]} : tile<5x32, FP32>\n"
        "            %c = extract %e[1, 0] {shape = [4, 32]} : tile<4x32, FP32>",
    ),
    "of columns that begin before the store": changed(
        "store %b to %t[0, 0] valid [4, 32] {shape = [4, 32]}",
        "%h = extract %b[0, 0] {shape = [4, 16]} : tile<4x16, FP32>\n"
        "            store %h to %t[0, 16] valid [4, 16] {shape = [4, 16]}",
    ),
    "of a store that was valid in part": changed(
        "store %b to %t[0, 0] valid [4, 32]", "store %b to %t[0, 0] valid [3, 32]"
    ),
    "of a store that added": changed(
        "store %b to %t[0, 0] valid [4, 32] {shape", 'store %b to %t[0, 0] valid [4, 32] {atomic = "add", shape'
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", STILL_LOADS)
def test_memory_is_read_again_by_a_load(what: str):
    text = STILL_LOADS[what]
    after = forward_stores(parse(text), MACHINE)
    assert {"t", "v"} & {op.operands[0].name for op in ops_in(after) if op.name == "load"}
    assert_native_agrees(text, n=1)


def test_columns_that_were_stored_twice_are_those_of_the_later_store():
    text = """
        func f(%x: tensor<4x32, FP32>, inout %t: tensor<4x32, FP32>, out %y: tensor<4x8, FP32>) {
          at "both" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            store %a to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            %b = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %b to %t[0, 16] valid [4, 16] {shape = [4, 16]}
            %c = load %t[0, 24] valid [4, 8] {shape = [4, 8]} : tile<4x8, FP32>
            store %c to %y[0, 0] valid [4, 8] {shape = [4, 8]}
            yield
          }
        }"""
    assert_pass(
        forward_stores,
        before=text,
        after="""
        func f(%x: tensor<4x32, FP32>, inout %t: tensor<4x32, FP32>, out %y: tensor<4x8, FP32>) {
          at "both" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            store %a to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            %b = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %b to %t[0, 16] valid [4, 16] {shape = [4, 16]}
            %c.1 = extract %b[0, 8] {shape = [4, 8]} : tile<4x8, FP32>
            store %c.1 to %y[0, 0] valid [4, 8] {shape = [4, 8]}
            yield
          }
        }
        """,
    )
    assert_native_agrees(text)


SIDE_BY_SIDE = """
        func f(%x: tensor<4x32, FP32>, %n: INDEX, inout %t: tensor<4x64, FP32>, out %y: tensor<4x32, FP32>) {{
          at "both" {{
            %a = load %x[0, 0] valid [4, 32] {{shape = [4, 32]}} : tile<4x32, FP32>
            %m = s.add %n, {distance} : INDEX
            store %a to %t[0, %n] valid [4, 32] {{shape = [4, 32]}}
            %b = neg %a : tile<4x32, FP32>
            store %b to %t[0, %m] valid [4, 32] {{shape = [4, 32]}}
            %c = load %t[0, %n] valid [4, 32] {{shape = [4, 32]}} : tile<4x32, FP32>
            %d = load %t[0, %m] valid [4, 32] {{shape = [4, 32]}} : tile<4x32, FP32>
            %e = add %c, %d : tile<4x32, FP32>
            store %e to %y[0, 0] valid [4, 32] {{shape = [4, 32]}}
            yield
          }}
        }}"""


def test_stores_side_by_side_are_both_forwarded_and_overlapping_ones_are_not():
    assert "add %a, %b" in forwarded(SIDE_BY_SIDE.format(distance=32), n=0)
    assert "add %c, %b" in forwarded(SIDE_BY_SIDE.format(distance=31), n=1)
    assert "add %a, %b" in forwarded(SIDE_BY_SIDE.format(distance=-32), n=32)
    assert "add %c, %b" in forwarded(SIDE_BY_SIDE.format(distance=-31), n=31)


def forwarded(text: str, **scalars: int) -> str:
    """The program after the pass; the results are the same."""
    program = parse(text)
    verify(program)
    result = forward_stores(program, MACHINE)
    verify(result, after="forward_stores")
    assert_same_results(program, result, **scalars)
    assert_native_agrees(text, **scalars)
    return to_text(result)


def test_what_the_turn_before_stored_is_in_memory_only():
    text = """
        func f(%x: tensor<8x32, FP32>, inout %t: tensor<12x32, FP32>, out %y: tensor<8x32, FP32>) {
          for %i in range(0, 8, 4) {
            at "later" {
              %a = load %t[4, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
              store %a to %y[%i, 0] valid [4, 32] {shape = [4, 32]}
              yield
            }
            at "first" {
              %b = load %x[%i, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
              store %b to %t[4, 0] valid [4, 32] {shape = [4, 32]}
              yield
            }
            yield
          }
        }"""
    assert "%a = load %t[4, 0]" in forwarded(text)


def test_a_tile_keeps_its_numbers_when_the_memory_it_came_from_changes():
    text = changed(
        "%b = neg %a : tile<4x32, FP32>\n            store %b to",
        "store %a to",
        LOAD,
        "%e = load %t[4, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>\n"
        "            store %e to %x[0, 0] valid [4, 32] {shape = [4, 32]}\n            " + LOAD,
        "%x: tensor",
        "inout %x: tensor",
    )
    assert "store %a to %y" in forwarded(text, n=0)


def test_columns_that_begin_where_is_known_at_run_time_only_are_told_apart_by_their_distance():
    text = changed(
        "store %b to %t[0, 0]",
        "store %b to %t[0, %n]",
        LOAD,
        "%m = s.add %n, 8 : INDEX\n"
        "            %c = load %t[0, %m] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>",
        "store %c to %y[0, 0] valid [4, 32] {shape = [4, 32]}",
        "store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}",
        "%t: tensor<8x32",
        "%t: tensor<8x48",
    )
    assert "extract %b[0, 8]" in forwarded(text, n=11)


def test_an_axis_that_both_windows_drop_is_no_hindrance_and_one_that_only_one_drops_is():
    text = """
        func f(%x: tensor<2x4x32, FP32>, inout %t: tensor<2x4x32, FP32>, out %y: tensor<4x8, FP32>) {{
          at "both" {{
            %a = load %x[1, 0, 0] valid [1, 4, 32] {{drop = [0], shape = [1, 4, 32]}} : tile<4x32, FP32>
            store %a to %t[1, 0, 0] valid [1, 4, 32] {{drop = [0], shape = [1, 4, 32]}}
            {load}
            store %b to %y[0, 0] valid [4, 8] {{shape = [4, 8]}}
            yield
          }}
        }}"""
    dropped = (
        "%b = load %t[1, 0, 8] valid [1, 4, 8] {drop = [0], shape = [1, 4, 8]} : tile<4x8, FP32>"
    )
    whole = (
        "%w = load %t[1, 0, 8] valid [1, 4, 8] {shape = [1, 4, 8]} : tile<1x4x8, FP32>\n"
        "            %b = reshape %w {shape = [4, 8]} : tile<4x8, FP32>"
    )
    assert "load %t" not in forwarded(text.format(load=dropped))
    assert "load %t" in forwarded(text.format(load=whole))


@pytest.mark.parametrize(
    ("between", "regions"),
    [
        ("%p = s.add %n, 1 : INDEX", 1),
        ("%v = window %t[0, 0] {shape = [4, 32]} : tensor<4x32, FP32>", 1),
        ("%v = create {dtype = FP32, shape = [4, 32]} : tensor<4x32, FP32>", 1),
        ("%p = read %t[0, 0] : FP32", 2),
        ("write %t, 5.0 at [0, 3]", 2),
    ],
)
def test_regions_are_joined_over_what_may_as_well_come_before_them(between: str, regions: int):
    text = changed('          at "second"', f'          {between}\n          at "second"')
    after = forwarded(text, n=1)
    assert after.count('at "') == regions
    assert between in after


HANDS_OUT = (
    'at "first" {',
    'at "first" -> (%r: tile<4x32, FP32>) {',
    "store %b to %t[0, 0] valid [4, 32] {shape = [4, 32]}\n            yield",
    "store %b to %t[0, 0] valid [4, 32] {shape = [4, 32]}\n            yield %b",
)


def test_what_a_region_hands_out_the_joined_one_hands_out():
    text = changed(
        *HANDS_OUT,
        "store %c to %y",
        "%d = add %c, %r : tile<4x32, FP32>\n            store %d to %y",
        "            yield\n          }\n        }",
        "            yield\n          }\n          %e = add %r, %r : tile<4x32, FP32>\n"
        "          store %e to %t[4, 0] valid [4, 32] {shape = [4, 32]}\n        }",
    )
    after = forwarded(text, n=0)
    assert 'at "first_second" -> (%r: tile<4x32, FP32>)' in after
    assert "%d = add %b, %b" in after


def test_a_region_is_not_joined_over_what_reads_its_result():
    text = changed(
        *HANDS_OUT,
        '          at "second"',
        '          %v = reshape %r {shape = [8, 16]} : tile<8x16, FP32>\n          at "second"',
    )
    assert forwarded(text, n=0).count('at "') == 2


@pytest.mark.parametrize(
    ("valid", "tile"), [("4, %n", "%b"), ("%n, 32", "%b"), ("4, 32", "%b")], ids=str
)
def test_a_load_that_is_valid_in_part_is_the_stored_tile(valid: str, tile: str):
    text = changed(
        LOAD,
        f"%c = load %t[0, 0] valid [{valid}] {{shape = [4, 32]}} : tile<4x32, FP32>",
        "store %c to %y[0, 0] valid [4, 32]",
        f"store %c to %y[0, 0] valid [{valid}]",
    )
    assert f"store {tile} to %y[0, 0] valid [{valid}]" in forwarded(text, n=3)


def test_a_window_whose_place_is_spelt_otherwise_is_the_stored_tile():
    text = changed(
        "store %b to %t[0, 0]",
        "%p = s.mul %n, 4 : INDEX\n            store %b to %t[0, %p]",
        LOAD,
        "%q = s.mul %n, 4 : INDEX\n            " + LOAD.replace("%t[0, 0]", "%t[0, %q]"),
        "%t: tensor<8x32",
        "%t: tensor<8x48",
    )
    assert "store %b to %y" in forwarded(text, n=2)


def inner(body: str) -> str:
    """The second region with its load and its store in a loop or a branch."""
    store = "store %c to %y[0, 0] valid [4, 32] {shape = [4, 32]}"
    second = {"load2": LOAD.replace("%c", "%d"), "store2": store.replace("%c", "%d")}
    text = body.format(load=LOAD, store=store, **second)
    return changed(LOAD + "\n            " + store, text)


IN_A_LOOP = """for %i in range(0, 2, 1) {{
              {load}
              {store}
              yield
            }}"""
IN_A_LOOP_THAT_WRITES = """for %i in range(0, 2, 1) {{
              {load}
              {store}
              write %t, 3.0 at [%i, 5]
              yield
            }}"""
IN_A_BRANCH = """%p = s.gt %n, 0 : BOOL
            if %p {{
              {load}
              {store}
              write %t, 3.0 at [0, 5]
              yield
            }} else {{
              write %t, 4.0 at [0, 5]
              {load2}
              {store2}
              yield
            }}"""


def test_loops_and_branches_read_the_stored_tile():
    assert "store %b to %y" in forwarded(inner(IN_A_LOOP), n=1)
    for n in (0, 1):
        after = forwarded(inner(IN_A_BRANCH), n=n)
        assert "store %b to %y" in after
        assert "%d = load %t" in after


def test_a_loop_that_writes_reads_memory():
    assert "%c = load %t" in forwarded(inner(IN_A_LOOP_THAT_WRITES), n=1)


@pytest.mark.parametrize("dtype", ["BF16", "FP32", "INT8"])
def test_machine_code_gives_the_same_bits_from_a_tile_as_from_memory(dtype: str):
    acc = "INT32" if dtype == "INT8" else "FP32"
    inputs = f"%x: tensor<7x72, {dtype}>, %w: tensor<72x64, {dtype}>"
    assert_pass_changes_no_bit(
        forward_stores,
        f"""
        func f({inputs}, out %t: tensor<7x64, {acc}>, out %y: tensor<7x1, {acc}>) {{
          at "product" {{
            %a = load %x[0, 0] valid [7, 72] {{shape = [7, 72]}} : tile<7x72, {dtype}>
            %b = load %w[0, 0] valid [72, 64] {{shape = [72, 64]}} : tile<72x64, {dtype}>
            %c = matmul %a, %b, 7, 72, 64 : tile<7x64, {acc}>
            store %c to %t[0, 0] valid [7, 64] {{shape = [7, 64]}}
            yield
          }}
          at "sum" {{
            %d = load %t[0, 16] valid [7, 48] {{shape = [7, 48]}} : tile<7x48, {acc}>
            %e = mul %d, %d : tile<7x48, {acc}>
            %s = row_sum %e valid [7, 48] : tile<7x1, {acc}>
            store %s to %y[0, 0] valid [7, 1] {{shape = [7, 1]}}
            yield
          }}
        }}""",
    )
