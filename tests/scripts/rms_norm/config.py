"""Sizes that the kernels of this folder share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    dim: int
    eps: float


TINY = Model(dim=128, eps=1e-6)
T_TILE = 8
