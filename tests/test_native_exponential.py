"""exp and log in machine code: over all of FP32, for instruction sets with and without a fused multiply-add."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from both_ways import difference
from ir_programs import same_bits

from tilewright.interpreter import run
from tilewright.ir.parser import parse
from tilewright.machine import Machine, avx2, generic_x86_64, host
from tilewright.native import NativeProgram
from tilewright.passes.pipeline import prepare

STRIDE = (
    4099  # a prime: a million numbers of every exponent, subnormals, infinities and NaN among them
)
MACHINES = [generic_x86_64(), avx2(), host()] if host().is_x86 else [host()]
every_machine = pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
every_function = pytest.mark.parametrize("name", ["exp", "log"])


def applied(name: str, x: torch.Tensor, machine: Machine, native: bool = True) -> torch.Tensor:
    """The function of every element."""
    rows, columns = x.shape
    kind = f"{rows}x{columns}, FP32"
    function = prepare(
        parse(f"""
        func f(%x: tensor<{kind}>, out %y: tensor<{kind}>) {{
          %a = load %x[0, 0] valid [{rows}, {columns}] {{shape = [{rows}, {columns}]}} : tile<{kind}>
          %b = {name} %a : tile<{kind}>
          store %b to %y[0, 0] valid [{rows}, {columns}] {{shape = [{rows}, {columns}]}}
        }}"""),
        machine,
    )
    y = torch.empty_like(x)
    if native:
        NativeProgram(function, machine).run([x, y], threads=1)
    else:
        run(function, [x, y])
    return y


@every_machine
@every_function
def test_numbers_of_the_whole_range_are_within_2_ulp(name: str, machine: Machine):
    bits = torch.arange(-(2**31), 2**31, STRIDE).to(torch.int32)
    x = bits[: len(bits) // 1024 * 1024].view(torch.float32).reshape(-1, 1024)
    wanted = applied(name, x, machine, native=False)
    found = difference(wanted, applied(name, x, machine), ulp=2)
    assert not found, found


@every_machine
def test_the_ends_of_the_range_are_exact(machine: Machine):
    x = torch.tensor([[0.0, -0.0, 88.8, -104.5, 1e30, -1e30, inf, -inf, nan]])
    assert applied("exp", x, machine).tolist()[0][:-1] == [1, 1, inf, 0, inf, 0, inf, 0]
    assert applied("exp", x, machine)[0, -1].isnan()
    x = torch.tensor([[1.0, 0.0, -0.0, inf, -1.0, -inf, -1e-45, nan]])
    y = applied("log", x, machine)
    assert y.tolist()[0][:4] == [0, -inf, -inf, inf]
    assert y[0, 4:].isnan().all()


@every_function
def test_an_element_gives_the_same_bits_wherever_it_stands(name: str):
    x = torch.linspace(0.01, 80, 259).reshape(1, 259)
    row = applied(name, x, host())
    assert same_bits(applied(name, x.reshape(259, 1), host()), row.reshape(259, 1))
    assert same_bits(applied(name, x[:, 5:].contiguous(), host()), row[:, 5:].contiguous())
