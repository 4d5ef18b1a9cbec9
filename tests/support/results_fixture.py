"""Artifacts of a made-up run, for tests of results and reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rlhf.config import DataConfig, ModelConfig, RunConfig, SyntheticModel, ToxicityConfig
from rlhf.labeling.manifest import PromptResponses, blind, write_labeling_task
from rlhf.stage_config import ReportStage, part_of
from rlhf.storage.files import read_jsonl, write_jsonl
from rlhf.storage.fingerprints import digest
from tests.support.artifacts import finish

STAGES = {
    "model": "prepare_model",
    "data": "prepare_data",
    "sft": "train_sft",
    "reward": "train_reward",
    "judge": "train_judge",
    "rlhf": "train_ppo",
    "sft_responses": "generate_responses",
    "rlhf_responses": "generate_responses",
    "sft_toxicity": "score_toxicity",
    "rlhf_toxicity": "score_toxicity",
    "policy_comparison": "compare_policies",
    "labeling": "export_labeling_manifest",
    "best_of_n": "sample_best_of_n",
    "judging": "judge_responses",
}
INPUTS = {"data": ("source",), "labeling": ("sft_responses", "rlhf_responses")}
"""Recorded inputs that the code looks up."""
EVALUATION = {
    "accuracy": 0.75,
    "accuracy_low": 0.655,
    "accuracy_high": 0.826,
    "pairs": 96,
    "mean_margin": 0.8,
    "loss": 0.5,
    "calibration_error": 0.05,
    "calibration": [
        {"from": 0.5, "to": 0.55, "pairs": 48, "expected": 0.525, "observed": 0.575},
        {"from": 0.95, "to": 1.0, "pairs": 48, "expected": 0.975, "observed": 0.925},
    ],
}
"""Evaluation of both reward models: 72 of 96 pairs are right."""
HOSTILE = (
    "</div><script>document.title = 'taken'</script><img src=https://example.org/x onerror=document.title='taken'>"
    " {{ 7 * 7 }} \u202eevil\x00\x1b[31m"
)
QUESTIONS = (
    "What can I cook with rice and eggs?",
    "How do I tell a friend that I forgot her birthday?",
    "Why is the sky blue?",
    "Can you help me plan a walk of two hours?",
)


def fake_config(synthetic: bool = True) -> ReportStage:
    """Settings of the run."""
    if synthetic:
        run = RunConfig(
            run_name="fake",
            model=ModelConfig(synthetic=SyntheticModel()),
            data=DataConfig(source="synthetic"),
            toxicity=ToxicityConfig(prompts="synthetic", classifier="profanity-check"),
        )
    else:
        run = RunConfig(run_name="real", data=DataConfig(source="my/data"))
    return part_of(run, ReportStage)


def fake_run(root: Path, *, prompts: int = 12, continuations: int = 60, effect: float = 1.0) -> dict[str, Path]:
    """Write finished artifacts under `root`; `effect` scales the rise in reward and the fall in toxicity."""
    draw = np.random.default_rng(5)
    folders = {name: root / name for name in STAGES}
    for folder in folders.values():
        folder.mkdir(parents=True)

    kept = {"preferences.jsonl": 2400, "validation_prompts.jsonl": 96, "test_prompts.jsonl": prompts}
    dropped = {"response too long": 210, "duplicate": 12, "equal responses": 0, "near-duplicate of a test prompt": 31}
    _write_json(folders["data"] / "dropped.json", {"read": 3000, "kept": kept, "dropped": dropped})

    for name in ("reward", "judge"):
        _write_json(folders[name] / "evaluation.json", EVALUATION)
    ids = [f"prompt-{number}" for number in range(prompts)]
    write_jsonl(folders["reward"] / "chosen_scores.jsonl", [{"id": i, "score": 0.5} for i in [*ids, "elsewhere"]])

    steps = list(range(1, 31))
    rewards = -0.8 + effect * np.linspace(0, 0.7, 31) + draw.normal(0, 0.04, 31)
    measured = {step: float(rewards[step]) for step in (0, 10, 20, 30)}
    best = max(measured, key=lambda step: measured[step])
    write_jsonl(
        folders["rlhf"] / "validation.jsonl",
        [{"step": step, "score": score, "kl": 0.1 * step} for step, score in measured.items()],
    )
    write_jsonl(
        folders["rlhf"] / "metrics.jsonl",
        [
            {
                "step": step,
                "score": float(rewards[step] + draw.normal(0, 0.05)),
                "kl": 0.14 * step + abs(float(draw.normal(0, 0.2))),
                "response_tokens": 22 + float(draw.normal(0, 1)),
            }
            for step in steps
        ],
    )
    summary = {"first": measured[0], "best": measured[best], "last": measured[30], "best_step": best}
    _write_json(folders["rlhf"] / "summary.json", {**summary, "stopped_early": None, "rejected": []})

    before = draw.normal(-0.4, 0.5, prompts)
    gains = effect * draw.normal(0.45, 0.5, prompts)
    for name, scores in (("sft_responses", before), ("rlhf_responses", before + gains)):
        write_jsonl(folders[name] / "responses.jsonl", [_response(name, i, float(scores[i])) for i in range(prompts)])

    _write_optimization(folders, before, gains)

    sft_scores = draw.beta(0.25, 1.6, continuations)
    changed = np.where(draw.random(continuations) < 0.6, draw.beta(0.25, 1.6, continuations), sft_scores)
    for name, scores in (("sft_toxicity", sft_scores), ("rlhf_toxicity", changed * (1 - 0.5 * effect))):
        write_jsonl(
            folders[name] / "continuations.jsonl",
            [
                {
                    "id": f"toxicity-{number}",
                    "prompt": "It was",
                    "prompt_toxicity": 0.7 if number % 5 == 0 else 0.2,
                    "continuation": " a day",
                    "seed": number,
                    "scores": {"toxicity": float(score), "insult": float(score) / 2},
                }
                for number, score in enumerate(scores)
            ],
        )
    write_jsonl(
        folders["policy_comparison"] / "validation_loss.jsonl",
        [
            {"id": f"demonstration-{number}", "tokens": 20, "sft_loss": loss, "rlhf_loss": loss + 0.03}
            for number, loss in enumerate(draw.normal(1.4, 0.2, 40).tolist())
        ],
    )
    write_jsonl(
        folders["policy_comparison"] / "response_metrics.jsonl",
        [
            {
                "id": i,
                "kl": 4.0 + 0.1 * number,
                "prompt_toxicity": 0.9 if number == 5 else 0.1,
                "sft": {"tokens": 20 + number % 3, "repetition": 0.02, "toxicity": 0.1},
                "rlhf": {"tokens": 22 + number % 3, "repetition": 0.03, "toxicity": 0.83 if number == 0 else 0.1},
            }
            for number, i in enumerate(ids)
        ],
    )
    sft, rlhf = (read_jsonl(folders[name] / "responses.jsonl") for name in ("sft_responses", "rlhf_responses"))
    pairs = [
        PromptResponses(str(a["id"]), str(a["prompt"]), str(a["response"]), str(b["response"]))
        for a, b in zip(sft, rlhf, strict=True)
    ]
    write_labeling_task(folders["labeling"], *blind(pairs, "secret"))
    for name, folder in folders.items():
        finish(
            folder,
            STAGES[name],
            digest(name)[:16],
            inputs={source: digest(source)[:16] for source in INPUTS.get(name, ())},
            versions={"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
            seed=42,
            seconds=3.5 * (1 + list(STAGES).index(name)) ** 2,
            processes=2 if name == "rlhf" else 1,
        )
    return folders


def _write_optimization(folders: dict[str, Path], before: np.ndarray, gains: np.ndarray) -> None:
    """Two validations with two prompts each, four samples per prompt, and the judge's scores of everything.

    The judge prefers RLHF wherever the optimized reward does.
    """
    rows: list[dict[str, object]] = [
        {
            "step": step,
            "id": f"validation-{prompt}",
            "prompt": "\n\nHuman: Why?\n\nAssistant:",
            "response": " one two three four",
            "ended": prompt == 0,
            "tokens": 5,
            "kl": 0.1 * step,
            "reward": 0.1 * step + prompt,
        }
        for step in (0, 10)
        for prompt in (0, 1)
    ]
    write_jsonl(folders["rlhf"] / "validation_responses.jsonl", rows)
    samples: list[dict[str, object]] = [
        {
            "id": f"validation-{prompt}",
            "prompt": "\n\nHuman: Why?\n\nAssistant:",
            "response": " one two three" + " four" * sample,
            "seed": sample,
            "reward": float(sample),
            "stopped": sample > 0,
        }
        for prompt in (0, 1)
        for sample in range(4)
    ]
    write_jsonl(folders["best_of_n"] / "samples.jsonl", samples)
    scores = {
        "sft_responses": before,
        "rlhf_responses": before + gains,
        "rlhf": [0.0, 0.0, 1.0, -1.0],
        "best_of_n": [-1.0, -1.0, 1.0, 1.0] * 2,
    }
    for name, values in scores.items():
        write_jsonl(folders["judging"] / f"{name}.jsonl", [{"score": float(score)} for score in values])


def _response(name: str, number: int, reward: float) -> dict[str, object]:
    question = QUESTIONS[number % len(QUESTIONS)]
    earlier = "\n\nHuman: Hello!\n\nAssistant: Hello, what can I do for you?" if number % 3 == 0 else ""
    text = f" Gladly ({name}): take your time, start with what you have, and tell me how it went."
    return {
        "id": f"prompt-{number}",
        "prompt": f"{earlier}\n\nHuman: {question}\n\nAssistant:",
        "response": HOSTILE if number == 1 else "" if number == 2 and name == "sft_responses" else text,
        "seed": number,
        "reward": reward,
        "stopped": True,
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
