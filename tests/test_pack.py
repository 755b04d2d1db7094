"""Packing puts every element in its place, fills the rest with zeros and reads nothing that is not
there.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native import MACHINES, Native, before_a_wall, draw, machine_named, panel_by_hand

from tilewright.codegen.llvm.microkernel import choose
from tilewright.dtypes import BF16, FP16, FP32, INT8, DType

every_family = pytest.mark.parametrize("name", MACHINES)
every_dtype = pytest.mark.parametrize("dtype", [INT8, BF16, FP16, FP32], ids=str)

# Whole groups and blocks; one column; tails in K; tails in N; tails in both; larger than one block.
SHAPES = [(16, 64), (4, 1), (1, 1), (37, 64), (16, 17), (7, 63), (64, 128), (67, 161), (33, 16)]


@every_family
@every_dtype
@pytest.mark.parametrize("trans", [False, True], ids=("rows", "trans"))
def test_a_panel_has_the_layout_on_paper_and_no_neighbour_is_read(
    name: str, dtype: DType, trans: bool
) -> None:
    machine = machine_named(name)
    native = Native(choose(dtype, machine), machine, [])
    rng = np.random.default_rng(5)
    for k, n in SHAPES:
        b = draw(native.kernel, rng, k, n)
        stored = before_a_wall(np.ascontiguousarray(b.T) if trans else b)
        assert (
            native.packed(stored, trans=trans) == panel_by_hand(native.kernel, b, k, n)
        ).all(), (k, n)


@every_dtype
@pytest.mark.parametrize("trans", [False, True], ids=("rows", "trans"))
def test_what_is_not_valid_becomes_zero(dtype: DType, trans: bool) -> None:
    native = Native(choose(dtype, machine_named("host")), machine_named("host"), [])
    rng = np.random.default_rng(6)
    for (k, n), (rows, columns) in (
        ((40, 130), (33, 65)),
        ((64, 64), (0, 64)),
        ((64, 64), (64, 0)),
        ((9, 70), (8, 3)),
    ):
        b = draw(native.kernel, rng, k, n)
        valid = b[:rows, :columns]
        stored = np.ascontiguousarray(b.T) if trans else b
        panel = native.packed(
            stored.T[:rows, :columns].T if trans else stored[:rows, :columns], k, n, trans
        )
        assert (panel == panel_by_hand(native.kernel, valid, k, n)).all(), (k, n, rows, columns)


@settings(max_examples=40, deadline=None)
@given(k=st.integers(1, 90), n=st.integers(1, 200), pitch=st.integers(0, 9), trans=st.booleans())
def test_any_shape_and_any_row_pitch(k: int, n: int, pitch: int, trans: bool) -> None:
    native = _host_int8()
    rng = np.random.default_rng(k * 1000 + n)
    b = draw(native.kernel, rng, k, n)
    rows = np.ascontiguousarray(b.T) if trans else b
    room = np.full((rows.shape[0], rows.shape[1] + pitch), 99, rows.dtype)
    room[:, : rows.shape[1]] = rows
    assert (
        native.packed(room[:, : rows.shape[1]], trans=trans)
        == panel_by_hand(native.kernel, b, k, n)
    ).all()


_made: list[Native] = []


def _host_int8() -> Native:
    """Compiled once for all the examples."""
    if not _made:
        _made.append(Native(choose(INT8, machine_named("host")), machine_named("host"), []))
    return _made[0]
