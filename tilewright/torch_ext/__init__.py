"""Kernels as PyTorch operators: `register` makes one of any kernel, `Packs` keeps packed weights up to date."""

from __future__ import annotations

from tilewright.torch_ext.custom_op import register

__all__ = ["register"]
