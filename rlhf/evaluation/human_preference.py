"""Unblinded figures from judgements, key and rewards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from statistics import median

from rlhf.evaluation.intervals import (
    cluster_interval,
    items_needed,
    krippendorff_alpha,
    sign_test_p_value,
    wilson_interval,
)
from rlhf.labeling.blinding import Model
from rlhf.labeling.judgements import Choice, Judgement
from rlhf.labeling.manifest import KeyLine
from rlhf.results.human_evaluation import (
    QUESTIONS,
    AnnotatorResults,
    Counts,
    DisputedItem,
    HumanEvaluation,
    ItemsNeeded,
    JudgeResults,
    NetPreference,
    Question,
    QuestionResults,
    Share,
)

MOST_DISPUTED = 10
DIFFERENCES = (0.05, 0.10, 0.20, 0.30)
"""Differences between the shares of better and worse for which the number of items is told."""

Votes = dict[Question, int]
"""Per question +1 where RLHF is preferred, -1 where SFT is, 0 for a tie."""


def evaluate(
    judgements: list[Judgement], key: Mapping[str, KeyLine], rewards: Mapping[str, tuple[float, float]], seed: int
) -> HumanEvaluation:
    """What people said; `rewards` of both answers, SFT first, by prompt id are the judge's.  Pending without labels."""
    judge_votes = {line.item: _sign(rewards[line.id][1] - rewards[line.id][0]) for line in key.values()}
    if not judgements:
        return HumanEvaluation(items=len(key), judge=_judge(judge_votes, {}))
    votes = [(judgement, unblind(judgement, key[judgement.item])) for judgement in judgements]
    per_item = {question: _by_item(votes, question) for question in QUESTIONS}
    labelled = len(per_item["overall"])
    majority = {item: _sign(sum(given)) for item, given in per_item["overall"].items()}
    preferred = [judgement for judgement in judgements if judgement.choices.overall != "tie"]
    return HumanEvaluation(
        status="complete" if labelled == len(key) else "partial",
        items=len(key),
        labelled=labelled,
        questions=tuple(_question(question, votes, per_item[question], seed) for question in QUESTIONS),
        annotators=_annotators(votes),
        left=_share(sum(judgement.choices.overall == judgement.left for judgement in preferred), len(preferred)),
        median_seconds=median(judgement.seconds for judgement in judgements),
        disputed=_disputed(per_item["overall"], key),
        judge=_judge(judge_votes, majority),
        needed=needed_items(_counts(majority.values())),
    )


def rewards_by_id(sft: list[dict[str, object]], rlhf: list[dict[str, object]]) -> dict[str, tuple[float, float]]:
    """Rewards of both answers to each prompt, SFT first, from both files of responses."""
    return {
        str(before["id"]): (float(str(before["reward"])), float(str(after["reward"])))
        for before, after in zip(sft, rlhf, strict=True)
    }


def unblind(judgement: Judgement, line: KeyLine) -> Votes:
    """What the choices mean for the models."""
    wrote: dict[Choice, Model] = {"a": line.a, "b": line.b}
    meaning = {"rlhf": 1, "sft": -1, None: 0}
    return {question: meaning[wrote.get(judgement.choices.of(question))] for question in QUESTIONS}


def needed_items(found: Counts) -> tuple[ItemsNeeded, ...]:
    """Items needed to see the difference that was found, then for round differences with as many ties."""
    better, worse = found.better / found.total, found.worse / found.total
    untied = better + worse
    shares = [(better, worse)] if better != worse else []
    shares += [((untied + d) / 2, (untied - d) / 2) for d in DIFFERENCES if d <= untied]
    return tuple(ItemsNeeded(better=up, worse=down, items=items_needed(up, down)) for up, down in shares)


def _question(
    question: Question, votes: list[tuple[Judgement, Votes]], per_item: dict[str, list[int]], seed: int
) -> QuestionResults:
    answers = [given[question] for _, given in votes]
    items = _counts(_sign(sum(given)) for given in per_item.values())
    return QuestionResults(
        question=question,
        items=items,
        decided=_share(items.better, items.better + items.worse),
        answers=_counts(answers),
        net=NetPreference(mean=sum(answers) / len(answers), ci95=cluster_interval(list(per_item.values()), seed)),
        alpha=_alpha(question, votes, list(per_item)),
    )


def _alpha(question: Question, votes: list[tuple[Judgement, Votes]], items: list[str]) -> float | None:
    given = {(judgement.annotator, judgement.item): vote[question] for judgement, vote in votes}
    annotators = sorted({annotator for annotator, _ in given})
    return krippendorff_alpha(
        [[given.get((annotator, item)) for item in items] for annotator in annotators], (-1, 0, 1)
    )


def _annotators(votes: list[tuple[Judgement, Votes]]) -> tuple[AnnotatorResults, ...]:
    of: dict[str, list[tuple[Judgement, Votes]]] = defaultdict(list)
    for judgement, given in votes:
        of[judgement.annotator].append((judgement, given))
    return tuple(
        AnnotatorResults(
            name=f"annotator {number}",
            answers={question: _counts(given[question] for _, given in theirs) for question in QUESTIONS},
            median_seconds=median(judgement.seconds for judgement, _ in theirs),
        )
        for number, (_, theirs) in enumerate(sorted(of.items()), start=1)
    )


def _disputed(per_item: dict[str, list[int]], key: Mapping[str, KeyLine]) -> tuple[DisputedItem, ...]:
    """Where the answers to one item differ most: by their variance, then by the prompt's id."""
    spread = {
        item: sum(vote * vote for vote in given) / len(given) - (sum(given) / len(given)) ** 2
        for item, given in per_item.items()
    }
    disputed = sorted((item for item in spread if spread[item] > 0), key=lambda item: (-spread[item], key[item].id))
    return tuple(DisputedItem(prompt=key[item].id, votes=_counts(per_item[item])) for item in disputed[:MOST_DISPUTED])


def _judge(votes: dict[str, int], people: dict[str, int]) -> JudgeResults:
    items = _counts(votes.values())
    both = [(votes[item], preferred) for item, preferred in people.items() if votes[item] and preferred]
    return JudgeResults(
        items=items,
        decided=_share(items.better, items.better + items.worse),
        agreement=_share(sum(judge == preferred for judge, preferred in both), len(both)),
    )


def _by_item(votes: list[tuple[Judgement, Votes]], question: Question) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for judgement, given in sorted(votes, key=lambda vote: (vote[0].item, vote[0].annotator)):
        found[judgement.item].append(given[question])
    return dict(found)


def _counts(votes: Iterable[int]) -> Counts:
    counted = Counter(votes)
    return Counts(better=counted[1], tie=counted[0], worse=counted[-1])


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
