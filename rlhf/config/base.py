"""What all settings have in common: their base class, types of values, and rules that several of them use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from rlhf.errors import UserError

HUB = "hub"
"""Value of a path setting: download from the Hugging Face hub at the pinned revision."""
SYNTHETIC = "synthetic"
"""Value of a path setting: generate synthetic data."""
MAX_TEXT = 10_000
"""Characters of the longest text that a setting may have."""


def expand_home(path: str) -> str:
    """A path in which a leading `~` or `~user` is that user's home folder; any other path as it is.

    A folder that is really called `~` is written `./~`.  Raises UserError if there is no such user or home folder.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        user = path.partition("/")[0]
        raise UserError(
            f"{path}: {user} is no home folder ({error}); set HOME if it is yours, or write the path out "
            f"(./{path} for a folder of this name)"
        ) from error


PathText = Annotated[str, Field(min_length=1), AfterValidator(expand_home)]
"""Path of a file or folder, with `~` for the home folder; also `hub` or `synthetic` if the setting takes these."""


class Settings(BaseModel):
    """Base class of all settings: immutable, no unknown keys, finite numbers, docstrings become descriptions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, str_max_length=MAX_TEXT
    )

    @field_validator("*")
    @classmethod
    def _has_no_nul(cls, value: object) -> object:
        """No file name, header or process argument can hold this character."""
        if any(isinstance(text, str) and "\0" in text for text in (value if isinstance(value, tuple) else [value])):
            raise ValueError("must not contain the character NUL")
        return value


def require_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raises UserError, which suggests the nearest smaller multiple, if `value` is not a multiple of `divisor`."""
    if value % divisor:
        nearest = max(1, value // divisor) * divisor
        raise UserError(f"{name} ({value}) must be a multiple of {divisor_name} ({divisor}); try {nearest}")


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names: `{"ppo": {"steps": 2}}` is `{"ppo.steps": 2}`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
