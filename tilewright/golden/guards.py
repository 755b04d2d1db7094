"""Outputs that tell on a kernel: poisoned before it runs, with guard zones on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GUARD_BYTES = 4096  # a page each side: more than any vector or row tile overhangs
ALIGNMENT = 64  # the output starts on a cache line, as a Torch tensor of its own would
POISONS = (0x4D, 0xB2)  # complements: a byte that keeps both was written by nobody


@dataclass(frozen=True)
class Guarded:
    """`tensor` is the output; `memory` the bytes around and under it."""

    tensor: Tensor
    memory: Tensor
    first: int
    nbytes: int

    def poison(self, byte: int) -> None:
        """Fill everything: guards and integers with `byte`, floats with NaN."""
        self.memory.fill_(byte)
        if self.tensor.is_floating_point():
            self.tensor.fill_(torch.nan)

    def trespass(self, byte: int) -> str:
        """Where the guard zones are no longer `byte`, as a sentence; "" when they are whole."""
        changed = self.memory != byte
        changed[self.first : self.first + self.nbytes] = False
        count = int(changed.sum())
        if not count:
            return ""
        at = int(changed.nonzero()[0])
        place = (
            f"{self.first - at} bytes before"
            if at < self.first
            else f"{at - self.first} bytes after"
        )
        return f"{count} bytes outside were written, the first {place} its start"


def guarded(like: Tensor) -> Guarded:
    """An output like `like`, contents included, inside guard zones that hold POISONS[0]."""
    nbytes = like.numel() * like.element_size()
    memory = torch.full((nbytes + 2 * GUARD_BYTES + ALIGNMENT,), POISONS[0], dtype=torch.uint8)
    first = GUARD_BYTES + (-(memory.data_ptr() + GUARD_BYTES)) % ALIGNMENT
    tensor = memory[first : first + nbytes].view(like.dtype).view(like.shape)
    tensor.copy_(like)
    return Guarded(tensor, memory, first, nbytes)
