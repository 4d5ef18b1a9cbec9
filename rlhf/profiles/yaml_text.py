"""YAML of settings: every value stays the text that was written, and the setting's type says what it means.

So `2026-01-05`, `no` and `010` are taken as written where a setting is a text, and nothing in a file can create another
object, grow without limit or set a setting twice.
"""

from __future__ import annotations

from typing import Any

import yaml

from rlhf.errors import single_line

MAX_DEPTH = 20
"""Levels of lists and mappings inside each other; settings have four."""
MAX_VALUES = 10_000
"""Values in one text, each counted as often as aliases repeat it."""
STANDARD = "tag:yaml.org,2002:"
NULL, MERGE = f"{STANDARD}null", f"{STANDARD}merge"
PLAIN_TAGS = {
    f"{STANDARD}{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "value", "map", "seq")
}


class MalformedYamlError(ValueError):
    """Text that is no YAML, or YAML that settings do not have.  The message is one line."""


def parse_yaml(text: str) -> Any:
    """The lists, mappings with text keys, texts and None (`null`, `~` or nothing) that a YAML text holds.

    Raises MalformedYamlError for anything else, with its line: other objects, a key that is given twice, merge keys,
    more than MAX_DEPTH levels and more than MAX_VALUES values.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise MalformedYamlError(f"not valid YAML: {single_line(str(error))}") from error
    except RecursionError as error:
        raise MalformedYamlError("not valid YAML: nested too deeply") from error
    except (ValueError, OverflowError) as error:  # an escape such as \UFFFFFFFF, which is no character
        raise MalformedYamlError(f"not valid YAML: {error}") from error
    return _Reader().value(root, 1) if root is not None else None


class _Reader:
    """Turns the nodes of one text into values and counts them."""

    def __init__(self) -> None:
        self._values = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise MalformedYamlError(f"more than {MAX_VALUES} values; settings have less than 200")
        if depth > MAX_DEPTH:
            raise MalformedYamlError(f"line {_line(node)}: nested too deeply, at most {MAX_DEPTH} levels are read")
        if node.tag not in PLAIN_TAGS:
            raise MalformedYamlError(f"line {_line(node)}: {_kind(node)} is not read; write plain values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return None if node.tag == NULL else node.value

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        lines: dict[str, int] = {}
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise MalformedYamlError(f"line {_line(key_node)}: a name must be a text, not a list or mapping")
            if key_node.tag not in PLAIN_TAGS:
                raise MalformedYamlError(f"line {_line(key_node)}: {_kind(key_node)} is not read; write plain names")
            name = key_node.value
            if name in lines:
                raise MalformedYamlError(
                    f"{name[:100]!r} is given twice, in lines {lines[name]} and {_line(key_node)}; keep one of them"
                )
            lines[name] = _line(key_node)
            mapping[name] = self.value(value_node, depth + 1)
        return mapping


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _kind(node: yaml.Node) -> str:
    return "a merge (<<)" if node.tag == MERGE else f"the tag {node.tag[:100]!r}"
