"""One layer's attention front end: checked as stored, then made into what the kernels take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from tilewright.errors import ArgumentValueError
from tilewright.models.deepseek_v4.config import Config, Query, Rope
from tilewright.models.deepseek_v4.weights.files import Stored, Tensors
from tilewright.models.deepseek_v4.weights.layouts import (
    GAINS,
    MATRICES,
    Found,
    scale_names,
)
from tilewright.models.deepseek_v4.weights.problems import Problems, Tell, silent
from tilewright.models.deepseek_v4.weights.quantize import (
    Block,
    blocks,
    quantize_columns,
    scale_blocks,
    scale_rows,
)

WIDE = ("BF16", "F16", "F32")
FP8 = "F8_E4M3"
POWER_OF_TWO = ("F8_E8M0", "U8")  # U8: the same byte, from writers that have no name for it
SCALE_DTYPES = (*POWER_OF_TWO, "F32", "BF16")
# Rows of a matrix widened to FP32 at a time: 4 MiB at FLASH's widest, and whole blocks of scales.
ROWS_AT_ONCE = 1024

SAME_MODEL = "check that config.json and the tensors belong to one model"
AGAIN = "download the file again, or convert the checkpoint again"


@dataclass(frozen=True)
class Matrix:
    """A weight [out, in] as stored: wide, or E4M3 with a scale for each block.

    skip: rows of the first block that lie before the weight's, where it is a part of a larger one.
    """

    weight: Tensor
    dtype: str
    scale: Tensor | None = None
    block: Block = (1, 1)
    skip: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.weight.shape
        return rows, columns

    def rows(self, first: int, last: int) -> Tensor:
        """Rows first … last - 1 as values, FP32."""
        part = self.part(first, last)
        values = part.weight.float()
        if part.scale is None:
            return values
        return scale_blocks(values, part.scale, part.block, part.skip)

    def part(self, first: int, last: int) -> Matrix:
        """Rows first … last - 1 as a matrix of their own: views, nothing is read."""
        weight = self.weight[first:last]
        if self.scale is None:
            return replace(self, weight=weight)
        height = self.block[0]
        above, skip = divmod(self.skip + first, height)
        scale = self.scale[above : -(-(self.skip + last) // height)]
        return replace(self, weight=weight, scale=scale, skip=skip)

    def parts(self) -> Iterator[tuple[int, int]]:
        """(first, last) of runs of rows that are widened together."""
        step = max(ROWS_AT_ONCE // self.block[0], 1) * self.block[0]
        for first in range(0, self.shape[0], step):
            yield first, min(first + step, self.shape[0])

    def values(self) -> Tensor:
        """The whole weight, FP32 [out, in]."""
        return torch.cat([self.rows(*part) for part in self.parts()])


@dataclass(frozen=True)
class Layer:
    """The weights of one layer, or of some heads of it; `cfg` counts these.

    rope:     None where nothing says which it is.
    gains:    attn_norm [D], q_norm [Q_LORA], kv_norm [HEAD_DIM], FP32.
    matrices: wq_a [Q_LORA, D], wq_b [H * HEAD_DIM, Q_LORA], wkv [HEAD_DIM, D], as stored.
    """

    cfg: Config
    number: int
    rope: Rope | None
    gains: Mapping[str, Tensor]
    matrices: Mapping[str, Matrix]

    def arguments(self, query: Query, tell: Tell = silent) -> dict[str, Tensor]:
        """What the kernels with such a query ("int8" or "bf16") take, by parameter; contiguous, on the CPU.

        attn_norm [1, D], q_norm [1, Q_LORA], kv_norm [1, HEAD_DIM] FP32; wq_a [D, Q_LORA], wkv
        [D, HEAD_DIM] BF16; wq_b [Q_LORA, H * HEAD_DIM] BF16, or INT8 with wq_b_scale
        [H * HEAD_DIM / 128, 128] FP32.
        """
        if query not in get_args(Query):
            wanted = " or ".join(map(repr, get_args(Query)))
            raise ArgumentValueError(f"query is {query!r}, wanted {wanted}")
        work = _Work(tell, "converting", sum(m.weight.nbytes for m in self.matrices.values()))
        arguments = {name: gain.reshape(1, -1) for name, gain in self.gains.items()}
        for name, matrix in self.matrices.items():
            if name == "wq_b" and query == "int8":
                arguments["wq_b"], arguments["wq_b_scale"] = _int8(matrix, work)
            else:
                arguments[name] = _bf16(matrix, work)
        return arguments


def _bf16(matrix: Matrix, work: _Work) -> Tensor:
    """[in, out] BF16, rounded to nearest even."""
    made = torch.empty(*reversed(matrix.shape), dtype=torch.bfloat16)
    for first, last in matrix.parts():
        made[:, first:last] = matrix.rows(first, last).to(torch.bfloat16).t()
        work.done(matrix, last - first)
    return made


def _int8(matrix: Matrix, work: _Work) -> tuple[Tensor, Tensor]:
    """[in, out] INT8 and the scales of its columns."""
    made = torch.empty(*reversed(matrix.shape), dtype=torch.int8)
    scales = torch.empty(matrix.shape[0])
    for first, last in matrix.parts():
        made[:, first:last], scales[first:last] = quantize_columns(matrix.rows(first, last))
        work.done(matrix, last - first)
    return made, scale_rows(scales)


@dataclass
class _Work:
    """How far a pass over all matrices is, in bytes as stored."""

    tell: Tell
    what: str
    total: int
    so_far: int = 0

    def done(self, matrix: Matrix, rows: int) -> None:
        self.so_far += rows * matrix.weight.nbytes // matrix.shape[0]
        self.tell(self.what, self.so_far, self.total)


# -- reading ---------------------------------------------------------------------------------------


def shapes(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Shapes as stored, by role: [out, in]."""
    return {
        "attn_norm": (cfg.hidden_size,),
        "q_norm": (cfg.q_lora_rank,),
        "kv_norm": (cfg.head_dim,),
        "wq_a": (cfg.q_lora_rank, cfg.hidden_size),
        "wq_b": (cfg.q_width, cfg.q_lora_rank),
        "wkv": (cfg.head_dim, cfg.hidden_size),
    }


def stored_layer(
    tensors: Tensors, found: Found, number: int, cfg: Config, block: Block, problems: Problems
) -> dict[str, Stored]:
    """Every tensor of a layer by role, block scales as `ROLE.scale`; nothing but headers is read.

    Missing tensors, and dtypes and shapes that do not fit, go to `problems`.
    """
    parts: dict[str, Stored] = {}
    for role, shape in shapes(cfg).items():
        names = found.layout.candidates(found.prefix, number, role)
        name = _only(tensors, names, problems)
        if name is None:
            problems.add(
                f"{tensors.file_of(names[0])}: {names[0]}",
                "no such tensor",
                f"it, of shape {list(shape)}",
                "check that every file of the checkpoint is in the folder",
            )
            continue
        stored = tensors.find(name, problems)
        if stored is None:
            continue
        parts[role] = stored
        dtypes = WIDE if role in GAINS else (*WIDE, FP8)
        _check(stored, dtypes, shape, problems)
        if role in MATRICES:
            _find_scale(tensors, stored, role, blocks(shape, block), parts, problems)
    return parts


def _find_scale(
    tensors: Tensors,
    weight: Stored,
    role: str,
    shape: tuple[int, int],
    parts: dict[str, Stored],
    problems: Problems,
) -> None:
    """The block scales of an FP8 weight; a wide one must have none."""
    names = scale_names(weight.name)
    name = _only(tensors, names, problems)
    if weight.dtype == FP8 and name is None:
        problems.add(
            f"{weight.file}: {names[0]}",
            "no such tensor",
            f"the block scales {list(shape)} of {weight.name}, which is {FP8}",
            "check that every file of the checkpoint is in the folder",
        )
    elif weight.dtype in WIDE and name is not None:
        problems.add(
            f"{tensors.file_of(name)}: {name}",
            f"block scales beside a weight in {weight.dtype}",
            f"no scales, or the weight in {FP8}",
            AGAIN,
        )
    elif weight.dtype == FP8 and name is not None:
        stored = tensors.find(name, problems)
        if stored is not None:
            parts[f"{role}.scale"] = stored
            _check(stored, SCALE_DTYPES, shape, problems)


def _only(tensors: Tensors, names: list[str], problems: Problems) -> str | None:
    """The one of these names that there is; two would be two tensors for one thing."""
    there = [name for name in names if name in tensors.names]
    if len(there) > 1:
        where = f"{tensors.file_of(there[1])}: {there[1]}"
        problems.add(where, f"it beside {there[0]}", "one of them", AGAIN)
    return there[0] if there else None


def _check(
    stored: Stored, dtypes: tuple[str, ...], shape: tuple[int, ...], problems: Problems
) -> None:
    if stored.dtype not in dtypes or stored.shape != shape:
        wanted = f"{' or '.join(dtypes)} {list(shape)}"
        problems.add(stored.where, str(stored), wanted, SAME_MODEL)


def read_layer(
    parts: Mapping[str, Stored],
    cfg: Config,
    number: int,
    rope: Rope | None,
    block: Block,
    problems: Problems,
    tell: Tell = silent,
    heads: range | None = None,
) -> Layer:
    """The layer, views of the files where nothing has to be converted.

    heads: neighbours of the layer's heads; of wq_b only their rows are read, and the layer is one of so many.
    Raises CheckpointError for what is in `problems` already, and for values that are not finite.
    """
    problems.raise_any()
    heads = range(cfg.num_attention_heads) if heads is None else heads
    taken = {"wq_b": (heads.start * cfg.head_dim, heads.stop * cfg.head_dim)}
    gains = {}
    for role in GAINS:
        gains[role] = parts[role].load().float()
        _check_finite(gains[role], parts[role], 0, problems)
    matrices = {}
    for role in MATRICES:
        matrix = _mapped(parts[role], parts.get(f"{role}.scale"), block)
        above = 0
        if role in taken:
            first, last = taken[role]
            matrix, above = matrix.part(first, last), first // matrix.block[0]
        if matrix.scale is not None:
            _check_scale(matrix.scale.float(), parts[f"{role}.scale"], above, problems)
        matrices[role] = matrix
    problems.raise_any()
    work = _Work(tell, "reading", sum(m.weight.nbytes for m in matrices.values()))
    for role, matrix in matrices.items():
        above, _ = taken.get(role, (0, 0))
        for first, last in matrix.parts():
            _check_finite(matrix.rows(first, last), parts[role], above + first, problems)
            work.done(matrix, last - first)
    problems.raise_any()
    return Layer(replace(cfg, num_attention_heads=len(heads)), number, rope, gains, matrices)


def _mapped(weight: Stored, scale: Stored | None, block: Block) -> Matrix:
    """The whole matrix as views of its file."""
    if scale is None:
        return Matrix(weight.load(), weight.dtype)
    loaded = scale.load()
    loaded = loaded.view(torch.float8_e8m0fnu) if scale.dtype == "U8" else loaded
    return Matrix(weight.load(), weight.dtype, loaded, block)


def _check_finite(values: Tensor, stored: Stored, first: int, problems: Problems) -> None:
    """Note the first element that is no number, and how many there are in this part."""
    if bool(values.sum().isfinite()):
        return  # as any NaN and any infinity would show in the sum
    wrong = ~values.isfinite()
    if bool(wrong.any()):
        at = wrong.nonzero()[0].tolist()
        value = values[tuple(at)].item()
        at[0] += first
        found = f"{value} at {at}, {int(wrong.sum())} in all of these rows"
        problems.add(stored.where, found, "finite numbers", AGAIN)


def _check_scale(values: Tensor, stored: Stored, above: int, problems: Problems) -> None:
    """Scales are positive and finite; a UE8M0 byte of 0xFF is NaN. above: rows of scales before these."""
    wrong = ~(values.isfinite() & (values > 0))
    if bool(wrong.any()):
        at = wrong.nonzero()[0].tolist()
        value = values[tuple(at)].item()
        at[0] += above
        byte = " (byte 0xFF)" if stored.dtype in POWER_OF_TWO else ""
        found = f"{value}{byte} at {at}, {int(wrong.sum())} in all"
        problems.add(stored.where, found, "scales above 0 and finite", AGAIN)
