"""Bound kernels for weights that may change: packed on first use, and again after a change."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tilewright.bound import BoundKernel
from tilewright.jit import compiling


class Packs:
    """What `make(config, *weights)` gives, kept for as long as the weights' memory lives.

    It is made anew when a weight was changed in place, as `load_state_dict` and optimisers do; a weight that
    was replaced by another tensor is another key. Torch counts changes, except those made through
    `weight.data` and those of inference tensors: call `forget` after such a change.

    `make` should bind with release=True or copies of the weights: what it holds of them is never freed.
    """

    def __init__(self, make: Callable[..., BoundKernel]) -> None:
        self._make = make
        self._kept: dict[Hashable, _Pack] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, config: Hashable, *weights: Tensor) -> BoundKernel:
        """The bound kernel for these weights as they are now. Safe to call from several threads at once.

        config: whatever `make` needs besides; part of the key.
        """
        storages = [w.untyped_storage() for w in weights]
        key = (config, *((id(s), *_view(w)) for s, w in zip(storages, weights, strict=True)))
        versions = [None if w.is_inference() else w._version for w in weights]
        found = self._kept.get(key)
        if found is not None and found.versions == versions:
            return found.bound
        with compiling:  # two threads must not pack the same
            found = self._kept.get(key)
            if found is None or found.versions != versions:
                if found is None:
                    for storage in storages:
                        # Torch keeps the Python object of a storage for as long as its memory lives.
                        weakref.finalize(storage, self._kept.pop, key, None)
                found = self._kept[key] = _Pack(self._make(config, *weights), versions)
            return found.bound

    def forget(self, *weights: Tensor) -> None:
        """Pack anew on the next call with any of these weights; with all weights when none is given."""
        gone = {id(w.untyped_storage()) for w in weights}
        for key in list(self._kept):
            assert isinstance(key, tuple)
            if not weights or any(part[0] in gone for part in key[1:]):
                self._kept.pop(key, None)


@dataclass(frozen=True, slots=True)
class _Pack:
    bound: BoundKernel
    versions: list[int | None]


def _view(weight: Tensor) -> tuple[Any, ...]:
    return weight.storage_offset(), weight.shape, weight.stride(), weight.dtype
