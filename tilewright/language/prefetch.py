"""`pl.prefetch.…`: hints that data will be wanted soon. No value depends on them."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator("prefetch.make_context")
def make_context(*hints):
    """A context to prefetch in: a token without a value."""


@operator("prefetch.async_prefetch")
def async_prefetch(t, context=None, *hints):
    """Hint: the tensor t is wanted soon. Gives a token."""


@operator("prefetch.session")
def session(*hints):
    """A group of prefetches: a token without a value."""


@operator("prefetch.wait")
def wait(*hints):
    """True at once: there is nothing to wait for."""


__all__ = ["async_prefetch", "make_context", "session", "wait"]
