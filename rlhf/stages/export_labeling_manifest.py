"""Stage: blinded pairs of responses for people to compare, and the key that says which model wrote which."""

from __future__ import annotations

from pathlib import Path

from rlhf.labeling.blinding import blinding_secret
from rlhf.labeling.manifest import PromptResponses, blind, write_labeling_task
from rlhf.runtime.stage import main
from rlhf.stage_config import LabelingStage
from rlhf.storage.files import file_sha256, read_jsonl

RESPONSES = "responses.jsonl"


def export_labeling_manifest(config: LabelingStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write manifest.jsonl and key.jsonl from both models' responses to the test prompts."""
    files = [inputs[name] / RESPONSES for name in ("sft_responses", "rlhf_responses")]
    sft, rlhf = (read_jsonl(file) for file in files)
    rows = [
        PromptResponses(str(sft_row["id"]), str(sft_row["prompt"]), str(sft_row["response"]), str(rlhf_row["response"]))
        for sft_row, rlhf_row in zip(sft, rlhf, strict=True)
    ]
    assert [row.id for row in rows] == [row["id"] for row in rlhf], "both models must have the same prompts in order"
    pairs, key = blind(rows, blinding_secret(config.seed, map(file_sha256, files)))
    write_labeling_task(output, pairs, key)
    return {"pairs": len(pairs)}


if __name__ == "__main__":
    main(LabelingStage, export_labeling_manifest)
