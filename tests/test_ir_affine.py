"""Offsets as sums, and how far they move when a loop turns."""

from __future__ import annotations

import pytest

from tilewright.ir.affine import Affine, Movement, affine
from tilewright.ir.nodes import Function, Op, Value, index
from tilewright.ir.parser import parse
from tilewright.ir.verify import verify
from tilewright.ir.walk import definitions, ops_in

# Every name is an offset that some loop could use.
PROGRAM = """
    func f(%n: INDEX, %m: INDEX, %ids: tensor<64, INT32>) {
      %outer = s.mod %n, 5 : INDEX
      for %k in range(0, 16, 4) carry (%count = 0) -> (%total) {
        %twice = s.mul 2, %k : INDEX
        %ahead = s.add %twice, %n : INDEX
        %back = s.sub %outer, %k : INDEX
        %sum = s.add %ahead, %back : INDEX
        %still = s.sub %sum, %k : INDEX
        %scaled = s.mul %k, %n : INDEX
        %wrapped = s.mod %k, 8 : INDEX
        %uneven = s.add %k, %wrapped : INDEX
        %hidden = s.sub %uneven, %k : INDEX
        %product = s.mul %n, %m : INDEX
        %fixed = s.max %product, 3 : INDEX
        %read = read %ids[0] : INT32
        %looked = s.add %k, %read : INDEX
        %counted = s.add %k, %count : INDEX
        for %j in range(0, 4, 1) {
          %both = s.add %k, %j : INDEX
          yield
        }
        %next = s.add %count, 1 : INDEX
        yield %next
      }
    }"""


@pytest.fixture(scope="module")
def program() -> Function:
    function = parse(PROGRAM)
    verify(function)
    return function


def named(program: Function, name: str) -> Value:
    return next(value for value in definitions(program) if value.name == name)


def loop_of(program: Function, variable: str) -> Op:
    return next(
        op for op in ops_in(program) if op.name == "for" and op.blocks[0].args[0].name == variable
    )


def total(program: Function, name: str) -> tuple[int, dict[str, int]]:
    """The constant, and how often each name counts."""
    found = affine(named(program, name), definitions(program))
    return found.const, {value.name: factor for value, factor in found.terms}


def test_a_sum_counts_each_value_once():
    n, k = (Value(name, index(0).type) for name in "nk")
    a, b = Affine(3, ((k, 2), (n, 1))), Affine(4, ((k, 1),))
    assert a.plus(b) == Affine(7, ((k, 3), (n, 1)))
    assert a.plus(b, -2) == Affine(-5, ((n, 1),))
    assert a.plus(a, -1) == Affine(0)
    assert (a.factor(k), a.factor(n), b.factor(n)) == (2, 1, 0)
    assert a.without(k) == Affine(3, ((n, 1),))


def test_equal_sums_are_equal_however_they_were_written():
    n, k = (Value(name, index(0).type) for name in "nk")
    one, other = Affine(0, ((k, 1),)), Affine(0, ((n, 1),))
    assert one.plus(other) == other.plus(one)


def test_a_literal_is_a_sum_of_nothing(program: Function):
    assert affine(index(-7), definitions(program)) == Affine(-7)


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("n", {"n": 1}),
        ("twice", {"k": 2}),
        ("ahead", {"k": 2, "n": 1}),
        ("back", {"k": -1, "outer": 1}),
        ("sum", {"k": 1, "n": 1, "outer": 1}),
        ("still", {"n": 1, "outer": 1}),
        ("scaled", {"scaled": 1}),  # no factor that is known
        ("uneven", {"k": 1, "wrapped": 1}),
        ("looked", {"k": 1, "read": 1}),
        ("both", {"k": 1, "j": 1}),
    ],
)
def test_sums_differences_and_multiples_are_seen_through(
    program: Function, name: str, terms: dict[str, int]
):
    assert total(program, name) == (0, terms)


@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("k", 1),
        ("twice", 2),
        ("ahead", 2),
        ("back", -1),
        ("still", 0),
        ("n", 0),
        ("outer", 0),  # no sum, but made before the loop
        ("fixed", 0),  # made in the loop, from what does not change
        ("scaled", None),  # by %n, whatever that is
        ("wrapped", None),
        ("uneven", None),  # in steps of 8, 8, 0
        ("hidden", None),  # the variable cancels out and is still in there
        ("looked", None),  # memory may change
        ("counted", None),  # and so does what is carried
        ("both", None),
    ],
)
def test_an_offset_moves_by_a_fixed_distance_or_by_none_that_is_known(
    program: Function, name: str, distance: int | None
):
    movement = Movement(loop_of(program, "k"), definitions(program))
    assert movement.of(named(program, name)) == distance
    if distance != 0:
        assert movement.varies(named(program, name))


def test_what_an_outer_loop_moves_stands_still_in_an_inner_one(program: Function):
    inner = Movement(loop_of(program, "j"), definitions(program))
    assert [inner.of(named(program, name)) for name in ("k", "wrapped", "counted", "both")] == [
        0,
        0,
        0,
        1,
    ]
    assert not inner.varies(named(program, "uneven"))
    assert not inner.varies(index(3))
