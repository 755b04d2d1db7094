"""`pl.prefetch.…`: hints to a cache; no effect on values."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator("prefetch.make_context")
def make_context(*options, **hints):
    """What prefetches are counted by."""


@operator("prefetch.async_prefetch")
def async_prefetch(t, ctx, *options, **hints):
    """Bring a tensor closer while other work goes on."""


@operator("prefetch.session")
def session(*contexts, **hints):
    """What has been asked for so far."""


@operator("prefetch.wait")
def wait(*sessions, **hints):
    """True, once what was asked for is there: at once, here."""


__all__ = ["async_prefetch", "make_context", "session", "wait"]
