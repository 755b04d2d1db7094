"""What a kernel is called with: one spec per parameter, in the kernel's order (language.md 6.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Role = Literal["input", "output", "in-out"]

# Factories that are called with the shape; any other callable knows its own.
_FACTORIES = (torch.randn, torch.rand, torch.zeros, torch.ones)

_INTEGERS = (torch.int8, torch.int32, torch.int64, torch.uint8)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SCALAR_DTYPES = (torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool, *_FLOATS)


@dataclass
class TensorSpec:
    """A tensor argument of a kernel.

    init_value: None gives zeros, a number fills, a tensor is converted to `dtype`; `torch.randn`, `rand`, `zeros`
                and `ones` are called with the shape, any other callable with nothing.
    is_output:  the kernel writes it; with an initial value it is read as well.
    """

    name: str
    shape: Sequence[int]
    dtype: torch.dtype
    init_value: int | float | Tensor | Callable[..., Any] | None = None
    is_output: bool = False
    resident: Any = None  # placement on several cards; there is one CPU, so anything is accepted

    @property
    def role(self) -> Role:
        """An output with an initial value is read as well as written."""
        if not self.is_output:
            return "input"
        return "output" if self.init_value is None else "in-out"

    def create_tensor(self) -> Tensor:
        """The tensor that the kernel gets, [shape] of `dtype`.

        Raises TypeError for an `init_value` of another kind, ValueError for a tensor of another
        shape.
        """
        tensor = self._create()
        if tuple(tensor.shape) != tuple(self.shape):
            raise ValueError(
                f"init_value of {self.name!r} has shape {tuple(tensor.shape)}, "
                f"wanted {tuple(self.shape)}"
            )
        return tensor

    def _create(self) -> Tensor:
        init, shape = self.init_value, tuple(self.shape)
        if init is None:
            return torch.zeros(shape, dtype=self.dtype)
        if isinstance(init, (int, float)):
            return torch.full(shape, init, dtype=self.dtype)
        if isinstance(init, Tensor):
            return init.to(self.dtype)
        if any(init is factory for factory in _FACTORIES):
            return torch.as_tensor(init(shape, dtype=self.dtype))
        if callable(init):
            return torch.as_tensor(init(), dtype=self.dtype)
        raise TypeError(
            f"init_value of {self.name!r} is a {type(init).__name__}; "
            "wanted None, a number, a tensor or a callable"
        )


class ScalarSpec:
    """A scalar argument, kept as a 0-d tensor: the value is rounded to its dtype once, here.

    Raises ValueError for a dtype outside SCALAR_DTYPES or a value outside its range, TypeError for
    a value of another kind (a bool is no integer).
    """

    def __init__(self, name: str, dtype: torch.dtype, value: int | float | bool | Tensor) -> None:
        if dtype not in SCALAR_DTYPES:
            known = ", ".join(str(d).removeprefix("torch.") for d in SCALAR_DTYPES)
            raise ValueError(f"scalar {name!r} has dtype {dtype!r}; wanted one of torch's {known}")
        self.name = name
        self.dtype = dtype
        self.value = self._checked(value)

    def __repr__(self) -> str:
        return f"ScalarSpec({self.name!r}, {self.dtype}, {self.to_python()!r})"

    def to_python(self) -> int | float | bool:
        """The rounded value as a Python number."""
        return self.value.item()

    def _checked(self, value: int | float | bool | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            if value.dim() != 0 or value.dtype != self.dtype:
                raise TypeError(
                    f"scalar {self.name!r} is a tensor of {value.dtype} "
                    f"with {value.dim()} dimensions; wanted a 0-d tensor of {self.dtype}"
                )
            return value
        if self.dtype == torch.bool:
            fits = isinstance(value, bool)
        elif self.dtype in _INTEGERS:
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not fits:
            raise TypeError(
                f"scalar {self.name!r} of {self.dtype} got {value!r} ({type(value).__name__})"
            )
        if self.dtype in _INTEGERS:
            info = torch.iinfo(self.dtype)
            if not info.min <= value <= info.max:
                raise ValueError(
                    f"scalar {self.name!r} is {value}, wanted {info.min} to {info.max}"
                )
        return torch.tensor(value, dtype=self.dtype)


Spec = TensorSpec | ScalarSpec


def check_names(specs: Sequence[Spec]) -> None:
    """Raise ValueError if two specs share a name: names are dictionary keys and file names."""
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise ValueError(f"two specs are named {spec.name!r}")
        seen.add(spec.name)
