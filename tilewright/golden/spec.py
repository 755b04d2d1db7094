"""What a kernel is called with: one spec per parameter, in the kernel's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tilewright.errors import KernelError, SpecError, SpecTypeError, author_line, raised_at
from tilewright.span import Span

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
    place: Span | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.place = author_line()

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
            raise SpecError(
                f"init_value of {self.name!r} has shape {tuple(tensor.shape)}, "
                f"wanted {tuple(self.shape)}",
                self.place,
                help=f"make it {list(self.shape)}, or correct the spec",
            )
        return tensor

    def check(self) -> None:
        """A name, a shape and a dtype that a tensor can have. SpecError, SpecTypeError otherwise."""
        if not isinstance(self.dtype, torch.dtype):
            raise SpecTypeError(
                f"the dtype of {self.name!r} is {self.dtype!r}, wanted one of Torch's",
                self.place,
                help=f"write torch.{getattr(self.dtype, 'torch', None) or 'float32'}",
            )
        extents = self.shape if isinstance(self.shape, (list, tuple)) else None
        if extents is None or not all(isinstance(n, int) for n in extents):
            raise SpecTypeError(
                f"the shape of {self.name!r} is {self.shape!r}, wanted a list of integers",
                self.place,
                help="write [rows, columns]",
            )
        if min(extents, default=1) < 0:
            raise SpecError(
                f"the shape of {self.name!r} is {list(extents)}, wanted extents above 0",
                self.place,
                help="write how many rows and columns there are",
            )

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
            return torch.as_tensor(self._called(init), dtype=self.dtype)
        raise SpecTypeError(
            f"init_value of {self.name!r} is a {type(init).__name__}; "
            "wanted None, a number, a tensor or a callable",
            self.place,
            help="write init_value=torch.randn",
        )

    def _called(self, init: Callable[..., Any]) -> Any:
        try:
            return init()
        except KernelError:
            raise
        except Exception as error:
            file = getattr(getattr(init, "__code__", None), "co_filename", "")
            raise SpecError(
                f"init_value of {self.name!r} raised {type(error).__name__}: {error}",
                raised_at(error, file) or self.place,
                help="it is called without arguments and gives the tensor",
            ) from error


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
    if not isinstance(specs, (list, tuple)):
        raise SpecTypeError(
            f"the specs are {'None' if specs is None else 'a ' + type(specs).__name__}, wanted a list",
            author_line(),
            help="write [TensorSpec(…), …], one for each parameter",
        )
    for spec in specs:
        if not isinstance(spec, (TensorSpec, ScalarSpec)):
            raise SpecTypeError(
                f"a {type(spec).__name__} is no spec",
                author_line(),
                help='write TensorSpec("x", [rows, columns], torch.float32)',
            )
        if isinstance(spec, TensorSpec):
            spec.check()
        if spec.name in seen:
            raise SpecError(
                f"two specs are named {spec.name!r}",
                getattr(spec, "place", None) or author_line(),
                help="a golden finds its values by name: give each spec its own",
            )
        seen.add(spec.name)
