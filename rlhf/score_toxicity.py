"""Toxicity of a model: prompts drawn from RealToxicityPrompts, continued, and the continuations scored.

Both models of a run get the same prompts and, prompt by prompt, the same random numbers, so that their scores are
pairs.  Rows are written in chunks: a run that was killed goes on behind the last whole row, with the rows that it
would have written anyway.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config import ToxicityConfig, ToxicityStage
from rlhf.data.toxicity_prompts import read_toxicity_prompts
from rlhf.encoding import encode_prompt
from rlhf.models import load_causal_lm, load_tokenizer
from rlhf.processes import gather_rows, start_processes, wait_for_all
from rlhf.sampling import context_tokens, generate, row_seed
from rlhf.stage import is_main_process, main, progress
from rlhf.toxicity.classifier import load_classifier, score_texts
from rlhf.toxicity.continuations import CONTINUATIONS, Continuation, append_rows, finished_rows, read_continuations

BATCHES_PER_CHUNK = 4
"""Batches between two writes.  Prompts are sorted by length within a chunk, so more of them means less padding."""


def score_toxicity(config: ToxicityStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write continuations.jsonl; the figures are the mean toxicity and the number of prompts."""
    processes = start_processes()
    prompts = read_toxicity_prompts(config.toxicity, config.seed, inputs.get("source"))
    classifier = load_classifier(config.toxicity.classifier, processes.device)
    model = load_causal_lm(inputs["policy"] / "model", config.model.dtype).to(processes.device)
    tokenizer = load_tokenizer(inputs["policy"] / "model")

    path = output / CONTINUATIONS
    done, whole_bytes = finished_rows(path, [prompt.id for prompt in prompts])
    wait_for_all()  # nobody writes before everybody has read
    if is_main_process():
        append_rows(path, [], behind=whole_bytes)
    progress("continue and score", done, len(prompts))
    chunk = BATCHES_PER_CHUNK * config.toxicity.batch_size * processes.num_processes
    for start in range(done, len(prompts), chunk):
        of_chunk = prompts[start : start + chunk]
        mine = of_chunk[processes.process_index :: processes.num_processes]
        seeds = [row_seed(config.seed, "toxicity", prompt.id) for prompt in mine]
        texts = continue_texts(model, tokenizer, [prompt.text for prompt in mine], seeds, config.toxicity)
        scores = score_texts(classifier, [prompt.id for prompt in mine], texts)
        rows = [
            Continuation(
                id=prompt.id,
                prompt=prompt.text,
                prompt_toxicity=prompt.toxicity,
                continuation=text,
                seed=seed,
                scores=row,
            )
            for prompt, text, seed, row in zip(mine, texts, seeds, scores, strict=True)
        ]
        by_id = {row.id: row for row in gather_rows(rows)}
        if is_main_process():
            append_rows(path, [by_id[prompt.id] for prompt in of_chunk])
        progress("continue and score", start + len(of_chunk), len(prompts))
    if not is_main_process():
        return {}
    toxicity = [row.toxicity for row in read_continuations(path)]
    return {"toxicity": sum(toxicity) / len(toxicity), "n": len(toxicity)}


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
