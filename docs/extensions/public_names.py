"""The directive `public-names`, which documents a group of public names, and docstrings as reStructuredText."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

import gnsnn_jax
from extensions.groups import GROUPS, names_of, returned_class

SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Yields:")
ENTRY_TEXT = 8  # columns in front of what continues an entry of a section
ALIGNED = re.compile(r"\S {3,}\S")  # columns of a table
ENTRY = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*: )(.*)")  # of a section: names and what they are


class PublicNames(SphinxDirective):
    """Documents the public names of a group, and the classes that its functions return."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines = StringList(list(listing(self.arguments[0])), source="public-names")
        section = nodes.section()
        section.document = self.state.document
        nested_parse_with_titles(self.state, lines, section)
        return section.children


def listing(group: str) -> Iterator[str]:
    """The directives of autodoc for a group, line by line."""
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}; there are {', '.join(GROUPS)}")
    seen: set[type] = set()
    for name in names_of(group):
        yield from _documented(f"gnsnn_jax.{name}", getattr(gnsnn_jax, name))
        returned = returned_class(name)
        if returned and returned not in seen:
            seen.add(returned)
            yield from _documented(f"{returned.__module__}.{returned.__qualname__}", returned)


def _documented(path: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield f".. autoclass:: {path}"
        own = [name for name, each in vars(value).items() if inspect.isfunction(each) and not name.startswith("_")]
        if not issubclass(value, tuple):
            yield "   :members:"
        elif own:
            yield f"   :members: {', '.join(own)}"
    else:
        yield f".. autofunction:: {path}"
    yield ""


def as_rest(lines: list[str]) -> list[str]:
    """A docstring of this project, which is plain text with `code`, as reStructuredText with Google's sections.

    Equations, tables and listings become literal blocks; in all else, characters that mean something in
    reStructuredText stand for themselves.
    """
    found, in_section = [], False
    for block in _blocks(lines):
        if block[0] in SECTIONS:
            in_section = True
        elif not block[0].startswith(" "):
            in_section = False
        found += [*_block(block, in_section), ""]
    return found


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """The runs of lines between blank ones."""
    for filled, block in groupby(lines, lambda line: bool(line.strip())):
        if filled:
            yield list(block)


def _block(block: list[str], in_section: bool) -> list[str]:
    text_at = ENTRY_TEXT if in_section else 0
    is_table = not in_section and any(ALIGNED.search(line) for line in block)
    if is_table or _indent(block[0]) > text_at or (not in_section and any(map(_indent, block))):
        margin = min(map(_indent, block))
        return [f"{' ' * text_at}::", "", *(f"{' ' * (text_at + 4)}{line[margin:]}" for line in block)]
    return [line if line in SECTIONS else _escaped(line, in_section) for line in block]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _escaped(line: str, in_section: bool) -> str:
    indent = line[: _indent(line)]
    entry = ENTRY.fullmatch(line.strip()) if in_section and len(indent) == 4 else None
    name, text = entry.groups() if entry else ("", line.strip())
    return indent + name + "".join(_part(part) for part in re.split(r"(`[^`]*`)", text))


def _part(part: str) -> str:
    if len(part) > 2 and part.startswith("`"):
        code = part.strip("`")
        return f":py:obj:`{code} <gnsnn_jax.{code}>`" if code in gnsnn_jax.__all__ else f"``{code}``"
    part = re.sub(r"([\\*|`])", r"\\\1", part)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)


def _process(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rest(lines)


def setup(app: Any) -> dict[str, bool]:
    """Registers the directive and the step in front of napoleon."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", _process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
