"""Parameters under the names that authors know: a call means the same whatever its keywords are called."""

from __future__ import annotations

import pytest
import torch

import tilewright.language as pl
from tilewright.errors import InvalidOperationError
from tilewright.frontend.keywords import ALSO
from tilewright.language.operator import Operator, operator_of

BACKENDS = pytest.mark.parametrize("backend", ["interpreter", "native"])
ROWS, COLS = 16, 32
F32 = pl.FP32


@pl.jit
def products(x: pl.Tensor[[ROWS, COLS], F32], y: pl.Out[pl.Tensor[[ROWS, COLS], F32]]):
    with pl.at(pl.Level.CORE_GROUP, name_hint="products"):
        squares = pl.matmul(lhs=x, rhs=x, b_trans=True)
        start = pl.row_expand_mul(lhs=x, rhs=pl.full(shape=[ROWS, 1], dtype=F32, value=2.0))
        product = pl.matmul_acc(start, lhs=squares, rhs=x)
        pl.assemble(target=y, source=product, offset=[0, 0])


@pl.jit
def tiles(x: pl.Tensor[[ROWS, COLS], F32], y: pl.Out[pl.Tensor[[ROWS, COLS], F32]]):
    for b in pl.spmd(core_num=2):
        row = b * 8
        part = pl.tile.load(tensor=x, offsets=[row, 0], shapes=[8, COLS])
        scratch = pl.create_tile(shape=[8, COLS], dtype=F32)
        low = pl.sub(lhs=part, rhs=pl.row_max(input=part, tmp_tile=scratch))
        narrow = pl.cast(input=pl.muls(low, scalar=0.5), dtype=pl.BF16)
        wide = pl.cast(tensor=narrow, target_type=F32)
        few = pl.set_validshape(tensor=wide, valid_rows=8, valid_cols=30)
        pl.store(tile=pl.fillpad(input=few), offsets=[row, 0], output_tensor=y)
    first = pl.read(tensor=x, indices=[0, 0])
    pl.write(tensor=y, indices=[0, 31], value=first)


@BACKENDS
def test_operands_of_products_by_other_names(backend):
    x, y = torch.randint(-3, 4, (ROWS, COLS)).float(), torch.zeros(ROWS, COLS)
    products.run(x, y, backend=backend)
    assert torch.equal(y, 2 * x + x @ x.T @ x)


@BACKENDS
def test_tensors_tiles_and_scalars_by_other_names(backend):
    x, y = torch.randn(ROWS, COLS), torch.zeros(ROWS, COLS)
    tiles.run(x, y, backend=backend)
    wanted = ((x - x.amax(1, keepdim=True)) * 0.5).bfloat16().float()
    wanted[:, 30:] = 0
    wanted[0, 31] = x[0, 0]
    assert torch.equal(y, wanted)


def test_an_argument_given_twice_is_refused():
    @pl.jit
    def twice(x: pl.Tensor[[ROWS, COLS], F32], y: pl.Out[pl.Tensor[[ROWS, COLS], F32]]):
        with pl.at(level=pl.Level.CORE_GROUP):
            y[:, :] = pl.add(x, x, lhs=x)

    with pytest.raises(InvalidOperationError, match="multiple values for argument 'lhs'"):
        twice(torch.zeros(ROWS, COLS), torch.zeros(ROWS, COLS))


def words() -> list[Operator]:
    """The words of `pl`, `pl.tensor` and `pl.tile`."""
    named = [getattr(owner, n) for owner in (pl, pl.tensor, pl.tile) for n in dir(owner)]
    return [w for w in map(operator_of, named) if w is not None]


def test_every_parameter_that_has_other_names_is_one():
    parameters = {name for word in words() for name in word.signature.parameters}
    assert set(ALSO) <= parameters
