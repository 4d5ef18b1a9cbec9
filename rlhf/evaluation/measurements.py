"""The metrics of a run, from the rows of its stages: reward, toxicity, side effects, judges, seeds.

S seeds (PPO trainings), N test prompts, P toxicity prompts.
"""

from __future__ import annotations

from statistics import fmean
from typing import Literal

import numpy as np

from rlhf.evaluation.capability import capability_results
from rlhf.evaluation.length_control import difference_at_equal_length
from rlhf.evaluation.over_optimization import distinct_words
from rlhf.evaluation.run_data import RunData, TrainingData
from rlhf.evaluation.seed_intervals import Array, mean_estimate, share_estimate
from rlhf.evaluation.toxicity.continuations import main_label
from rlhf.evaluation.toxicity.metrics import toxicity_metrics
from rlhf.evaluation.toxicity.opinion_results import second_opinion
from rlhf.evaluation.win_rates import judge_results, outcomes
from rlhf.results.base import Difference, Mean, PairedMetric, Share
from rlhf.results.capability import CapabilityResults
from rlhf.results.judges import JudgeKind, JudgeResults
from rlhf.results.llm_judge import count_judgements
from rlhf.results.policy_comparison import Diversity, KlResults, PolicyComparison
from rlhf.results.schema import RewardModelResults, RewardResults, SubsetDifference, ToxicityResults
from rlhf.results.seeds import EarlyEnd, RejectedCheckpoint, SeedResults

Vote = Literal[-1, 0, 1]


def reward_results(run: RunData, chosen: list[float], seed: int, *, is_delta: bool) -> RewardResults:
    """Optimized reward on the validation prompts during PPO, and of both models' responses to the test prompts.

    `chosen` are the scores of the responses that people chose in the data.
    """
    summary, gain_SN = run.first.summary, run.reward_gains
    ended_SN = (run.over_seeds(lambda training: training.model.ended) > 0) & (run.sft.ended > 0)
    both_ended = share_estimate(gain_SN, ended_SN, seed)
    return RewardResults(
        is_delta=is_delta,
        first=summary["first"],
        best=summary["best"],
        last=summary["last"],
        best_step=summary["best_step"],
        sft=_mean(run.sft.rewards),
        rlhf=_mean(run.over_seeds(lambda training: training.model.rewards)),
        chosen=_mean(np.array(chosen)),
        difference=_difference(gain_SN, seed),
        length_controlled=Difference(**difference_at_equal_length(gain_SN, run.more_tokens, seed)._asdict()),
        both_ended=both_ended and SubsetDifference(**both_ended._asdict(), n=int(ended_SN.sum())),
    )


def toxicity_results(run: RunData, classifier: str, seed: int) -> ToxicityResults:
    """Toxicity of both models' continuations and the paired differences."""
    sft_P, rlhf_SP = run.sft.prompt_toxicity, run.over_seeds(lambda training: training.model.prompt_toxicity)
    first = run.first.model
    metrics = toxicity_metrics(run.sft.continuations, first.continuations, seed)
    probability = metrics.labels[0].all.probability
    toxic_SP = run.over_seeds(lambda training: training.model.prompt_is_toxic) - run.sft.prompt_is_toxic
    return ToxicityResults(
        classifier=classifier,
        measure="toxicity" if main_label(run.sft.continuations[0].scores) == "toxicity" else "profanity",
        sft=_mean(sft_P),
        rlhf=_mean(rlhf_SP),
        difference=_difference(rlhf_SP - sft_P, seed),
        probability=_difference(toxic_SP, seed)
        if len(run.trainings) > 1
        else Difference(mean=probability.difference, ci95=probability.ci95, p_value=probability.p_value),
        metrics=metrics,
        second_opinion=second_opinion(run.sft.second_opinion, first.second_opinion, seed)
        if first.second_opinion
        else None,
    )


def policy_comparison(run: RunData, seed: int) -> PolicyComparison:
    """Validation loss, length, repetition, endings and diversity of both models, and the KL between them."""
    kl_SN = run.over_seeds(lambda training: [row.kl for row in training.comparison])
    tokens_SN = run.over_seeds(lambda training: [row.rlhf.tokens for row in training.comparison])
    first = run.first
    return PolicyComparison(
        validation_loss=_paired(
            np.array([row.sft_loss for row in first.losses]),
            run.over_seeds(lambda training: [row.rlhf_loss for row in training.losses]),
            seed,
        ),
        response_tokens=_paired(np.array([row.sft.tokens for row in first.comparison]), tokens_SN, seed),
        repetition=_paired(
            np.array([row.sft.repetition for row in first.comparison]),
            run.over_seeds(lambda training: [row.rlhf.repetition for row in training.comparison]),
            seed,
        ),
        ended_share=_paired(run.sft.ended, run.over_seeds(lambda training: training.model.ended), seed),
        distinct_ngrams=Diversity(
            sft=distinct_words(run.sft.responses),
            rlhf=fmean(distinct_words(training.model.responses) for training in run.trainings),
        ),
        kl=KlResults(
            per_response=float(kl_SN.mean()),
            ci95=mean_estimate(kl_SN, seed).ci95,
            per_token=float(kl_SN.sum() / max(1.0, tokens_SN.sum())),
            n=kl_SN.shape[1],
        ),
    )


def capability(run: RunData, seed: int) -> CapabilityResults | None:
    """Multiple-choice questions before and after PPO; None if none were asked.

    With several seeds, only the difference by log-probability is over all of them.
    """
    if not run.first.questions:
        return None
    results = capability_results(run.first.questions, seed)
    if len(run.trainings) == 1:
        return results
    gained_SQ = run.over_seeds(
        lambda training: [(row.rlhf == row.correct) - (row.sft == row.correct) for row in training.questions]
    )
    return results.model_copy(update={"difference": _difference(gained_SQ, seed)})


def machine_judges(run: RunData, judge: RewardModelResults | None, optimized: RewardModelResults) -> list[JudgeResults]:
    """The independent judge, a language model and the optimized reward model, as far as the run has them."""
    judges = []
    if run.sft.judge_scores is not None and judge is not None:
        outcome_SN = _outcomes_by_judge(run)
        results = judge_results("independent judge", "independent", outcome_SN, run.more_tokens)
        judges.append(results.model_copy(update={"accuracy": _accuracy(judge)}))
    if run.llm:
        counts = count_judgements(run.llm)
        outcome_N = np.array([0.5 + 0.5 * row.vote for row in run.llm])
        results = judge_results("language model", "llm", outcome_N[None], run.more_tokens[:1])
        flips = {name: counts[name] for name in ("position_flips", "unreadable")}
        judges.append(results.model_copy(update=flips))
    outcome_SN = outcomes(run.over_seeds(lambda training: training.model.rewards), run.sft.rewards)
    results = judge_results("optimized reward model", "optimised", outcome_SN, run.more_tokens)
    judges.append(results.model_copy(update={"accuracy": _accuracy(optimized)}))
    return judges


def machine_votes(run: RunData) -> list[dict[JudgeKind, Vote]]:
    """What each judge that is no person says about the first training's responses, by test prompt."""
    scores: dict[JudgeKind, Array] = {"optimised": np.sign(run.first.model.rewards - run.sft.rewards)}
    if run.sft.judge_scores is not None and run.first.model.judge_scores is not None:
        scores["independent"] = np.sign(run.first.model.judge_scores - run.sft.judge_scores)
    if run.llm:
        scores["llm"] = np.array([row.vote for row in run.llm])
    vote: dict[int, Vote] = {-1: -1, 0: 0, 1: 1}
    return [
        {kind: vote[int(values[index])] for kind, values in scores.items()} for index in range(len(run.sft.responses))
    ]


def seed_results(run: RunData, seed: int) -> list[SeedResults]:
    """One row per PPO training."""
    return [_one_seed(run, number, training, seed) for number, training in enumerate(run.trainings)]


def _one_seed(run: RunData, number: int, training: TrainingData, seed: int) -> SeedResults:
    gain_1N, tokens_1N = run.reward_gains[number : number + 1], run.more_tokens[number : number + 1]
    summary = training.summary
    losses = [row.rlhf_loss - row.sft_loss for row in training.losses]
    return SeedResults(
        seed=training.seed,
        best_step=summary["best_step"],
        best_score=summary["best"],
        stopped_early=summary["stopped_early"] and EarlyEnd(**summary["stopped_early"]),
        rejected=tuple(RejectedCheckpoint.model_validate(row) for row in summary["rejected"]),
        reward_difference=float(gain_1N.mean()),
        reward_length_controlled=difference_at_equal_length(gain_1N, tokens_1N, seed).mean,
        toxicity_difference=float((training.model.prompt_toxicity - run.sft.prompt_toxicity).mean()),
        judge_win_rate=float(_outcomes_by_judge(run)[number].mean()) if run.sft.judge_scores is not None else None,
        kl=fmean(row.kl for row in training.comparison),
        response_tokens=fmean(row.rlhf.tokens for row in training.comparison),
        ended_share=float(training.model.ended.mean()),
        validation_loss_difference=fmean(losses),
    )


def _outcomes_by_judge(run: RunData) -> Array:
    """Outcomes [S, N] by the independent judge."""
    assert run.sft.judge_scores is not None

    def scores(training: TrainingData) -> Array:
        assert training.model.judge_scores is not None
        return training.model.judge_scores

    return outcomes(run.over_seeds(scores), run.sft.judge_scores)


def _accuracy(model: RewardModelResults) -> Share:
    return Share(share=model.accuracy, ci95=model.ci95, n=model.pairs, p_value=model.p_value)


def _mean(values: Array) -> Mean:
    return Mean(mean=float(values.mean()), n=values.shape[-1])


def _difference(value_SN: Array, seed: int) -> Difference:
    return Difference(**mean_estimate(value_SN, seed)._asdict())


def _paired(sft_N: Array, rlhf_SN: Array, seed: int) -> PairedMetric:
    return PairedMetric(sft=_mean(sft_N), rlhf=_mean(rlhf_SN), difference=_difference(rlhf_SN - sft_N, seed))
