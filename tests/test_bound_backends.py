"""A bound kernel by either back end, and what it says about its compilation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from both_ways import draw
from ir_programs import same_bits
from test_bound import K, N, scaled_product

from tilewright.errors import ArgumentValueError


def product_arguments() -> dict[str, Any]:
    return {
        "x": draw((5, K), torch.bfloat16, 1),
        "w": draw((K, N), torch.bfloat16, 2),
        "gain": draw((1, N), torch.float32, 3),
        "times": 0.5,
        "y": torch.full((5, N), float("nan")),
    }


def test_the_interpreter_runs_a_bound_kernel_when_the_knob_says_so(monkeypatch):
    given = product_arguments()
    scaled_product.run(**given, backend="interpreter")
    wanted = given["y"].clone()
    monkeypatch.setenv("TILEWRIGHT_BACKEND", "interpreter")
    bound = scaled_product.bind(w=given.pop("w"))
    given["y"].fill_(float("nan"))
    bound(**given)
    assert same_bits(given["y"], wanted)
    assert bound.panel_bytes == 0  # nothing was packed, nothing compiled
    assert bound.compile_seconds == 0


def test_the_interpreter_refuses_a_bound_kernel_that_let_go_of_its_weights():
    given = product_arguments()
    bound = scaled_product.bind(w=given.pop("w"), release=True)
    bound.run(**given, backend="native")
    with pytest.raises(ArgumentValueError, match="'w' was released") as caught:
        bound.run(**given, backend="interpreter")
    assert "release=False" in str(caught.value)
    with pytest.raises(ArgumentValueError, match="no back end 'gpu'"):
        bound.run(**given, backend="gpu")


def test_a_bound_kernel_tells_how_long_compiling_took():
    given = product_arguments()
    bound = scaled_product.bind(w=given.pop("w"))
    special = bound.specialize(**given)
    assert special.backend == "native"
    assert special.compile_seconds > special.executable.stages.total > 0
    assert bound.compile_seconds == special.compile_seconds
    bound(**given)
    assert bound.compile_seconds == special.compile_seconds
