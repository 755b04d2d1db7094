"""Compiling, loading and unloading: what runs is what was written, and what cannot link says so."""

from __future__ import annotations

import ctypes
import gc
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tilewright.errors import CompilerBug
from tilewright.machine import Machine, _arm_features, avx2, avx512, generic_x86_64, host
from tilewright.runtime import engine

ADD = "define i64 @add(i64 %a, i64 %b) { %c = add i64 %a, %b  ret i64 %c }"
EXP = """declare float @expf(float)
define float @f(float %x) { %y = call float @expf(float %x)  ret float %y }"""


def call_add(library: engine.Library) -> Any:
    return library.function("add", ctypes.c_int64, ctypes.c_int64, result=ctypes.c_int64)(40, 2)


def test_text_becomes_a_function_that_runs() -> None:
    assert call_add(engine.load(ADD, ["add"])) == 42


def test_object_bytes_can_be_kept_and_loaded_again() -> None:
    data = engine.compile_object(ADD)
    assert isinstance(data, bytes)
    one, two = engine.load_object(data, ["add"]), engine.load_object(data, ["add"])
    assert one["add"] != two["add"]
    assert call_add(one) == call_add(two) == 42


def test_a_library_lives_as_long_as_it_is_held_and_others_survive_it() -> None:
    kept = engine.load(ADD, ["add"])
    for _ in range(20):
        assert call_add(engine.load(ADD, ["add"])) == 42
        gc.collect()
    assert call_add(kept) == 42


@pytest.mark.skipif(sys.platform != "linux", reason="the flags of mmap are Linux's")
def test_code_and_its_constants_lie_together_however_full_the_address_space_is() -> None:
    script = Path(__file__).with_name("full_of_holes.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("3.0\n", 0), done.stderr


def test_libm_is_found_in_the_process() -> None:
    code = engine.load(EXP, ["f"])
    f = code.function("f", ctypes.c_float, result=ctypes.c_float)
    assert f(1.0) == pytest.approx(math.e, rel=1e-6)


def test_every_libm_function_that_code_may_call_is_there() -> None:
    for name in engine.LIBM:
        assert engine._outside(name.encode())[name] != 0


def test_a_symbol_given_by_address_wins_over_the_process() -> None:
    mine = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(lambda x: x + 100)
    address = ctypes.cast(mine, ctypes.c_void_p).value or 0
    code = engine.load(EXP, ["f"], symbols={"expf": address})
    assert code.function("f", ctypes.c_float, result=ctypes.c_float)(1.0) == 101


def test_a_missing_symbol_is_an_error_and_llvm_names_it(capfd: pytest.CaptureFixture[str]) -> None:
    text = """declare void @tilewright_nowhere()
    define void @f() { call void @tilewright_nowhere()  ret void }"""
    with pytest.raises(CompilerBug, match="does not link"):
        engine.load(text, ["f"])
    assert "tilewright_nowhere" in capfd.readouterr().err
    with pytest.raises(CompilerBug, match="absent"):
        engine.load(ADD, ["absent"])


@pytest.mark.parametrize(
    "text", ["define i64 @f() { ret i32 0 }", "nonsense", "define i64 @f() { br label %x }"]
)
def test_a_module_that_llvm_refuses_is_our_bug_and_shows_the_module(text: str) -> None:
    with pytest.raises(CompilerBug) as caught:
        engine.compile_object(text)
    assert text in str(caught.value)


def test_loops_stay_as_they_were_written() -> None:
    text = """define void @f(ptr %p, i64 %n) {
    entry:
      br label %loop
    loop:
      %i = phi i64 [ 0, %entry ], [ %j, %loop ]
      %q = getelementptr float, ptr %p, i64 %i
      %x = load float, ptr %q
      %y = fmul float %x, 2.0
      store float %y, ptr %q
      %j = add i64 %i, 1
      %more = icmp slt i64 %j, %n
      br i1 %more, label %loop, label %end
    end:
      ret void
    }"""
    assert engine.optimise(text).count("fmul float") == 1
    assert "fmul <" not in engine.optimise(text)


def test_code_is_for_the_machine_that_was_asked_for() -> None:
    text = """define void @f(ptr %p) {
      %x = load <16 x float>, ptr %p
      %y = fadd <16 x float> %x, %x
      store <16 x float> %y, ptr %p
      ret void
    }"""
    for machine, widest in ((generic_x86_64(), "%xmm"), (avx2(), "%ymm"), (avx512(), "%zmm")):
        found = {
            register
            for register in ("%xmm", "%ymm", "%zmm")
            if register in engine.assembly(text, machine)
        }
        assert widest in found
        assert max(found) == widest


def test_an_unknown_machine_is_an_error_not_a_crash() -> None:
    with pytest.raises(engine.NoSuchTarget, match="z80"):
        engine.assembly(ADD, Machine("generic", "z80-none-none", frozenset()))


def test_threads_compile_at_the_same_time() -> None:
    found: list[int] = []

    def work(n: int) -> None:
        for i in range(5):
            text = f"define i64 @f() {{ ret i64 {n * 100 + i} }}"
            code = engine.load(text, ["f"])
            found.append(code.function("f", result=ctypes.c_int64)())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [n * 100 + i for n in range(4) for i in range(5)]


def test_the_host_is_described() -> None:
    machine = host()
    assert machine.cores >= 1
    assert 8 * 1024 <= machine.l1d <= machine.l2 <= max(machine.l2, machine.l3)
    assert machine.vector_bits in (128, 256, 512)
    assert all(f"+{feature}" in machine.target_features for feature in machine.features)


def test_arm_features_are_read_from_what_linux_lists(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text(
        "processor\t: 0\nFeatures\t: fp asimd asimddp bf16 i8mm paca\nCPU part\t: 0xd4f\n"
    )
    assert _arm_features(listing, "neoverse-v2") == {"dotprod", "bf16", "i8mm"}
    assert _arm_features(tmp_path / "absent", "generic") == frozenset()
    assert "dotprod" in _arm_features(tmp_path / "absent", "apple-m1")


def test_taking_a_feature_away_takes_what_builds_on_it() -> None:
    machine = avx512("avx512vnni", "avx512bf16", "avxvnni")
    assert machine.has("avx512vnni", "avx512bf16")
    narrow = machine.without("avx512vnni")
    assert not narrow.has("avx512vnni")
    assert narrow.has("avx512bf16")
    assert "-avx512vnni" in narrow.target_features.split(",")
    assert machine.without("avx512f").vector_bits == 256
    assert not any(f.startswith("avx512") for f in machine.without("avx512f").features)
    assert machine.without("avx2").vector_bits == 128
    assert machine.without("avx2").without("avx512f") == machine.without("avx512f").without("avx2")


def test_a_cpu_that_llvm_does_not_know_still_gets_code() -> None:
    unheard_of = Machine("generic", host().triple, frozenset())
    assert call_add(engine.load(ADD, ["add"], unheard_of)) == 42
