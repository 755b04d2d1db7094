"""The verifier: what it refuses, whom it blames, and where it draws the complaint."""

from __future__ import annotations

import re

import pytest

from tilewright.dtypes import FP32, INDEX
from tilewright.errors import CompilerBug
from tilewright.ir.nodes import Block, Const, Function, Op, Param, Value, index
from tilewright.ir.parser import parse
from tilewright.ir.types import ScalarType, tensor_type
from tilewright.ir.verify import verify
from tilewright.span import Span

PARAMS = "%x: tensor<4x8, FP32>, %n: INDEX, out %y: tensor<4x8, FP32>"


def program(body: str) -> Function:
    return parse(f"func f({PARAMS}) {{\n{body}\n}}")


def complaint(function: Function, after: str | None = None) -> str:
    with pytest.raises(CompilerBug) as caught:
        verify(function, after)
    return str(caught.value)


LOAD = "%a = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, FP32>"


def test_a_good_program_passes():
    verify(
        program(f"""
        {LOAD}
        for %i in range(0, %n, 1) carry (%k = 0) -> (%k.1) {{
          %big = s.gt %k, 3 : BOOL
          if %big -> (%t: tile<4x8, FP32>) {{
            yield %a
          }} else {{
            %b = neg %a : tile<4x8, FP32>
            yield %b
          }}
          store %t to %y[0, 0] valid [4, 8] {{shape = [4, 8]}}
          %next = s.add %k, %i : INDEX
          yield %next
        }}
        return %y""")
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"{LOAD}\n{LOAD}", "%a is assigned twice"),
        ("%n = s.add 1, 2 : INDEX", "%n is assigned twice"),
        (f"at {{\n{LOAD}\nyield\n}}\n%b = neg %a : tile<4x8, FP32>", "outside the block"),
        (f"{LOAD}\n%b = neg %a : tile<4x9, FP32>", "the rule gives (tile<4x8, FP32>)"),
        (f"{LOAD}\n%b = neg %a, %a : tile<4x8, FP32>", "takes (tile), got 2 operands"),
        ("%a = load %x[0, 0] valid [4] {shape = [4, 8]} : tile<4x8, FP32>", "got 4 operands"),
        ("%a = load %x[0, 0] valid [4, 8] : tile<4x8, FP32>", "attribute 'shape' is missing"),
        (f"{LOAD}\n%b = cast %a {{to = BF16}} : tile<4x8, BF16>", "attribute 'mode' is missing"),
        (
            f"{LOAD}\n%b = fillpad %a valid [4, 8] : tile<4x8, FP32>",
            "attribute 'value' is missing",
        ),
        (
            "%b = full {dtype = UINT8, shape = [2, 16], value = -1} : tile<2x16, UINT8>",
            "-1 is outside UINT8, which holds 0 to 255",
        ),
        ("%b = neg %x : tensor<4x8, FP32>", "must be a block of data"),
        ("%b = s.add 1, 0.5 : INDEX", "both scalars must be of one kind"),
        ("%b = s.add 1, 0.5:INDEX : INDEX", "is no integer"),
        ("for %i in range(0, 4, 1) {\n}", "does not end in a yield"),
        ("for %i in range(0, 4, 0) {\nyield\n}", "the step is 0"),
        ("for %i: FP32 in range(0, 4, 1) {\nyield\n}", "the loop variable is a FP32"),
        ("for %i in range(0, 4, 1) {\nyield %i\n}", "'for' gives (), this yields (INDEX)"),
        (
            "for %i in spmd(0, 4, 1) carry (%k = 0) -> (%r) {\nyield %k\n}",
            "a spmd loop carries nothing",
        ),
        (
            "for %i in range(0, 4, 1) carry (%k: FP32 = 0) -> (%r) {\nyield %k\n}",
            "the initial values are (INDEX), the block takes (FP32)",
        ),
        (
            "while carry (%k = 0) -> (%r) {\nyield %k\n}",
            "the first carried value must be BOOL",
        ),
        (
            "while carry (%go = true, %k = 0) -> (%r, %s) {\nyield %k, %go\n}",
            "'while' gives (BOOL, INDEX), this yields (INDEX, BOOL)",
        ),
        ("yield", "a yield is the last op of a loop"),
        ("at {\nyield\n%b = s.add 1, 2 : INDEX\nyield\n}", "a yield is the last op of a loop"),
        ("at {\nreturn %y\nyield\n}", "return is the last op of the function"),
        ("if %n {\nyield\n} else {\nyield\n}", "the condition must be BOOL"),
        ("%c = s.lt %n, 1 : BOOL\nif %c {\nyield\n}", "owns 2 blocks, got 1"),
        (
            "%c = s.lt %n, 1 : BOOL\nif %c -> (%r: INDEX) {\nyield 1\n} else {\nyield\n}",
            "'if' gives (INDEX), this yields ()",
        ),
    ],
)
def test_a_broken_rule_is_refused_with_what_is_wrong(body: str, message: str):
    assert message in complaint(program(body))


def test_a_value_is_not_visible_before_its_definition():
    x = Value("x", tensor_type((4,), FP32))
    i = Value("i", ScalarType(INDEX))
    late = Op("s.add", (index(1), index(2)), (i,))
    early = Op("read", (x, i), (Value("v", ScalarType(FP32)),))
    function = Function("f", (Param(x),), Block((), (early, late)))
    assert "%i is not defined before this" in complaint(function)


def test_a_value_read_at_another_type_is_refused():
    x = Value("x", tensor_type((4,), FP32))
    other = Value("x", tensor_type((5,), FP32))
    function = Function("f", (Param(x),), Block((), (Op("return", (other,)),)))
    assert "%x is a tensor<4, FP32>, read as tensor<5, FP32>" in complaint(function)


def test_an_unknown_operator_is_refused():
    function = Function("f", (), Block((), (Op("frobnicate", (Const(1, INDEX),)),)))
    assert "unknown operator 'frobnicate'" in complaint(function)


def test_the_pass_is_blamed_and_the_complaint_drawn_under_its_op():
    span = Span("q_proj.py", 41, 4, 41, 30)
    good = program(f"{LOAD}\nreturn %y")
    load, end = good.body.ops
    broken = Op(load.name, load.operands, (Value("a", ScalarType(FP32)),), load.attrs, (), span)
    text = complaint(
        Function("f", good.params, Block((), (broken, end))),
        after="tile_matmul",
    )
    assert "tile_matmul produced an invalid program (it was valid before this pass)" in text
    line, pointer = re.findall(r"^.*%a = load.*\n.*$", text, re.MULTILINE)[0].split("\n")
    assert line[pointer.index("^") :].startswith("load %x[0, 0] valid [4, 8]")
    assert pointer.count("^") == len("load %x[0, 0] valid [4, 8]")
    assert "the results are (FP32)" in pointer
    assert pointer.endswith("written at q_proj.py:41")


def test_all_complaints_are_drawn_not_only_the_first():
    text = complaint(program(f"{LOAD}\n{LOAD}\nyield"))
    assert "assigned twice" in text
    assert "a yield is the last op" in text
