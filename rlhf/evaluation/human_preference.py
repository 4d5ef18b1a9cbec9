"""Human preference: unblinded metrics from judgements, the key and the rewards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from rlhf.evaluation.intervals import (
    cluster_interval,
    krippendorff_alpha,
    required_sample_size,
    sign_test_p_value,
    wilson_interval,
)
from rlhf.evaluation.win_rates import judge_results
from rlhf.labeling.blinding import Model
from rlhf.labeling.judgements import Choice, Judgement
from rlhf.labeling.manifest import KeyEntry
from rlhf.results.base import Counts, Share
from rlhf.results.human_evaluation import (
    QUESTIONS,
    AnnotatorResults,
    DisputedPair,
    HumanEvaluation,
    NetPreference,
    Question,
    QuestionResults,
    RequiredSampleSize,
)
from rlhf.results.judges import JudgeKind, JudgeResults
from rlhf.results.schema import ResponsePair

MOST_DISPUTED = 10
"""Disputed pairs that are reported."""
DIFFERENCES = (0.05, 0.10, 0.20, 0.30)
"""Differences between the shares of wins and losses for which the required sample size is reported."""

Votes = dict[Question, int]
"""Per question: +1 if RLHF is preferred, -1 if SFT is, 0 for a tie."""


def evaluate(
    judgements: list[Judgement], key: Mapping[str, KeyEntry], responses: Sequence[ResponsePair], seed: int
) -> HumanEvaluation:
    """Human evaluation of the pairs in `key`; its status is pending if there are no judgements.

    `responses` hold the lengths of the pairs and what other judges say about them.
    """
    if not judgements:
        return HumanEvaluation(pairs=len(key))
    votes = [(judgement, unblind(judgement, key[judgement.pair_id])) for judgement in judgements]
    by_pair = {question: _votes_by_pair(votes, question) for question in QUESTIONS}
    labeled = len(by_pair["overall"])
    majority = {pair_id: _sign(sum(pair_votes)) for pair_id, pair_votes in by_pair["overall"].items()}
    by_prompt = {pair.id: pair for pair in responses}
    pairs = [(by_prompt[key[pair_id].prompt_id], vote) for pair_id, vote in majority.items()]
    decided = [judgement for judgement in judgements if judgement.choices.overall != "tie"]
    return HumanEvaluation(
        status="complete" if labeled == len(key) else "partial",
        pairs=len(key),
        labeled=labeled,
        questions=tuple(_question(question, votes, by_pair[question], seed) for question in QUESTIONS),
        annotators=_annotators(votes),
        left_preference=_share(sum(judgement.choices.overall == judgement.left for judgement in decided), len(decided)),
        median_seconds=median(judgement.seconds for judgement in judgements),
        disputed=_disputed(by_pair["overall"], key),
        preference=_preference(pairs),
        agreement=_agreement(pairs),
        required_sample_sizes=required_sample_sizes(_counts(majority.values())),
    )


def unblind(judgement: Judgement, entry: KeyEntry) -> Votes:
    """The judgement's votes for the models."""
    author: dict[Choice, Model] = {"a": entry.a, "b": entry.b}
    vote = {"rlhf": 1, "sft": -1, None: 0}
    return {question: vote[author.get(judgement.choices.of(question))] for question in QUESTIONS}


def required_sample_sizes(counts: Counts) -> tuple[RequiredSampleSize, ...]:
    """Sample sizes required to detect the observed difference, then each of DIFFERENCES with the observed ties."""
    wins, losses = counts.wins / counts.total, counts.losses / counts.total
    untied = wins + losses
    shares = [(wins, losses)] if wins != losses else []
    shares += [((untied + d) / 2, (untied - d) / 2) for d in DIFFERENCES if d <= untied]
    return tuple(
        RequiredSampleSize(win_share=win, loss_share=loss, pairs=required_sample_size(win, loss))
        for win, loss in shares
    )


def _question(
    question: Question, votes: list[tuple[Judgement, Votes]], by_pair: dict[str, list[int]], seed: int
) -> QuestionResults:
    answers = [judgement_votes[question] for _, judgement_votes in votes]
    pairs = _counts(_sign(sum(pair_votes)) for pair_votes in by_pair.values())
    return QuestionResults(
        question=question,
        pairs=pairs,
        win_rate=_share(pairs.wins, pairs.wins + pairs.losses),
        answers=_counts(answers),
        net=NetPreference(mean=sum(answers) / len(answers), ci95=cluster_interval(list(by_pair.values()), seed)),
        alpha=_alpha(question, votes, list(by_pair)),
    )


def _alpha(question: Question, votes: list[tuple[Judgement, Votes]], pair_ids: list[str]) -> float | None:
    ratings = {(judgement.annotator, judgement.pair_id): vote[question] for judgement, vote in votes}
    annotators = sorted({annotator for annotator, _ in ratings})
    return krippendorff_alpha(
        [[ratings.get((annotator, pair_id)) for pair_id in pair_ids] for annotator in annotators], (-1, 0, 1)
    )


def _annotators(votes: list[tuple[Judgement, Votes]]) -> tuple[AnnotatorResults, ...]:
    by_annotator: dict[str, list[tuple[Judgement, Votes]]] = defaultdict(list)
    for judgement, judgement_votes in votes:
        by_annotator[judgement.annotator].append((judgement, judgement_votes))
    return tuple(
        AnnotatorResults(
            name=f"annotator {number}",
            answers={question: _counts(vote[question] for _, vote in annotator_votes) for question in QUESTIONS},
            median_seconds=median(judgement.seconds for judgement, _ in annotator_votes),
        )
        for number, (_, annotator_votes) in enumerate(sorted(by_annotator.items()), start=1)
    )


def _disputed(by_pair: dict[str, list[int]], key: Mapping[str, KeyEntry]) -> tuple[DisputedPair, ...]:
    """The pairs whose votes have the highest variance, then in the order of the prompts' ids."""
    variance = {
        pair_id: sum(vote * vote for vote in votes) / len(votes) - (sum(votes) / len(votes)) ** 2
        for pair_id, votes in by_pair.items()
    }
    disputed = sorted(
        (pair_id for pair_id in variance if variance[pair_id] > 0),
        key=lambda pair_id: (-variance[pair_id], key[pair_id].prompt_id),
    )
    return tuple(
        DisputedPair(prompt=key[pair_id].prompt_id, votes=_counts(by_pair[pair_id]))
        for pair_id in disputed[:MOST_DISPUTED]
    )


def _preference(pairs: list[tuple[ResponsePair, int]]) -> JudgeResults:
    """People as a judge: the majority of each labeled pair."""
    outcome_N = np.array([0.5 + 0.5 * vote for _, vote in pairs])
    length_N = np.array([float(pair.more_tokens) for pair, _ in pairs])
    return judge_results("people", "people", outcome_N[None], length_N[None])


def _agreement(pairs: list[tuple[ResponsePair, int]]) -> dict[JudgeKind, Share]:
    """How often each other judge prefers the same response, among the pairs on which both prefer one."""
    same: dict[JudgeKind, list[bool]] = defaultdict(list)
    for pair, vote in pairs:
        for kind, machine_vote in pair.votes.items():
            if vote and machine_vote:
                same[kind].append(machine_vote == vote)
    shares = {kind: _share(sum(values), len(values)) for kind, values in same.items()}
    return {kind: share for kind, share in shares.items() if share is not None}


def _votes_by_pair(votes: list[tuple[Judgement, Votes]], question: Question) -> dict[str, list[int]]:
    by_pair: dict[str, list[int]] = defaultdict(list)
    for judgement, judgement_votes in sorted(votes, key=lambda vote: (vote[0].pair_id, vote[0].annotator)):
        by_pair[judgement.pair_id].append(judgement_votes[question])
    return dict(by_pair)


def _counts(votes: Iterable[int]) -> Counts:
    counted = Counter(votes)
    return Counts(wins=counted[1], ties=counted[0], losses=counted[-1])


def _share(successes: int, trials: int) -> Share | None:
    if trials == 0:
        return None
    return Share(
        share=successes / trials,
        ci95=wilson_interval(successes, trials),
        n=trials,
        p_value=sign_test_p_value(successes, trials - successes),
    )


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
