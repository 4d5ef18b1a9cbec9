"""Stage: sample several responses of the SFT model to each validation prompt and score them.

Picking the best of n by the optimized reward model is the baseline that PPO must beat.  Reads `data`, `policy` (output
of train_sft) and `reward`; writes `samples.jsonl`, sampled as PPO's validation samples.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.evaluation.scored_responses import Draw, respond_and_score
from rlhf.runtime.seeds import derive_seed
from rlhf.runtime.stage import is_main_process, main
from rlhf.stage_config import BestOfNStage
from rlhf.storage.files import read_jsonl, write_jsonl

SAMPLES = "samples.jsonl"


def sample_best_of_n(config: BestOfNStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write `best_of` rows per validation prompt, those of one prompt next to each other."""
    prompts = [(str(row["id"]), str(row["prompt"])) for row in read_jsonl(inputs["data"] / "validation_prompts.jsonl")]
    rows = respond_and_score(
        inputs["policy"] / "model",
        inputs["reward"] / "model",
        [
            Draw(prompt_id, prompt, derive_seed(config.seed, "best of n", prompt_id, str(sample)))
            for prompt_id, prompt in prompts
            for sample in range(config.best_of)
        ],
        sampling=config.sampling,
        stop_sequences=config.stop_sequences,
        batch_size=config.batch_size,
        dtype=config.model.dtype,
    )
    if is_main_process():
        write_jsonl(output / SAMPLES, rows)
    return {"responses": float(len(rows))}


if __name__ == "__main__":
    main(BestOfNStage, sample_best_of_n)
