"""Stage: samples one model's responses to the test prompts and scores them.

Reads `data`, `policy` (output of train_sft or train_ppo) and `reward`; writes `responses.jsonl`.  Seeds depend on the
prompt only, so that two models sample with the same random numbers.  Prompts of similar length form a batch, and each
batch is handled by exactly one rank, so the output is byte-identical for any number of ranks.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.models.loading import load_causal_lm
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import generate
from rlhf.models.tokenization import encode_prompt, load_tokenizer
from rlhf.runtime.distributed import all_gather_rows, init_distributed
from rlhf.runtime.seeds import derive_seed
from rlhf.runtime.stage import is_main_process, main, progress
from rlhf.stage_config import ResponsesStage
from rlhf.storage.files import read_jsonl, write_jsonl


def generate_responses(config: ResponsesStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Sample and score responses to this rank's batches of prompts, and write those of all ranks."""
    state = init_distributed()
    folder, dtype, settings = inputs["policy"] / "model", config.model.dtype, config.responses
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder, dtype).to(state.device).eval()
    reward_model = RewardModel.load(inputs["reward"] / "model", dtype, state.device)

    rows = read_jsonl(inputs["data"] / "test_prompts.jsonl")
    prompt_ids = [encode_prompt(tokenizer, str(row["prompt"])) for row in rows]
    longest_first = sorted(range(len(rows)), key=lambda index: -len(prompt_ids[index]))
    starts = range(0, len(rows), settings.batch_size)[state.process_index :: state.num_processes]
    numbered: list[tuple[int, dict[str, object]]] = []
    for start in starts:
        batch = longest_first[start : start + settings.batch_size]
        ids, prompts = [str(rows[index]["id"]) for index in batch], [str(rows[index]["prompt"]) for index in batch]
        seeds = [derive_seed(config.seed, "response", prompt_id) for prompt_id in ids]
        responses = generate(
            model,
            tokenizer,
            [prompt_ids[index] for index in batch],
            settings.sampling,
            seeds,
            batch_size=settings.batch_size,
            stop_sequences=settings.stop_sequences,
        )
        scores = reward_model.score(prompts, [response.text for response in responses], settings.batch_size).tolist()
        for index, prompt_id, prompt, seed, response, score in zip(
            batch, ids, prompts, seeds, responses, scores, strict=True
        ):
            row = {"id": prompt_id, "prompt": prompt, "response": response.text, "seed": seed, "reward": score}
            numbered.append((index, {**row, "stopped": response.stopped}))
        progress("responses", min(start + settings.batch_size * state.num_processes, len(rows)), len(rows))

    written = [row for _, row in sorted(all_gather_rows(numbered), key=lambda pair: pair[0])]
    if is_main_process():
        write_jsonl(output / "responses.jsonl", written)
    return {
        "responses": float(len(written)),
        "mean_reward": sum(float(str(row["reward"])) for row in written) / len(written),
        "stopped_share": sum(bool(row["stopped"]) for row in written) / len(written),
    }


if __name__ == "__main__":
    main(ResponsesStage, generate_responses)
