"""Blinded pairs of answers for people to compare, and the key that tells later who wrote which."""

from __future__ import annotations

from pathlib import Path

from rlhf.labeling.blinding import blinding_secret
from rlhf.labeling.manifest import Pair, blind, write_comparison
from rlhf.runtime.stage import main
from rlhf.stage_config import LabelingStage
from rlhf.storage.files import file_sha256, read_jsonl

RESPONSES = "responses.jsonl"


def export_labeling_manifest(config: LabelingStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write manifest.jsonl and key.jsonl for the test prompts, which both models must have answered."""
    files = [inputs[name] / RESPONSES for name in ("sft_responses", "rlhf_responses")]
    sft, rlhf = (read_jsonl(file) for file in files)
    pairs = [
        Pair(str(before["id"]), str(before["prompt"]), str(before["answer"]), str(after["answer"]))
        for before, after in zip(sft, rlhf, strict=True)
    ]
    assert [pair.id for pair in pairs] == [row["id"] for row in rlhf], "both models answer the same prompts in order"
    items, key = blind(pairs, blinding_secret(config.seed, map(file_sha256, files)))
    write_comparison(output, items, key)
    return {"items": len(items)}


if __name__ == "__main__":
    main(LabelingStage, export_labeling_manifest)
