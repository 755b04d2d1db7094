"""Sorting values together with their indices."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator()
def sort32(values, idx):
    """Each run of 32 columns sorted, descending, NaN first, ties in ascending position.

    values [M,N] FP32 or FP16, idx [M,N] UINT32 -> [M,2N] pairs (value, bits of the index) in FP32, or
    [M,4N] lanes (value, 0, two halves of the index) in FP16.
    """


@operator()
def mrgsort(a, b=None, c=None, d=None, *, block_len=None, exhausted=False):
    """Sorted pairs merged, [1,C] each; of equal values those of the earlier run or list come first.

    With block_len: every complete group of four neighbouring runs of so many lanes becomes one run.
    With two to four lists: one list with all their columns. `exhausted` lets a device stop early; here
    everything is merged.
    """
