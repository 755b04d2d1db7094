"""Random kernels as text, in the words of an author: extents that are known at run time only, tails,
inline kernels, loops that break, atomic sums, products, scatters.

Sums and products are taken of small whole numbers only, so the order of a sum changes no bit; every
kernel is valid, so a checked run has nothing to say about it.
"""

from __future__ import annotations

from kernel_base import DEPTHS, DTYPES, PRODUCTS, TILES, WIDTHS, Block, Tensor, Written
from kernel_shapes import Shapes

HEAD = """\
import tilewright.language as pl

CORE = pl.Level.CORE_GROUP
T = pl.dynamic("T")

"""


class Author(Shapes):
    def kernel(self) -> Written:
        self.tile = self.pick(TILES)
        self.readable = [
            self.param(self.pick(WIDTHS), self.pick(DTYPES))
            for _ in range(2 + self.random.randrange(2))
        ]
        phases = (
            self.rowwise, self.rowwise, self.product, self.product, self.attention, self.columns,
            self.in_place, self.atomic, self.totals, self.routed, self.steps, self.through_a_view,
            self.heads, self.own_memory, self.turned_view, self.called, self.two_sums,
        )  # fmt: skip
        for number in range(1 + self.random.randrange(3)):
            (self.rowwise if number == 0 and self.often(70) else self.pick(phases))()
            self.readable += self.later
            self.later = []
        shown = ", ".join(
            Tensor(
                t.name, t.columns, t.dtype, t.rows, "" if t.role == "small" else t.role
            ).annotation
            for t in self.tensors
        )
        head = f"@pl.jit\ndef kernel(ids: pl.Tensor[[T], pl.INT32], s: pl.Scalar[pl.INDEX], {shown}):\n"
        body = "\n".join(["    t_dim = pl.tensor.dim(ids, 0)", *self.lines])
        text = HEAD + "".join(self.inlined) + head + body + "\n"
        return Written(text, self.tensors, 5)

    # Phases

    def result(self) -> Block:
        """A block of this tile's rows to store."""
        fitting = [b for b in self.blocks if b.rows == self.tile]
        return self.pick(fitting[-3:]) if fitting else self.load()

    def rowwise(self) -> None:
        """Tiles of rows, written where they were read."""
        place = len(self.lines)
        with self.tiles():
            for _ in range(1 + self.random.randrange(4)):
                for _ in range(2 + self.random.randrange(5)):
                    self.statement()
                self.keep(place)

    def keep(self, place: int) -> None:
        """A block is stored: this tile's rows, or one row of another shape."""
        x = self.result() if self.often(50) else self.block()
        if x.rows != self.tile:
            y = self.param(x.columns, x.dtype, role="Out")
            last = self.make(
                f"pl.slice({x.name}, [1, {x.columns}], [{x.rows - 1}, 0])", 1, x.columns, x.dtype
            )
            self.say(f"{y.name}[t0 : t0 + 1, :] = {last.name}")
            return
        y = self.target(x.columns, x.dtype, place)
        if x.partial:
            self.say(f"{y.name}[t0 : t0 + {self.tile}, :] = {x.name}")
        else:
            cut = f"pl.set_validshape({x.name}, left, {x.columns})"
            self.say(f"{y.name} = pl.assemble({y.name}, {cut}, [t0, 0])")
        self.later.append(y)

    def target(self, columns: int, dtype: str, place: int) -> Tensor:
        """Where a phase writes: an output, or a tensor of the kernel's own, made before the phase."""
        if self.often(70):
            return self.param(columns, dtype, role="Out")
        made = Tensor(self.name("t"), columns, dtype)
        self.lines.insert(
            place, f"    {made.name} = pl.create_tensor([t_dim, {columns}], dtype=pl.{dtype})"
        )
        return made

    def product(self) -> None:
        """Many rows times a matrix, K at once or in stretches, as one of the idioms."""
        dtype, depth = self.pick(tuple(PRODUCTS)), self.pick(DEPTHS)
        width = self.pick(WIDTHS)
        flipped = self.often(30)
        a = self.param(depth, dtype, role="small")
        w = self.param(
            depth if flipped else width, dtype, width if flipped else depth, role="small"
        )
        out = PRODUCTS[dtype]
        y = self.param(width, out, role="Out")
        options = (", b_trans=True" if flipped else "") + f", out_dtype=pl.{out}"
        steps = [n for n in (8, 16, 32, 103, depth) if depth % n == 0]
        step = self.pick(steps)

        def sides(k: str) -> str:
            left = (
                f"pl.slice({a.name}, [{self.tile}, {step}], [t0, {k}], valid_shape=[left, {step}])"
            )
            window = f"[:, {k} : {k} + {step}]" if flipped else f"[{k} : {k} + {step}, :]"
            return f"{left}, {w.name}{window}"

        with self.tiles():
            acc = self.name("b")
            kind = self.random.randrange(3)
            if step == depth and kind == 0:
                self.say(f"{acc} = pl.matmul({sides('0')}{options})")
            elif kind == 1:
                self.say(f"{acc} = pl.matmul({sides('0')}{options})")
                with self.under(f"for k in pl.range({step}, {depth}, {step}):"):
                    self.say(
                        f"{acc} = pl.matmul_acc({acc}, {sides('k')}{', b_trans=True' * flipped})"
                    )
            else:
                self.say(f"{acc} = pl.create_tensor([{self.tile}, {width}], dtype=pl.{out})")
                with self.under(f"for k in pl.pipeline(0, {depth}, {step}, stage=2):"):
                    with self.under("if k == 0:"):
                        self.say(f"{acc} = pl.matmul({sides('k')}{options})")
                    with self.under("else:"):
                        self.say(
                            f"{acc} = pl.matmul_acc({acc}, {sides('k')}{', b_trans=True' * flipped})"
                        )
            self.blocks.append(Block(acc, self.tile, width, out))
            x = self.blocks[-1]
            if self.often(50):
                x = self.make(f"pl.mul({acc}, {self.literal(out)})", self.tile, width, out)
            self.say(
                f"{y.name}[t0 : t0 + {self.tile}, :] = pl.set_validshape({x.name}, left, {width})"
            )
        self.readable.append(y)

    def atomic(self) -> None:
        """Every tile adds to one sum."""
        dtype = self.pick(("FP32", "INT32"))
        width = self.pick(WIDTHS)
        y = self.param(
            width, dtype, rows=3, role=self.pick(("Out", "InOut")) if dtype == "INT32" else "Out"
        )
        if y.role == "Out":
            with self.under("with pl.at(level=CORE):"):
                self.say(f"{y.name}[:, :] = pl.full([3, {width}], dtype=pl.{dtype}, value=0)" if dtype == "INT32" else
                         f"{y.name}[:, :] = pl.full([3, {width}], dtype=pl.{dtype}, value=0.0)")  # fmt: skip
        source = self.param(width, self.pick(("INT8", "FP32")))
        with self.tiles(("parallel", "spmd")):
            x = self.small(self.make(
                f"pl.slice({source.name}, [{self.tile}, {width}], [t0, 0], valid_shape=[left, {width}])",
                self.tile, width, source.dtype, True), dtype)  # fmt: skip
            total = self.make(f"pl.col_sum({x.name})", 1, width, dtype)
            row = self.pick(("0", "s % 3", "t0 % 3"))
            self.say(
                f"{y.name} = pl.assemble({y.name}, {total.name}, [{row}, 0], atomic=pl.AtomicType.Add)"
            )

    def attention(self) -> None:
        """A product, something row by row, and another product of that."""
        dtype, depth, keys, width = (
            self.pick(("BF16", "INT8", "FP32")),
            self.pick((8, 33, 64)),
            self.pick((7, 16, 64)),
            self.pick(WIDTHS),
        )
        q, k = self.param(depth, dtype, role="small"), self.param(depth, dtype, keys, role="small")
        v = self.param(width, dtype, keys, role="small")
        y = self.param(width, PRODUCTS[dtype], role="Out")
        with self.tiles():
            rows = self.make(
                f"pl.slice({q.name}, [{self.tile}, {depth}], [t0, 0], valid_shape=[left, {depth}])",
                self.tile,
                depth,
                dtype,
                True,
            )
            scores = self.make(
                f"pl.matmul({rows.name}, {k.name}, b_trans=True)", self.tile, keys, PRODUCTS[dtype]
            )
            if self.often(50):
                shown = f"pl.set_validshape({scores.name}, {self.tile}, s % {keys} + 1)"
                scores = self.make(
                    f"pl.fillpad({shown}, pl.PadValue.{self.pick(('min', 'zero'))})",
                    self.tile,
                    keys,
                    scores.dtype,
                )
            most = self.make(f"pl.row_max({scores.name})", self.tile, 1, scores.dtype)
            less = self.make(
                f"pl.row_expand_sub({scores.name}, {most.name})", self.tile, keys, scores.dtype
            )
            weights = self.small(less, dtype)
            out = self.make(
                f"pl.matmul({weights.name}, {v.name})", self.tile, width, PRODUCTS[dtype]
            )
            total = self.make(
                f"pl.row_sum({self.small(weights, PRODUCTS[dtype]).name})",
                self.tile,
                1,
                PRODUCTS[dtype],
            )
            out = self.make(
                f"pl.row_expand_mul({out.name}, {total.name})", self.tile, width, out.dtype
            )
            self.say(
                f"{y.name}[t0 : t0 + {self.tile}, :] = pl.set_validshape({out.name}, left, {width})"
            )
        self.readable.append(y)

    def columns(self) -> None:
        """All rows of a few, a stretch of columns at a time, with something done to each product."""
        rows, depth, dtype = self.pick(TILES), self.pick(DEPTHS), self.pick(tuple(PRODUCTS))
        size, count = self.pick((8, 16, 40, 64)), self.pick((1, 2, 3))
        a = self.param(depth, dtype, rows, role="small")
        w = self.param(size * count, dtype, depth, role="small")
        out = (
            self.pick(("FP32", "BF16", "INT8"))
            if dtype != "INT8"
            else self.pick(("INT32", "INT8", "FP32"))
        )
        y = self.param(size * count, out, rows, role="Out")
        head = self.pick(
            (f"for c in pl.parallel(0, {size * count}, {size}):", f"for j in pl.spmd({count}):")
        )
        with self.under(head):
            if "spmd" in head:
                self.say(f"c = j * {size}")
            with self.under("with pl.at(level=CORE):"):
                x = self.make(
                    f"pl.matmul({a.name}, {w.name}[:, c : c + {size}])", rows, size, PRODUCTS[dtype]
                )
                for _ in range(self.random.randrange(4)):
                    self.pick(
                        (
                            self.unary,
                            self.binary,
                            self.reduced,
                            self.expanded,
                            self.recast,
                            self.part,
                        )
                    )()
                fitting = [b for b in self.blocks if (b.rows, b.columns) == (rows, size)]
                x = self.pick(fitting)
                if x.dtype != out:
                    x = self.cast(x, out, "rint")
                self.say(f"{y.name}[:, c : c + {size}] = {x.name}")

    def in_place(self) -> None:
        """An output that holds something and is changed, a window of columns after the other."""
        width, size = self.pick(((64, 16), (40, 8), (17, 17), (130, 65)))
        y = self.param(width, self.pick(DTYPES), role="InOut")
        other = self.param(width, y.dtype)
        with self.tiles(), self.under(f"for c in pl.range(0, {width}, {size}):"):
            part = f"[{self.tile}, {size}], [t0, c], valid_shape=[left, {size}]"
            x = self.make(f"pl.slice({y.name}, {part})", self.tile, size, y.dtype, True)
            z = self.make(f"pl.slice({other.name}, {part})", self.tile, size, y.dtype, True)
            word = self.pick(("add", "mul", "minimum"))
            x = self.make(f"pl.{word}({x.name}, {z.name})", self.tile, size, y.dtype, True)
            for _ in range(self.random.randrange(3)):
                self.statement()
            self.say(f"{y.name}[t0 : t0 + {self.tile}, c : c + {size}] = {x.name}")
        self.readable.append(y)

    def through_a_view(self) -> None:
        """Half rows of an output, written by another name for its memory."""
        half = self.pick((8, 16, 33))
        y = self.param(2 * half, self.pick(DTYPES), role="Out")
        x = self.param(half, y.dtype)
        view = self.name("u")
        self.say(f"{view} = pl.reshape({y.name}, [2 * t_dim, {half}])")
        with self.under("for t in pl.parallel(t_dim):"), self.under("with pl.at(level=CORE):"):
            self.say(f"row = {x.name}[t : t + 1, :]")
            self.say(f"{view}[2 * t : 2 * t + 1, :] = row")
            self.say(f"{view}[2 * t + 1 : 2 * t + 2, :] = pl.abs(row)")
        if self.often(50):
            z = self.param(1, y.dtype, role="Out")
            with self.under("for t in pl.range(t_dim):"):
                self.say(f"pl.write({z.name}, [t, 0], pl.read({view}, [2 * t + 1, {half - 1}]))")
        self.readable.append(y)

    def totals(self) -> None:
        """A block carried from tile to tile."""
        width = self.pick(WIDTHS)
        source, y = self.param(width, "INT16"), self.param(width, "INT32", rows=1, role="Out")
        total = self.name("b")
        with self.under("with pl.at(level=CORE):"):
            self.say(f"{total} = pl.full([1, {width}], dtype=pl.INT32, value=0)")
        with self.tiles(("range",)):
            x = self.make(
                f"pl.slice({source.name}, [{self.tile}, {width}], [t0, 0], valid_shape=[left, {width}])",
                self.tile, width, "INT16", True)  # fmt: skip
            x = self.cast(x, "INT32", "none")
            if self.often(40):
                with self.under(f"if t0 > s * {self.tile}:"):
                    self.say(self.pick(("break", "continue")))
            self.say(f"{total} = pl.add({total}, pl.col_sum({x.name}))")
        with self.under("with pl.at(level=CORE):"):
            self.say(f"{y.name}[:, :] = {total}")

    def routed(self) -> None:
        """Rows go where an index says, counted in an array; by an inline kernel."""
        width = self.pick(WIDTHS)
        source = self.param(width, self.pick(DTYPES))
        y = self.param(width, source.dtype, rows=5, role="InOut")
        counts = self.param(1, "INT32", rows=5, role="Out")
        helper = self.name("route")
        self.inlined.append(
            f"@pl.jit.inline\ndef {helper}(x: pl.Tensor, y: pl.Tensor, ids: pl.Tensor, first: pl.Scalar[pl.INDEX],"
            f" fill: pl.Array[[5], pl.INT32]):\n"
            f"    for r in pl.range(first, pl.tensor.dim(x, 0)):\n"
            f"        e = pl.read(ids, [r])\n"
            + ("        if e == 3:\n            continue\n" if self.often(40) else "")
            + ("        if r > 9:\n            break\n" if self.often(40) else "")
            + "        with pl.at(level=CORE):\n"
            "            y[e : e + 1, :] = pl.add(y[e : e + 1, :], x[r : r + 1, :])\n"
            "        fill[e] = fill[e] + 1\n\n"
        )
        array = self.name("a")
        self.say(f"{array} = pl.array.create(5, pl.INT32)")
        self.say(f"{helper}({source.name}, {y.name}, ids, {self.pick(('0', 's % 2'))}, {array})")
        with self.under("for e in pl.range(5):"):
            self.say(f"pl.write({counts.name}, [e, 0], pl.cast({array}[e], pl.INT32))")

    def steps(self) -> None:
        """Numbers, and rows chosen by them."""
        y = self.param(1, "INT32", rows=4, role="Out")
        n, k = self.name("n"), self.name("k")
        self.say(f"{n} = s")
        with self.under(f"for {k} in pl.range(t_dim):"):
            with self.under(f"if pl.read(ids, [{k}]) == {self.random.randrange(5)}:"):
                self.say(self.pick(("break", "continue", f"{n} = {n} + 7")))
            self.say(f"{n} = ({n} * 3 + {k}) % 101")
        with self.under("for e in pl.range(4):"):
            self.say(f"pl.write({y.name}, [e, 0], pl.cast({n} + e, pl.INT32))")
