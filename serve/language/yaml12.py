"""YAML by the rules of version 1.2, within limits, with errors of one line.

`2e-5` is a number (PyYAML reads a string), `no` and `on` are strings (PyYAML reads booleans),
`12:30` is a string (PyYAML reads 750), and a duplicate key is an error (PyYAML keeps the last).
`&anchor`, `*alias` and the merge key `<<` work; what they expand to is limited, since a few lines
can stand for billions of values.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from serve.language.spelling import shown

MAX_BYTES = 1_000_000
"""Bytes of a file; reading more takes tens of seconds."""

MAX_NODES = 100_000
"""Keys and values of a document, those that aliases repeat included."""

MAX_DEPTH = 50
"""Levels of lists and mappings within each other."""

_MERGE = "tag:yaml.org,2002:merge"

Fit = Callable[[yaml.Node], yaml.Node]
"""Gives the scalars of a document the types of the fields that they are for."""


class Loader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core scalars that rejects duplicate keys."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise _problem(event, f"nested over {MAX_DEPTH} levels deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _problem(key_node, "a key is a list or a mapping, expected a text")
            is_merge = key_node.tag == _MERGE
            key = "<<" if is_merge else self.construct_object(key_node, deep=True)
            if key in seen:
                raise _problem(key_node, f"key `{shown(str(key))}` appears twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # An explicit tag such as !!int, or a number of thousands of digits.
            kind = node.tag.rpartition(":")[2]
            raise _problem(node, f"cannot read `{shown(str(node.value), 40)}` as {kind}") from None


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SCALARS = {
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "int": (r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
}
for _name, (_pattern, _first) in _SCALARS.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), list(_first))


def parse_yaml(text: str, *, source: str = "the text", fit: Fit | None = None) -> Any:
    """Parse one YAML document by the rules in the module docstring.

    source: its name in messages. Raises ValueError, in one line with that of the document.
    """
    loader: Loader | None = None
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, {})
        return loader.construct_document(fit(node) if fit else node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        is_syntax = isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError)
        hint = "; put quotes around a text with special characters" if is_syntax else ""
        words = [error.problem] if is_syntax else [error.context, error.problem]
        message = " ".join(", ".join(filter(None, words)).split())
        raise ValueError(f"{source} is not valid YAML: {line}{shown(message)}{hint}") from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise ValueError(
            f"{source} is not valid YAML: line {number}: the control character "
            f"U+{ord(text[error.position]):04X}"
        ) from None
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml(path: Path, *, fit: Fit | None = None) -> Any:
    """Parse a file in UTF-8. Raises ValueError with its name, and OSError if it cannot be read."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"`{path}` is over {MAX_BYTES} bytes, too large for a configuration")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"`{path}` is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"line {line}, byte 0x{content[error.start]:02x}"
        raise ValueError(f"`{path}` is not UTF-8: {byte}; save it as UTF-8") from None
    return parse_yaml(text, source=f"`{path}`", fit=fit)


def _problem(where: Any, message: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, message, where.start_mark)


def _check_size(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Nodes and levels of what a node expands to; raises ConstructorError over the limits.

    known: the result of each node that was visited, None while it is being visited. A node comes
    before its aliases, so this goes no deeper than the document as it is written.
    """
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise _problem(node, "an alias that holds itself")
        return found
    known[id(node)] = None
    children: Sequence[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [each for pair in node.value for each in pair]
    sizes = [_check_size(child, known) for child in children]
    total = 1 + sum(size for size, _ in sizes)
    depth = 1 + max((levels for _, levels in sizes), default=0)
    if total > MAX_NODES:
        raise _problem(node, f"expands to over {MAX_NODES} values")
    if depth > MAX_DEPTH + 1:
        raise _problem(node, f"nested over {MAX_DEPTH} levels deep")
    known[id(node)] = total, depth
    return total, depth
