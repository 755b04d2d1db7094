"""Tiles of a matrix product: exact where they must be, the same bits wherever a row lands, no
spills.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from llvmlite import ir
from native import MACHINES, Native, aligned, draw, machine_named, widened

from tilewright.codegen.llvm.microkernel import LANES, OPENING, Kernel, choose
from tilewright.dtypes import BF16, BOOL, FP16, FP32, INT8, INT32, DType
from tilewright.machine import Machine, aarch64, avx2, avx512, generic_x86_64
from tilewright.runtime import engine

DTYPES = (INT8, BF16, FP16, FP32)
every_family = pytest.mark.parametrize("name", MACHINES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def padded(kernel: Kernel, a: np.ndarray) -> np.ndarray:
    """a [M, K] with K filled up with zeros to a whole group, in rows that are 64 bytes longer."""
    k = kernel.k_groups(a.shape[1]) * kernel.k_group
    room = np.zeros((a.shape[0], k + 64 // a.itemsize), a.dtype)
    room[:, : a.shape[1]] = a
    return room[:, :k]


def product(native: Native, a: np.ndarray, b: np.ndarray, nr: int) -> np.ndarray:
    """a @ b by one tile; b has 16 nr columns and the panel is as wide as B."""
    c = np.zeros((a.shape[0], nr * LANES), np.int32 if a.dtype == np.int8 else np.float32)
    native.tile(padded(native.kernel, a), native.packed(b), c, nr)
    return c


@every_family
@every_dtype
def test_every_tile_shape_multiplies(name: str, dtype: DType) -> None:
    machine = machine_named(name)
    kernel = choose(dtype, machine)
    widths = range(1, kernel.nr + 1)
    shapes = [(kernel.mr, nr, False) for nr in widths] + [
        (m, kernel.nr, False) for m in range(1, kernel.mr)
    ]
    native = Native(kernel, machine, shapes)
    rng = np.random.default_rng(1)
    for m, nr, _ in shapes:
        for k in (1, 2, 3, 7, 16, 37):
            a, b = draw(kernel, rng, m, k), draw(kernel, rng, k, nr * LANES)
            c, want = product(native, a, b, nr), widened(a) @ widened(b)
            if dtype == INT8:
                assert (c == want).all()
            else:
                np.testing.assert_allclose(c, want, rtol=0, atol=k * 2e-6 * 10)


@every_family
def test_int8_products_of_the_largest_codes_do_not_saturate(name: str) -> None:
    machine = machine_named(name)
    kernel = choose(INT8, machine)
    native = Native(kernel, machine, [(1, 1, False)])
    for x, y in ((-128, -128), (-128, 127), (127, 127), (127, -128)):
        a, b = np.full((1, 1023), x, np.int8), np.full((1023, 16), y, np.int8)
        assert (product(native, a, b, 1) == 1023 * x * y).all()


@every_family
def test_int8_padding_of_k_counts_for_nothing_whatever_a_holds_there(name: str) -> None:
    machine = machine_named(name)
    kernel = choose(INT8, machine)
    native = Native(kernel, machine, [(1, 1, False)])
    a, b = (
        np.full((1, 8), 77, np.int8),
        np.full((5, 16), -3, np.int8),
    )  # rows 5 to 7 of the panel are padding
    c = np.zeros((1, 16), np.int32)
    native.tile(a[:, : kernel.k_groups(5) * kernel.k_group], native.packed(b), c, 1)
    assert (c == 5 * 77 * -3).all()


@every_family
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=str)
def test_a_sum_runs_over_k_in_order_with_one_accumulator(name: str, dtype: DType) -> None:
    """2^24 + 1 rounds back to 2^24, so in order the sum is 0; any regrouping finds the ones again.
    Arm's BF16 instructions round to odd: 2^24 + 1 is 2^24 + 2, which no further one moves.
    """
    machine = machine_named(name)
    kernel = choose(dtype, machine)
    native = Native(kernel, machine, [(1, 1, False)])
    big = 4096.0  # its square is 2^24
    column: np.ndarray = np.zeros((32 * kernel.k_group, 1), np.float32)
    column[0], column[2 : 8 * kernel.k_group : kernel.k_group], column[-1] = big, 1.0, -big
    column[1] = 0
    row: np.ndarray = np.ones((1, column.size), np.float32)
    row[0, 0] = row[0, -1] = big
    b: np.ndarray = np.repeat(column, 16, axis=1)
    if dtype == BF16:
        row, b = ((x.view(np.uint32) >> 16).astype(np.uint16) for x in (row, b))
    elif dtype == FP16:
        row, b = row.astype(np.float16), b.astype(np.float16)
    left = 2 if kernel.name.startswith("bf16_bf") else 0
    assert (product(native, row, b, 1) == left).all()


def test_the_two_bf16_instructions_of_arm_give_the_same_bits() -> None:
    rng = np.random.default_rng(9)
    results: list[np.ndarray] = []
    for name in ("arm-dot", "arm-matrix"):
        machine = machine_named(name)
        kernel = choose(BF16, machine)
        native = Native(kernel, machine, [(3, 1, False)])
        if not results:
            a, b = draw(kernel, rng, 3, 333), draw(kernel, rng, 333, LANES)
        results.append(product(native, a, b, 1))
    assert (results[0].view(np.uint32) == results[1].view(np.uint32)).all()


@every_family
@every_dtype
def test_a_row_has_the_same_bits_in_every_tile(name: str, dtype: DType) -> None:
    machine = machine_named(name)
    kernel = choose(dtype, machine)
    shapes = [(m, nr, False) for m in (1, kernel.mr) for nr in sorted({1, kernel.nr})]
    native = Native(kernel, machine, shapes)
    rng = np.random.default_rng(2)
    a, b = draw(kernel, rng, kernel.mr, 203), draw(kernel, rng, 203, kernel.nr * LANES)
    whole = product(native, a, b, kernel.nr)
    for i in range(kernel.mr):
        assert (
            product(native, a[i : i + 1], b, kernel.nr).view(np.uint32) == whole[i].view(np.uint32)
        ).all()
    for v in range(kernel.nr):
        columns = np.ascontiguousarray(b[:, v * LANES : (v + 1) * LANES])
        part = whole[:, v * LANES : (v + 1) * LANES]
        assert (product(native, a, columns, 1).view(np.uint32) == part.view(np.uint32)).all()


@every_family
@every_dtype
@pytest.mark.parametrize("fetch", [0, 1, 3])
def test_blocks_side_by_side_have_the_bits_of_one_after_the_other(
    name: str, dtype: DType, fetch: int
) -> None:
    machine = machine_named(name)
    kernel = choose(dtype, machine)
    beside = 3
    native = Native(kernel, machine, [(1, kernel.nr, False), (1, kernel.nr, False, beside, fetch)])
    rng, width = np.random.default_rng(5), kernel.nr * LANES
    a, b = draw(kernel, rng, 1, 77), draw(kernel, rng, 77, beside * width)
    a, panel = padded(kernel, a), native.packed(b)
    got, one = (np.zeros((1, n), np.uint32) for n in (beside * width, width))
    native.tile(a, panel, got, kernel.nr, ways=(beside, fetch))
    for j in range(beside):
        native.tile(a, panel, one, kernel.nr, at=j * kernel.block_bytes(77))
        assert (got[:, j * width : (j + 1) * width] == one).all()


@every_family
@every_dtype
def test_a_chain_over_k_has_the_bits_of_one_call(name: str, dtype: DType) -> None:
    machine = machine_named(name)
    kernel = choose(dtype, machine)
    native = Native(kernel, machine, [(kernel.mr, 1, False), (kernel.mr, 1, True)])
    rng = np.random.default_rng(3)
    a, b = draw(kernel, rng, kernel.mr, 128), draw(kernel, rng, 128, LANES)
    chained = np.zeros((kernel.mr, LANES), np.int32 if dtype == INT8 else np.float32)
    for first, last in ((0, 4), (4, 72), (72, 128)):
        piece = np.ascontiguousarray(b[first:last])
        native.tile(
            padded(kernel, a[:, first:last]), native.packed(piece), chained, 1, acc=first > 0
        )
    assert (chained.view(np.uint32) == product(native, a, b, 1).view(np.uint32)).all()


@every_family
def test_a_tile_writes_its_own_elements_and_nothing_else(name: str) -> None:
    machine = machine_named(name)
    kernel = choose(FP32, machine)
    native = Native(kernel, machine, [(1, 1, False), (kernel.mr, kernel.nr, False)])
    rng = np.random.default_rng(4)
    for m, nr in ((1, 1), (kernel.mr, kernel.nr)):
        a, b = draw(kernel, rng, m, 9), draw(kernel, rng, 9, nr * LANES)
        field = np.full((m + 2, nr * LANES + 6), 7.25, np.float32)
        native.tile(padded(kernel, a), native.packed(b), field[1 : m + 1, 3:-3], nr)
        edge = field.copy()
        edge[1 : m + 1, 3:-3] = 7.25
        assert (edge == 7.25).all()
        np.testing.assert_allclose(field[1 : m + 1, 3:-3], widened(a) @ widened(b), atol=1e-5)


@every_family
def test_half_precision_widens_every_finite_code_and_infinity_exactly(name: str) -> None:
    machine = machine_named(name)
    kernel = choose(FP16, machine)
    native = Native(kernel, machine, [(1, 1, False)])
    codes = np.arange(65536, dtype=np.uint16).view(np.float16)
    numbers = codes[~np.isnan(codes)]
    for values in np.resize(numbers, (numbers.size // 16 + 1, 16))[::7]:
        b = values.reshape(1, 16)
        assert (product(native, np.ones((1, 1), np.float16), b, 1) == b.astype(np.float32)).all()
        a = values[3:4].reshape(1, 1)
        assert (product(native, a, np.ones((1, 16), np.float16), 1) == a.astype(np.float32)).all()


def vector_spills(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    arm = [line for line in lines if re.match(r"st[rp]\s+q.*\[sp", line)]
    moves = (line for line in lines if line.startswith(("vmov", "mov")))
    return arm + [line for line in moves if "mm" in line and "(%rsp)" in line.split(",")[-1]]


@pytest.mark.parametrize(
    ("machine", "dtype", "tile"),
    [
        (avx512("avx512vnni", "avx512bf16"), INT8, (6, 4)),
        (avx512("avx512vnni", "avx512bf16"), BF16, (6, 4)),
        (avx512(), FP32, (6, 4)),
        (avx512(), BF16, (6, 2)),
        (avx2("avxvnni"), INT8, (6, 1)),
        (avx2(), FP32, (6, 1)),
        (avx2(), BF16, (5, 1)),
        (avx2(), FP16, (5, 1)),
        (aarch64(), FP32, (6, 1)),
        (aarch64(), BF16, (3, 1)),
        (aarch64("dotprod"), INT8, (6, 1)),
        (aarch64("i8mm"), INT8, (6, 1)),
        (aarch64("bf16", "i8mm"), BF16, (6, 1)),
    ],
    ids=lambda value: value.name if isinstance(value, Machine) else str(value),
)
def test_the_largest_tile_fits_the_registers(
    machine: Machine, dtype: DType, tile: tuple[int, int]
) -> None:
    kernel = choose(dtype, machine)
    assert (kernel.mr, kernel.nr) == tile
    for acc in (False, True):
        module = ir.Module("tile")
        kernel.microkernel(module, *tile, acc).linkage = ""
        assert vector_spills(engine.assembly(str(module), machine)) == []


@pytest.mark.parametrize("dtype", [INT8, BF16, FP32], ids=str)
@pytest.mark.parametrize("name", ["avx512-vnni-bf16", "avx512", "avx2-vnni", "avx2"])
def test_blocks_side_by_side_fit_the_registers(name: str, dtype: DType) -> None:
    machine = MACHINES[name]()
    kernel = choose(dtype, machine)
    for m in range(1, kernel.mr + 1):
        module = ir.Module("tile")
        # One row only reads; what comes next is fetched by larger products.
        fetch = 0 if m == 1 else 1
        kernel.microkernel(module, m, kernel.nr, side=kernel.side(m), fetch=fetch).linkage = ""
        assert vector_spills(engine.assembly(str(module), machine)) == [], m
    assert kernel.side(1) * kernel.nr * LANES // kernel.isa.part >= 4


# Lines of a later page in every turn, or of the next block before the first.
@pytest.mark.parametrize(
    ("machine", "lines"),
    [(avx512("avx512vnni"), 1), (avx2(), OPENING)],
    ids=["avx512", "avx2"],
)
def test_a_tile_that_streams_asks_only_for_how_what_comes_next_begins(
    machine: Machine, lines: int
) -> None:
    kernel = choose(INT8, machine)
    module = ir.Module("tile")
    kernel.microkernel(module, 1, kernel.nr).linkage = ""
    assert engine.assembly(str(module), machine).count("\tprefetch") == lines


@pytest.mark.parametrize(
    ("features", "dtype", "instruction"),
    [
        ((), INT8, r"\bmla\b"),
        (("dotprod",), INT8, r"\bsdot\b"),
        (("dotprod", "i8mm"), INT8, r"\bsmmla\b"),
        (("bf16",), BF16, r"\bbfdot\b"),
        (("bf16", "i8mm"), BF16, r"\bbfmmla\b"),
        ((), BF16, r"\bfmla\b"),
        ((), FP16, r"\bfcvtl"),
        ((), FP32, r"\bfmla\b"),
    ],
)
def test_arm_code_uses_the_instruction_it_was_chosen_for(
    features: tuple[str, ...], dtype: DType, instruction: str
) -> None:
    machine = aarch64(*features)
    kernel = choose(dtype, machine)
    module = ir.Module("arm")
    for fn in (
        kernel.microkernel(module, kernel.mr, kernel.nr),
        kernel.pack(module),
        kernel.pack(module, True),
    ):
        fn.linkage = ""
    try:
        text = engine.assembly(str(module), machine)
    except engine.NoSuchTarget:
        pytest.skip("this LLVM has no AArch64")
    assert re.search(instruction, text)
    assert not re.search(r"\bbl\s+(__|fma|trunc|extend)", text)  # no library call hides in the loop


def test_no_machine_needs_a_library_routine_to_multiply() -> None:
    """An `fma` or a half conversion without hardware support would be a call into a library that is
    not linked.
    """
    for machine in (generic_x86_64(), avx2(), avx512()):
        module = ir.Module("calls")
        for dtype in DTYPES:
            kernel = choose(dtype, machine)
            kernel.microkernel(module, 1, 1).linkage = ""
            kernel.pack(module).linkage = ""
        assert "call" not in engine.assembly(str(module), machine)


def test_a_tile_that_would_spill_is_refused() -> None:
    kernel = choose(INT8, avx512("avx512vnni"))
    with pytest.raises(ValueError, match=r"7 x 4.*up to 6 x 4"):
        kernel.microkernel(ir.Module(), 7, 4)


@pytest.mark.parametrize("dtype", [INT32, BOOL], ids=str)
def test_a_dtype_without_products_is_refused(dtype: DType) -> None:
    with pytest.raises(ValueError, match=f"no matrix product of {dtype}"):
        choose(dtype, generic_x86_64())


def test_functions_are_made_once_and_only_when_asked_for() -> None:
    module = ir.Module("lazy")
    kernel = choose(BF16, avx512("avx512bf16"))
    assert kernel.microkernel(module, 2, 4) is kernel.microkernel(module, 2, 4)
    assert kernel.microkernel(module, 2, 4, acc=True) is not kernel.microkernel(module, 2, 4)
    assert sorted(f.name for f in module.functions if not f.is_declaration) == [
        "mk_bf16_dotx16_2x4",
        "mk_bf16_dotx16_2x4_acc",
    ]
    assert aligned(1).ctypes.data % 64 == 0
