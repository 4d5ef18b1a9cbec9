"""Check the library versions that trlx needs.  Imports only the standard library, so it runs before theirs."""

from __future__ import annotations

from importlib import metadata

from rlhf.errors import UserError

MAX_TRANSFORMERS_VERSION = (4, 41, 2)
MAX_ACCELERATE_VERSION = (0, 27, 2)
REMEDY = (
    "trlx needs transformers <= 4.41.2 and accelerate <= 0.27.2: "
    "build such an environment with `make trlx-env`, or set TRLX_PYTHON to the python of one"
)


def check_versions() -> None:
    """Raise UserError if trlx does not work with an installed library."""
    check_transformers(_installed("transformers"))
    check_accelerate(_installed("accelerate"))


def check_transformers(version: str) -> None:
    """Raise UserError if trlx's reference model is wrong with this version of transformers.

    With newer versions nothing fails, but the top blocks of the reference run without a causal mask.
    """
    if _numbers(version) > MAX_TRANSFORMERS_VERSION:
        raise UserError(f"trainer (trlx): transformers {version} breaks trlx's reference model silently; {REMEDY}")


def check_accelerate(version: str) -> None:
    """Raise UserError if this version of accelerate drops the per-prompt data that the reward function needs.

    Newer versions call `.to(device)` on everything in a batch, which lists do not have.
    """
    if _numbers(version) > MAX_ACCELERATE_VERSION:
        raise UserError(f"trainer (trlx): accelerate {version} drops the per-prompt data of trlx; {REMEDY}")


def check_reference_matches(gap: float, transformers_version: str) -> None:
    """Raise UserError if policy and reference differ before training.

    `gap` is the largest difference of a token's log-probability, in nats.
    """
    if not gap <= MAX_GAP:
        raise UserError(
            f"trainer (trlx): the KL to the reference is not 0 before training, but log-probabilities differ by up to "
            f"{gap:.3g} nats with transformers {transformers_version}; {REMEDY}"
        )


MAX_GAP = 1e-4
"""In nats.  Both models do the same operations; a lost causal mask makes a difference far above this."""


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise UserError(f"trainer (trlx): this environment has no {package}; {REMEDY}") from error


def _numbers(version: str) -> tuple[int, ...]:
    """Release numbers of a version: (4, 41, 2) for 4.41.2.post1."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
