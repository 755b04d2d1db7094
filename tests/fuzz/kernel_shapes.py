"""Random phases on tensors of other shapes: three axes, views, memory of an iteration's own, called kernels."""

from __future__ import annotations

from kernel_base import DTYPES, PRODUCTS, WIDTHS
from kernel_blocks import Statements


class Shapes(Statements):
    def heads(self) -> None:
        """A tensor of three axes, one of them dropped by an integer; read and written head by head."""
        count, width, dtype = self.pick((1, 3, 4)), self.pick((8, 16, 33)), self.pick(DTYPES)
        x = self.param(count * width, dtype)
        y = self.param(count * width, dtype, role="Out")
        cube, out = self.name("u"), self.name("u")
        self.say(f"{cube} = pl.reshape({x.name}, [t_dim, {count}, {width}])")
        self.say(f"{out} = pl.reshape({y.name}, [t_dim, {count}, {width}])")
        kind = self.pick(("range", "parallel"))
        with self.under(f"for t in pl.{kind}(t_dim):"), self.under("with pl.at(level=CORE):"):
            b = self.make(f"{cube}[t, :, :]", count, width, dtype)
            with self.under(f"for h in pl.{self.pick(('range', 'unroll'))}({count}):"):
                row = self.make(f"{b.name}[h : h + 1, :]", 1, width, dtype)
                for _ in range(self.random.randrange(4)):
                    self.pick((self.unary, self.binary, self.reduced, self.expanded))()
                same = [b for b in self.blocks if b.like(row)]
                self.say(f"{out}[t, h : h + 1, :] = {self.pick(same).name}")

    def own_memory(self) -> None:
        """A tensor made inside an iteration, written in one region and read in the next."""
        width = self.pick(WIDTHS)
        x = self.param(width, self.pick(DTYPES))
        y = self.param(width, x.dtype, role="Out")
        mine, scale = self.name("t"), self.name("b")
        with self.under(f"for t0 in pl.{self.pick(('parallel', 'range'))}(0, t_dim, {self.tile}):"):
            self.say(f"left = pl.min({self.tile}, t_dim - t0)")
            self.say(f"{mine} = pl.create_tensor([{self.tile}, {width}], dtype=pl.{x.dtype})")
            part = (
                f"pl.slice({x.name}, [{self.tile}, {width}], [t0, 0], valid_shape=[left, {width}])"
            )
            with self.under("with pl.at(level=CORE):"):
                self.say(f"{mine}[:, :] = pl.fillpad({part}, pl.PadValue.zero)")
                self.say(f"{scale} = pl.{self.pick(('row_max', 'row_min'))}({mine}[:, :])")
            with self.under("with pl.at(level=CORE):"):
                with self.under(f"for r in pl.range({self.tile}):"):
                    self.say(f"{mine}[r : r + 1, :] = pl.abs({mine}[r : r + 1, :])")
                done = f"pl.row_expand_mul({mine}[:, :], {scale})"
                self.say(
                    f"{y.name}[t0 : t0 + {self.tile}, :] = pl.set_validshape({done}, left, {width})"
                )
        self.readable.append(y)

    def turned_view(self) -> None:
        """A matrix read by a transposed view, as a whole and as the side of a product."""
        dtype, rows, columns = (
            self.pick(tuple(PRODUCTS)),
            self.pick((7, 16, 64)),
            self.pick((8, 33, 40)),
        )
        x = self.param(columns, dtype, rows, role="small")
        y = self.param(rows, dtype, columns, role="Out")
        z = self.param(columns, PRODUCTS[dtype], columns, role="Out")
        view = self.name("u")
        self.say(f"{view} = pl.transpose({x.name}, 0, 1)")
        with self.under(f"for c in pl.spmd({columns}):"):
            self.say(f"{y.name}[c : c + 1, :] = pl.neg({view}[c : c + 1, :])")
        with self.under("with pl.at(level=CORE):"):
            self.say(f"{z.name}[:, :] = pl.matmul({view}[:, :], {x.name}[:, :])")

    def called(self) -> None:
        """A kernel of its own, called for every tile; some in a launch that asks for its number."""
        width = self.pick(WIDTHS)
        x = self.param(width, self.pick(DTYPES))
        y = self.param(width, x.dtype, role="Out")
        helper, kind = self.name("step"), self.pick(("inline", "incore", "opaque"))
        args = (
            "x: pl.Tensor, y: pl.Out[pl.Tensor]"
            if kind != "inline"
            else "x: pl.Tensor, y: pl.Tensor"
        )
        word = self.pick(("abs", "relu"))
        rows = f"pl.min({self.tile}, pl.tensor.dim(x, 0) - t0)"
        lines = [
            f"part = pl.slice(x, [{self.tile}, {width}], [t0, 0], valid_shape=[{rows}, {width}])",
            f"y[t0 : t0 + {self.tile}, :] = pl.{word}(part)",
        ]
        indent = "    "
        if kind != "incore":
            lines = ["with pl.at(level=CORE):", *("    " + line for line in lines)]
        text = "\n".join(indent + line for line in [*lines, "return y"])
        self.inlined.append(
            f"@pl.jit.{kind}\ndef {helper}({args}, t0: pl.Scalar[pl.INDEX]):\n{text}\n\n"
        )
        with self.under(f"for t0 in pl.{self.pick(('parallel', 'range'))}(0, t_dim, {self.tile}):"):
            self.say(f"{y.name} = {helper}({x.name}, {y.name}, t0)")
        self.readable.append(y)

    def two_sums(self) -> None:
        """Blocks carried by one loop, some turns of which are left out."""
        width, dtype = self.pick(WIDTHS), self.pick(("FP32", "INT32", "BF16"))
        x = self.param(width, dtype)
        y = self.param(width, dtype, 2, role="Out")
        most, last, k = self.name("b"), self.name("b"), self.name("n")
        with self.under("with pl.at(level=CORE):"):
            self.say(f"{most} = pl.full([1, {width}], dtype=pl.{dtype}, value=0)" if dtype == "INT32" else
                     f"{most} = pl.full([1, {width}], dtype=pl.{dtype}, value=0.0)")  # fmt: skip
            self.say(f"{last} = {most}")
            self.say(f"{k} = 0")
            with self.under(f"while {k} < t_dim:"):
                self.say(f"row = {x.name}[{k} : {k} + 1, :]")
                self.say(f"{k} = {k} + {self.pick((1, 2))}")
                with self.under(f"if {k} % 3 == s % 3:"):
                    self.say(f"{last} = {most}")
                    self.say(self.pick(("continue", "pass", "break")))
                self.say(f"{most} = pl.maximum({most}, row)")
            self.say(f"{y.name}[0:1, :] = {most}")
            self.say(f"{y.name}[1:2, :] = {last}")
