"""Changing the dtype."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator()
def cast(x, target_type, mode="round"):
    """x in another dtype, same shape. Integers saturate, NaN becomes 0 there.

    mode: none rint round floor ceil trunc odd, or its number 0 to 6. `round` takes ties away from
    zero,
    `rint` to even. Scalars take the default mode only and truncate to integers.
    """
