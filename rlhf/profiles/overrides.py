"""Settings given as `KEY.KEY=VALUE`, as by `--set`."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from rlhf.config import RunConfig
from rlhf.errors import UserError, quoted
from rlhf.profiles.yaml_text import MalformedYamlError, parse_yaml

NULL = "null"
"""The value that unsets a setting that may be unset."""
MAX_SHOWN = 100
"""Characters of a user's text that a message repeats."""


def apply_override(settings: dict[str, Any], override: str) -> None:
    """Set one setting in `settings`, nested dictionaries, from `a.b=value`.

    The value is the text behind `=`, as typed.  Two exceptions: `null` is None if the setting may be null, and for a
    list or section a text that begins with a bracket is YAML.
    Raises UserError if there is no `=`, if the YAML is malformed, or if a section above is set as a whole.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {shown(override)}: must have the form KEY.KEY=VALUE, such as --set ppo.steps=20")
    for number, key in enumerate(keys[:-1], start=1):
        inner = settings.get(key)
        if inner is not None and not isinstance(inner, dict):
            raise UserError(
                f"--set {shown(override)}: {'.'.join(keys[:number])} is set to {shown(inner)}, which has no settings "
                "inside; set one or the other"
            )
        settings[key] = dict(inner or {})
        settings = settings[key]
    try:
        settings[keys[-1]] = _value(text, kinds_at(keys))
    except MalformedYamlError as error:
        raise UserError(f"--set {shown(override)}: {error}") from error


def _value(text: str, kinds: Sequence[Any]) -> Any:
    if text == NULL and NoneType in kinds:
        return None
    has_parts = any(get_origin(kind) is tuple or _is_section(kind) for kind in kinds)
    return parse_yaml(text) if has_parts and text.lstrip().startswith(("[", "{")) else text


def kinds_at(path: Sequence[str]) -> list[Any]:
    """Types of the setting at a path: of `compute.gpu_pool` str and NoneType.  Empty if there is no such setting."""
    section = section_at(path[:-1])
    field = section.model_fields.get(path[-1]) if section and path else None
    return _members(field.annotation) if field else []


def section_at(path: Sequence[str]) -> type[BaseModel] | None:
    """The class of the section at a path, or None if there is none."""
    section: type[BaseModel] = RunConfig
    for key in path:
        field = section.model_fields.get(key)
        inner = [kind for kind in _members(field.annotation) if _is_section(kind)] if field else []
        if not inner:
            return None
        section = inner[0]
    return section


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in _members(member)]
    return [annotation]


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def shown(value: object) -> str:
    """A value of the user in a message: one line of at most 100 characters."""
    return quoted(value, MAX_SHOWN)
