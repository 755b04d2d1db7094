"""Some heads of a layer: the columns of the whole weight, and of the file nothing else is read."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import edit, tensors_of, written

from tilewright.errors import ArgumentValueError, CheckpointError
from tilewright.models.deepseek_v4.config import DEMO
from tilewright.models.deepseek_v4.weights import open_checkpoint
from tilewright.models.deepseek_v4.weights.layer import Matrix
from tilewright.models.deepseek_v4.weights.quantize import quantize_fp8

WQ_B = "layers.1.attn.wq_b.weight"
MAPS = Path("/proc/self/smaps")


@pytest.mark.parametrize("query", ["int8", "bf16"])
@pytest.mark.parametrize(("layout", "stored"), [("release", "fp8"), ("hf", "bf16")])
@pytest.mark.parametrize("heads", [range(4), range(1, 3), range(3, 4)])
def test_heads_have_the_columns_of_the_whole(tmp_path, layout, stored, query, heads):
    found = open_checkpoint(written(tmp_path / "c", layout, stored))
    whole = found.layer(1).arguments(query)
    layer = found.layer(1, heads=heads)
    part = layer.arguments(query)
    assert layer.cfg == replace(DEMO, num_attention_heads=len(heads))
    assert layer.rope == "yarn"
    columns = slice(heads.start * DEMO.head_dim, heads.stop * DEMO.head_dim)
    whole["wq_b"] = whole["wq_b"][:, columns]
    if query == "int8":
        whole["wq_b_scale"] = whole["wq_b_scale"][heads.start : heads.stop]  # rows of 128
    assert list(part) == list(whole)
    assert all(torch.equal(part[name], whole[name]) for name in whole)


@pytest.mark.parametrize("block", [(128, 128), (96, 128), (50, 70)])
def test_rows_of_a_matrix_may_begin_and_end_inside_a_block_of_scales(block):
    weight = torch.randn(300, 200, generator=torch.Generator().manual_seed(1))
    codes, scale = quantize_fp8(weight * torch.logspace(-3, 3, 300)[:, None], block)
    matrix = Matrix(codes, "F8_E4M3", scale, block)
    whole = matrix.values()
    for first, last in ((0, 300), (10, 20), (90, 99), (128, 300), (149, 158)):
        part = matrix.part(first, last)
        assert torch.equal(part.values(), whole[first:last])
        assert torch.equal(part.part(3, 8).values(), whole[first + 3 : first + 8])
        assert torch.equal(part.rows(1, 2), whole[first + 1 : first + 2])
        assert part.weight.data_ptr() == codes[first:].data_ptr(), "a copy was made"


def test_what_is_wrong_with_other_heads_is_not_looked_at(tmp_path):
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[WQ_B].view(torch.uint8)[300, 5] = 0x7F  # a NaN in head 2
        tensors[WQ_B.replace("weight", "scale")].view(torch.uint8)[3, 0] = 0xFF  # and in head 3

    found = open_checkpoint(edit(written(tmp_path / "c"), spoil))
    found.layer(1, heads=range(2))
    for heads, wrong in (
        (range(2, 3), r"nan at \[300, 5\]"),
        (range(3, 4), r"nan \(byte 0xFF\) at \[3, 0\]"),
    ):
        with pytest.raises(CheckpointError, match=wrong):
            found.layer(1, heads=heads)


@pytest.mark.parametrize("heads", [range(0), range(2, 5), range(-1, 2), range(0, 4, 2)])
def test_heads_that_the_layer_does_not_have_are_refused(tmp_path, heads):
    found = open_checkpoint(written(tmp_path / "c"))
    with pytest.raises(ArgumentValueError, match="wanted neighbours among 4 heads") as raised:
        found.layer(1, heads=heads)
    assert "range(first, last) with 0 <= first < last <= 4" in str(raised.value)


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not say what is in memory")
def test_the_rest_of_the_file_does_not_come_into_memory(tmp_path):
    cfg = replace(DEMO, name="many", num_attention_heads=64, q_lora_rank=1024)  # wq_b is 8 MiB
    folder = written(tmp_path / "c", layers=1, cfg=cfg)
    size = sum(t.nbytes for t in tensors_of(folder).values())
    layer = open_checkpoint(folder).layer(0, heads=range(30, 34))
    layer.arguments("int8")
    mapped = re.search(rf"{re.escape(str(folder))}.*?\nRss: +(\d+) kB", MAPS.read_text(), re.DOTALL)
    assert mapped is not None
    assert 1024 * int(mapped[1]) < size / 3
