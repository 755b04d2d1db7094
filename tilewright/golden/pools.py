"""The comparator for paged pools: named rows close, every other row untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tilewright.golden.comparators import Comparator, Verdict, ratio_allclose


def mapped_pool_ratio_allclose(
    mapping_name: str,
    *,
    mapping_shape: Sequence[int],
    block_size: int,
    leading_rank_axis: bool = False,
    pool_name: str = "pool",
    atol: float | None = None,
    rtol: float | None = None,
    max_error_ratio: float = 0.005,
) -> Comparator:
    """For a pool [blocks, block_size, ...] whose rows are named by the input `mapping_name`.

    The mapping holds one row number per token, -1 for none; other negatives, numbers past the pool
    and duplicates fail. Named rows are compared as by `ratio_allclose`; all others must be
    bit-equal to the expected ones. With `leading_rank_axis` both tensors carry a first axis of
    ranks, each its own pool.
    """
    compare = ratio_allclose(atol, rtol, max_error_ratio)

    def mapped_pool_ratio_allclose(
        actual: Tensor,
        expected: Tensor,
        *,
        actual_outputs: Mapping[str, Tensor],
        expected_outputs: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        rtol: float,
        atol: float,
    ) -> Verdict:
        if mapping_name not in inputs:
            return False, f"there is no input {mapping_name!r} that maps rows of {pool_name}"
        if actual.shape != expected.shape:
            return False, f"shapes differ: {tuple(actual.shape)}, wanted {tuple(expected.shape)}"
        mapping = inputs[mapping_name].reshape(tuple(mapping_shape))
        lead = 1 if leading_rank_axis else 0
        if actual.dim() < 2 + lead or actual.shape[lead + 1] != block_size:
            return (
                False,
                f"{pool_name} has shape {tuple(actual.shape)}, wanted blocks of {block_size} rows",
            )
        ranks, count = (actual.shape[0] if lead else 1), actual.shape[lead] * block_size
        per_rank = zip(
            mapping.reshape(ranks, -1).long(),
            _rows(actual, ranks, count),
            _rows(expected, ranks, count),
            strict=True,
        )
        named_actual, named_expected = [], []
        for rank, (rows, a, e) in enumerate(per_rank):
            problem = _bad_mapping(rows, count)
            if problem:
                return False, f"{mapping_name}: {problem}"
            named = rows[rows >= 0]
            others = torch.ones(count, dtype=torch.bool)
            others[named] = False
            changed = (_bits(a) != _bits(e)).any(-1) & others
            if bool(changed.any()):
                first = int(changed.nonzero()[0])
                return False, (
                    f"{int(changed.sum())} rows of {pool_name} that nothing maps to were changed, "
                    f"the first is row {first} of rank {rank}"
                )
            named_actual.append(a[named])
            named_expected.append(e[named])
        return compare(
            torch.cat(named_actual),
            torch.cat(named_expected),
            actual_outputs=actual_outputs,
            expected_outputs=expected_outputs,
            inputs=inputs,
            rtol=rtol,
            atol=atol,
        )

    return mapped_pool_ratio_allclose


def _rows(pool: Tensor, ranks: int, rows: int) -> Tensor:
    """[ranks, rows, elements of a row]."""
    return pool.reshape(ranks, rows, -1)


def _bad_mapping(rows: Tensor, count: int) -> str:
    """What is wrong with a mapping of tokens to `count` rows, "" for nothing."""
    if bool(((rows < -1) | (rows >= count)).any()):
        return f"rows {int(rows.min())} to {int(rows.max())}, wanted -1 to {count - 1}"
    named = rows[rows >= 0]
    if named.unique().numel() != named.numel():
        return "a row is named twice"
    return ""


def _bits(rows: Tensor) -> Tensor:
    """[rows, bytes]: NaNs and signed zeros compare as what they are."""
    return rows.contiguous().view(torch.uint8)
