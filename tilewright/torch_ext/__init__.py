"""Kernels as PyTorch operators: `register` makes one of any kernel, `Packs` keeps packed weights up to date."""

from __future__ import annotations

from tilewright.torch_ext.custom_op import on_one_device, refuse_gradient, register
from tilewright.torch_ext.packs import Packs

__all__ = ["Packs", "on_one_device", "refuse_gradient", "register"]
