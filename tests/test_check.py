"""Checked runs: one wrong kernel a file under tests/check with its reports as the golden, and kernels
that are fine, which must be silent.

`pytest tests/test_check.py --update-golden` rewrites the reports; read the diff.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from ir_programs import same_bits
from test_examples import TOKENS, example, inputs

import tilewright
import tilewright.language as pl
from tilewright.golden import TensorSpec, run_jit
from tilewright.interpreter import check
from tilewright.ir.parser import parse
from tilewright.models.deepseek_v4.config import DEMO
from tilewright.models.deepseek_v4.registry import KERNELS, Inputs

PROGRAMS = sorted((Path(__file__).parent / "check").glob("*.py"))


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"check_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wrong(name: str) -> ModuleType:
    return module_at(Path(__file__).parent / "check" / f"{name}.py")


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_every_mistake_of_a_run_is_reported_once(path: Path, request: pytest.FixtureRequest):
    module = module_at(path)
    reports = tilewright.check(module.kernel, *module.arguments())
    found = "\n".join(f"{type(r).__name__}\n{r}\n" for r in reports).replace(f"{path.parent}/", "")
    golden = path.with_suffix(".txt")
    if request.config.getoption("--update-golden"):
        golden.write_text(found, encoding="utf-8")
    assert golden.exists(), "no golden; run with --update-golden and read what it says"
    assert found == golden.read_text(encoding="utf-8")
    assert reports
    assert all(r.span.file == str(path) for r in reports)


@pytest.mark.parametrize("order", ["reverse", "shuffled"])
def test_a_race_is_found_in_any_order(order):
    for name in ("two_iterations_write_one_row", "an_iteration_reads_what_another_writes"):
        module = wrong(name)
        args = module.arguments()
        function = module.kernel.specialize(*args, backend="interpreter").function
        assert {type(r) for r in check(function, args, order=order)} == {tilewright.RaceError}


# Kernels that are fine


@pytest.mark.parametrize("name", list(KERNELS))
def test_the_flagship_is_fine(name: str):
    entry = KERNELS[name]
    asked = Inputs(tokens=37, start_pos=None, max_seq=None, seed=0, rope="plain")
    specs = entry.specs(DEMO, asked)
    values = [s.create_tensor() if hasattr(s, "create_tensor") else s.to_python() for s in specs]
    assert tilewright.check(entry.build(DEMO), *values) == ()


def test_the_example_is_fine():
    assert tilewright.check(example().build(DEMO, TOKENS), *inputs(seed=0).values()) == ()


ROWS, TILE, WIDTH = 20, 8, 16


@pl.jit
def tails(x: pl.Tensor[[ROWS, WIDTH], pl.FP32], n: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor]):
    """Tiles that overhang, a scratch row that only some iterations fill, a mask over the rest."""
    sums = pl.create_tensor([ROWS + TILE, 1], dtype=pl.FP32)
    for r0 in pl.parallel(0, ROWS, TILE):
        mine = pl.create_tensor([TILE, WIDTH], dtype=pl.FP32)
        with pl.at(level=pl.Level.CORE_GROUP):
            rows = pl.min(TILE, ROWS - r0)
            part = pl.slice(x, [TILE, WIDTH], [r0, 0], valid_shape=[rows, n])
            mine[:, :] = pl.fillpad(part, pl.PadValue.min)
            scores = pl.row_expand_sub(mine[:, :], pl.row_max(mine[:, :]))
            total = pl.set_validshape(pl.row_sum(pl.exp(scores)), rows, 1)
            sums[r0 : r0 + TILE, :] = total
            y[r0 : r0 + TILE, :] = pl.set_validshape(scores, rows, n)
    with pl.at(level=pl.Level.CORE_GROUP):
        every = sums[:, :]  # rows ROWS and up were never written
        y[:, 0:1] = pl.set_validshape(pl.neg(every), ROWS, 1)[0:ROWS, :]


@pl.jit
def split_k(x: pl.Tensor[[8, 64], pl.FP32], w: pl.Tensor[[64, 16], pl.FP32], y: pl.Out[pl.Tensor]):
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.full([8, 16], dtype=pl.FP32, value=0.0)
    for k in pl.parallel(0, 64, 16):
        with pl.at(level=pl.Level.CORE_GROUP):
            part = pl.matmul(x[:, k : k + 16], w[k : k + 16, :])
            y = pl.assemble(y, part, [0, 0], atomic=pl.AtomicType.Add)


@pl.jit
def accumulates(
    x: pl.Tensor[[8, 64], pl.FP32], w: pl.Tensor[[64, 16], pl.FP32], y: pl.Out[pl.Tensor]
):
    acc = pl.create_tensor([8, 16], dtype=pl.FP32)
    with pl.at(level=pl.Level.CORE_GROUP):
        for k in pl.pipeline(0, 64, 16, stage=2):
            if k == 0:
                acc = pl.matmul(x[:, k : k + 16], w[k : k + 16, :])
            else:
                acc = pl.matmul_acc(acc, x[:, k : k + 16], w[k : k + 16, :])
        y[:, :] = acc


@pl.jit
def fills_then_asks(x: pl.Tensor[[4, 4], pl.INT32], y: pl.Out[pl.Tensor[[4, 4], pl.INT32]]):
    """Scalars from memory that the kernel wrote; only the shape of y[0:1, :] is read."""
    head = pl.create_tensor([4], dtype=pl.INT32, init_value=0)
    with pl.at(level=pl.Level.CORE_GROUP):
        pl.write(head, [1], pl.read(x, [0, 0]))
    for i in pl.parallel(4):
        with pl.at(level=pl.Level.CORE_GROUP):
            ones = pl.col_expand(y[0:1, :], pl.full([1, 4], dtype=pl.INT32, value=1))
            if pl.read(head, [1]) + pl.read(head, [3]) > 0:
                y[i : i + 1, :] = pl.add(x[i : i + 1, :], ones)
            else:
                y[i : i + 1, :] = ones


@pl.jit
def clears_by_a_product(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    """What authors write to get zeros: something fresh times 0, a block or a tensor in memory."""
    kept = pl.create_tensor([4, 8], dtype=pl.FP32)
    with pl.at(level=pl.Level.CORE_GROUP):
        kept[:, :] = pl.mul(kept[:, :], 0.0)
    for i in pl.range(4):
        with pl.at(level=pl.Level.CORE_GROUP):
            kept[i : i + 1, :] = pl.add(kept[i : i + 1, :], x[i : i + 1, :])
    with pl.at(level=pl.Level.CORE_GROUP):
        squares = pl.mul(pl.create_tensor([4, 1], dtype=pl.FP32), 0.0)
        for k in pl.range(0, 8, 4):
            part = x[:, k : k + 4]
            squares = pl.add(squares, pl.row_sum(pl.mul(part, part)))
        y[:, :] = pl.row_expand_mul(kept[:, :], pl.rsqrt(pl.add(squares, 1.0)))


@pl.jit
def counts_in_an_array(ids: pl.Tensor[[6], pl.INT32], y: pl.Out[pl.Tensor[[2], pl.INT32]]):
    """An array of scalars holds zeros at first, unlike a tensor."""
    fill = pl.array.create(2, pl.INT32)
    seen = pl.array.create(2, pl.BOOL)
    with pl.at(level=pl.Level.CORE_GROUP):
        for t in pl.range(6):
            e = pl.read(ids, [t])
            fill[e] = fill[e] + 1
            seen[e] = True
        for e in pl.range(2):
            pl.write(y, [e], 0)
            if seen[e]:
                pl.write(y, [e], pl.cast(fill[e], pl.INT32))


@pl.jit
def reads_what_its_barrier_covers(
    x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]
):
    """The kernel of a_window_wider_than_its_barrier with a window of what it needs."""
    for b in pl.spmd(4):
        y[b : b + 1, :] = pl.mul(x[b : b + 1, :], 2.0)
        pl.system.syncall(core_type="mix")
        other = (b + 1) % 4
        probe = y[other : other + 1, 0:1]
        pl.write(y, [b, 7], pl.read(probe, [0, 0]))


@pl.jit
def scatters_apart(
    x: pl.Tensor[[4, 8], pl.FP32], places: pl.Tensor[[4, 8], pl.INT32], y: pl.Out[pl.Tensor]
):
    """Every iteration puts its row where no other does; all of the output gets written."""
    for i in pl.parallel(4):
        with pl.at(level=pl.Level.CORE_GROUP):
            y = pl.mscatter(x[i : i + 1, :], places[i : i + 1, :], y)
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.neg(y[:, :])


IDS = torch.tensor([0, 1, 1, 0, 1, 1], dtype=torch.int32)
PLACES = torch.randperm(32, generator=torch.Generator().manual_seed(0)).int().view(4, 8)


@pytest.mark.parametrize(
    ("kernel", "args"),
    [
        (clears_by_a_product, (torch.rand(4, 8), torch.zeros(4, 8))),
        (counts_in_an_array, (IDS, torch.zeros(2, dtype=torch.int32))),
        (reads_what_its_barrier_covers, (torch.rand(4, 8), torch.zeros(4, 8))),
        (scatters_apart, (torch.rand(4, 8), PLACES, torch.zeros(4, 8))),
        (tails, (torch.rand(ROWS, WIDTH), 13, torch.zeros(ROWS, WIDTH))),
        (split_k, (torch.rand(8, 64), torch.rand(64, 16), torch.zeros(8, 16))),
        (accumulates, (torch.rand(8, 64), torch.rand(64, 16), torch.zeros(8, 16))),
        (fills_then_asks, (torch.ones(4, 4, dtype=torch.int32), torch.zeros(4, 4, dtype=torch.int32))),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)  # fmt: skip
def test_a_kernel_that_is_fine_is_silent_and_gives_the_interpreter_s_bits(kernel, args):
    checked, plain = ([x.clone() if torch.is_tensor(x) else x for x in args] for _ in range(2))
    assert tilewright.check(kernel, *checked) == ()
    kernel.run(*plain, backend="interpreter")
    assert same_bits(checked[-1], plain[-1])


def test_what_nobody_writes_keeps_what_the_caller_put_there():
    y = torch.full((ROWS, WIDTH), 7.0)
    assert tilewright.check(tails, torch.rand(ROWS, WIDTH), 13, y) == ()
    assert (y[:, 13:] == 7).all()
    assert (y[:, 1:13] <= 0).all()


@pl.jit
def looks_past_the_end(
    x: pl.Tensor[[8, 16], pl.FP32], w: pl.Tensor[[16, 16], pl.FP32], y: pl.Out[pl.Tensor]
):
    with pl.at(level=pl.Level.CORE_GROUP):
        rows = pl.load(x, [0, 0], [16, 16])
        y[:, :] = pl.slice(pl.matmul(rows, w[:, :]), [8, 16], [0, 0])


def test_a_read_past_the_end_is_fine_only_where_that_gives_zeros(monkeypatch):
    args = torch.rand(8, 16), torch.rand(16, 16), torch.zeros(8, 16)
    with pytest.raises(tilewright.KernelError, match="outside a"):
        tilewright.check(looks_past_the_end, *args)
    monkeypatch.setenv("TILEWRIGHT_BOUNDS", "zeros")
    assert tilewright.check(looks_past_the_end, *args) == ()
    torch.testing.assert_close(args[2], args[0] @ args[1])


# Programs as text: what no kernel can say today, and single operators


def reports_of(text: str, *args) -> list[str]:
    return [r.message for r in check(parse(text), args)]


def test_a_carried_block_in_a_parallel_loop_is_reported():
    text = """
    func f(%x: tensor<4x2, FP32>, out %y: tensor<1x2, FP32>) {
      %z = full {dtype = FP32, shape = [1, 2], value = 0.0} : tile<1x2, FP32>
      for %i in parallel(0, 4, 1) carry (%sum = %z) -> (%last) {
        %t = load %x[%i, 0] valid [1, 2] {shape = [1, 2]} : tile<1x2, FP32>
        %s = add %sum, %t : tile<1x2, FP32>
        yield %s
      }
      store %last to %y[0, 0] valid [1, 2] {shape = [1, 2]}
    }"""
    (message,) = reports_of(text, torch.rand(4, 2), torch.zeros(1, 2))
    assert message == "sum is carried from one iteration of a pl.parallel loop to the next"


# The first row of the block is defined, the second one not.
OPERATOR = """
func f(%x: tensor<2x4, DT>, out %y: tensor<ROWSxCOLS, TO>) {{
  %v = load %x[0, 0] valid [1, 4] {{shape = [2, 4]}} : tile<2x4, DT>
  %r = {op} : tile<ROWSxCOLS, TO>
  store %r to %y[0, 0] valid [{rows}, {cols}] {{shape = [ROWS, COLS]}}
}}"""


@pytest.mark.parametrize(
    ("op", "shape", "defined"),
    [
        ("add %v, 1.0", (2, 4), (1, 4)),
        ("relu %v", (2, 4), (1, 4)),
        ("mul %v, 0.0", (2, 4), (1, 4)),
        ('cmp %v, 0.5 {kind = "eq"}', (2, 4), (1, 4)),
        ("row_max %v valid [2, 4]", (2, 1), (1, 1)),
        ("row_sum %v valid [1, 4]", (2, 1), (1, 1)),
        ("col_sum %v valid [1, 4]", (1, 4), (1, 4)),
        ("col_min %v valid [2, 4]", (1, 4), (0, 4)),
        ("transpose %v {axis1 = 0, axis2 = 1}", (4, 2), (4, 1)),
        ("fillpad %v valid [1, 4] {value = 0.0}", (2, 4), (2, 4)),
        ("concat %v, %v", (2, 8), (1, 8)),
        ('gather_mask %v {pattern = "P0101"}', (2, 2), (1, 2)),
        ("interleave %v, %v", (2, 8), (1, 8)),
        ("sel %v, %v, %v", (2, 4), (1, 4)),
        ("matmul %v, %v, 2, 4, 2 {b_trans = true}", (2, 2), (1, 1)),
        ("matmul %v, %v, 1, 4, 1 {b_trans = true}", (2, 2), (2, 2)),
    ],
)  # fmt: skip
def test_an_operator_is_undefined_where_its_operands_say_so(op, shape, defined):
    for rows in range(shape[0] + 1):
        for cols in {shape[1], defined[1]}:
            text = OPERATOR.format(op=op, rows=rows, cols=cols)
            text = text.replace("ROWS", str(shape[0])).replace("COLS", str(shape[1]))
            text = text.replace("DT", "FP32").replace("TO", "FP32")
            found = reports_of(text, torch.rand(2, 4), torch.zeros(shape))
            fine = (rows <= defined[0] and cols <= defined[1]) or rows == 0
            assert bool(found) != fine, (rows, cols, found)


def test_integers_that_do_not_matter_are_no_mistake():
    text = """
    func f(%x: tensor<1x4, INT32>, out %y: tensor<1x4, INT32>) {
      %v = load %x[0, 0] valid [1, 2] {shape = [1, 4]} : tile<1x4, INT32>
      %z = mul %v, 0:INT32 : tile<1x4, INT32>
      store %z to %y[0, 0] valid [1, 4] {shape = [1, 4]}
    }"""
    assert reports_of(text, torch.ones(1, 4, dtype=torch.int32), torch.zeros(1, 4).int()) == []


@pl.jit
def tail_in_fp8(x: pl.Tensor[[5, 8], pl.FP32], y: pl.Out[pl.Tensor[[5, 8], pl.FP8E4M3FN]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        part = pl.slice(x, [8, 8], [0, 0], valid_shape=[5, 8])
        y[0:5, :] = pl.cast(pl.row_expand_div(part, pl.row_max(part)), target_type=pl.FP8E4M3FN)


def test_invalid_rows_cast_to_fp8_are_no_mistake():
    x, y = torch.rand(5, 8), torch.zeros(5, 8).to(torch.float8_e4m3fn)
    assert not tilewright.check(tail_in_fp8, x, y)
    assert torch.equal(y.float(), (x / x.amax(1, keepdim=True)).to(torch.float8_e4m3fn).float())


# Ways to ask for it


def test_the_knob_checks_every_call_whatever_back_end_was_asked_for(monkeypatch):
    module = wrong("two_iterations_write_one_row")
    args = module.arguments()
    module.kernel(*args)
    monkeypatch.setenv("TILEWRIGHT_CHECK", "1")
    for call in (module.kernel, lambda *a: module.kernel.run(*a, backend="native")):
        with pytest.raises(tilewright.CheckFailed) as caught:
            call(*args)
        assert len(caught.value.reports) == 1
        assert "1 mistake found in a checked run of 'kernel'" in str(caught.value)
    with pytest.raises(tilewright.CheckFailed):
        module.kernel.bind(x=args[0])(args[1])


def test_a_bound_kernel_that_is_fine_runs_checked(monkeypatch):
    x, w, y = torch.rand(8, 64), torch.rand(64, 16), torch.zeros(8, 16)
    monkeypatch.setenv("TILEWRIGHT_CHECK", "1")
    accumulates.bind(w=w)(x, y)
    torch.testing.assert_close(y, x @ w)


@pl.jit
def adds_in_place(x: pl.Tensor[[4, 4], pl.FP32], y: pl.Out[pl.Tensor[[4, 4], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.add(y[:, :], x[:, :])


@pytest.mark.parametrize("initial", [None, 2.0])
def test_a_golden_run_knows_which_outputs_hold_something(initial):
    """Scripts mark an in-out tensor `pl.Out` in the kernel; its specification says that it is filled."""
    specs = [
        TensorSpec("x", [4, 4], torch.float32, torch.rand),
        TensorSpec("y", [4, 4], torch.float32, initial, is_output=True),
    ]

    def golden(values):
        values["y"] += values["x"]

    def run():
        return run_jit(adds_in_place, specs, golden, runtime_cfg={"backend": "checked"})

    if initial is None:
        with pytest.raises(tilewright.CheckFailed, match="annotate it"):
            run()
    else:
        assert run().passed
