"""Over-optimization: how the optimized reward and the independent judge develop as the policy leaves the SFT model.

PPO is compared with best-of-n, which picks the best of n responses of the SFT model by the optimized reward.  All
responses are to the validation prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from rlhf.data.text import distinct_ngrams
from rlhf.evaluation.run_data import RunData, TrainingData
from rlhf.evaluation.seed_intervals import Array
from rlhf.evaluation.win_rates import outcomes
from rlhf.results.seeds import OverOptimizationPoint


def over_optimization(run: RunData) -> list[OverOptimizationPoint]:
    """A point for every validation of every training, then for best of 1, 2, 4, ... responses."""
    points = [point for training in run.trainings for point in _along_training(training)]
    return points + list(_best_of_n(run))


def best_of_weights(samples: int, n: int) -> Array:
    """Weight of each of `samples` responses, sorted by score: the share of all choices of n in which it is the best.

    The mean over all choices has less noise than one choice.  Source: Nakano et al. (2021), WebGPT (arXiv 2112.09332).
    """
    return np.array([math.comb(rank, n - 1) / math.comb(samples, n) for rank in range(samples)])


def best_of_kl(n: int) -> float:
    """KL in nats of best-of-n to the model that it samples: log n - (n - 1) / n.

    An upper bound that is tight if no two responses are equal.  Source: Stiennon et al. (2020), appendix G.3.
    """
    return math.log(n) - (n - 1) / n


def _along_training(training: TrainingData) -> Iterator[OverOptimizationPoint]:
    by_step = groupby(enumerate(training.validation_responses), key=lambda numbered: int(str(numbered[1]["step"])))
    baseline: Array | None = None
    for step, numbered in by_step:
        indices, rows = zip(*numbered, strict=True)
        judged = (
            np.array([training.judge_validation[index] for index in indices]) if training.judge_validation else None
        )
        baseline = judged if baseline is None else baseline
        yield OverOptimizationPoint(
            method="ppo",
            seed=training.seed,
            step=step,
            kl=max(0.0, _mean(rows, "kl")),
            optimised_score=_mean(rows, "reward"),
            judge_win_rate=None if judged is None or baseline is None else float(outcomes(judged, baseline).mean()),
            ended_share=_mean(rows, "ended"),
            response_words=float(np.mean([len(str(row["response"]).split()) for row in rows])),
            distinct_ngrams=distinct_words(rows),
        )


def _best_of_n(run: RunData) -> Iterator[OverOptimizationPoint]:
    if not run.samples:
        return
    by_prompt = [list(group) for _, group in groupby(range(len(run.samples)), key=lambda i: run.samples[i]["id"])]
    samples = len(by_prompt[0])
    sorted_PM = np.array(
        [sorted(indices, key=lambda index: float(str(run.samples[index]["reward"]))) for indices in by_prompt]
    )
    reward_M = np.array([float(str(row["reward"])) for row in run.samples])
    ended_M = np.array([float(bool(row["stopped"])) for row in run.samples])
    words_M = np.array([float(len(str(row["response"]).split())) for row in run.samples])
    outcome_PM = _outcomes_of_samples(run, sorted_PM)
    for n in (2**power for power in range(samples.bit_length())):
        weight_M = best_of_weights(samples, n)

        def mean(values_PM: Array, weight_M: Array = weight_M) -> float:
            return float((values_PM * weight_M).sum(1).mean())

        def share(values_PM: Array) -> float:
            return min(1.0, mean(values_PM))  # the weights sum to 1 only up to rounding

        yield OverOptimizationPoint(
            method="best_of_n",
            seed=run.first.seed,
            n=n,
            kl=best_of_kl(n),
            optimised_score=mean(reward_M[sorted_PM]),
            judge_win_rate=None if outcome_PM is None else share(outcome_PM),
            ended_share=share(ended_M[sorted_PM]),
            response_words=mean(words_M[sorted_PM]),
            distinct_ngrams=distinct_words([run.samples[group[0]] for group in by_prompt]) if n == 1 else None,
        )


def _outcomes_of_samples(run: RunData, sorted_PM: Array) -> Array | None:
    """Outcomes of each sample against the SFT model's response at PPO's step 0; None without a judge."""
    if not run.judge_samples or not run.first.judge_validation:
        return None
    judged = {
        str(row["id"]): score
        for row, score in zip(run.first.validation_responses, run.first.judge_validation, strict=True)
        if row["step"] == 0
    }
    baseline_P = np.array([judged[str(run.samples[index]["id"])] for index in sorted_PM[:, 0]])
    return outcomes(np.array(run.judge_samples)[sorted_PM], baseline_P[:, None])


def distinct_words(rows: Sequence[dict[str, object]]) -> float:
    """Share of distinct 3-grams of words across the responses."""
    return distinct_ngrams([str(row["response"]).split() for row in rows])


def _mean(rows: Sequence[dict[str, object]], name: str) -> float:
    return float(np.array([row[name] for row in rows], dtype=np.float64).mean())
