"""The number formats of a checkpoint: FP8 with a scale for each block, and INT8 for each column."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from tilewright.models.deepseek_v4.config import SCALE_BLOCK
from tilewright.models.deepseek_v4.reference import quantize_rows

Block = tuple[int, int]
FP8_BLOCK: Block = (128, 128)  # rows and columns of a weight that share a scale, in the release
FP8_MAX = 448.0  # of E4M3 without infinities
LEAST_SCALE = 2.0**-126  # UE8M0 goes one further, to where FP32 has subnormals only


def blocks(shape: tuple[int, ...], block: Block) -> tuple[int, int]:
    """The shape of the scales of a matrix: blocks down and across, ragged ones too."""
    return ceil(shape[0] / block[0]), ceil(shape[1] / block[1])


def quantize_fp8(x: Tensor, block: Block = FP8_BLOCK) -> tuple[Tensor, Tensor]:
    """x [out, in] FP32 -> E4M3 codes [out, in], UE8M0 scales by block, with x ~ codes * scale.

    The scale is the least power of two that brings the block's largest element to FP8_MAX or below.
    A block of zeros has scale 1.
    """
    down, across = blocks(tuple(x.shape), block)
    padded = x.new_zeros(down * block[0], across * block[1])
    padded[: x.shape[0], : x.shape[1]] = x
    amax = padded.abs().reshape(down, block[0], across, block[1]).amax((1, 3))
    scale = torch.where(amax > 0, torch.exp2(torch.ceil(torch.log2(amax / FP8_MAX))), 1.0)
    # log2 may come out a hair low next to a power of two.
    scale = torch.where(amax > scale * FP8_MAX, scale * 2, scale).clamp_min_(LEAST_SCALE)
    codes = scale_blocks(x.clone(), scale.reciprocal(), block).clamp_(-FP8_MAX, FP8_MAX)
    return codes.to(torch.float8_e4m3fn), scale.to(torch.float8_e8m0fnu)


def scale_blocks(x: Tensor, scale: Tensor, block: Block, skip: int = 0) -> Tensor:
    """x [out, in] FP32 times the scale of each element's block, in place.

    skip: rows of the first block that lie before x.
    """
    by_row = scale.float().repeat_interleave(block[0], 0)  # [rows of whole blocks, blocks across]
    by_row = by_row[skip : skip + x.shape[0]]
    whole = x.shape[1] // block[1]
    middle = whole * block[1]
    x[:, :middle].unflatten(1, (whole, block[1])).mul_(by_row[:, :whole, None])
    x[:, middle:].mul_(by_row[:, whole:])
    return x


def quantize_columns(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`wq_b` as the kernel takes it, from output columns stored as rows [out, in] FP32.

    INT8 codes [in, out] and a scale for each column [out], quantised as tokens are: see
    `reference.quantize_rows`.
    """
    codes, scale = quantize_rows(rows)
    return codes.t(), scale.flatten()


def scale_rows(scale: Tensor) -> Tensor:
    """Column scales [out] as the kernel takes them, [out / 128, 128]."""
    return scale.reshape(-1, SCALE_BLOCK)
