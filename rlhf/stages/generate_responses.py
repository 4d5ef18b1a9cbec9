"""Stage: one model's answers to the test prompts, with their rewards.

Takes `data`, `policy` (what train_sft or train_ppo made) and `reward`; makes `responses.jsonl`.  The seeds are those of
the prompts, so that two models answer with the same luck.  Prompts of like length are a batch, and each batch is
answered and scored by one process alone, so that a row is the same to the last bit whatever the number of processes.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.models.loading import load_causal_lm
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import generate
from rlhf.models.tokenization import encode_prompt, load_tokenizer
from rlhf.runtime.distributed import gather_rows, start_processes
from rlhf.runtime.seeds import row_seed
from rlhf.runtime.stage import is_main_process, main, progress
from rlhf.stage_config import ResponsesStage
from rlhf.storage.files import read_jsonl, write_jsonl


def body(config: ResponsesStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Answer this process's batches of prompts, score the answers and write all of them."""
    processes = start_processes()
    folder, dtype, settings = inputs["policy"] / "model", config.model.dtype, config.responses
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder, dtype).to(processes.device).eval()
    reward_model = RewardModel.load(inputs["reward"] / "model", dtype, processes.device)

    asked = read_jsonl(inputs["data"] / "test_prompts.jsonl")
    prompt_ids = [encode_prompt(tokenizer, str(row["prompt"])) for row in asked]
    longest_first = sorted(range(len(asked)), key=lambda row: -len(prompt_ids[row]))
    starts = range(0, len(asked), settings.batch_size)[processes.process_index :: processes.num_processes]
    answered: list[tuple[int, dict[str, object]]] = []
    for start in starts:
        batch = longest_first[start : start + settings.batch_size]
        ids, prompts = [str(asked[row]["id"]) for row in batch], [str(asked[row]["prompt"]) for row in batch]
        seeds = [row_seed(config.seed, "response", prompt_id) for prompt_id in ids]
        answers = generate(
            model,
            tokenizer,
            [prompt_ids[row] for row in batch],
            settings.sampling,
            seeds,
            batch_size=settings.batch_size,
            stop_sequences=settings.stop_sequences,
        )
        rewards = reward_model.score(prompts, [answer.text for answer in answers], settings.batch_size).tolist()
        for row, prompt_id, prompt, seed, answer, reward in zip(
            batch, ids, prompts, seeds, answers, rewards, strict=True
        ):
            told = {"id": prompt_id, "prompt": prompt, "answer": answer.text, "seed": seed, "reward": reward}
            answered.append((row, {**told, "stopped": answer.stopped}))
        progress("answers", min(start + settings.batch_size * processes.num_processes, len(asked)), len(asked))

    responses = [response for _, response in sorted(gather_rows(answered), key=lambda numbered: numbered[0])]
    if is_main_process():
        write_jsonl(output / "responses.jsonl", responses)
    return {
        "responses": float(len(responses)),
        "mean_reward": sum(float(str(row["reward"])) for row in responses) / len(responses),
        "stopped_share": sum(bool(row["stopped"]) for row in responses) / len(responses),
    }


if __name__ == "__main__":
    main(ResponsesStage, body)
