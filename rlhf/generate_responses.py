"""Stage: one model's answers to the test prompts, with their rewards.

Takes `data`, `policy` (what train_sft or train_ppo made) and `reward`; makes `responses.jsonl`.  The seeds are those of
the prompts, so that two models answer with the same luck.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.config import ResponsesStage
from rlhf.encoding import encode_prompt
from rlhf.models import load_causal_lm, load_tokenizer
from rlhf.processes import gather_rows, start_processes
from rlhf.reward_model import RewardModel
from rlhf.sampling import generate, row_seed
from rlhf.stage import is_main_process, main, progress, read_jsonl, write_jsonl


def body(config: ResponsesStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Answer this process's part of the prompts, score the answers and write all of them."""
    processes = start_processes()
    folder, dtype, settings = inputs["policy"] / "model", config.model.dtype, config.responses
    rows = read_jsonl(inputs["data"] / "test_prompts.jsonl")
    with processes.split_between_processes(rows) as share:
        ids, prompts = [str(row["id"]) for row in share], [str(row["prompt"]) for row in share]
    seeds = [row_seed(config.seed, "response", prompt_id) for prompt_id in ids]

    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder, dtype).to(processes.device).eval()
    answers = generate(
        model,
        tokenizer,
        [encode_prompt(tokenizer, prompt) for prompt in prompts],
        settings.sampling,
        seeds,
        batch_size=settings.batch_size,
        stop_sequences=settings.stop_sequences,
        on_batch=lambda done: progress("answers", done, len(prompts)),
    )
    reward_model = RewardModel(inputs["reward"] / "model", dtype, processes.device)
    rewards = reward_model.score(prompts, [answer.text for answer in answers], settings.batch_size).tolist()
    responses: list[dict[str, object]] = gather_rows(
        [
            {
                "id": i,
                "prompt": prompt,
                "answer": answer.text,
                "seed": seed,
                "reward": reward,
                "stopped": answer.stopped,
            }
            for i, prompt, answer, seed, reward in zip(ids, prompts, answers, seeds, rewards, strict=True)
        ]
    )
    if is_main_process():
        write_jsonl(output / "responses.jsonl", responses)
    return {
        "responses": float(len(responses)),
        "mean_reward": sum(float(str(row["reward"])) for row in responses) / len(responses),
        "stopped_share": sum(bool(row["stopped"]) for row in responses) / len(responses),
    }


if __name__ == "__main__":
    main(ResponsesStage, body)
