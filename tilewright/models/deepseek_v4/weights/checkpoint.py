"""A checkpoint: its layout, its layers, its config; and one layer of it at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.models.deepseek_v4.config import Config, Rope
from tilewright.models.deepseek_v4.weights.config_json import (
    ModelConfig,
    check_agrees,
    read_config,
)
from tilewright.models.deepseek_v4.weights.files import (
    CONFIG,
    InMemory,
    Stored,
    Tensors,
    open_files,
)
from tilewright.models.deepseek_v4.weights.layer import Layer, read_layer, stored_layer
from tilewright.models.deepseek_v4.weights.layouts import LAYOUTS, Found, detect
from tilewright.models.deepseek_v4.weights.problems import Problems, Tell, listed, silent


@dataclass(frozen=True)
class Checkpoint:
    """What is found in a checkpoint before any tensor is read.

    subject: its folder, for messages. tensors: where the tensors are. found: the layout of their names.
    model:   what its config.json says.
    """

    subject: str
    tensors: Tensors
    found: Found
    model: ModelConfig

    @property
    def cfg(self) -> Config:
        """The model's figures: a preset's own where they agree with it."""
        return self.model.cfg

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that have a tensor here."""
        return self.found.layers

    def rope(self, layer: int) -> Rope | None:
        """The RoPE of a layer; None where no config says."""
        return self.model.ropes[layer] if layer < len(self.model.ropes) else None

    def chosen_rope(self, layer: int, asked: Rope | None = None) -> Rope:
        """`asked`, or else the RoPE of a layer; ArgumentError where no config says."""
        rope = asked or self.rope(layer)
        if rope is None:
            raise ArgumentError(
                f"nothing says which RoPE layer {layer} of {self.subject} has",
                help='pass rope="plain" or rope="yarn"',
            )
        return rope

    def require(self, number: int) -> None:
        """CheckpointError unless there is such a layer."""
        problems = Problems(self.subject)
        ropes = len(self.model.ropes)
        if number not in self.layers or (ropes and number >= ropes):
            there = f"layers {_ranges(tuple(n for n in self.layers if not ropes or n < ropes))}"
            problems.add(f"layer {number}", there, "one of them", "name a layer that it has")
            problems.raise_any()

    def stored(self, layer: int, problems: Problems) -> dict[str, Stored]:
        """The tensors of a layer by role, from headers; what is wrong with them goes to `problems`."""
        return stored_layer(self.tensors, self.found, layer, self.cfg, self.model.block, problems)

    def layer(self, number: int, tell: Tell = silent, heads: range | None = None) -> Layer:
        """The weights of one layer, checked to the last element; with `heads`, of these neighbours alone.

        tell:  is told how far the reading is.
        heads: what of wq_b is read, `range(first, last)`; the layer's `cfg` then counts these heads.
        Raises CheckpointError with everything that is wrong with it, ArgumentValueError for heads that the
        layer does not have.
        """
        self.require(number)
        _check_heads(heads, self.cfg.num_attention_heads)
        problems = Problems(f"layer {number} of {self.subject}")
        parts = self.stored(number, problems)
        block = self.model.block
        return read_layer(parts, self.cfg, number, self.rope(number), block, problems, tell, heads)


def _check_heads(heads: range | None, count: int) -> None:
    if heads is not None and not (heads.step == 1 and 0 <= heads.start < heads.stop <= count):
        raise ArgumentValueError(
            f"heads is {heads}, wanted neighbours among {count} heads",
            help=f"range(first, last) with 0 <= first < last <= {count}",
        )


def open_checkpoint(path: str | Path, preset: Config | None = None) -> Checkpoint:
    """The checkpoint in a folder or in one file; `preset`: what its config.json must agree with.

    Without a config.json the preset is taken, and nothing says which RoPE a layer has. Raises
    CheckpointError for anything that cannot be used.
    """
    path = Path(path).expanduser()
    tensors = open_files(path)
    folder = tensors.folder
    found = _detected(tensors, str(path))
    if (folder / CONFIG).is_file():
        model = read_config(folder)
        if preset is not None:
            check_agrees(model.cfg, preset, str(folder))
    elif preset is not None:
        model = ModelConfig(preset, ())
    else:
        problems = Problems(str(folder))
        problems.add(
            CONFIG, "no such file", "the model's figures", "copy it here, or name a preset"
        )
        problems.raise_any()
    return Checkpoint(str(path), tensors, found, model)


def from_state_dict(
    tensors: Mapping[str, Tensor], cfg: Config, ropes: tuple[Rope, ...] = ()
) -> Checkpoint:
    """A model's state dict, under the names of either layout, as a checkpoint. Nothing is copied.

    tensors: matrices [out, in], as the checkpoint stores them. ropes: the RoPE of each layer, if that is known.
    Raises CheckpointError for names of neither layout.
    """
    subject = "the state dict"
    source = InMemory(tensors)
    return Checkpoint(subject, source, _detected(source, subject), ModelConfig(cfg, ropes))


def _detected(tensors: Tensors, subject: str) -> Found:
    found = detect(tensors.names)
    if found is None:
        problems = Problems(subject)
        examples = [layout.written(0, "wq_a") for layout in LAYOUTS.values()]
        problems.add(
            "names",
            listed(sorted(tensors.names)) or "none",
            f"names like {' or '.join(examples)}",
            "name a checkpoint of DeepSeek-V4",
        )
        problems.raise_any()
    assert found is not None
    return found


def _ranges(numbers: tuple[int, ...]) -> str:
    """`0 to 2, 5`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], n]
        else:
            runs.append([n])
    return ", ".join(" to ".join(map(str, run)) for run in runs)
