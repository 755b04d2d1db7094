"""Visiting and rebuilding: paths, definitions, uses, views, substitution, rewriting, copies."""

from __future__ import annotations

from tilewright.ir.nodes import Const, Op, Value, index
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.verify import verify
from tilewright.ir.walk import (
    Replace,
    definitions,
    free_values,
    map_ops,
    ops_in,
    root_tensor,
    substitute,
    uses,
    walk,
)

PROGRAM = parse("""
func f(%x: tensor<4x8, FP32>, %n: INDEX, out %y: tensor<4x8, FP32>) {
  %c = create {dtype = FP32, shape = [4, 8]} : tensor<4x8, FP32>
  %flat = reshape_view %c {shape = [32, 1]} : tensor<32x1, FP32>
  %w = window %flat[%n, 0] {shape = [8, 1]} : tensor<8x1, FP32>
  for %i in range(0, %n, 1) carry (%k = 0) -> (%last) {
    at "body" {
      %a = load %x[%i, 0] valid [1, 8] {shape = [1, 8]} : tile<1x8, FP32>
      store %a to %y[%i, 0] valid [1, 8] {shape = [1, 8]}
      yield
    }
    %next = s.add %k, %i : INDEX
    yield %next
  }
  return %y
}""")


def value(name: str) -> Value:
    return next(v for v in definitions(PROGRAM) if v.name == name)


def op(name: str) -> Op:
    return next(o for o in ops_in(PROGRAM) if o.name == name)


def test_walk_gives_every_op_with_the_ops_around_it():
    paths = {o.name: [owner.name for owner in path] for o, path in walk(PROGRAM)}
    assert paths["load"] == ["for", "at"]
    assert paths["s.add"] == ["for"]
    assert paths["create"] == []
    first = [o.name for o in ops_in(PROGRAM)][:6]
    assert first == ["create", "reshape_view", "window", "for", "at", "load"]


def test_definitions_tell_results_block_arguments_and_parameters_apart():
    found = definitions(PROGRAM)
    assert found[value("n")].op is None
    assert (found[value("k")].op, found[value("k")].block, found[value("k")].position) == (
        op("for"),
        0,
        1,
    )
    assert found[value("a")].op is op("load")
    assert [o.name for o in found[value("a")].path] == ["for", "at"]


def test_uses_count_every_reading_operand():
    assert [o.name for o in uses(PROGRAM)[value("i")]] == ["load", "store", "s.add"]
    assert value("last") not in uses(PROGRAM)


def test_free_values_are_what_comes_from_outside():
    assert [v.name for v in free_values(op("for"))] == ["n", "x", "y"]


def test_a_view_leads_to_the_memory_that_it_names():
    found = definitions(PROGRAM)
    assert root_tensor(value("w"), found) == value("c")
    assert root_tensor(value("x"), found) == value("x")


def test_a_tensor_that_leaves_a_region_or_a_loop_leads_to_where_it_came_from():
    program = parse("""
    func f(%x: tensor<4, FP32>) {
      at "r" -> (%t: tensor<4, FP32>) {
        %v = reshape_view %x {shape = [4]} : tensor<4, FP32>
        yield %v
      }
      for %i in range(0, 3, 1) carry (%u = %t) -> (%z) {
        yield %u
      }
    }""")
    found = definitions(program)
    by_name = {v.name: v for v in found}
    assert root_tensor(by_name["z"], found) == by_name["x"]
    assert root_tensor(by_name["u"], found) == by_name["x"]


def test_substitution_reaches_into_blocks():
    loop = substitute(op("for"), {value("n"): index(4), value("x"): value("y")})
    assert free_values(loop) == [value("y")]
    assert loop.operands[1] == index(4)


def test_map_ops_that_change_nothing_give_the_same_object_back():
    assert map_ops(PROGRAM, lambda _: None) is PROGRAM


def test_map_ops_drop_replace_and_redirect():
    def rewrite(o: Op):
        if o.name == "store":
            return ()
        if o.name == "s.add":
            return Replace((), {o.result: Const(7, o.result.type.dtype)})
        return None

    out = map_ops(PROGRAM, rewrite)
    verify(out)
    text = to_text(out)
    assert "store" not in text
    assert "yield 7" in text


def test_map_ops_see_inner_ops_first_and_operands_already_rewritten():
    program = parse("func f(%n: INDEX) {\n%a = s.add %n, 0 : INDEX\n%b = s.add %a, 0 : INDEX\n}")
    seen = []

    def rewrite(o: Op):
        seen.append(o.operands[0])
        return Replace((), {o.result: o.operands[0]})

    assert map_ops(program, rewrite).body.ops == ()
    assert seen == [program.params[0].value] * 2
