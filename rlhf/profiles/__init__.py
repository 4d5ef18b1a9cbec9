"""Profiles: named configurations, shipped as YAML files in this folder or written by the user.

A profile contains only the settings that differ from the defaults in `rlhf.config`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf.config import RunConfig, expand_home
from rlhf.errors import UserError, single_line
from rlhf.profiles.overrides import MAX_SHOWN, apply_override, section_at, shown
from rlhf.profiles.yaml_text import MalformedYamlError, parse_yaml
from rlhf.storage.untrusted import read_regular_file

MAX_PROFILE_BYTES = 100_000
"""Largest profile that is read; one with every setting has 10,000 bytes."""
MAX_PROBLEMS = 5
"""Wrong settings that one message names."""
NUMBER = re.compile(r"[-+]?[.\d][-+.\w]*")
RULES = {
    "tuple_type": "must be a list in brackets, such as [a, b]",
    "model_type": "must contain settings, such as {name: value}",
}
"""Rules by pydantic's type of error, if its own words are about Python."""


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def load_profile(profile: str, overrides: Iterable[str] = (), *, run_name: str | None = None) -> RunConfig:
    """Settings of a shipped profile or of a YAML file, with `a.b=value` overrides applied in order.

    `run_name` wins over the name in profile and overrides.
    Raises UserError if the profile or a setting is unknown or invalid; it names similar ones.
    """
    settings = {"run_name": _default_run_name(profile), **_read(profile)}
    for override in overrides:
        apply_override(settings, override)
    if run_name is not None:
        settings["run_name"] = run_name
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        problems = dict.fromkeys(_explain(problem) for problem in error.errors()[:MAX_PROBLEMS])
        raise UserError("; ".join(problems)) from error


def describe(profile: str) -> str:
    """First line of the comment at the top of a shipped profile."""
    return _text(profile).partition("\n")[0].removeprefix("#").strip()


def _default_run_name(profile: str) -> str:
    return Path(profile).stem if _is_file(profile) else profile


def _is_file(profile: str) -> bool:
    return profile.endswith((".yaml", ".yml"))


def _text(profile: str) -> str:
    if _is_file(profile):
        return _text_of_file(profile)
    names = profile_names()
    if profile not in names:
        raise UserError(
            f"unknown profile {shown(repr(profile))}{_did_you_mean(profile, names)}; "
            f"shipped profiles are {', '.join(names)}; the path of a .yaml file is accepted too"
        )
    return resources.files(__name__).joinpath(f"{profile}.yaml").read_text(encoding="utf-8")


def _text_of_file(profile: str) -> str:
    if not profile.isprintable():
        raise UserError(f"profile {shown(profile)}: the path has a character that cannot be printed; rename the file")
    try:
        return read_regular_file(Path(expand_home(profile)), MAX_PROFILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"profile {profile}: not UTF-8 (byte {error.start + 1}); save it as UTF-8") from error
    except UserError as error:
        raise UserError(f"profile {error}") from error


def _read(profile: str) -> dict[str, Any]:
    try:
        settings = parse_yaml(_text(profile))
    except MalformedYamlError as error:
        raise UserError(f"profile {profile}: {error}") from error
    if settings is not None and not isinstance(settings, dict):
        kind = "a list" if isinstance(settings, list) else f"the text {shown(settings)}"
        raise UserError(f"profile {profile}: must contain keys such as `data:` and `ppo:`, got {kind}")
    return settings or {}


def _explain(problem: Any) -> str:
    path = _path(problem["loc"])
    name = shown(".".join(path))
    if problem["type"] == "extra_forbidden":
        section = section_at(path[:-1])
        known = list(section.model_fields) if section else []
        return f"unknown setting {name}{_did_you_mean(path[-1], known)}; known settings are {', '.join(known)}"
    message = RULES.get(problem["type"]) or single_line(problem["msg"].removeprefix("Value error, "))
    if not name:
        return message
    value = problem["input"]
    return f"{name}: {message}" if isinstance(value, dict) else f"{name} ({_input(value)}): {message}"


def _path(location: Sequence[str | int]) -> list[str]:
    """Keys and list positions of a setting, without the names of the types that were tried."""
    path: list[str] = []
    for key in location:
        section = section_at(path)
        if section is None and isinstance(key, str):
            break
        path.append(str(key))
    return path


def _input(value: object) -> str:
    """A value in a message: numbers as typed, other texts in quotes."""
    return shown(value if isinstance(value, str) and NUMBER.fullmatch(value) else repr(value))


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    similar = difflib.get_close_matches(name[:MAX_SHOWN], known, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(similar)}?" if similar else ""
