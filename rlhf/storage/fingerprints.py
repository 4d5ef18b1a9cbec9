"""Fingerprints: a hash of everything that the output of a stage depends on."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache, reduce
from pathlib import Path

import rlhf
from rlhf.config import HUB, SYNTHETIC, Settings
from rlhf.errors import UserError, quoted
from rlhf.storage.files import file_sha256
from rlhf.storage.user_folders import walk_folder

PATH_SETTINGS = {
    "": ("questions",),
    "data": ("source",),
    "evaluation": ("questions",),
    "judge.llm": ("path",),
    "judge.model": ("path",),
    "llm": ("path",),
    "model": ("path",),
    "reward": ("path",),
    "toxicity": ("prompts", "checkpoint", "checkpoint_config", "second_opinion"),
}
"""Settings that are paths: the content at a path is part of the fingerprint as an input, the path itself is not."""
SETTINGS_MODULES = ("rlhf.config", "rlhf.stage_config")
"""Modules and packages whose code is not part of any fingerprint: the values of settings are."""


def digest(value: object) -> str:
    """sha256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fingerprint_stage(stage: str, config: Settings, inputs: Mapping[str, str], module: str) -> str:
    """16 hex digits that depend on a stage's settings, its inputs' fingerprints and the code of `module`."""
    settings = config.model_dump(mode="json")
    for section, names in PATH_SETTINGS.items():
        part = reduce(lambda nested, name: nested.get(name) or {}, section.split(".") if section else [], settings)
        for name in names:
            if part.get(name) not in (None, HUB, SYNTHETIC):
                part[name] = "given"
    return digest([stage, settings, dict(inputs), source_digest(module)])[:16]


@cache
def source_digest(module: str) -> str:
    """sha256 over the code of `module` and of every module of this package that it imports, directly or not.

    Code is the syntax tree: comments, layout and docstrings do not count.  The minor version of Python does, since the
    tree differs between versions.  Raises LookupError if there is no such module.
    """
    package = Path(rlhf.__file__).parent
    pending, sources = [module], {}
    while pending:
        name = pending.pop()
        if name in sources:
            continue
        path = _module_file(package, name)
        if path is None:
            raise LookupError(f"{name}: no such module below {package}")
        sources[name], imported = _code(path)
        pending.extend(target for target, is_module in imported if is_module or _module_file(package, target))
    code = {name: source for name, source in sources.items() if not _is_settings(name)}
    return digest([sys.version_info[:2], code])


def _is_settings(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in SETTINGS_MODULES)


def _module_file(package: Path, name: str) -> Path | None:
    base = package.joinpath(*name.split(".")[1:])
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def _code(path: Path) -> tuple[str, tuple[tuple[str, bool], ...]]:
    """sha256 of a module's code, and its imports from this package."""
    tree = ast.parse(path.read_bytes())
    imported = tuple(_imports(tree))
    return hashlib.sha256(ast.dump(_WithoutDocstrings().visit(tree)).encode()).hexdigest(), imported


class _WithoutDocstrings(ast.NodeTransformer):
    """Drops string expressions that have no effect: docstrings, also those of attributes."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Drop the node if it is such a string."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Names that a module imports from this package, and whether each must be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rlhf":
            yield node.module, True
            yield from ((f"{node.module}.{alias.name}", False) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names if alias.name.split(".")[0] == "rlhf")


def fingerprint_path(path: Path) -> str:
    """Fingerprint of a user's file or folder, from the names and bytes of the files that readers see (walk_folder).

    Raises UserError if there is no file at `path`.
    """
    try:
        if path.is_file():
            return file_sha256(path)[:16]
        files = [file for file in walk_folder(path) if file.is_file()] if path.is_dir() else []
    except OSError as error:
        raise UserError(f"{quoted(str(path), 300)}: cannot be read ({error.strerror})") from error
    if not files:
        raise UserError(f"{quoted(str(path))}: no such file, or a folder without files")
    return digest({file.relative_to(path).as_posix(): file_sha256(file) for file in files})[:16]
