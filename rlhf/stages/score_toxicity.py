"""Stage: toxicity of a model's continuations of prompts from RealToxicityPrompts.

Both models of a run get the same prompts and, for each continuation, the same random numbers, so that their scores are
paired.  If the settings name a second classifier, it scores the same continuations.  Every chunk of continuations is
generated and scored by exactly one rank, so the output is byte-identical for any number of ranks.  A killed run resumes
after the last complete chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config import ToxicityConfig
from rlhf.data.lengths import characters_per_token
from rlhf.data.toxicity_prompts import ToxicityPrompt, read_toxicity_prompts
from rlhf.evaluation.toxicity.classifier import Classifier, load_classifier, score_texts
from rlhf.evaluation.toxicity.continuations import (
    CONTINUATIONS,
    Continuation,
    Row,
    append_rows,
    find_complete_rows,
    iter_continuations,
)
from rlhf.evaluation.toxicity.second_opinion import load_second_opinion, opinion_rows
from rlhf.models.loading import load_causal_lm
from rlhf.models.sampling import generate
from rlhf.models.tokenization import context_length, encode_prompt, load_tokenizer
from rlhf.results.second_opinion import SECOND_OPINION, SecondOpinionRow
from rlhf.runtime.distributed import all_gather_rows, barrier, init_distributed
from rlhf.runtime.seeds import derive_seed
from rlhf.runtime.stage import is_main_process, main, progress
from rlhf.stage_config import ToxicityStage


def score_toxicity(config: ToxicityStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write continuations.jsonl; the metrics are the mean of its main scores and the number of continuations.

    With an input `second_opinion`, also write second_opinion.jsonl, with that model's scores.
    """
    distributed, settings = init_distributed(), config.toxicity
    prompts = read_toxicity_prompts(settings, config.seed, inputs.get("source"))
    samples = [(prompt, sample) for prompt in prompts for sample in range(settings.continuations)]
    classifier = load_classifier(settings, inputs, distributed.device)
    opinion = load_second_opinion(inputs["second_opinion"], distributed.device) if "second_opinion" in inputs else None
    model = load_causal_lm(inputs["policy"] / "model", config.model.dtype).to(distributed.device)
    tokenizer = load_tokenizer(inputs["policy"] / "model")

    continuations, opinions = output / CONTINUATIONS, output / SECOND_OPINION
    files: dict[Path, type[Row]] = {continuations: Continuation}
    if opinion is not None:
        files[opinions] = SecondOpinionRow
    done, complete_bytes = find_complete_rows(
        files, [(prompt.id, sample) for prompt, sample in samples], settings.batch_size
    )
    barrier()  # all ranks read the files before one of them writes to them
    if is_main_process():
        for path, size in complete_bytes.items():
            append_rows(path, [], truncate_to=size)
    progress("continue and score", done, len(samples))
    rows_per_round = settings.batch_size * distributed.num_processes
    for round_start in range(done, len(samples), rows_per_round):
        start = round_start + distributed.process_index * settings.batch_size
        chunk = _continue_and_score(model, tokenizer, classifier, config, samples[start : start + settings.batch_size])
        rows: dict[Path, Sequence[Row]] = {continuations: chunk}
        if opinion is not None:
            rows[opinions] = opinion_rows(opinion, chunk)
        for path, rows_of_rank in rows.items():
            rows_of_all = all_gather_rows(list(rows_of_rank))
            if is_main_process():
                append_rows(path, rows_of_all)
        progress("continue and score", min(round_start + rows_per_round, len(samples)), len(samples))
    if not is_main_process():
        return {}
    return {
        "toxicity": sum(row.toxicity for row in iter_continuations(continuations)) / len(samples),
        "n": len(samples),
    }


def _continue_and_score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    classifier: Classifier,
    config: ToxicityStage,
    chunk: list[tuple[ToxicityPrompt, int]],
) -> list[Continuation]:
    """The rows of a chunk of (prompt, sample) pairs."""
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
    """Seed of one continuation; sample 0 has the same seed for any number of continuations per prompt."""
    return derive_seed(seed, "toxicity", prompt_id, *([str(sample)] if sample else []))


def continue_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    seeds: list[int],
    settings: ToxicityConfig,
) -> list[str]:
    """The continuation of each text.  Texts that are too long for the model's context are cut at their beginning."""
    context = context_length(model.config)
    max_tokens = None if context is None else max(1, context - settings.sampling.max_new_tokens)
    if max_tokens is not None:
        most_characters = max_tokens * characters_per_token(tokenizer.get_vocab())
        texts = [text[-most_characters:] for text in texts]
    prompt_ids = [encode_prompt(tokenizer, text) for text in texts]
    if max_tokens is not None:
        prompt_ids = [ids[-max_tokens:] for ids in prompt_ids]
    continuations = generate(model, tokenizer, prompt_ids, settings.sampling, seeds, batch_size=settings.batch_size)
    return [continuation.text for continuation in continuations]


if __name__ == "__main__":
    main(ToxicityStage, score_toxicity)
