"""Programs that are kept: what makes two of them one, and who finds them again."""

from __future__ import annotations

import gc
import importlib.util
import json
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from kept_code import run_python, warned

from tilewright import knobs, native
from tilewright.errors import BoundsError
from tilewright.ir.nodes import Function
from tilewright.ir.parser import parse
from tilewright.ir.types import PanelType
from tilewright.machine import avx2, host
from tilewright.native import NativeProgram
from tilewright.passes.prepare import prepare
from tilewright.runtime import cache, record
from tilewright.runtime.cache import DiskCache


def test_the_knob_switches_it_off(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert cache.user_cache() is not None
    monkeypatch.setenv("TILEWRIGHT_CACHE", "0")
    assert cache.user_cache() is None


def test_a_compiler_that_was_edited_while_it_runs_keeps_nothing(
    folder: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
):
    assert cache.user_cache() is not None
    monkeypatch.setattr(knobs, "LOADED_AT", 0.0)
    found, (message,) = warned(cache.user_cache)
    assert found is None
    assert "sources changed" in message


# Keys


def test_a_key_says_program_machine_and_compiler(monkeypatch: pytest.MonkeyPatch):
    here = host()
    changed = [
        replace(here, l2=here.l2 * 2),
        replace(here, cores=here.cores + 1),
        replace(here, name="generic"),
        here.without("avx2"),
        avx2(),
    ]
    keys = [cache.key_of("program", "text", machine) for machine in (here, *changed)]
    keys += [cache.key_of("program", "text ", here), cache.key_of("prepack", "text", here)]
    monkeypatch.setattr(cache, "_compiler", lambda: "another")
    keys.append(cache.key_of("program", "text", here))
    assert len(set(keys)) == len(keys)


def test_the_compiler_is_known_by_its_sources_and_versions():
    import llvmlite

    rooms = {Path(p).relative_to(cache._package()).parts[0] for p in cache._sources()}
    assert {"codegen", "passes", "ir", "runtime", "native.py", "machine.py"} <= rooms
    assert not rooms & {"cli", "models", "frontend"}
    assert f"llvmlite {llvmlite.__version__} LLVM " in cache._compiler()


# Programs


SCALE = """
func scale(%x: tensor<8x64, FP32>, out %y: tensor<8x64, FP32>) {
  %a = load %x[0, 0] valid [8, 64] {shape = [8, 64]} : tile<8x64, FP32>
  %v = mul %a, FACTOR : tile<8x64, FP32>
  store %v to %y[0, 0] valid [8, 64] {shape = [8, 64]}
}
"""


def scale(factor: float = 2.0) -> Function:
    return prepare(parse(SCALE.replace("FACTOR", repr(factor))), host())


def scaled(program: NativeProgram) -> torch.Tensor:
    x, y = torch.arange(512.0).reshape(8, 64), torch.zeros(8, 64)
    program.run([x, y])
    return y / x.clamp(min=1)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held in memory, as in a new process."""
    monkeypatch.setattr(native, "_held", weakref.WeakValueDictionary())


def test_a_program_comes_back_from_disk_and_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    cold = NativeProgram(scale())
    assert not cold.cached
    forget(monkeypatch)
    monkeypatch.setattr(
        "tilewright.runtime.engine.compile_object", lambda *_: pytest.fail("compiled again")
    )
    warm = NativeProgram(scale())
    assert warm.cached
    assert scaled(warm)[1:].unique().tolist() == scaled(cold)[1:].unique().tolist() == [2.0]
    assert (warm.params, warm.small) == (cold.params, cold.small)
    assert warm.lowered == cold.lowered  # made when asked for
    assert warm.text == cold.text
    assert (warm.stages.passes, warm.stages.codegen) == (0, 0)


def test_constants_are_part_of_the_program(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert scaled(NativeProgram(scale(2.0)))[1, 0] == 2
    forget(monkeypatch)
    assert scaled(NativeProgram(scale(3.0)))[1, 0] == 3
    assert len(list(folder.iterdir())) == 2


def test_a_second_program_in_a_process_does_not_ask_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    first = NativeProgram(scale())
    monkeypatch.setattr(DiskCache, "get", lambda *_: pytest.fail("asked the disk"))
    monkeypatch.setattr(DiskCache, "put", lambda *_: pytest.fail("wrote to the disk"))
    second = NativeProgram(scale())
    assert second.cached
    assert second._code is first._code
    assert scaled(second)[1, 0] == 2


def test_code_that_nobody_holds_is_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch):
    forget(monkeypatch)
    program = NativeProgram(scale())
    assert len(native._held) == 1
    del program
    gc.collect()
    assert len(native._held) == 0


@pytest.mark.parametrize("damage", [lambda _: b"", lambda b: b[:-1], lambda b: b"x" * len(b)])
def test_a_damaged_program_is_compiled_anew_and_replaced(
    folder: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
):
    NativeProgram(scale())
    (file,) = folder.iterdir()
    good = file.read_bytes()
    file.write_bytes(damage(good))
    forget(monkeypatch)
    program = NativeProgram(scale())
    assert not program.cached
    assert scaled(program)[1, 0] == 2
    assert file.read_bytes()[:100] == good[:100]


def test_programs_run_without_a_cache(
    folder: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
):
    folder.mkdir(0o777)
    folder.chmod(0o777)
    for _ in range(2):
        program = NativeProgram(scale())
        assert not program.cached
        assert scaled(program)[1, 0] == 2
        forget(monkeypatch)
    assert list(folder.iterdir()) == []
    monkeypatch.setenv("TILEWRIGHT_CACHE", "0")
    assert not NativeProgram(scale()).cached


KERNEL = """\
import tilewright.language as pl
from tilewright import jit


@jit
def pick(x: pl.Tensor[[64, 32], pl.FP32], at: pl.Scalar[pl.INDEX],
         y: pl.Out[pl.Tensor[[8, 32], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="pick"):
        y[0:8, 0:32] = pl.mul(x[at : at + 8, 0:32], 2.0)


@jit
def project(x: pl.Tensor[[8, 64], pl.FP32], w: pl.Tensor[[64, 96], pl.FP32],
            y: pl.Out[pl.Tensor[[8, 96], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="project"):
        y[0:8, 0:96] = pl.matmul(x[0:8, 0:64], w[0:64, 0:96])
"""


def kernels(file: Path, source: str = KERNEL) -> ModuleType:
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_failure_names_the_line_of_the_file_as_it_is_now(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = []
    for name, source in (("first", KERNEL), ("moved", "# one\n# two\n# three\n" + KERNEL)):
        pick = kernels(tmp_path / f"{name}.py", source).pick
        x, y = torch.arange(2048.0).reshape(64, 32), torch.zeros(8, 32)
        pick(x, 3, y)
        assert torch.equal(y, 2 * x[3:11])
        with pytest.raises(BoundsError) as caught:
            pick(x, 60, y)
        assert caught.value.span is not None
        assert Path(caught.value.span.file).stem == name
        lines.append(caught.value.span.line)
        assert pick.specialize(x, 3, y).executable.cached == (name == "moved")
        forget(monkeypatch)
    assert lines == [9, 12]


def test_programs_that_share_spans_differently_are_kept_apart():
    function = scale()
    first, second, *rest = function.body.ops
    merged = (first, replace(second, span=replace(first.span, line=7)), *rest)
    apart = replace(function, body=replace(function.body, ops=merged))
    assert apart == function  # spans take no part in equality
    assert record.identity(apart) != record.identity(function)


def test_bound_weights_are_packed_by_code_that_was_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    x, w = torch.randn(8, 64), torch.randn(64, 96)
    results = []
    for turn in range(2):
        project = kernels(tmp_path / "kernels.py").project
        bound = project.bind(w=w)
        y = torch.zeros(8, 96)
        bound(x, y)
        program = bound.specialize(x, y).executable
        assert program.cached == (turn == 1)
        assert [isinstance(p.value.type, PanelType) for p in program.params] == [0, 1, 0]
        results.append(y)
        forget(monkeypatch)
        monkeypatch.setattr("tilewright.bound._prepackers", {})
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], x @ w)


def test_a_record_survives_its_way_through_json():
    function = scale()
    check = replace(
        function.body.ops[0],
        name="check_window",
        operands=(),
        results=(),
        attrs=(("access", "read"), ("extents", (64, 32)), ("subject", "x")),
    )
    known = record.Record(4096, 128, function.params, (check,), True)
    text = json.dumps(record.to_json(known, function))
    assert record.from_json(json.loads(text), function) == known


# Processes


SECOND_PROCESS = """
import json, sys, time
import torch
from tilewright import knobs
knobs.LOADED_AT = time.time() + 3600
sys.path.insert(0, sys.argv[1])
from kernels import project
x, w = torch.ones(8, 64), torch.ones(64, 96)
y = torch.zeros(8, 96)
special = project.specialize(x, w, y)
heavy = [name for name in ("tilewright.passes.pipeline", "tilewright.codegen.llvm.function")
         if name in sys.modules]
special.run([x, w, y])
assert torch.equal(y, torch.full((8, 96), 64.0))
print(json.dumps([special.executable.cached, heavy]))
"""


def test_a_second_process_neither_lowers_nor_generates(folder: Path, tmp_path: Path):
    (tmp_path / "kernels.py").write_text(KERNEL)
    cold, heavy = json.loads(run_python(SECOND_PROCESS, tmp_path))
    assert (cold, len(heavy)) == (False, 2)
    assert json.loads(run_python(SECOND_PROCESS, tmp_path)) == [True, []]


def test_two_processes_that_compile_the_same_program_both_run_it(folder: Path, tmp_path: Path):
    (tmp_path / "kernels.py").write_text(KERNEL)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(run_python(SECOND_PROCESS, tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert len([p for p in folder.iterdir() if p.suffix == ".kernel"]) == 1
    assert json.loads(run_python(SECOND_PROCESS, tmp_path))[0] is True
