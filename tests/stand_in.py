"""Code for one x86 processor running on another: what this one lacks is replaced by plain LLVM IR.

The compiler writes IR of vectors, which LLVM legalises for any processor, and a handful of instructions by
name. Those are put into words here, so that every path of the compiler for AVX-512 runs where there is none:
the same loops, panels, masks and epilogues, only slower. What is not tried is LLVM's own choice of
instructions.
"""

from __future__ import annotations

import re

import pytest

from tilewright.machine import Machine, host
from tilewright.runtime import engine

BYTES_PRODUCT = """
define {acc} @stand_in.{name}({acc} %acc, {bytes} %unsigned, {bytes} %signed) alwaysinline nounwind {{
  %u = zext {bytes} %unsigned to {words}
  %s = sext {bytes} %signed to {words}
  %p = mul {words} %u, %s
{parts}
  %r0 = add {acc} %acc, %p0
  %r1 = add {acc} %r0, %p1
  %r2 = add {acc} %r1, %p2
  %r3 = add {acc} %r2, %p3
  ret {acc} %r3
}}"""
WORDS_PRODUCT = """
define {acc} @stand_in.{name}({halves} %a, {halves} %b) alwaysinline nounwind {{
  %x = sext {halves} %a to {words}
  %y = sext {halves} %b to {words}
  %p = mul {words} %x, %y
{parts}
  %r = add {acc} %p0, %p1
  ret {acc} %r
}}"""
# Subnormals are no matter of these tests; a multiply-add rounds once, the odd element first.
BF16_PRODUCT = """
define {acc} @stand_in.{name}({acc} %acc, {halves} %a, {halves} %b) alwaysinline nounwind {{
  %x = fpext {halves} %a to {words}
  %y = fpext {halves} %b to {words}
{parts}
  %first = call {acc} @llvm.fma.v{lanes}f32({acc} %x1, {acc} %y1, {acc} %acc)
  %r = call {acc} @llvm.fma.v{lanes}f32({acc} %x0, {acc} %y0, {acc} %first)
  ret {acc} %r
}}
declare {acc} @llvm.fma.v{lanes}f32({acc}, {acc}, {acc})"""
SUBNORMAL = """
define <16 x i1> @stand_in.{name}(<16 x float> %x, i32 %unused) alwaysinline nounwind {{
  %bits = bitcast <16 x float> %x to <16 x i32>
  %size = and <16 x i32> %bits, splat (i32 2147483647)
  %before = sub <16 x i32> %size, splat (i32 1)
  %is = icmp ult <16 x i32> %before, splat (i32 8388607)
  ret <16 x i1> %is
}}"""
TO_BF16 = """
define <16 x bfloat> @stand_in.{name}(<16 x float> %x) alwaysinline nounwind {{
  %bits = bitcast <16 x float> %x to <16 x i32>
  %upper = lshr <16 x i32> %bits, splat (i32 16)
  %odd = and <16 x i32> %upper, splat (i32 1)
  %bias = add <16 x i32> %odd, splat (i32 32767)
  %sum = add <16 x i32> %bits, %bias
  %rounded = lshr <16 x i32> %sum, splat (i32 16)
  %quiet = or <16 x i32> %upper, splat (i32 64)
  %nan = fcmp uno <16 x float> %x, zeroinitializer
  %chosen = select <16 x i1> %nan, <16 x i32> %quiet, <16 x i32> %rounded
  %half = trunc <16 x i32> %chosen to <16 x i16>
  %y = bitcast <16 x i16> %half to <16 x bfloat>
  ret <16 x bfloat> %y
}}"""

Body = str


def _every(source: str, kind: str, width: int, lanes: int, names: str) -> str:
    """Lines that take every width-th element of %source, from the first, the second … on."""
    lines = []
    for i in range(width):
        mask = ", ".join(f"i32 {width * lane + i}" for lane in range(lanes))
        lines.append(
            f"  %{names}{i} = shufflevector {kind} %{source}, {kind} poison, <{lanes} x i32> <{mask}>"
        )
    return "\n".join(lines)


def _bytes(name: str, lanes: int) -> Body:
    words = f"<{4 * lanes} x i32>"
    return BYTES_PRODUCT.format(
        name=name,
        acc=f"<{lanes} x i32>",
        bytes=f"<{4 * lanes} x i8>",
        words=words,
        parts=_every("p", words, 4, lanes, "p"),
    )


def _words(name: str, lanes: int) -> Body:
    words = f"<{2 * lanes} x i32>"
    return WORDS_PRODUCT.format(
        name=name,
        acc=f"<{lanes} x i32>",
        halves=f"<{2 * lanes} x i16>",
        words=words,
        parts=_every("p", words, 2, lanes, "p"),
    )


def _bf16(name: str, lanes: int) -> Body:
    words = f"<{2 * lanes} x float>"
    parts = [_every(source, words, 2, lanes, source) for source in ("x", "y")]
    return BF16_PRODUCT.format(
        name=name,
        lanes=lanes,
        acc=f"<{lanes} x float>",
        halves=f"<{2 * lanes} x bfloat>",
        words=words,
        parts="\n".join(parts),
    )


# By the name behind `llvm.x86.`: the feature without which it is missing, and its stand-in.
STAND_INS = {
    **{
        f"avx512.vpdpbusd.{32 * n}": ("avx512vnni", lambda name, n=n: _bytes(name, n))
        for n in (8, 16)
    },
    "avx512.pmaddw.d.512": ("avx512bw", lambda name: _words(name, 16)),
    "avx2.pmadd.wd": ("avx2", lambda name: _words(name, 8)),
    "avx512bf16.dpbf16ps.512": ("avx512bf16", lambda name: _bf16(name, 16)),
    "avx512.fpclass.ps.512": ("avx512dq", lambda name: SUBNORMAL.format(name=name)),
    "avx512bf16.cvtneps2bf16.512": ("avx512bf16", lambda name: TO_BF16.format(name=name)),
}
USED = re.compile(r'@"?llvm\.x86\.([\w.]+)"?')
DECLARED = re.compile(r'^declare .*@"?llvm\.x86\.([\w.]+)"?\(.*$', re.MULTILINE)


def translated(text: str) -> str:
    """A module in which nothing asks for more than this processor has."""
    missing = {
        name
        for name in USED.findall(text)
        if name in STAND_INS and not host().has(STAND_INS[name][0])
    }
    text = DECLARED.sub(lambda m: "" if m[1] in missing else m[0], text)
    text = USED.sub(lambda m: f"@stand_in.{m[1]}" if m[1] in missing else m[0], text)
    return "\n".join([text, *(STAND_INS[name][1](name) for name in sorted(missing))])


def needed(machine: Machine) -> bool:
    """Whether this processor, an x86 like `machine`, lacks something of it."""
    return machine.triple.split("-")[0] == host().triple.split("-")[0] and not host().has(
        *machine.features
    )


def become(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the rest of the test the compiler takes this process to run on `machine`; nothing is kept on disk."""
    here = host()
    optimised, target_machine = engine._optimised, engine._target_machine
    monkeypatch.setenv("TILEWRIGHT_CACHE", "0")
    for module in ("tilewright.machine", "tilewright.native", "tilewright.bound"):
        monkeypatch.setattr(f"{module}.host", lambda: machine)
    monkeypatch.setattr(engine, "_optimised", lambda text, _: optimised(translated(text), here))
    monkeypatch.setattr(engine, "_target_machine", lambda _: target_machine(here))
