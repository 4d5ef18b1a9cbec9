"""What a second opinion says of both models: the mean probability of each label, and its difference."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rlhf.evaluation.intervals import paired_difference
from rlhf.results.base import Difference
from rlhf.results.second_opinion import LabelOpinion, SecondOpinion, SecondOpinionRow


def second_opinion(sft: Sequence[SecondOpinionRow], rlhf: Sequence[SecondOpinionRow], seed: int) -> SecondOpinion:
    """Mean probability of each label for both models' continuations of the same prompts, and the paired difference.

    A prompt counts once: with the mean of its continuations that are not blank.  A prompt for which a model wrote
    only blank ones is left out for both models.
    """
    assert [(row.id, row.sample) for row in sft] == [(row.id, row.sample) for row in rlhf], "prompts differ"
    sft_prompts, rlhf_prompts = _by_prompt(sft), _by_prompt(rlhf)
    prompts = [prompt for prompt in sft_prompts if prompt in rlhf_prompts]
    labels = list(sft_prompts[prompts[0]][0]) if prompts else []

    def of_label(label: str) -> LabelOpinion:
        before, after = (
            [fmean(scores[label] for scores in rows[prompt]) for prompt in prompts]
            for rows in (sft_prompts, rlhf_prompts)
        )
        return LabelOpinion(
            label=label,
            sft=fmean(before),
            rlhf=fmean(after),
            difference=Difference.model_validate(paired_difference(before, after, seed)._asdict()),
        )

    return SecondOpinion(
        prompts=len(prompts),
        sft_blank=sum(row.scores is None for row in sft),
        rlhf_blank=sum(row.scores is None for row in rlhf),
        labels=[of_label(label) for label in labels],
    )


def _by_prompt(rows: Sequence[SecondOpinionRow]) -> dict[str, list[dict[str, float]]]:
    """Scores of the continuations that are not blank, by prompt; without prompts that have none."""
    prompts: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        if row.scores is not None:
            prompts.setdefault(row.id, []).append(row.scores)
    return prompts
