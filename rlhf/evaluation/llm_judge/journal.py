"""Finished judgements in the order in which they finish, so that a restarted stage asks only about the other pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from rlhf.results.llm_judge import LLM_JUDGEMENTS, LlmJudgement
from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import append_durably
from rlhf.storage.untrusted import read_regular_file

MAX_BYTES = 2**30
"""Larger files are no journals; a judgement has some hundred bytes."""


class Journal:
    """The judgements of an unfinished stage, in OUTPUT/checkpoints."""

    def __init__(self, output: Path, ids: Iterable[str]) -> None:
        """Read the judgements about `ids`.  Damaged lines, which a power cut may have left, are passed over.

        Raises UserError if the file cannot be read.
        """
        self.path = output / CHECKPOINTS / LLM_JUDGEMENTS
        self.judgements: dict[str, LlmJudgement] = {}
        """By prompt id."""
        content = read_regular_file(self.path, MAX_BYTES) if self.path.exists() else b""
        self._size = content.rfind(b"\n") + 1
        """Bytes of the file's complete lines."""
        known = set(ids)
        for line in content[: self._size].splitlines():
            row = _parse(line)
            if row is not None and row.id in known:
                self.judgements[row.id] = row

    def append(self, judgements: Sequence[LlmJudgement]) -> None:
        """Add judgements, which are on disk when this returns.

        Half a line at the file's end, also one that a failed write left, is dropped first.
        """
        self.path.parent.mkdir(exist_ok=True)
        lines = "".join(f"{row.model_dump_json()}\n" for row in judgements)
        self._size = append_durably(self.path, lines, truncate_to=self._size)
        self.judgements |= {row.id: row for row in judgements}


def _parse(line: bytes) -> LlmJudgement | None:
    """The judgement on a line, else None."""
    try:
        return LlmJudgement.model_validate_json(line)
    except ValidationError:
        return None
