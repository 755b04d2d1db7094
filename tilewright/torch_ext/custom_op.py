"""Any kernel as a `torch.library` operator: no graph break under `torch.compile`, checked by `opcheck`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.library import CustomOpDef

from tilewright.arguments import signature_of
from tilewright.bound import BoundKernel
from tilewright.dtypes import BOOL
from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.jit import traced_for
from tilewright.language.kernel import Kernel

# Shape and dtype of every written tensor, given the other arguments by name.
Outputs = Callable[..., Mapping[str, tuple[Sequence[int], torch.dtype]]]


def register(
    kernel: Kernel | BoundKernel,
    name: str,
    *,
    functional: bool = False,
    outputs: Outputs | None = None,
    example: Sequence[Any] | None = None,
) -> CustomOpDef:
    """Make `kernel` (bound or not) the operator `name`, such as "mylib::scale_rows".

    The operator takes the kernel's parameters in their order; what is written is what is annotated
    `pl.Out` or `pl.InOut`.

    In the mutating form (the default) outputs are passed and written in place; the tensors that the kernel
    itself creates and returns, if any, are returned.

    functional: `Out` parameters are left out, `InOut` parameters are read only; all written tensors are
                returned, in their order, then those that the kernel creates. What a kernel leaves unwritten
                is 0.
    outputs:    the shapes and dtypes of `Out` parameters for the functional form, where the annotations do not
                say them: called with the other arguments by name.
    example:    arguments of the kernel, for one that creates its results and has no fixed shapes; tensors on
                the meta device will do.

    Inputs with unusual strides are copied; outputs are not, and are refused. There is no gradient: a backward
    pass through the functional form, and the mutating form on tensors that require a gradient, raise.
    Raises ArgumentError for what cannot be registered.
    """
    form = _Form(kernel, functional, outputs, example)
    if hasattr(getattr(torch.ops, name.partition("::")[0]), name.partition("::")[2]):
        raise ArgumentValueError(
            f"there is an operator {name!r} already",
            help="give another name; a kernel made for another size is another operator",
        )
    mutates = [] if functional else [p.name for p in form.written]
    op = torch.library.custom_op(name, form.run, mutates_args=mutates, schema=form.schema())
    op.register_fake(form.fake)
    refuse_gradient(op, name)
    return op


def refuse_gradient(op: CustomOpDef, name: str) -> None:
    """Let a gradient through `op` raise and name it: in the backward pass, at the call if it writes to arguments."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise ArgumentValueError(
            f"a gradient through {name} is needed, and tilewright's kernels have none",
            help="call it under torch.no_grad(), or on x.detach()",
        )

    if op._opoverload._schema.is_mutable:
        # Torch takes no formula for an operator that writes to its arguments, and would cut the gradient
        # without a word. The context is set up exactly when there is one to cut.
        op._setup_context_fn = refuse
    else:
        op.register_autograd(refuse)


def on_one_device(fake: Callable[..., Any]) -> Callable[..., Any]:
    """A fake implementation that refuses tensors of several devices."""
    signature = inspect.signature(fake)

    @wraps(fake)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_devices(signature.bind(*args, **kwargs).arguments)
        return fake(*args, **kwargs)

    return checked


def _check_devices(given: Mapping[str, Any]) -> None:
    """Torch calls a fake, and not the kernel, as soon as one argument is on the meta device.

    Results on the device of another would then be memory that nobody has written.
    """
    tensors = [(name, value) for name, value in given.items() if isinstance(value, Tensor)]
    for name, tensor in tensors[1:]:
        first, other = tensors[0]
        if tensor.device != other.device:
            raise ArgumentError(
                f"{name} is on {tensor.device}, {first} on {other.device}",
                help="kernels run on the CPU: all tensors have to be there",
            )


class _Form:
    """One kernel in one of the two forms.

    params:  the kernel's parameters that are not bound; taken: those that the operator takes.
    written: the parameters annotated as outputs.
    fresh:   how many tensors the kernel creates and returns.
    """

    def __init__(
        self,
        kernel: Kernel | BoundKernel,
        functional: bool,
        outputs: Outputs | None,
        example: Sequence[Any] | None,
    ) -> None:
        self.call, self.functional, self.outputs = kernel, functional, outputs
        self.kernel = kernel.kernel if isinstance(kernel, BoundKernel) else kernel
        self.fixed = kernel.fixed if isinstance(kernel, BoundKernel) else {}
        if self.kernel.kind != "entry":
            raise ArgumentError(
                f"{self.kernel.__name__!r} is an {self.kernel.kind} kernel: only entries can be operators",
                help="decorate it with @pl.jit",
            )
        self.params = [p for p in signature_of(self.kernel) if p.name not in self.fixed]
        self.written = [p for p in self.params if p.direction != "in"]
        self.taken = [p for p in self.params if not (functional and p.direction == "out")]
        self._sound: set[Any] = set()  # signatures for which the kernel writes what it says
        self.fresh = self._count_fresh(example)

    def schema(self) -> str:
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        parts = []
        for p in self.taken:
            if p.kind == "tensor":
                alias = "" if self.functional or p.direction == "in" else f"({next(letters)}!)"
                parts.append(f"Tensor{alias} {p.name}")
                continue
            assert p.dtype is not None
            kind = "bool" if p.dtype == BOOL else "float" if p.dtype.is_float else "SymInt"
            parts.append(f"{kind} {p.name}={p.default}" if p.has_default else f"{kind} {p.name}")
        returned = ["Tensor"] * (self.fresh + (len(self.written) if self.functional else 0))
        result = returned[0] if len(returned) == 1 else "(" + ", ".join(returned) + ")"
        return f"({', '.join(parts)}) -> {result}"

    def run(self, *args: Any) -> Any:
        """The operator: its arguments in the order of `taken`."""
        given: dict[str, Any] = dict(zip((p.name for p in self.taken), args, strict=True))
        for p in self.taken:
            if p.kind == "tensor" and p.direction == "in":
                given[p.name] = given[p.name].contiguous()
            elif p.kind == "tensor" and self.functional:
                given[p.name] = given[p.name].clone(memory_format=torch.contiguous_format)
        if self.functional:
            for name, (shape, dtype) in self._shapes(given).items():
                given[name] = torch.zeros(shape, dtype=dtype)
        in_order = [given[p.name] for p in self.params]
        signature = tuple((x.shape, x.dtype) for x in in_order if isinstance(x, Tensor))
        if signature not in self._sound:
            self._made(given)
            self._sound.add(signature)
        returned = self.call(*in_order)
        made = returned if isinstance(returned, tuple) else (returned,) * (returned is not None)
        passed = {id(value) for value in in_order}
        return self._results(given, [x for x in made if id(x) not in passed])

    def fake(self, *args: Any) -> Any:
        """The results without values; the arguments are tensors without data."""
        given: dict[str, Any] = dict(zip((p.name for p in self.taken), args, strict=True))
        _check_devices(given)
        if self.functional:
            shapes = self._shapes(given)
            for p in self.written:
                if p.direction == "inout":
                    shapes[p.name] = given[p.name].shape, given[p.name].dtype
                shape, dtype = shapes[p.name]
                given[p.name] = torch.empty(shape, dtype=dtype)
        made = self._made(given) if self.fresh else ()
        return self._results(given, [torch.empty(shape, dtype=dtype) for shape, dtype in made])

    def _results(self, given: Mapping[str, Any], fresh: list[Tensor]) -> Any:
        results = [given[p.name] for p in self.written] if self.functional else []
        results += fresh
        return results[0] if len(results) == 1 else tuple(results) if results else None

    def _shapes(self, given: Mapping[str, Any]) -> dict[str, tuple[Sequence[Any], torch.dtype]]:
        """Shape and dtype of every `Out` parameter, from its annotation or from `outputs`."""
        told = self.outputs(**given) if self.outputs else {}
        extents = {
            symbol: given[p.name].shape[axis]
            for p in self.taken
            for axis, symbol in enumerate(p.symbols)
            if symbol is not None and axis < given[p.name].dim()
        }
        shapes: dict[str, tuple[Sequence[Any], torch.dtype]] = {}
        for p in self.written:
            if p.direction != "out":
                continue
            if p.name in told:
                shapes[p.name] = told[p.name]
                continue
            if p.shape is None or p.dtype is None or p.dtype.torch is None:
                missing = "no shape and dtype"
            elif unknown := [s for s in p.symbols if s is not None and s not in extents]:
                missing = f"the extent {unknown[0]}, which no input has"
            else:
                pairs = zip(p.shape, p.symbols, strict=True)
                shape = [extents[symbol] if symbol else extent for extent, symbol in pairs]
                shapes[p.name] = shape, getattr(torch, p.dtype.torch)
                continue
            raise ArgumentError(
                f"the functional form of {self.kernel.__name__!r} makes {p.name!r}, whose annotation"
                f" has {missing}",
                p.span,
                help=f"annotate it, or give outputs=lambda …: {{{p.name!r}: (shape, dtype)}}",
            )
        return shapes

    def _count_fresh(self, example: Sequence[Any] | None) -> int:
        names = [p.name for p in self.params]
        given: dict[str, Any] | None
        if example is None:
            given = self._as_annotated()
        elif len(example) == len(names):
            given = dict(zip(names, example, strict=True))
        else:
            raise ArgumentError(
                f"example has {len(example)} arguments, {self.kernel.__name__!r} takes {', '.join(names)}"
            )
        if given is not None:
            return len(self._made(given))
        if self.written:
            return 0
        raise ArgumentError(
            f"{self.kernel.__name__!r} writes to no argument, and what it returns cannot be told"
            " without shapes",
            help="give example=(…): arguments like those of a call",
        )

    def _as_annotated(self) -> dict[str, Any] | None:
        """Arguments with the annotated shapes; None when an extent, a dtype or a number is not known."""
        made: dict[str, Any] = {}
        for p in self.params:
            if p.kind == "scalar" and p.has_default:
                made[p.name] = p.default
            elif p.kind == "scalar" or p.shape is None or None in p.shape or p.dtype is None:
                return None
            else:
                dtype = getattr(torch, str(p.dtype.torch))
                made[p.name] = torch.empty([n or 0 for n in p.shape], dtype=dtype, device="meta")
        return made

    def _made(self, given: Mapping[str, Any]) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
        """The tensors that the kernel creates for arguments like these.

        Raises ArgumentError when it writes to one that is not annotated so: Torch would not know.
        """
        like = {
            name: torch.empty([int(n) for n in x.shape], dtype=x.dtype, device="meta")
            if isinstance(x, Tensor)
            else x
            for name, x in {**self.fixed, **given}.items()
        }
        traced = traced_for(self.kernel, like)
        fresh = {r.name for r in traced.fresh_results}
        silent = [
            p.value.name
            for p in traced.function.params
            if p.direction != "in"
            and p.value.name not in fresh
            and p.value.name not in {w.name for w in self.written}
        ]
        if silent:
            raise ArgumentError(
                f"{self.kernel.__name__!r} writes to {silent[0]!r}, which is not annotated so;"
                " an operator must say what it writes",
                next((p.span for p in self.params if p.name == silent[0]), None),
                help="annotate it pl.Out[…] or pl.InOut[…]",
            )
        return [
            (r.type.shape, getattr(torch, str(r.type.dtype.torch))) for r in traced.fresh_results
        ]
