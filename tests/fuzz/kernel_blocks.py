"""Random statements on blocks: each makes one of what there is."""

from __future__ import annotations

from kernel_base import BITS, DTYPES, FLOATS, MODES, Block, Writer


class Statements(Writer):
    def statement(self) -> None:
        self.pick(
            (self.unary, self.binary, self.binary, self.recast, self.recast, self.compared, self.reduced,
             self.expanded, self.turned, self.gathered, self.part, self.put, self.repeated, self.chosen, self.load,
             self.mixed, self.by_scalar, self.branched, self.joined)
        )()  # fmt: skip

    def unary(self) -> None:
        x = self.block()
        floats = ("neg", "abs", "sqrt", "recip", "rsqrt", "relu")
        words = (
            floats
            if x.dtype in FLOATS
            else ("abs", "relu")
            if x.dtype == "UINT8"
            else ("neg", "abs", "relu")
        )
        self.make(f"pl.{self.pick(words)}({x.name})", x.rows, x.columns, x.dtype, x.partial)

    def partner(self, x: Block) -> Block:
        """One that goes with x element by element."""
        fitting = [y for y in self.blocks if y.like(x) and (x.partial or not y.partial)]
        return self.pick(fitting or [x])

    def binary(self) -> None:
        x = self.block()
        word = self.pick(
            ("add", "sub", "mul", "maximum", "minimum", *(["div"] if x.dtype in FLOATS else []))
        )
        other = self.literal(x.dtype) if self.often(30) else self.partner(x).name
        self.make(f"pl.{word}({x.name}, {other})", x.rows, x.columns, x.dtype, x.partial)

    def mixed(self) -> None:
        """Two dtypes in one operator: float beats integer, then more bits, then signed."""
        x = self.block()
        fitting = [
            y
            for y in self.blocks
            if (y.rows, y.columns) == (x.rows, x.columns) and y.dtype != x.dtype
        ]
        fitting = [
            y
            for y in fitting
            if (x.partial or not y.partial) and {x.dtype, y.dtype} != {"FP16", "BF16"}
        ]
        if not fitting:
            return
        y = self.pick(fitting)
        rank = {d: (d in FLOATS, BITS[d], d != "UINT8") for d in BITS}
        dtype = max((x.dtype, y.dtype), key=rank.__getitem__)
        self.make(
            f"pl.{self.pick(('add', 'mul', 'maximum'))}({x.name}, {y.name})",
            x.rows,
            x.columns,
            dtype,
            x.partial,
        )

    def by_scalar(self) -> None:
        """An element that becomes a scalar."""
        x = self.block(full=True)
        fitting = [y for y in self.blocks if y.dtype == x.dtype]
        y = self.pick(fitting)
        at = f"[s % {x.rows}, {self.random.randrange(x.columns)}]"
        self.say(f"{(v := self.name('v'))} = pl.read({x.name}, {at})")
        self.make(
            f"pl.{self.pick(('add', 'mul'))}({y.name}, {v})", y.rows, y.columns, y.dtype, y.partial
        )

    def branched(self) -> None:
        """A block bound in both arms."""
        x = self.block()
        y, name = self.partner(x), self.name("b")
        with self.under(
            f"if {self.pick(('s % 2 == 0', 't0 > 0', 's > 9 and t0 == 0', 'left < 3'))}:"
        ):
            self.say(f"{name} = pl.{self.pick(('add', 'minimum'))}({x.name}, {y.name})")
        with self.under("else:"):
            self.say(
                f"{name} = pl.{self.pick(('neg', 'abs')) if x.dtype != 'UINT8' else 'abs'}({x.name})"
            )
        self.blocks.append(Block(name, x.rows, x.columns, x.dtype, x.partial))

    def joined(self) -> None:
        x = self.block(full=True)
        fitting = [
            y for y in self.blocks if (y.rows, y.dtype, y.partial) == (x.rows, x.dtype, False)
        ]
        y = self.pick(fitting)
        if x.columns + y.columns < 300:
            self.make(f"pl.concat({x.name}, {y.name})", x.rows, x.columns + y.columns, x.dtype)

    def recast(self) -> None:
        x = self.block()
        self.cast(x, self.pick([d for d in DTYPES if d != x.dtype]), self.pick(MODES))

    def compared(self) -> None:
        x = self.block()
        text = f"pl.cmp({x.name}, {self.partner(x).name}, {self.random.randrange(6)})"
        self.make(text, x.rows, x.columns, x.dtype, x.partial)

    def chosen(self) -> None:
        x = self.block(full=True)
        mask = self.make(
            f"pl.cmp({x.name}, {self.partner(x).name}, {self.random.randrange(6)})",
            x.rows,
            x.columns,
            x.dtype,
        )
        self.make(
            f"pl.sel({mask.name}, {x.name}, {self.partner(x).name})", x.rows, x.columns, x.dtype
        )

    def reduced(self) -> None:
        x = self.block()
        word = self.pick(("row_sum", "row_max", "row_min", "col_sum", "col_max", "col_min"))
        if word.endswith("sum"):
            x = self.small(x, self.pick(("FP32", "INT32")))
        if word.startswith("row"):
            self.make(f"pl.{word}({x.name})", x.rows, 1, x.dtype, x.partial)
        else:
            self.make(f"pl.{word}({x.name})", 1, x.columns, x.dtype)

    def expanded(self) -> None:
        x = self.block()
        columns = [y for y in self.blocks if (y.rows, y.columns, y.dtype) == (x.rows, 1, x.dtype)]
        columns = [y for y in columns if x.partial or not y.partial]
        lines = [
            y
            for y in self.blocks
            if (y.rows, y.columns, y.dtype) == (1, x.columns, x.dtype) and not y.partial
        ]
        if columns and self.often(60):
            word = self.pick(("row_expand_mul", "row_expand_add", "row_expand_sub"))
            self.make(
                f"pl.{word}({x.name}, {self.pick(columns).name})",
                x.rows,
                x.columns,
                x.dtype,
                x.partial,
            )
        elif lines:
            word = self.pick(("col_expand_mul", "col_expand_add", "col_expand_sub"))
            self.make(
                f"pl.{word}({x.name}, {self.pick(lines).name})",
                x.rows,
                x.columns,
                x.dtype,
                x.partial,
            )

    def turned(self) -> None:
        x = self.block(full=True)
        if self.often(50):
            self.make(f"pl.transpose({x.name}, 0, 1)", x.columns, x.rows, x.dtype)
        else:
            self.make(
                f"pl.reshape({x.name}, [1, {x.rows * x.columns}])", 1, x.rows * x.columns, x.dtype
            )

    def part(self) -> None:
        """A window of a block, at a place that only a run knows."""
        x = self.block(full=True)
        h, w = 1 + self.random.randrange(x.rows), 1 + self.random.randrange(x.columns)
        at = f"[s % {x.rows - h + 1}, {self.random.randrange(x.columns - w + 1)}]"
        self.make(f"pl.slice({x.name}, [{h}, {w}], {at})", h, w, x.dtype)

    def put(self) -> None:
        """A window of a block replaced; the old block stays what it was."""
        x = self.block(full=True)
        fitting = [
            y
            for y in self.blocks
            if y.dtype == x.dtype and y.rows <= x.rows and y.columns <= x.columns
        ]
        y = self.pick(fitting or [x])
        at = f"[{self.random.randrange(x.rows - y.rows + 1)}, s % {x.columns - y.columns + 1}]"
        self.make(f"pl.assemble({x.name}, {y.name}, {at})", x.rows, x.columns, x.dtype)

    def gathered(self) -> None:
        x = self.block(full=True)
        if x.columns == 1 or x.dtype not in ("FP32", "FP16", "INT16", "INT32"):
            return
        line = self.make(
            f"pl.arange({self.random.randrange(4)}, [1, {x.columns}], dtype=pl.INT32)",
            1,
            x.columns,
            "INT32",
        )
        line = self.make(
            f"pl.minimum(pl.mul({line.name}, 2), {x.columns - 1})", 1, x.columns, "INT32"
        )
        target = self.make(
            f"pl.full([{x.rows}, {x.columns}], dtype=pl.INT32, value=0)", x.rows, x.columns, "INT32"
        )
        index = self.make(f"pl.col_expand({target.name}, {line.name})", x.rows, x.columns, "INT32")
        word = "pl.gather({x}, dim=-1, index={i})"
        if self.often(40):
            word = "pl.scatter({x}, dim=-1, index={i}, src={y})"
        self.make(
            word.format(x=x.name, i=index.name, y=self.partner(x).name), x.rows, x.columns, x.dtype
        )

    def repeated(self) -> None:
        """A block that a loop changes, which may go on or leave early."""
        x = self.block()
        self.say(f"{(y := self.name('b'))} = {x.name}")
        k = self.name("k")
        while_loop = self.often(30)
        if while_loop:
            self.say(f"{k} = 0")
        head = (
            f"while {k} < s % 4:"
            if while_loop
            else f"for {k} in pl.range({self.pick(('s % 4', '3', 's % 3 + 1'))}):"
        )
        with self.under(head):
            if while_loop:
                self.say(f"{k} = {k} + 1")
            if self.often(40):
                with self.under(f"if {k} == {self.random.randrange(3)}:"):
                    self.say(self.pick(("break", "continue")))
            self.say(
                f"{y} = pl.{self.pick(('add', 'mul', 'maximum'))}({y}, {self.partner(x).name})"
            )
            if self.often(40):
                with self.under(f"if (s + {k}) % 3 == 1:"):
                    self.say(f"{y} = {x.name}")
        self.blocks.append(Block(y, x.rows, x.columns, x.dtype, x.partial))
