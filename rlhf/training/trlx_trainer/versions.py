"""Which libraries trlx is right with.  Imports nothing but the standard library, so that it answers before they do."""

from __future__ import annotations

from importlib import metadata

from rlhf.errors import UserError

LAST_RIGHT_TRANSFORMERS = (4, 41, 2)
LAST_RIGHT_ACCELERATE = (0, 27, 2)
REMEDY = (
    "trlx works with transformers 4.41.2 or older and accelerate 0.27.2 or older: "
    "build such an environment with `make trlx-env`, or let TRLX_PYTHON name the python of one"
)


def require_right_versions() -> None:
    """Raise UserError where an installed library is one that trlx goes wrong with."""
    refuse_transformers(_installed("transformers"))
    refuse_accelerate(_installed("accelerate"))


def refuse_transformers(version: str) -> None:
    """Raise UserError where the reference model of trlx is not the policy's copy.

    With newer versions nothing fails, but the top blocks of the reference run without a causal mask.
    """
    if _numbers(version) > LAST_RIGHT_TRANSFORMERS:
        raise UserError(f"trainer (trlx): transformers {version} breaks trlx's reference model silently; {REMEDY}")


def refuse_accelerate(version: str) -> None:
    """Raise UserError where what belongs to a prompt is lost on its way to the reward: newer versions move batches
    by `.to(device)`, which the lists beside the tensors do not have."""
    if _numbers(version) > LAST_RIGHT_ACCELERATE:
        raise UserError(f"trainer (trlx): accelerate {version} cannot pass on what trlx keeps of a prompt; {REMEDY}")


def refuse_gap(gap: float, transformers_version: str) -> None:
    """Raise UserError where policy and reference differ before any training: `gap` is the largest difference of a
    token's log-probability, in nats."""
    if not gap <= LARGEST_GAP:
        raise UserError(
            f"trainer (trlx): the KL to the reference is not 0 before training, but log-probabilities differ by up to "
            f"{gap:.3g} nats with transformers {transformers_version}; {REMEDY}"
        )


LARGEST_GAP = 1e-4
"""Both run the same operations on the same numbers; this is far below what a lost causal mask does."""


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise UserError(f"trainer (trlx): this environment has no {package}; {REMEDY}") from None


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version: (4, 41, 2) of 4.41.2.post1."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
