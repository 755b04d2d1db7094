"""`pl.array.…`: small arrays of scalars, local to the code that makes them."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator("array.create")
def create(n, dtype):
    """n integers, BOOLs or task ids, zero at first: `a[i]` reads one, `a[i] = v` changes one.

    i is any integer scalar. An inline kernel takes one as `a: pl.Array[[n], dtype]`.
    """


__all__ = ["create"]
