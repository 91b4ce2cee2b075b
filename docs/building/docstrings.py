"""An extension of griffe: our docstrings as Markdown.

They say what a parameter is on a line of its own, `name: what it is`, and what is returned or
raised in sentences that begin with it. In Markdown, such lines would flow into one paragraph.
"""

import re
from typing import Any

import griffe

PARAMETER = re.compile(r"([a-z]\w*(?:, [a-z]\w*)*): (.*)")
BEGINNING = ("Returns ", "Raises ", "Gives ")


class Docstrings(griffe.Extension):
    """Rewrites every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """The docstring with parameters as items of a list, and what it returns in a paragraph."""
    lines: list[str] = []
    within = False  # a list
    for line in docstring.splitlines():
        named = PARAMETER.fullmatch(line)
        if named:
            names = ", ".join(f"`{name}`" for name in named[1].split(", "))
            lines += [*([] if within else [""]), f"- {names}: {named[2]}"]
        else:
            lines += ["", line] if line.startswith(BEGINNING) else [line]
        within = bool(named) or (within and line != "" and not line.startswith(BEGINNING))
    return "\n".join(lines)
