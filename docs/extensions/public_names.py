"""The directive `public-names`, which documents a group of public names, and docstrings as reStructuredText."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from itertools import groupby
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import nested_parse_with_titles

import gnsnn_jax
from extensions.groups import GROUPS, names_of, registered_classes, returned_class

logger = logging.getLogger(__name__)
SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Yields:")
NOTHING = "\\"  # joins lines; in front of a text it keeps napoleon from taking words before a colon for a type
FOREIGN = re.compile(r"~?\b(?!gnsnn_jax\b)(?:[a-zA-Z_]\w*\.)+([A-Z]\w*)")  # types of others, with their modules
ENTRY_TEXT = 8  # columns in front of what continues an entry of a section
ALIGNED = re.compile(r"\S {3,}\S")  # columns of a table
ENTRY = re.compile(r"^    \*{0,2}\w+(?:, \*{0,2}\w+)*: ", re.MULTILINE)  # of a section: its names


class PublicNames(SphinxDirective):
    """Documents the public names of a group, and the classes that its functions return."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        rest = ["```{eval-rst}", *listing(self.arguments[0]), "```"]
        lines = StringList(rest, source="public-names")
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
        value = getattr(gnsnn_jax, name)
        others = [value if _is_alias(name, value) else returned_class(name)]
        yield from _documented(f"gnsnn_jax.{name}", value)
        yield from _once(others, seen)
    yield from _once(registered_classes(group), seen)


def _is_alias(name: str, value: Any) -> bool:
    """Whether a public name is a class of another name, of which autodoc says nothing but that."""
    return inspect.isclass(value) and value.__name__ != name


def _once(classes: Iterable[type | None], seen: set[type]) -> Iterator[str]:
    for each in classes:
        if each and each not in seen:
            seen.add(each)
            yield from _documented(f"{each.__module__}.{each.__qualname__}", each)


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
    found, section = [], ""
    for block in _blocks(lines):
        if block[0] in SECTIONS:
            section, *block = block
            found += [section, *(_returned(block) if section == "Returns:" else _block(block, in_section=True))]
        else:
            section = section if block[0].startswith(" ") else ""
            found += _block(block, in_section=bool(section))
        found.append("")
    return found


def _returned(block: list[str]) -> list[str]:
    """What a function returns: text without a type in front, or a list where it names several values."""
    text = "\n".join(_escaped(block, in_section=True))
    entries = list(ENTRY.finditer(text))
    if len(entries) < 2 or entries[0].start():
        return [f"    {NOTHING}", *text.split("\n")]
    names = [entry[0].strip(" :") for entry in entries]
    listed = ENTRY.sub(lambda entry: f"    - **{entry[0].strip(' :')}**: ", text)
    return [f"    {' and '.join(names)}", "", *listed.replace("\n        ", "\n      ").split("\n")]


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """The runs of lines between blank ones."""
    for filled, block in groupby(lines, lambda line: bool(line.strip())):
        if filled:
            yield list(block)


def _block(block: list[str], in_section: bool) -> list[str]:
    text_at = ENTRY_TEXT if in_section else 0
    starts_within = _indent(block[0]) >= text_at
    is_table = starts_within and any(ALIGNED.search(line) for line in block)
    if is_table or _indent(block[0]) > text_at or (not in_section and any(map(_indent, block))):
        margin = min(map(_indent, block))
        return [f"{' ' * text_at}::", "", *(f"{' ' * (text_at + 4)}{line[margin:]}" for line in block)]
    return _escaped(block, in_section)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _escaped(lines: list[str], in_section: bool) -> list[str]:
    """Lines of text whose `code` may go on in the next line; the names of entries stay as they are."""
    text = "\n".join(lines)
    names = ENTRY if in_section else None
    found, last = [], 0
    for entry in names.finditer(text) if names else ():
        found += [_text(text[last : entry.start()]), entry[0]]
        last = entry.end()
    return "".join([*found, _text(text[last:])]).split("\n")


def _text(text: str) -> str:
    return "".join(_part(part) for part in re.split(r"(`[^`]*`\w*)", text))


def _part(part: str) -> str:
    code = re.fullmatch(r"`([^`]+)`(\w*)", part)
    if code:
        name, ending = code.groups()
        shown = f":py:obj:`{name} <gnsnn_jax.{name}>`" if name in gnsnn_jax.__all__ else f"``{name}``"
        return f"{shown}\\ {ending}" if ending else shown
    part = re.sub(r"([\\*|`])", r"\\\1", part)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)


def _process(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [NOTHING, *as_rest(lines)] if what in ("property", "attribute") else as_rest(lines)


def _signature(app: Any, what: str, name: str, value: Any, options: Any, signature: str, returned: str) -> Any:
    """The fields of a dataclass in place of what its base class takes, and short names of types."""
    if what == "class" and is_dataclass(value):
        signature = stringify_signature(inspect.signature(value.__init__, eval_str=False), show_return_annotation=False)
        signature = re.sub(r"^\(self,? ?", "(", signature)
    short = lambda text: text and FOREIGN.sub(r"\1", text)
    return short(signature), short(returned)


def _check(app: Any) -> None:
    """Warns of public names that the reference of this build has not."""
    documented = app.env.domains["py"].objects
    missing = [name for name in gnsnn_jax.__all__ if f"gnsnn_jax.{name}" not in documented]
    if missing:
        logger.warning("the reference lacks %s", ", ".join(missing))


def setup(app: Any) -> dict[str, bool]:
    """Registers the directive and the step in front of napoleon."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("autodoc-process-signature", _signature)
    app.connect("env-check-consistency", lambda app, env: _check(app))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
