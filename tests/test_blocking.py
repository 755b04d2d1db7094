"""How products are cut: one rule for passes and code generation, with reasons that can be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pass_programs import assert_native_agrees, natively
from test_microkernel import DTYPES
from typer.testing import CliRunner

from tilewright import blocking
from tilewright.blocking import (
    MOST_GROUP_BYTES,
    choose_blocking,
    chunk_rows,
    fetches,
    panel_fits,
    product_order,
    register_tile,
    row_tiles,
    way_of,
)
from tilewright.cli.app import app
from tilewright.cli.blocking import paragraphs, products
from tilewright.cli.show import front_end
from tilewright.codegen.llvm.microkernel import choose
from tilewright.dtypes import BF16, FP32, INT8, DType
from tilewright.ir.parser import parse
from tilewright.machine import KIB, MIB, Machine, aarch64, avx2, avx512, generic_x86_64
from tilewright.passes.block_rows import block_rows

MACHINES = {
    "avx512": avx512("avx512vnni", "avx512bf16"),
    "avx2": avx2(),
    "avx2-vnni": avx2("avxvnni"),
    "x86-64": generic_x86_64(),
    "arm": aarch64(),
    "arm-dot": aarch64("dotprod", "bf16"),
    "arm-matrix": aarch64("dotprod", "bf16", "i8mm"),
}
every_machine = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@every_machine
@every_dtype
def test_code_is_made_for_the_tile_that_passes_cut_by(machine: Machine, dtype: DType) -> None:
    way, kernel = way_of(dtype, machine), choose(dtype, machine)
    assert (kernel.mr, kernel.nr) == register_tile(way, machine)
    assert (kernel.isa.name, kernel.isa.part, kernel.isa.tall) == (way.name, way.part, way.tall)
    assert MOST_GROUP_BYTES % kernel.group_bytes == 0


@every_machine
@every_dtype
def test_no_larger_tile_of_that_width_would_fit(machine: Machine, dtype: DType) -> None:
    way = way_of(dtype, machine)
    mr, nr = register_tile(way, machine)
    if way.registers(mr, nr) < machine.vector_registers:  # else the smallest, which spills
        assert (
            mr + way.tall > blocking.MOST_ROWS
            or way.registers(mr + way.tall, nr) >= machine.vector_registers
        )


PRODUCT = """
    func f(%x: tensor<13x8, INT8>, %w: tensor<8x16, INT8>, out %y: tensor<13x16, INT32>) {
      %a = load %x[0, 0] valid [13, 8] {shape = [13, 8]} : tile<13x8, INT8>
      %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
      %panel = pack %b, 8, 16 : panel<8x16, INT8>
      %c = matmul_packed %a, %panel, 13 : tile<13x16, INT32>
      store %c to %y[0, 0] valid [13, 16] {shape = [13, 16]}
    }"""


@pytest.mark.parametrize(
    ("l2", "shared", "rows"),
    [
        (2 * 72 * 6, True, 6),  # half of it holds six rows of 16 sums and 8 codes
        (2 * 72 * 6, False, 4),  # 13 rows for four tasks
        (MIB, True, 7281),
        (64, True, 4),  # the least
    ],
)
def test_a_chunk_of_rows_takes_half_of_the_second_level_cache_or_gives_every_core_work(
    l2: int, shared: bool, rows: int
) -> None:
    machine = replace(MACHINES["avx512"], l2=l2, cores=1)
    assert chunk_rows(13, 16, 8, INT8, machine, shared) == rows
    if not shared:
        (loop,) = (op for op in block_rows(parse(PRODUCT), machine).body.ops if op.name == "for")
        assert loop.operands[1].value == row_tiles(13, rows)


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_no_bit_depends_on_the_rows_of_a_chunk(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
    func f(%x: tensor<13x64, BF16>, %w: tensor<64x32, BF16>, out %y: tensor<13x32, FP32>) {
      %a = load %x[0, 0] valid [13, 64] {shape = [13, 64]} : tile<13x64, BF16>
      %b = load %w[0, 0] valid [64, 32] {shape = [64, 32]} : tile<64x32, BF16>
      %c = matmul %a, %b, 13, 64, 32 : tile<13x32, FP32>
      %d = mul %c, %c : tile<13x32, FP32>
      store %d to %y[0, 0] valid [13, 32] {shape = [13, 32]}
    }"""
    wanted = natively(program)["y"]
    monkeypatch.setenv("TILEWRIGHT_CACHE", "0")  # a key does not name the patched rule
    monkeypatch.setattr("tilewright.passes.block_rows.chunk_rows", lambda *_: rows)
    assert natively(program)["y"].equal(wanted)
    assert_native_agrees(
        PRODUCT.replace("%panel = pack %b, 8, 16 : panel<8x16, INT8>", "").replace(
            "matmul_packed %a, %panel, 13", "matmul %a, %b, 13, 8, 16"
        )
    )


def test_every_number_of_a_blocking_has_its_reason() -> None:
    machine = replace(MACHINES["avx512"], l1d=48 * KIB, l2=MIB)
    found = {c.name: c for c in choose_blocking(6, 512, 1024, INT8, machine, rows=128)}
    assert {name: c.value for name, c in found.items()} == {
        "MR": 6, "NR": 4, "KC": 1024, "MC": 6, "NC": 512,
    }  # fmt: skip
    assert found["MR"].why == "i8_vnni 6 x 4: 29 of 32 registers; more than 6 rows gain nothing"
    assert "a block of 64 columns is 64 KiB, held by L2 (1 MiB)" in found["KC"].why
    assert found["MC"].why == (
        "128 rows in 22 chunks of 5 or 6, for each the panel streams by once; 18 KiB of left side and results"
    )
    assert found["NC"].why == "8 blocks, 512 KiB: within 50% of L2 (1 MiB)"


def test_reasons_name_the_limit_that_binds() -> None:
    def why(name: str, m: int, n: int, k: int, machine: Machine = MACHINES["avx2"]) -> str:
        return next(c.why for c in choose_blocking(m, n, k, BF16, machine) if c.name == name)

    assert "6 x 1 would take 17" in why("MR", 3, 64, 4096)
    assert "more than any cache holds" in why("KC", 3, 64, 1 << 20)
    assert "of 4096; a block of 16 columns is 32 KiB" in why("KC", 13, 64, 4096)
    assert "most of L2" in why("NC", 3, 48, 4096)
    assert "no less than L2" in why("NC", 3, 64, 4096)
    assert "all rows, in 3 register tiles" in why("MC", 13, 64, 64)


def test_a_panel_takes_half_of_the_second_level_cache_at_most() -> None:
    machine = replace(MACHINES["avx512"], l2=MIB)
    assert panel_fits(1024, 512, machine)
    assert not panel_fits(1024, 513, machine)


def test_a_wide_block_is_one_stream_and_fetched_where_several_tiles_use_it() -> None:
    wide, narrow = choose(INT8, MACHINES["avx512"]), choose(INT8, MACHINES["avx2"])
    assert [wide.side(m) for m in (1, 2, 6)] == [1, 1, 1]
    assert [fetches(m, wide.mr, wide.nr) for m in (1, 6, 7, 128)] == [False, False, True, True]
    assert narrow.side(1) > narrow.side(narrow.mr) == 1
    assert [fetches(m, narrow.mr, narrow.nr) for m in (1, 2, 128)] == [False, True, True]


def test_show_prints_every_product_of_a_kernel() -> None:
    result = CliRunner().invoke(app, ["show", "prefill", "--blocking", "--preset", "demo"])
    assert result.exit_code == 0, result.output
    for product in ("q_head  INT8 [128, 128] x [128, 128]", "BF16 [128, 256] x [256, 64]"):
        assert product in result.output
    assert result.output.count("\n  MR ") == result.output.count("\n  NC ") == 3


@every_machine
def test_products_are_told_for_any_machine(machine: Machine) -> None:
    found = products(front_end("decode", "demo", 5), machine)
    assert {p.rows for p in found} == {5}
    heads = next(p for p in found if p.dtype == INT8)
    assert heads.choices[0].value == choose(INT8, machine).mr
    assert paragraphs(found).count("steps.py") == len(set(found))


def test_machines_with_one_order_of_products_are_those_that_numerics_names() -> None:
    """docs/numerics.md has a row for each: dot instructions, Arm's two of one order, FMA, and plain x86-64."""
    orders = {name: product_order(BF16, machine) for name, machine in MACHINES.items()}
    assert orders["arm-dot"] == orders["arm-matrix"]
    assert orders["avx2"] == orders["avx2-vnni"] == orders["arm"]
    assert len({orders[name] for name in ("avx512", "avx2", "x86-64", "arm-dot")}) == 4


def test_a_panel_may_outgrow_the_second_level_where_rows_are_many_and_widened():
    """The left side is made FP32 once a task: wider tasks do that less often. Bits do not depend on it."""
    streams = blocking.panel_streams
    assert streams(128, 256, 4096, BF16, avx2())
    assert not panel_fits(4096 * 2, 256, avx2())
    assert not streams(8, 256, 4096, BF16, avx2())  # nothing would pay for the panel's way
    assert not streams(128, 4096, 4096, BF16, avx2())  # not even the third level holds it
    assert not streams(128, 256, 4096, BF16, avx512("avx512vnni", "avx512bf16"))
    assert not streams(128, 256, 4096, FP32, avx2())
