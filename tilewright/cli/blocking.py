"""`tilewright show KERNEL --blocking`: how every product is cut on this machine, and why so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tilewright.blocking import Choice, choose_blocking
from tilewright.dtypes import DType
from tilewright.ir.nodes import Function, Op
from tilewright.ir.typed import shape_of
from tilewright.ir.types import PanelType
from tilewright.ir.walk import Path, walk
from tilewright.machine import Machine

PRODUCTS = ("matmul_packed", "matmul_packed_acc")


@dataclass(frozen=True, slots=True)
class Product:
    """One product of the lowered program.

    region: the name of the innermost named region around it. rows: of A in all; choices: how they
    and the columns of the panel that a task uses are taken.
    """

    region: str
    where: str
    dtype: DType
    rows: int
    k: int
    n: int
    choices: tuple[Choice, ...]


def products(function: Function, machine: Machine) -> list[Product]:
    """Every product of a function as the front end gives it, in the order of the program."""
    from tilewright.passes import pipeline

    whole: list[tuple[Op, Path]] = []

    def observe(name: str, program: Function) -> None:
        if name == "share_panels":  # the last pass that sees all rows of a product together
            whole[:] = _products_in(program)

    lowered = pipeline.lower(pipeline.prepare(function, machine), machine, observe)
    return [
        _product(before, cut, path, machine)
        for (before, path), (cut, _) in zip(whole, _products_in(lowered), strict=True)
    ]


def _products_in(program: Function) -> Iterator[tuple[Op, Path]]:
    return ((op, path) for op, path in walk(program) if op.name in PRODUCTS)


def _product(before: Op, cut: Op, path: Path, machine: Machine) -> Product:
    panel = cut.operands[-2].type
    assert isinstance(panel, PanelType)
    rows, m = shape_of(before.result)[0], shape_of(cut.result)[0]
    names = [op.attr("name") for op in path if op.name == "at" and op.attr("name")]
    return Product(
        region=names[-1] if names else "product",
        where=before.span.short,
        dtype=panel.dtype,
        rows=rows,
        k=panel.k,
        n=panel.n,
        choices=choose_blocking(m, panel.n, panel.k, panel.dtype, machine, rows),
    )


def paragraphs(found: list[Product]) -> str:
    """A paragraph a product; equal ones are told once, with their number."""
    counts = {product: found.count(product) for product in found}
    return "\n\n".join(_paragraph(*item) for item in counts.items()) or "there is no product"


def _paragraph(product: Product, count: int) -> str:
    times = f", {count} times" if count > 1 else ""
    shape = f"[{product.rows}, {product.k}] x [{product.k}, {product.n}]"
    lines = [f"{product.region}  {product.dtype.name} {shape}  {product.where}{times}"]
    lines += [f"  {c.name}  {c.value:5}  {c.why}" for c in product.choices]
    return "\n".join(lines)
