"""exp, log, sin and cos in machine code: over all of FP32, for instruction sets with and without a fused
multiply-add."""

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
every_function = pytest.mark.parametrize("name", ["exp", "log", "sin", "cos"])


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


@every_machine
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_angles_of_rotary_tables_are_as_exact_as_a_float_can_be(name: str, machine: Machine):
    """Up to 1,048,576 rad, at and around multiples of pi / 2, where little is left of the angle."""
    torch.manual_seed(5)
    quarters = torch.arange(0, 667544, 11, dtype=torch.float64) * (torch.pi / 2)
    around = quarters.float().view(torch.int32)[:, None] + torch.arange(-1, 2, dtype=torch.int32)
    positions = torch.arange(0, 1 << 20, 37).float()[:, None] * 10000.0 ** -torch.rand(4)
    angles = torch.cat([around.view(torch.float32).flatten(), positions.flatten()])
    x = angles[: len(angles) // 1024 * 1024].reshape(-1, 1024)
    wanted, got = applied(name, x, machine, native=False), applied(name, x, machine)
    found = difference(wanted, got, ulp=1)
    assert not found, found
    assert (wanted != got).float().mean() < 1e-4


@every_machine
def test_angles_that_only_integers_can_reduce(machine: Machine):
    """Each beside small ones, for which it must change nothing."""
    hard = [2.0**21, 2097153.0, 16367173.0 * 2.0**72, 3.4028234e38, 1e22, -1e10, 2.0**127, inf, nan]
    x = torch.tensor([[0.5, number, -0.25, 3.0] * 5 for number in hard])
    for name in ("sin", "cos"):
        got = applied(name, x, machine)
        found = difference(applied(name, x, machine, native=False), got, ulp=1)
        assert not found, found
        small = applied(name, x[:, 2:4].contiguous(), machine)
        assert same_bits(got[:, 2:4].contiguous(), small)
    assert applied("sin", torch.tensor([[0.0, -0.0, 1e-45]]), machine).view(
        torch.int32
    ).tolist() == [[0, -(2**31), 1]]
    assert applied("cos", torch.tensor([[0.0, -0.0, 1e-45]]), machine).tolist() == [[1, 1, 1]]
