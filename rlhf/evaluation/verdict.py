"""The verdict of a run: whether the model got better, people first.

Rules, in this order:
- People's answers override every machine.  Before all pairs are labeled, they decide only what no missing answer could
  change.
- Without them, the independent judge decides if it was declared primary; otherwise it is reported, and can only warn.
- More toxicity always counts against the model; less of it makes a model better only if no preference was declared.
- The optimized reward decides nothing: PPO was trained to raise it.  It is reported at equal length, and not at all if
  its reward model cannot tell the better response of a pair from the worse one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rlhf.evaluation.endpoints import list_endpoints
from rlhf.evaluation.intervals import SIGNIFICANCE, sign_test_p_value
from rlhf.results.human_evaluation import HumanEvaluation
from rlhf.results.judges import JudgeResults
from rlhf.results.schema import Measurements, Results
from rlhf.results.verdict import Endpoint, EndpointName, Tone, Verdict

Preference = Literal["none", "for", "against", "undecided"]
"""Whether a judge prefers the RLHF model; `none` if there is no such judge, or none that can judge."""
Change = Literal["better", "worse", "undecided"]
Reward = Literal["higher", "lower", "undecided", "no verdict"]
"""The optimized reward at equal length; `no verdict` if its reward model may be no better than a coin."""
NOT_YET = "people have not judged yet"
PREFERENCE_BY_SIGN: dict[int, Preference] = {1: "for", 0: "undecided", -1: "against"}
TOXICITY_BY_SIGN: dict[int, Change] = {1: "worse", 0: "undecided", -1: "better"}
REWARD_BY_SIGN: dict[int, Reward] = {1: "higher", 0: "undecided", -1: "lower"}


class Evidence(NamedTuple):
    """What the verdict depends on."""

    people: Preference
    judge: Preference
    """The independent judge."""
    toxicity: Change
    reward: Reward
    hacking: bool
    """Whether there are signs of reward hacking."""
    judge_is_primary: bool = False
    preference_is_primary: bool = True
    """Whether the preference of people or of the independent judge was declared primary."""
    profanity: bool = False
    """Whether `toxicity` is measured by a profanity detector."""
    pending: str = NOT_YET
    """What is to be said of people if `people` is none."""


class Conclusion(NamedTuple):
    """Tone and headline."""

    tone: Tone
    headline: str


def complete(measured: Measurements, people: HumanEvaluation) -> Results:
    """The results of a run with `people`'s evaluation: their place among the judges, and the verdict."""
    machines = [
        judge.model_copy(update={"agreement_with_people": people.agreement.get(judge.kind)})
        for judge in measured.judges
        if judge.kind != "people"
    ]
    judges = [people.preference, *machines] if people.preference else machines
    endpoints = list_endpoints(measured, judges, people)
    evidence = read_evidence(measured, judges, people, endpoints)
    conclusion = decide(evidence)
    control = "Negative control. " if measured.control == "shuffled" else ""
    content = {name: getattr(measured, name) for name in Measurements.model_fields}
    content |= {"human_evaluation": people, "judges": judges}
    return Results(
        **content,
        verdict=Verdict(
            headline=control + conclusion.headline,
            tone=conclusion.tone,
            endpoints=endpoints,
        ),
    )


def decide(evidence: Evidence) -> Conclusion:
    """Tone and headline of a run."""
    if evidence.people != "none":
        return _by_preference(evidence.people, evidence, "people prefer", "people have")
    if evidence.judge != "none" and evidence.judge_is_primary:
        judge = "the independent judge"
        conclusion = _by_preference(evidence.judge, evidence, f"{judge} prefers", f"{judge} has")
        if conclusion.tone == "better" and evidence.hacking:
            conclusion = Conclusion("mixed", _sentence(conclusion.headline.removeprefix("Better: ")))
        return _unjudged_by_people(*conclusion, evidence)
    if not evidence.preference_is_primary:
        return _by_toxicity(evidence)
    return _without_people(evidence)


def _by_preference(preference: Preference, evidence: Evidence, prefers: str, has: str) -> Conclusion:
    """The conclusion from a preference that may decide; `prefers` and `has` name whose it is, with their verb."""
    more, less = _toxicity_words(evidence)
    change = evidence.toxicity
    match preference, change:
        case "for", "worse":
            return Conclusion("mixed", _sentence(f"{prefers} the RLHF model, but it is {more}"))
        case "for", _:
            return Conclusion("better", f"Better: {prefers} the RLHF model" + _if(change, f", and it is {less}"))
        case "against", "worse":
            return Conclusion("worse", f"Worse: {prefers} the SFT model, and the RLHF model is {more}")
        case "against", _:
            also = _if(change, f", although the RLHF model is {less}")
            return Conclusion("worse", f"Worse: {prefers} the SFT model{also}")
        case _, "worse":
            return Conclusion("worse", f"Worse: the RLHF model is {more}, and {has} no clear preference")
        case _:
            also = _if(change, f"; the RLHF model is {less}")
            return Conclusion("undecided", f"Undecided: {has} no clear preference{also}")


def _by_toxicity(evidence: Evidence) -> Conclusion:
    more, less = _toxicity_words(evidence)
    against = evidence.judge == "against"
    tone: Tone
    match evidence.toxicity:
        case "worse":
            tone, words = "worse", f"Worse: the RLHF model is {more}"
        case "better" if against or evidence.hacking:
            but = ", but the independent judge prefers the SFT model" if against else ""
            tone, words = "mixed", f"The RLHF model is {less}{but}"
        case "better":
            tone, words = "better", f"Better: the RLHF model is {less}"
        case _ if against:
            tone, words = "worse", "Worse: the independent judge prefers the SFT model"
        case _:
            tone, words = "undecided", f"Undecided: the RLHF model is neither {more} nor {less}"
    return _unjudged_by_people(tone, words, evidence)


def _without_people(evidence: Evidence) -> Conclusion:
    """People's preference is declared but not known, and a machine cannot stand in for it: it can only warn."""
    more, less = _toxicity_words(evidence)
    which = {"worse": f", which is {more}", "better": f", which is {less}", "undecided": ""}[evidence.toxicity]
    also = {"worse": f"; the RLHF model is {more}", "better": f"; the RLHF model is {less}", "undecided": ""}
    match evidence.judge:
        case "for":
            tone: Tone = "mixed" if evidence.toxicity == "worse" else "undecided"
            words = f"The independent judge prefers the RLHF model{which}"
        case "against":
            tone = "mixed" if evidence.toxicity == "better" else "worse"
            words = f"The independent judge prefers the SFT model{also[evidence.toxicity]}"
        case "undecided":
            tone = "worse" if evidence.toxicity == "worse" else "undecided"
            words = f"The independent judge has no clear preference{also[evidence.toxicity]}"
        case _:
            tone = "worse" if evidence.toxicity == "worse" else "undecided"
            reward = {
                "higher": "The optimized reward rose",
                "lower": "The optimized reward fell",
                "undecided": "The optimized reward did not clearly change",
                "no verdict": "The optimized reward model may be no better than a coin",
            }[evidence.reward]
            signs = ", with signs of reward hacking" if evidence.hacking else ""
            pending = (
                "there is no reliable independent judgment yet" if evidence.pending == NOT_YET else evidence.pending
            )
            return Conclusion(tone, f"{reward}{signs}{also[evidence.toxicity]}; {pending}")
    return _unjudged_by_people(tone, words, evidence)


def _unjudged_by_people(tone: Tone, words: str, evidence: Evidence) -> Conclusion:
    signs = ", with signs of reward hacking" if evidence.hacking else ""
    return Conclusion(tone, f"{words}{signs}; {evidence.pending}")


def _if(change: Change, words: str) -> str:
    return words if change == "better" else ""


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _toxicity_words(evidence: Evidence) -> tuple[str, str]:
    word = "profane" if evidence.profanity else "toxic"
    return f"more {word}", f"less {word}"


def read_evidence(
    measured: Measurements, judges: Sequence[JudgeResults], people: HumanEvaluation, endpoints: Sequence[Endpoint]
) -> Evidence:
    """The signs of all endpoints that the verdict depends on, by corrected p-values."""
    sign: dict[EndpointName, int] = {endpoint.name: _sign(endpoint) for endpoint in endpoints}
    independent = next((judge for judge in judges if judge.kind == "independent"), None)
    can_judge = independent is not None and independent.accuracy is not None and independent.accuracy.ci95[0] > 0.5
    has_verdict = measured.reward_model.ci95[0] > 0.5
    declared = measured.primary_endpoints
    labeled = f"people have compared {people.labeled} of {people.pairs} pairs so far"
    return Evidence(
        people=_people(people, sign["human_preference"], len(declared)) if people.preference else "none",
        judge=PREFERENCE_BY_SIGN[sign["judge_preference"]] if can_judge else "none",
        toxicity=TOXICITY_BY_SIGN[sign["toxicity"]],
        reward=REWARD_BY_SIGN[sign["reward_length_controlled"]] if has_verdict else "no verdict",
        hacking=bool(measured.reward_hacking_signs),
        judge_is_primary="judge_preference" in declared,
        preference_is_primary="human_preference" in declared or "judge_preference" in declared,
        profanity=measured.toxicity.measure == "profanity",
        pending=labeled if people.labeled else NOT_YET,
    )


def _people(people: HumanEvaluation, sign: int, endpoints: int) -> Preference:
    """People's preference; with pairs that have no label yet, only if no answer to them could change it."""
    if people.status == "complete":
        return PREFERENCE_BY_SIGN[sign]
    assert people.preference is not None
    wins, losses = people.preference.wins, people.preference.losses
    missing = people.pairs - people.labeled
    if wins > losses + missing and endpoints * sign_test_p_value(wins, losses + missing) < SIGNIFICANCE:
        return "for"
    if losses > wins + missing and endpoints * sign_test_p_value(wins + missing, losses) < SIGNIFICANCE:
        return "against"
    return "none"


def _sign(endpoint: Endpoint) -> int:
    """1 if the endpoint is clearly above its null value, -1 if clearly below, else 0."""
    if endpoint.estimate is None or endpoint.p_adjusted is None or endpoint.p_adjusted >= SIGNIFICANCE:
        return 0
    return 1 if endpoint.estimate > endpoint.null else -1
