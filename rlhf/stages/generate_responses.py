"""Stage: samples one model's responses to the test prompts and scores them.

Reads `data`, `policy` (output of train_sft or train_ppo) and `reward`; writes `responses.jsonl`.  Seeds depend on the
prompt only, so that two models sample with the same random numbers.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.evaluation.scored_responses import Draw, respond_and_score
from rlhf.runtime.seeds import derive_seed
from rlhf.runtime.stage import is_main_process, main
from rlhf.stage_config import ResponsesStage
from rlhf.storage.files import read_jsonl, write_jsonl


def generate_responses(config: ResponsesStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Sample and score responses to this rank's batches of prompts, and write those of all ranks."""
    prompts = [(str(row["id"]), str(row["prompt"])) for row in read_jsonl(inputs["data"] / "test_prompts.jsonl")]
    rows = respond_and_score(
        inputs["policy"] / "model",
        inputs["reward"] / "model",
        [Draw(prompt_id, prompt, derive_seed(config.seed, "response", prompt_id)) for prompt_id, prompt in prompts],
        sampling=config.responses.sampling,
        stop_sequences=config.responses.stop_sequences,
        batch_size=config.responses.batch_size,
        dtype=config.model.dtype,
    )
    if is_main_process():
        write_jsonl(output / "responses.jsonl", rows)
    return {
        "responses": float(len(rows)),
        "mean_reward": sum(float(str(row["reward"])) for row in rows) / len(rows),
        "stopped_share": sum(bool(row["stopped"]) for row in rows) / len(rows),
    }


if __name__ == "__main__":
    main(ResponsesStage, generate_responses)
