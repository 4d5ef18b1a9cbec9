"""Accuracy of both models on multiple-choice questions, from the choices that they made."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rlhf.evaluation.intervals import bootstrap_interval, sign_test_p_value, wilson_interval
from rlhf.results.base import Difference
from rlhf.results.capability import Accuracy, CapabilityResults, PairedAccuracy, QuestionRow


def capability_results(rows: Sequence[QuestionRow], seed: int) -> CapabilityResults:
    """Share of correct answers of both models and their paired difference, with intervals; `seed` draws resamples."""
    plain = _paired_accuracy([row.sft == row.correct for row in rows], [row.rlhf == row.correct for row in rows], seed)
    return CapabilityResults(
        questions=len(rows),
        sft=plain.sft,
        rlhf=plain.rlhf,
        difference=plain.difference,
        normalized=_paired_accuracy(
            [row.sft_normalized == row.correct for row in rows],
            [row.rlhf_normalized == row.correct for row in rows],
            seed,
        ),
        chance=fmean(1 / row.choices for row in rows),
    )


def _paired_accuracy(sft: Sequence[bool], rlhf: Sequence[bool], seed: int) -> PairedAccuracy:
    """McNemar's exact test: without an effect, half of the questions that only one model gets right go either way."""
    differences = [float(after) - float(before) for before, after in zip(sft, rlhf, strict=True)]
    return PairedAccuracy(
        sft=Accuracy(share=fmean(sft), ci95=wilson_interval(sum(sft), len(sft))),
        rlhf=Accuracy(share=fmean(rlhf), ci95=wilson_interval(sum(rlhf), len(rlhf))),
        difference=Difference(
            mean=fmean(differences),
            ci95=bootstrap_interval(differences, seed),
            p_value=sign_test_p_value(differences.count(1.0), differences.count(-1.0)),
        ),
    )
