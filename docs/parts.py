"""What the generated pages share."""

from __future__ import annotations

GENERATED = "<!-- written by docs/generate.py; change the docstrings, then run it again -->\n"


def one_line(doc: str | None) -> str:
    return " ".join((doc or "").split())


def fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.strip()}\n```"
