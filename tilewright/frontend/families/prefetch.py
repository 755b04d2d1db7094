"""Prefetch hints: their arguments are read, nothing else happens."""

from __future__ import annotations

from tilewright.frontend.operands import Call, data, handles
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Constant, Named, Token


@handles("prefetch.make_context", "prefetch.session", "prefetch.async_prefetch")
def hint(t: Tracer, call: Call) -> Named:
    """A token; what is prefetched must be a tensor."""
    if call.name == "prefetch.async_prefetch":
        data(t, call, "t")
    return Token()


@handles("prefetch.wait")
def wait(t: Tracer, call: Call) -> Named:
    return Constant(True)
