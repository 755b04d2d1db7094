"""How products are cut: the instruction of a machine, its register tile, and what a task takes at a time.

    C[M, N] (+)= A[M, K] * B[K, N], with B packed

    MR x NR   the register tile: rows of A, and vectors of 16 columns of the panel
    KC        K that a register tile walks over before it leaves the registers
    MC        rows that a column block of the panel is used for before the next block
    NC        columns of the panel that a task takes

Facts and choices, no code: passes cut programs by them, `codegen/llvm` makes the tiles, and
`tilewright show KERNEL --blocking` prints them with their reasons.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.dtypes import BF16, FP16, FP32, INT8, DType
from tilewright.machine import KIB, MIB, Machine

LANES = 16  # columns of a panel vector, on every machine: panels and tests look the same everywhere

# Past this a tile gains nothing, and remainders get longer.
MOST_ROWS = 6

# Share of the second-level cache that the panel of one task may take; the rest is for rows, results
# and the next panel.
PANEL_SHARE = 0.5

# Share of it that the left sides and the results of a chunk of rows may take.
ROW_SHARE = 0.5

# Bytes of a column's K that all register tiles take before the next ones: a column block's piece of them is an
# eighth of a second-level cache or less. PRO on Zen 4, 128 tokens, K = 1536 in INT8: 37.9 ms in two pieces, 37.7
# in one.
KC_BYTES = 2048

# Neighbouring column blocks at once at most; from six on LLVM spills where registers would do.
MOST_SIDE = 5

# Vectors of 16 columns from which on a block alone hides the latency of a sum, and is a stream that the
# processor's own prefetcher keeps up with.
WIDE_BLOCK = 4

# Rows from which on a product of narrow blocks asks for the next one while it works on one. Zen 3, two
# threads: 2 rows 1.26 ms without and 0.94 with, 4 rows 1.77 and 1.41, 128 rows 87.0 and 88.7 % of the peak; one
# row, which does nothing but read, 0.90 and 0.99 ms.
FETCHING_ROWS = 2

# Rows of a chunk from which on it matters little that a panel comes from the third-level cache.
STREAMED_ROWS = 32

# Rows of a chunk at least, and chunks a core where the chunks are what threads share out, so that the
# last ones end together.
LEAST_ROWS = 4
CHUNKS_A_CORE = 4

# Bytes of the longest group of K that any instruction takes at once (`smmla`, `bfmmla`). A window of
# a packed matrix starts on a multiple of them whatever machine it is for.
MOST_GROUP_BYTES = 8


@dataclass(frozen=True, slots=True)
class Way:
    """How a machine multiplies two dtypes; its code is the class of that name in codegen/llvm.

    part, tall:  columns and rows of C in one register of accumulators.
    b_registers, a_registers: live registers that a panel part and a group of A take, with their
                 temporaries.
    options:     further arguments of the class: `fused`, `convert`.
    """

    name: str
    part: int
    tall: int = 1
    b_registers: int = 1
    a_registers: int = 1
    options: tuple[bool, ...] = ()

    @property
    def widens(self) -> bool:
        """Whether the left side is made FP32 before it is multiplied."""
        return self.name in ("bf16_wide", "fp16_wide")

    def registers(self, mr: int, nr: int) -> int:
        """Registers that a tile keeps busy."""
        rows, parts = -(-mr // self.tall), nr * LANES // self.part
        if self.tall > 1:  # the tile holds its rows and takes the panel part by part
            return rows * (parts + self.a_registers) + self.b_registers
        return rows * parts + parts * self.b_registers + self.a_registers


def way_of(dtype: DType, machine: Machine) -> Way:
    """The best way to multiply `dtype` operands here. ValueError for a dtype without products."""
    part = machine.vector_bits // 32
    fused = machine.is_aarch64 or machine.has("fma") or part == 16
    if dtype == INT8:
        return _int8(machine, part)
    if dtype == BF16:
        if part == 16 and machine.has("avx512bf16"):
            return Way("bf16_dot", part)
        if machine.is_aarch64 and machine.has("bf16", "i8mm"):
            return Way("bf16_bfmmla", 2, tall=2)
        if machine.is_aarch64 and machine.has("bf16"):
            return Way("bf16_bfdot", part)
        # The pairs of a panel part stay until their other half is wanted. LLVM schedules NEON code so
        # that many more vectors are on their way: 4 rows spill, which registers would allow.
        rows = 1 if machine.is_x86 else 8
        return Way("bf16_wide", part, b_registers=2, a_registers=rows, options=(fused,))
    if dtype == FP16:
        convert = machine.is_aarch64 or machine.has("f16c") or part == 16
        return Way("fp16_wide", part, a_registers=2, options=(fused, convert))
    if dtype == FP32:
        return Way("f32_fma", part, options=(fused,))
    raise ValueError(f"no matrix product of {dtype}; there are those of BF16, FP16, FP32 and INT8")


def product_order(dtype: DType, machine: Machine) -> str:
    """What the bits of a product depend on beside K: machines with one answer give one result."""
    way = way_of(dtype, machine)
    # `bfmmla` is two steps of `bfdot` (docs/numerics.md).
    return (
        "bf16_bfdot" if way.name == "bf16_bfmmla" else " ".join(map(str, (way.name, *way.options)))
    )


def _int8(machine: Machine, part: int) -> Way:
    if machine.is_x86:
        vnni = machine.has("avx512vnni") if part == 16 else part == 8 and machine.has("avxvnni")
        # without it: a group of A, and the products on their way into the accumulator
        return Way("i8_vnni", part) if vnni else Way("i8_madd", part, a_registers=2)
    if machine.is_aarch64 and machine.has("i8mm"):
        return Way("i8_smmla", 2, tall=2)
    if machine.is_aarch64 and machine.has("dotprod"):
        return Way("i8_sdot", part)
    return Way("i8_plain", part, a_registers=2)


def register_tile(way: Way, machine: Machine) -> tuple[int, int]:
    """(MR, NR): the largest tile that does not spill, one register to spare.

    On 32 wide registers 6 x 4 (24 + 4 + 1) reaches the peak, 7 x 4 spills and halves the speed.
    Where a vector of 16 columns takes several registers, NR is 1.
    """
    for nr in (4, 2, 1):
        rows = [
            mr
            for mr in range(way.tall, MOST_ROWS + 1, way.tall)
            if way.registers(mr, nr) < machine.vector_registers
        ]
        if rows and (rows[-1] == MOST_ROWS or nr == 1):
            return rows[-1], nr
    return way.tall, 1


def sides(way: Way, mr: int, nr: int, machine: Machine) -> tuple[int, ...]:
    """For tiles of 1, 2 … mr rows: how many neighbouring column blocks one takes side by side.

    Narrow blocks: as many as registers allow, and never more sums than the largest tile has. That hides the
    latency of adding to one sum, and memory gives more to several streams than to one: one token on Zen 3,
    weights from memory, reads 4 to 9 % more a second from five than from four or two. Of wide blocks one: each
    jump to another stream costs. One token on Zen 4, weights from memory: 1.57 ms with four streams, 1.53 with one.
    """
    if nr >= WIDE_BLOCK:
        return (1,) * mr
    return tuple(
        next(
            side
            for side in range(min(mr // m, MOST_SIDE), 0, -1)
            if side == 1 or _registers_beside(way, m, nr, side) < machine.vector_registers
        )
        for m in range(1, mr + 1)
    )


def _registers_beside(way: Way, m: int, nr: int, side: int) -> int:
    """Registers of a tile that takes its blocks one after the other in every group of K: the rows stay, of the
    panel no more than a block, or two parts where one row uses them at once."""
    if way.tall > 1:
        return way.registers(m, nr * side)
    parts = nr * LANES // way.part
    held = parts if m > 1 else 2
    return m * side * parts + (held + m * way.a_registers) * way.b_registers


def fetches(rows: int, mr: int, nr: int) -> bool:
    """Whether a product asks for the next column block while it works on one.

    Wide blocks: where several register tiles use a block, since all but the first leave memory idle. A single
    tile streams, and the processor's prefetcher does that better: what a program asks for holds up the loads
    behind it. Zen 4, two threads: 4 rows 1.73 ms with and 1.44 without, weights from memory; 8 rows (two tiles)
    1.14 and 1.38 where the third level has much of them, and the same where they come from memory.
    """
    return rows > mr if nr >= WIDE_BLOCK else rows >= FETCHING_ROWS


def row_tiles(rows: int, mr: int) -> int:
    """How many tiles of at most `mr` rows: 128 rows in tiles of 6 are 22, of 5 or 6 rows each."""
    return -(-rows // mr)


def piece_of(k: int, dtype: DType) -> int:
    """KC of a product of several register tiles."""
    return min(k, KC_BYTES // dtype.nbytes)


def chunk_rows(rows: int, n: int, k: int, dtype: DType, machine: Machine, shared: bool) -> int:
    """MC at most: rows that a panel of n columns streams by once for. `shared`: their thread has company."""
    row_bytes = 4 * n + piece_of(k, dtype) * dtype.nbytes
    most = max(LEAST_ROWS, int(ROW_SHARE * machine.l2) // row_bytes)
    if shared:
        return most
    return max(LEAST_ROWS, min(most, -(-rows // (CHUNKS_A_CORE * machine.cores))))


def panel_fits(k_bytes: int, columns: int, machine: Machine) -> bool:
    """Whether the panel of so many columns leaves the second-level cache its share."""
    return k_bytes * columns <= PANEL_SHARE * machine.l2


def panel_streams(rows: int, columns: int, k: int, dtype: DType, machine: Machine) -> bool:
    """Whether a panel may come from the third level: where the left side is widened for every task anew, and the
    panel's way through the caches is shared by many rows. AMD EPYC (Zen 3), BF16 [128, 4096] x [4096, 4096]: 55.3 ms
    in tasks of 64 columns, whose panel the second level holds, 51.2 ms in tasks of 256.
    """
    if (
        not way_of(dtype, machine).widens
        or k * dtype.nbytes * columns > machine.l3 // machine.cores
    ):
        return False
    most = chunk_rows(rows, columns, k, dtype, machine, shared=True)
    return rows // row_tiles(rows, most) >= STREAMED_ROWS


# -- with reasons ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """One number and why it is that one."""

    name: str
    value: int
    why: str


def choose_blocking(
    m: int, n: int, k: int, dtype: DType, machine: Machine, rows: int | None = None
) -> tuple[Choice, ...]:
    """MR, NR, KC, MC and NC of a product of [m, k] by a panel [k, n], each with its reason.

    rows: how many of A's rows there are in all, when a loop takes them `m` at a time.
    """
    way = way_of(dtype, machine)
    mr, nr = register_tile(way, machine)
    columns = min(n, nr * LANES)
    deep = piece_of(k, dtype) if m > mr else k
    block = deep * dtype.nbytes * columns
    return (
        Choice("MR", mr, _why_rows(way, mr, nr, machine)),
        Choice("NR", nr, _why_vectors(way, nr)),
        Choice(
            "KC",
            deep,
            f"{'all of K: sums stay in registers' if deep == k else f'of {k}'}; a block of {columns}"
            f" columns is {_size(block)}, {_where(block, machine)}",
        ),
        Choice("MC", m, _why_chunk(m, mr, rows, 4 * n + deep * dtype.nbytes)),
        Choice("NC", n, _why_columns(n, k * dtype.nbytes, columns, machine)),
    )


def _why_rows(way: Way, mr: int, nr: int, machine: Machine) -> str:
    have = machine.vector_registers
    used = f"{way.name} {mr} x {nr}: {way.registers(mr, nr)} of {have} registers"
    if way.registers(mr, nr) >= have:
        return f"{used}, the least there is; it spills"
    if mr == MOST_ROWS:
        return f"{used}; more than {MOST_ROWS} rows gain nothing"
    more = mr + way.tall
    return f"{used}; {more} x {nr} would take {way.registers(more, nr)}, one is to spare"


def _why_vectors(way: Way, nr: int) -> str:
    parts = LANES // way.part
    width = f"16 columns are {parts} register{'s' if parts > 1 else ''}"
    wider = {4: "no panel is wider", 2: f"4 would leave no room for {MOST_ROWS} rows"}
    return f"{width}; {wider.get(nr, f'2 would leave no room for {MOST_ROWS} rows')}"


def _why_chunk(m: int, mr: int, rows: int | None, row_bytes: int) -> str:
    held = f"{_size(m * row_bytes)} of left side and results"
    if rows is None or rows == m:
        return f"all rows, in {row_tiles(m, mr)} register tiles; {held}"
    chunks = row_tiles(rows, m)
    low = rows // chunks
    cut = f"{low}" if low * chunks == rows else f"{low} or {low + 1}"
    return f"{rows} rows in {chunks} chunks of {cut}, for each the panel streams by once; {held}"


def _why_columns(n: int, k_bytes: int, columns: int, machine: Machine) -> str:
    nbytes, blocks = n * k_bytes, -(-n // columns)
    panel = f"{blocks} block{'s' if blocks > 1 else ''}, {_size(nbytes)}"
    if panel_fits(k_bytes, n, machine):
        return f"{panel}: within {PANEL_SHARE:.0%} of L2 ({_size(machine.l2)})"
    if nbytes < machine.l2:
        return f"{panel}: most of L2 ({_size(machine.l2)}), which rows and results want too"
    return (
        f"{panel}: no less than L2 ({_size(machine.l2)}), so every row tile reads from L3 or memory"
    )


def _where(nbytes: int, machine: Machine) -> str:
    for name, room in (("L1", machine.l1d), ("L2", machine.l2), ("L3", machine.l3)):
        if nbytes <= room:
            return f"held by {name} ({_size(room)})"
    return "more than any cache holds"


def _size(nbytes: int) -> str:
    if nbytes >= MIB and nbytes % MIB == 0:
        return f"{nbytes // MIB} MiB"
    return f"{nbytes / KIB:.0f} KiB" if nbytes >= KIB else f"{nbytes} B"
