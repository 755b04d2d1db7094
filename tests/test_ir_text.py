"""What we print, we can read: the printer and the parser are two halves of one round trip."""

from __future__ import annotations

import math
import struct
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.dtypes import ALL, BF16, FP32, INDEX, INT32, UINT8
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Param, Value, index, make_attrs
from tilewright.ir.parser import IRSyntaxError, parse
from tilewright.ir.printer import to_text
from tilewright.ir.types import PanelType, ScalarType, TensorType, TileType, tensor_type
from tilewright.span import Span

SCALE = """\
func scale(%x: tensor<64x256, FP32>, %n: INDEX, out %y: tensor<64x256, BF16>) {
  for %r0 in parallel(0, %n, 16) {name_hint = "rows"} {
    at "scale" {
      %part = load %x[%r0, 0] valid [16, 256] {shape = [16, 256]} : tile<16x256, FP32>
      %half = mul %part, 0.5 : tile<16x256, FP32>
      %v = cast %half {mode = "rint", to = BF16} : tile<16x256, BF16>
      store %v to %y[%r0, 0] valid [16, 256] {shape = [16, 256]}
      yield
    }
    yield
  }
  return %y
}
"""

CARRY = """\
func total(%n: INDEX) {
  for %i in range(0, %n, 1) carry (%k = 0, %s = 1.5) -> (%k.1, %s.1) {
    %big = s.gt %i, 2 : BOOL
    if %big -> (%j: INDEX) {
      %sum = s.add %k, %i : INDEX
      yield %sum
    } else {
      yield %k
    }
    yield %j, %s
  }
}
"""


WHILE = """\
func halve(%n: INDEX) {
  %c = s.gt %n, 1 : BOOL
  while carry (%go = %c, %k = %n) -> (%go.1, %k.1) {
    %half = s.floordiv %k, 2 : INDEX
    %more = s.gt %half, 1 : BOOL
    yield %more, %half
  }
  for %i in range(0, 2, 1) {lanes = true} {
    syncall
    yield
  }
}
"""


@pytest.mark.parametrize("text", [SCALE, CARRY, WHILE])
def test_text_that_we_print_reads_back_as_itself(text: str):
    assert to_text(parse(text)) == text


def test_a_program_reads_back_equal():
    program = parse(SCALE)
    assert parse(to_text(program)) == program


def test_comments_and_layout_do_not_matter():
    loose = SCALE.replace("yield\n", "yield   # hand out nothing\n\n").replace(
        "  return", "\t return"
    )
    assert parse(loose) == parse(SCALE)


def test_spans_survive_when_they_are_printed():
    span = Span("q proj.py", 41, 18, 43, 7, Span("main.py", 3, 4, 3, 9))
    x = Value("x", tensor_type((4,), FP32))
    program = Function("f", (Param(x, "in", span),), Block((), (Op("return", (x,), span=span),)))
    back = parse(to_text(program, spans=True))
    assert back.body.ops[0].span == span
    assert back.params[0].span == span


def test_spans_take_no_part_in_equality():
    text = SCALE.replace("return %y", "return %y @ a.py:3:1..3:9")
    assert parse(text) == parse(SCALE)
    assert str(parse(text).body.ops[-1].span) == "a.py:3:1"


def bits(value: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", value))[0]


def from_bits(pattern: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", pattern))[0]


def roundtrip_const(const: Const) -> Operand:
    program = Function("f", (), Block((), (Op("yield", (const,)),)))
    return parse(to_text(program)).body.ops[0].operands[0]


@given(st.integers(0, 2**64 - 1))
def test_every_float_comes_back_bit_for_bit(pattern: int):
    assert bits(roundtrip_const(Const(from_bits(pattern), FP32)).value) == pattern


@pytest.mark.parametrize("value", [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1e308, 0.1])
def test_odd_floats_come_back_bit_for_bit_as_attributes(value: float):
    op = Op("full", attrs=make_attrs({"value": value, "shape": (1, 2), "dtype": BF16}))
    program = Function("f", (), Block((), (op,)))
    (back,) = parse(to_text(program)).body.ops
    assert bits(back.attr("value")) == bits(value)


# Programs drawn at random: any op of any shape that the grammar can hold, sensible or not.

NAMES = st.text("abcxyz_019.é", min_size=1, max_size=6) | st.sampled_from(
    ["true", "nan", "r 0", '"', "for"]
)
EXTENTS = st.lists(st.integers(0, 9), min_size=0, max_size=3).map(tuple)
DTYPES = st.sampled_from(ALL)
TYPES = st.one_of(
    DTYPES.map(ScalarType),
    st.builds(TileType, EXTENTS, DTYPES),
    st.builds(tensor_type, EXTENTS, DTYPES),
    EXTENTS.flatmap(
        lambda s: st.builds(
            TensorType,
            st.just(s),
            DTYPES,
            st.tuples(*[st.integers(0, 99)] * len(s)),
        )
    ),
    st.builds(PanelType, st.integers(1, 9), st.integers(1, 9), DTYPES),
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.booleans(), st.floats(allow_nan=False), st.just(math.nan)
)
CONSTS = st.builds(Const, NUMBERS, DTYPES)
ATTRS = st.recursive(
    NUMBERS | st.text(max_size=5) | DTYPES,
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
WORDS = st.sampled_from(
    ["load", "store", "add", "row_max", "check_window", "matmul", "s.add", "at"]
)


@st.composite
def programs(draw) -> Function:
    values: list[Value] = []

    def fresh() -> Value:
        value = Value(f"{draw(NAMES)}.{len(values)}", draw(TYPES))
        values.append(value)
        return value

    def operands(count: int) -> tuple:
        picks = CONSTS | st.sampled_from(values) if values else CONSTS
        return tuple(draw(picks) for _ in range(count))

    def ops(depth: int) -> tuple[Op, ...]:
        return tuple(op(depth) for _ in range(draw(st.integers(0, 3))))

    def op(depth: int) -> Op:
        kind = draw(st.sampled_from(["plain", "for", "if", "at"] if depth else ["plain"]))
        attrs = dict(draw(st.lists(st.tuples(st.sampled_from("abc"), ATTRS), max_size=2)))
        if kind == "for":
            carried = draw(st.integers(0, 2))
            reads = operands(3 + carried)
            args = tuple(fresh() for _ in range(1 + carried))
            body = Block(args, ops(depth - 1))
            attrs["kind"] = draw(st.sampled_from(["range", "parallel"]))
            return Op(
                "for", reads, tuple(fresh() for _ in range(carried)), make_attrs(attrs), (body,)
            )
        if kind in ("if", "at"):
            reads = operands(1 if kind == "if" else 0)
            blocks = tuple(Block((), ops(depth - 1)) for _ in range(2 if kind == "if" else 1))
            results = tuple(fresh() for _ in range(draw(st.integers(0, 2))))
            return Op(kind, reads, results, make_attrs(attrs), blocks)
        reads = operands(draw(st.integers(0, 5)))
        name = draw(WORDS.filter(lambda word: word != "at"))
        return Op(
            name, reads, tuple(fresh() for _ in range(draw(st.integers(0, 2)))), make_attrs(attrs)
        )

    directions = st.sampled_from(["in", "out", "inout"])
    params = tuple(Param(fresh(), draw(directions)) for _ in range(draw(st.integers(0, 3))))
    return Function(draw(NAMES), params, Block((), ops(2)))


@settings(max_examples=150, deadline=None)
@given(programs())
def test_any_program_reads_back_as_it_was_printed(program: Function):
    text = to_text(program)
    back = parse(text)
    assert to_text(back) == text
    if "nan" not in text:  # a NaN equals nothing, not even its own copy
        assert back == program


@pytest.mark.parametrize(
    ("text", "line", "col", "message"),
    [
        ("func f() {\n  yield %x\n}", 2, 8, "%x is not defined above"),
        ("func f() {\n  %a = frobnicate 1 : INDEX\n}", 2, 7, "unknown operator 'frobnicate'"),
        ("func f() {\n  yield\n", 3, 0, "a block is not closed"),
        ("func f(%x: tile<2, FP99>) {\n}", 1, 11, "expected a type"),
        ("func f() {\n  yield ?\n}", 2, 8, "cannot read '?'"),
        ("func f() {\n  %a, %b = s.add 1, 2 : INDEX\n}", 2, 11, "2 results and 1 types"),
        ("func f() {\n  yield 3:NOPE\n}", 2, 8, "unknown dtype 'NOPE'"),
        ("func f() {\n}\nfunc g() {\n}", 3, 0, "expected the end of the text"),
        ("func f() {\n  for %i in range(0, 3 {\n  }\n}", 2, 23, "expected ','"),
    ],
)
def test_a_syntax_error_names_line_and_column(text: str, line: int, col: int, message: str):
    with pytest.raises(IRSyntaxError) as caught:
        parse(text, "program.ir")
    span = caught.value.span
    assert span is not None
    assert (span.line, span.col) == (line, col)
    assert message in caught.value.message
    assert f"program.ir:{line}:{col + 1}" in str(caught.value)


def test_a_literal_keeps_its_dtype():
    for const in (index(3), Const(3, INT32), Const(3, FP32), Const(True, UINT8), Const(1.5, BF16)):
        back = roundtrip_const(const)
        assert (back, type(back.value)) == (const, type(const.value))


def test_windows_print_their_offsets_beside_the_tensor():
    builder = Builder()
    x = builder.fresh(tensor_type((4, 8), FP32), "x")
    i = builder.fresh(ScalarType(INDEX), "i")
    builder.op("load", (x, i, index(0), index(1), index(8)), "row", shape=(1, 8))
    text = to_text(Function("f", (Param(x), Param(i)), Block((), builder.ops)))
    assert "%row = load %x[%i, 0] valid [1, 8] {shape = [1, 8]} : tile<1x8, FP32>" in text


def test_the_docstring_example_of_the_printer_is_a_program():
    from tilewright.ir import printer

    assert printer.__doc__ is not None
    sample = printer.__doc__[printer.__doc__.index("    func") :].split("\n\n")[0]
    program = parse(dedent(sample))
    assert to_text(program) == dedent(sample) + "\n"
