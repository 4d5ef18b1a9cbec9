"""Finished judgements in the order in which they finish, so that a restarted stage asks only about the other pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from rlhf.results.llm_judge import LLM_JUDGEMENTS, LlmJudgement
from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import append_durably


class Journal:
    """The judgements of an unfinished stage, in OUTPUT/checkpoints."""

    def __init__(self, output: Path, ids: Iterable[str]) -> None:
        """Read the judgements about `ids` up to the first damaged line, which a power cut may have left."""
        self.path = output / CHECKPOINTS / LLM_JUDGEMENTS
        self.judgements: dict[str, LlmJudgement] = {}
        """By prompt id."""
        self._size: int | None = 0
        known = set(ids)
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []:
            row = _parse(line)
            if row is None or row.id not in known:
                break
            self.judgements[row.id] = row
            self._size += len(line)

    def append(self, judgements: Sequence[LlmJudgement]) -> None:
        """Add judgements, which are on disk when this returns."""
        self.path.parent.mkdir(exist_ok=True)
        lines = "".join(f"{row.model_dump_json()}\n" for row in judgements)
        append_durably(self.path, lines, truncate_to=self._size)
        self._size = None
        self.judgements |= {row.id: row for row in judgements}


def _parse(line: bytes) -> LlmJudgement | None:
    """The judgement on a complete line, else None."""
    try:
        return LlmJudgement.model_validate_json(line) if line.endswith(b"\n") else None
    except ValidationError:
        return None
