"""Tiny inputs of stages, and stage requests like those that the orchestrator writes."""

from __future__ import annotations

import random
from pathlib import Path

from rlhf.config import Settings
from rlhf.runtime.stage import StageInput, StageRequest
from rlhf.storage.files import write_jsonl
from tests.support.tiny_models import Architecture, tiny_model

WORDS = ["rice", "eggs", "lock", "sky", "blue", "air", "light", "red", "help", "cook", "fried"]


def tiny_inputs(folder: Path, architecture: Architecture = "gptj") -> dict[str, Path]:
    """Synthetic artifacts of prepare_model and prepare_data: 40 training rows, 11 validation rows, 10 prompts.

    The judge has 40 training rows of its own.
    """
    generator = random.Random(0)
    inputs = {"model": folder / "base", "data": folder / "data"}
    tiny_model(inputs["model"] / "model", architecture)
    inputs["data"].mkdir()

    def words() -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(2, 6)))

    def rows(kind: str, count: int) -> list[dict[str, object]]:
        result: list[dict[str, object]] = []
        for number in range(count):
            good, bad = f" {words()}.", f" {words()}!"  # the last character says which one is better
            prompt = f"\n\nHuman: {words()}?\n\nAssistant:"
            result.append(
                {"id": f"{kind}-{number}", "prompt": prompt, "response": good, "chosen": good, "rejected": bad}
            )
        return result

    for name, count in (
        ("demonstrations", 40),
        ("validation_demonstrations", 11),
        ("preferences", 40),
        ("validation_preferences", 11),
        ("ppo_prompts", 5),
        ("validation_prompts", 3),
        ("test_prompts", 2),
        ("judge_preferences", 40),
    ):
        write_jsonl(inputs["data"] / f"{name}.jsonl", rows(name, count))
    return inputs


def write_request(path: Path, stage: str, config: Settings, inputs: dict[str, Path]) -> Path:
    """Write the request for a stage to `path`; returns `path`."""
    request = StageRequest(
        stage=stage,
        fingerprint="0" * 16,
        config=config.model_dump(mode="json"),
        inputs={name: StageInput(fingerprint="1" * 16, path=folder) for name, folder in inputs.items()},
    )
    path.write_text(request.model_dump_json())
    return path
