"""Views share memory, loads copy it, only valid parts are touched, bounds come first."""

from __future__ import annotations

import pytest
import torch
from ir_programs import apply, run_text, same_bits

from tilewright.dtypes import FP32, INDEX
from tilewright.errors import ArgumentError, BoundsError, KernelError
from tilewright.interpreter import run
from tilewright.ir.nodes import Const
from tilewright.ir.parser import parse


def test_a_store_through_a_reshaped_view_shows_in_the_original():
    out = torch.zeros(4, 2)
    (returned,) = run_text(
        """
        func f(out %o: tensor<4x2, FP32>) {
          %f = reshape_view %o {shape = [1, 8]} : tensor<1x8, FP32>
          %t = full {dtype = FP32, shape = [1, 2], value = 7.0} : tile<1x2, FP32>
          store %t to %f[0, 2] valid [1, 2] {shape = [1, 2]}
          return %o
        }""",
        out,
    )
    assert out.tolist() == [[0, 0], [7, 7], [0, 0], [0, 0]]
    assert returned is out


def test_views_compose():
    x, out = torch.arange(24.0).reshape(4, 6), torch.zeros(3, 2)
    run_text(
        """
        func f(%x: tensor<4x6, FP32>, out %y: tensor<3x2, FP32>) {
          %w = window %x[1, 2] {shape = [2, 3]} : tensor<2x3, FP32, strides 6x1>
          %t = transpose_view %w {axis1 = 0, axis2 = 1} : tensor<3x2, FP32, strides 1x6>
          %a = load %t[0, 0] valid [3, 2] {shape = [3, 2]} : tile<3x2, FP32>
          store %a to %y[0, 0] valid [3, 2] {shape = [3, 2]}
        }""",
        x,
        out,
    )
    assert torch.equal(out, x[1:3, 2:5].T)


def test_a_load_is_a_copy_of_what_was_there():
    t, first, second = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.zeros(1, 2)
    run_text(
        """
        func f(inout %t: tensor<1x2, FP32>, out %p: tensor<1x2, FP32>, out %q: tensor<1x2, FP32>) {
          at "r" {
            %a = load %t[0, 0] valid [1, 2] {shape = [1, 2]} : tile<1x2, FP32>
            %s = add %a, 1.0 : tile<1x2, FP32>
            store %s to %t[0, 0] valid [1, 2] {shape = [1, 2]}
            %b = load %t[0, 0] valid [1, 2] {shape = [1, 2]} : tile<1x2, FP32>
            store %a to %p[0, 0] valid [1, 2] {shape = [1, 2]}
            store %b to %q[0, 0] valid [1, 2] {shape = [1, 2]}
            yield
          }
        }""",
        t,
        first,
        second,
    )
    assert (first.tolist(), second.tolist()) == ([[1, 2]], [[2, 3]])


VALID = """
func f(%x: tensor<2x4, FP32>, out %y: tensor<2x4, FP32>) {
  %v = load %x[0, 0] valid [1, 3] {shape = [2, 4]} : tile<2x4, FP32>
  %s = add %v, 10.0 : tile<2x4, FP32>
  store %s to %y[0, 0] valid [1, 3] {shape = [2, 4]}
}"""


@pytest.mark.parametrize("poison", [False, True])
def test_only_the_valid_part_is_stored(poison: bool):
    out = torch.zeros(2, 4)
    run_text(VALID, torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]), out, poison=poison)
    assert out.tolist() == [[11, 12, 13, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("dtype", "name", "wanted"),
    [
        (torch.int8, "INT8", 0x4D),
        (torch.int32, "INT32", 0x4D4D4D4D),
        (torch.float32, "FP32", None),
        (torch.bfloat16, "BF16", None),
    ],
)
def test_poison_fills_what_is_not_valid_and_fresh_memory(dtype, name: str, wanted):
    text = f"""
    func f(%x: tensor<1x2, {name}>, out %y: tensor<1x4, {name}>) {{
      %v = load %x[0, 0] valid [1, 1] {{shape = [1, 2]}} : tile<1x2, {name}>
      store %v to %y[0, 0] valid [1, 2] {{shape = [1, 2]}}
      %c = create {{dtype = {name}, shape = [1, 2]}} : tensor<1x2, {name}>
      %u = load %c[0, 0] valid [1, 2] {{shape = [1, 2]}} : tile<1x2, {name}>
      store %u to %y[0, 2] valid [1, 2] {{shape = [1, 2]}}
    }}"""
    x, out = torch.ones(1, 2, dtype=dtype), torch.zeros(1, 4, dtype=dtype)
    run_text(text, x, out)
    assert out.tolist() == [[1, 0, 0, 0]]
    run_text(text, x, out, poison=True)
    shown = out[0, 1:]
    assert out[0, 0] == 1
    assert shown.isnan().all() if wanted is None else shown.tolist() == [wanted] * 3


def test_a_window_may_overhang_as_long_as_its_valid_part_does_not():
    x, out = torch.arange(20.0).reshape(10, 2), torch.zeros(8, 2)
    run_text(
        """
        func f(%x: tensor<10x2, FP32>, out %y: tensor<8x2, FP32>) {
          %w = window %x[8, 0] {shape = [8, 2]} : tensor<8x2, FP32>
          %t = load %w[0, 0] valid [2, 2] {shape = [8, 2]} : tile<8x2, FP32>
          store %t to %y[0, 0] valid [2, 2] {shape = [8, 2]}
        }""",
        x,
        out,
    )
    assert torch.equal(out[:2], x[8:])
    assert not out[2:].any()


OVER = """
func f(%x: tensor<10x2, FP32>, %n: INDEX, out %y: tensor<10x2, FP32>) {
  %t = load %x[%n, 0] valid [4, 2] {shape = [4, 2]} : tile<4x2, FP32> @ q.py:7:5..7:20
  store %t to %y[%n, 0] valid [4, 2] {shape = [4, 2]}
}"""


@pytest.mark.parametrize("offset", [7, -1, 2**40])
def test_a_load_outside_is_stopped_with_the_author_s_line(offset: int):
    out = torch.full((10, 2), 5.0)
    with pytest.raises(BoundsError) as caught:
        run_text(OVER, torch.zeros(10, 2), offset, out)
    assert "q.py:7:5: error: read outside x: axis 0 has 10 elements" in str(caught.value)
    assert f"wanted {offset} to {offset + 4}" in str(caught.value)
    assert (out == 5).all()


def test_the_overhang_of_a_window_cannot_be_read():
    text = """
    func f(%x: tensor<10x2, FP32>, out %y: tensor<8x2, FP32>) {
      %w = window %x[8, 0] {shape = [8, 2]} : tensor<8x2, FP32>
      %t = load %w[0, 0] valid [3, 2] {shape = [8, 2]} : tile<8x2, FP32>
      store %t to %y[0, 0] valid [3, 2] {shape = [8, 2]}
    }"""
    # The argument is the head of a larger array: Torch itself would not notice.
    with pytest.raises(BoundsError, match="axis 0 has 2 elements, wanted 0 to 3"):
        run_text(text, torch.zeros(20, 2)[:10], torch.zeros(8, 2))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%s = read %x[10, 0] : FP32", "read outside x: axis 0"),
        ("write %x, 1.0 at [0, 2]", "write outside x: axis 1"),
        (
            'check_window at [%n] valid [4] {access = "write", extents = [10], subject = "rows.3"}',
            "write outside rows: axis 0 has 10 elements, wanted 9 to 13",
        ),
        (
            "%w = window %x[-1, 0] {shape = [4, 2]} : tensor<4x2, FP32>",
            "axis 0 has 10 elements, wanted -1 to 3",
        ),
        (
            "%t = load %x[0, 0] valid [5, 2] {shape = [4, 2]} : tile<4x2, FP32>",
            "valid extent 5 on axis 0, the window has 4",
        ),
    ],
)  # fmt: skip
def test_every_access_is_checked(line: str, words: str):
    text = f"func f(%x: tensor<10x2, FP32>, %n: INDEX) {{\n{line}\n}}"
    with pytest.raises(BoundsError, match=words):
        run_text(text, torch.zeros(10, 2), 9)


def test_check_that_stops_with_its_message():
    text = (
        'func f(%n: INDEX) {\n%c = s.lt %n, 4 : BOOL\ncheck_that %c {message = "n is 4 or more"}\n}'
    )
    run_text(text, 3)
    with pytest.raises(KernelError, match="n is 4 or more"):
        run_text(text, 4)


def test_atomic_stores_add_in_the_tensor_s_dtype():
    text = """
    func f(%x: tensor<3x2, FP16>, inout %y: tensor<1x2, FP16>) {
      for %i in parallel(0, 3, 1) {
        %t = load %x[%i, 0] valid [1, 2] {shape = [1, 2]} : tile<1x2, FP16>
        store %t to %y[0, 0] valid [1, 2] {atomic = "add", shape = [1, 2]}
        yield
      }
    }"""
    x = torch.tensor([[2048.0, 1], [1.0, 2], [1.0, 3]], dtype=torch.float16)
    y = torch.zeros(1, 2, dtype=torch.float16)
    run_text(text, x, y)
    assert y.tolist() == [[2048.0, 6.0]]  # 2049 is a tie and goes back to even, twice
    run_text(text, x, y.zero_(), order="reverse")
    assert y.tolist() == [[2050.0, 6.0]]


def test_dropped_axes_are_read_and_written():
    text = """
    func f(%x: tensor<3x4x2, FP32>, out %y: tensor<3x4x2, FP32>) {
      %t = load %x[1, 0, 0] valid [1, 4, 2] {drop = [0], shape = [1, 4, 2]} : tile<4x2, FP32>
      store %t to %y[2, 0, 0] valid [1, 3, 2] {drop = [0], shape = [1, 4, 2]}
      %w = window %y[0, 0, 0] {drop = [0], shape = [1, 4, 2]} : tensor<4x2, FP32>
      store %t to %w[0, 0] valid [4, 1] {shape = [4, 2]}
    }"""
    x, y = torch.rand(3, 4, 2), torch.zeros(3, 4, 2)
    run_text(text, x, y)
    assert torch.equal(y[2, :3], x[1, :3])
    assert torch.equal(y[0, :, 0], x[1, :, 0])
    assert not y[1].any()
    assert not y[2, 3].any()
    assert not y[0, :, 1].any()


def test_copies_keep_the_bits_of_nans_and_subnormals():
    lanes = torch.tensor([[0x7F800001, 1, -1, 0x7FC12345]], dtype=torch.int32)
    out = torch.zeros(1, 4)
    run_text(
        """
        func f(%x: tensor<1x4, FP32>, out %y: tensor<1x4, FP32>) {
          %t = load %x[0, 0] valid [1, 3] {shape = [1, 4]} : tile<1x4, FP32>
          %a = reshape %t {shape = [4, 1]} : tile<4x1, FP32>
          %b = transpose %a {axis1 = 0, axis2 = 1} : tile<1x4, FP32>
          %l = load %x[0, 3] valid [1, 1] {shape = [1, 1]} : tile<1x1, FP32>
          %c = insert %b, %l at [0, 3] valid [1, 1] {shape = [1, 1]} : tile<1x4, FP32>
          store %c to %y[0, 0] valid [1, 4] {shape = [1, 4]}
        }""",
        lanes.view(torch.float32),
        out,
    )
    assert same_bits(out, lanes.view(torch.float32))


def test_a_tile_is_a_value_and_insert_makes_a_new_one():
    text = """
    func f(%x: tensor<2x2, FP32>, out %p: tensor<2x2, FP32>, out %q: tensor<2x2, FP32>) {
      %a = load %x[0, 0] valid [2, 2] {shape = [2, 2]} : tile<2x2, FP32>
      %b = with_element %a, 9.0 at [1, 0] : tile<2x2, FP32>
      %r = extract %b[1, 0] {drop = [0], shape = [1, 2]} : tile<2, FP32>
      %c = insert %b, %r at [0, 0] valid [1, 1] {drop = [0], shape = [1, 2]} : tile<2x2, FP32>
      %e = element %c[0, 0] : FP32
      write %p, %e at [0, 1]
      store %c to %q[0, 0] valid [2, 2] {shape = [2, 2]}
      %old = extract %a[1, 0] {shape = [1, 2]} : tile<1x2, FP32>
      store %old to %p[1, 0] valid [1, 2] {shape = [1, 2]}
    }"""
    p, q = torch.zeros(2, 2), torch.zeros(2, 2)
    run_text(text, torch.tensor([[1.0, 2], [3, 4]]), p, q)
    assert q.tolist() == [[9, 2], [9, 4]]
    assert p.tolist() == [[0, 9], [3, 4]]


def test_fillpad_replaces_what_is_not_valid():
    x = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    low = float("-inf")
    out = apply("fillpad", x, extra=(1, 3), value=low)
    assert out.tolist() == [[1, 2, 3, low], [low] * 4]


def test_written_integers_keep_their_low_bits():
    text = """
    func f(%n: INT8, out %y: tensor<1, INT8>) {
      %m = s.add %n, %n : INT8
      write %y, %m at [0]
    }"""
    out = torch.zeros(1, dtype=torch.int8)
    run_text(text, 100, out)
    assert out.item() == -56


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "takes 2 arguments, got 0"),
        ((torch.zeros(3), 1.0), r"wanted \[2, 2\] FP32"),
        ((torch.zeros(2, 2).half(), 1.0), r"wanted \[2, 2\] FP32"),
        ((torch.zeros(4, 2)[::2], 1.0), "strides"),
        ((3, 1.0), "x is a tensor parameter"),
        ((torch.zeros(2, 2), torch.zeros(1)), "n is a scalar parameter"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: tuple, words: str):
    program = parse("func f(%x: tensor<2x2, FP32>, %n: FP32) {\nreturn %x\n}")
    with pytest.raises(ArgumentError, match=words):
        run(program, args)


def test_full_and_splat_convert_to_their_dtype():
    text = """
    func f(%s: FP32, out %y: tensor<1x2, INT32>) {
      %a = splat %s {dtype = INT32, shape = [1, 1]} : tile<1x1, INT32>
      %b = full {dtype = INT32, shape = [1, 1], value = -3} : tile<1x1, INT32>
      %c = concat %a, %b : tile<1x2, INT32>
      store %c to %y[0, 0] valid [1, 2] {shape = [1, 2]}
    }"""
    out = torch.zeros(1, 2, dtype=torch.int32)
    run_text(text, -2.75, out)
    assert out.tolist() == [[-2, -3]]


def test_a_literal_index_scalar_meets_a_float_block():
    assert apply("add", torch.ones(1, 1), Const(2, INDEX)).item() == 3.0
    assert apply("maximum", torch.ones(1, 1), Const(0.5, FP32)).item() == 1.0
