"""Names that older drafts hand to the compiler for a device: any of them is a label here."""

from __future__ import annotations


class Labels(type):
    """A class whose every attribute is a label of that name: `BackendType.Ascend910B`."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"
