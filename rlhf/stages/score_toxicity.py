"""Toxicity of a model: prompts drawn from RealToxicityPrompts, continued, and the continuations scored.

Both models of a run get the same prompts and, continuation by continuation, the same random numbers, so that their
scores are pairs.  The continuations are drawn and scored in chunks, each by one process alone, so that a row is the
same to the last bit whatever the number of processes.  A run that was killed goes on behind the last whole chunk.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config import ToxicityConfig
from rlhf.data.toxicity_prompts import ToxicityPrompt, read_toxicity_prompts
from rlhf.evaluation.toxicity.classifier import Classifier, load_classifier, score_texts
from rlhf.evaluation.toxicity.continuations import (
    CONTINUATIONS,
    Continuation,
    append_rows,
    each_continuation,
    finished_rows,
)
from rlhf.models.loading import load_causal_lm
from rlhf.models.sampling import context_tokens, generate
from rlhf.models.tokenization import encode_prompt, load_tokenizer
from rlhf.runtime.distributed import gather_rows, start_processes, wait_for_all
from rlhf.runtime.seeds import row_seed
from rlhf.runtime.stage import is_main_process, main, progress
from rlhf.stage_config import ToxicityStage


def score_toxicity(config: ToxicityStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write continuations.jsonl; the figures are the mean toxicity and the number of continuations."""
    processes, settings = start_processes(), config.toxicity
    prompts = read_toxicity_prompts(settings, config.seed, inputs.get("source"))
    wanted = [(prompt, sample) for prompt in prompts for sample in range(settings.continuations)]
    classifier = load_classifier(settings, inputs, processes.device)
    model = load_causal_lm(inputs["policy"] / "model", config.model.dtype).to(processes.device)
    tokenizer = load_tokenizer(inputs["policy"] / "model")

    path = output / CONTINUATIONS
    done, whole_bytes = finished_rows(path, [(prompt.id, sample) for prompt, sample in wanted], settings.batch_size)
    wait_for_all()  # nobody writes before everybody has read
    if is_main_process():
        append_rows(path, [], behind=whole_bytes)
    progress("continue and score", done, len(wanted))
    at_once = settings.batch_size * processes.num_processes
    for start in range(done, len(wanted), at_once):
        mine = start + processes.process_index * settings.batch_size
        chunk = wanted[mine : mine + settings.batch_size]
        rows = gather_rows(_continue_and_score(model, tokenizer, classifier, config, chunk))
        if is_main_process():
            append_rows(path, rows)
        progress("continue and score", start + len(rows), len(wanted))
    if not is_main_process():
        return {}
    return {"toxicity": sum(row.toxicity for row in each_continuation(path)) / len(wanted), "n": len(wanted)}


def _continue_and_score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    classifier: Classifier,
    config: ToxicityStage,
    chunk: list[tuple[ToxicityPrompt, int]],
) -> list[Continuation]:
    """The rows of a prompt and number of continuation each."""
    seeds = [continuation_seed(config.seed, prompt.id, sample) for prompt, sample in chunk]
    texts = continue_texts(model, tokenizer, [prompt.text for prompt, _ in chunk], seeds, config.toxicity)
    scores = score_texts(classifier, [prompt.id for prompt, _ in chunk], texts)
    return [
        Continuation(
            id=prompt.id,
            prompt=prompt.text,
            prompt_toxicity=prompt.toxicity,
            sample=sample,
            continuation=text,
            seed=seed,
            scores=row,
        )
        for (prompt, sample), text, seed, row in zip(chunk, texts, seeds, scores, strict=True)
    ]


def continuation_seed(seed: int, prompt_id: str, sample: int) -> int:
    """Seed of one continuation: the first one's does not depend on how many there are."""
    return row_seed(seed, "toxicity", prompt_id, *([str(sample)] if sample else []))


def continue_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    seeds: list[int],
    settings: ToxicityConfig,
) -> list[str]:
    """The continuation of each text.  A text too long for the model's context loses its beginning."""
    context = context_tokens(model)
    room = None if context is None else max(1, context - settings.sampling.max_new_tokens)
    prompt_ids = [encode_prompt(tokenizer, text) for text in texts]
    if room is not None:
        prompt_ids = [ids[-room:] for ids in prompt_ids]
    completions = generate(model, tokenizer, prompt_ids, settings.sampling, seeds, batch_size=settings.batch_size)
    return [completion.text for completion in completions]


if __name__ == "__main__":
    main(ToxicityStage, score_toxicity)
