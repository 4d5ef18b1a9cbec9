"""Profiles: named configurations, shipped as YAML files in this folder or written by the user.

A profile contains only the settings that differ from the defaults in `rlhf.config`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rlhf.config import RunConfig
from rlhf.errors import UserError


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
        _apply(settings, override)
    if run_name is not None:
        settings["run_name"] = run_name
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        raise UserError("; ".join(_explain(problem) for problem in error.errors())) from error


def describe(profile: str) -> str:
    """First line of the comment at the top of a shipped profile."""
    return _text(profile).partition("\n")[0].removeprefix("#").strip()


def _default_run_name(profile: str) -> str:
    return Path(profile).stem if _is_file(profile) else profile


def _is_file(profile: str) -> bool:
    return profile.endswith((".yaml", ".yml"))


def _text(profile: str) -> str:
    if _is_file(profile):
        try:
            return Path(profile).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"profile {profile}: cannot be read ({error})") from error
    names = profile_names()
    if profile not in names:
        raise UserError(
            f"unknown profile {profile!r}{_did_you_mean(profile, names)}; "
            f"shipped profiles are {', '.join(names)}; the path of a .yaml file is accepted too"
        )
    return resources.files(__name__).joinpath(f"{profile}.yaml").read_text(encoding="utf-8")


def _read(profile: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(_text(profile)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"profile {profile}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UserError(
            f"profile {profile}: must contain keys such as `data:` and `ppo:`, got {type(settings).__name__}"
        )
    return settings


def _apply(settings: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: must have the form KEY.KEY=VALUE, such as --set ppo.steps=20")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not valid YAML: {' '.join(str(error).split())}") from error
    for key in keys[:-1]:
        inner = settings.get(key)
        settings[key] = dict(inner) if isinstance(inner, dict) else {}
        settings = settings[key]
    settings[keys[-1]] = value


def _explain(problem: Any) -> str:
    path = [str(key) for key in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        parent = _model_at(path[:-1])
        known = list(parent.model_fields) if parent else []
        return f"unknown setting {name}{_did_you_mean(path[-1], known)}; known settings are {', '.join(known)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name} ({problem['input']!r}): {message}" if name else message


def _model_at(path: Sequence[str]) -> type[BaseModel] | None:
    model: type[BaseModel] = RunConfig
    for key in path:
        field = model.model_fields.get(key)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        inner = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return None
        model = inner[0]
    return model


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    similar = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(similar)}?" if similar else ""
