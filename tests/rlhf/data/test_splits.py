"""Splits by prompt: no near-duplicate of a test prompt is for training, no dialogue is for policy and judge, and the
order of the rows is irrelevant.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.dialogues import Pair
from rlhf.data.splits import NearDuplicateIndex, Splits, content_id, normalize_text, shingles, split_pairs
from rlhf.errors import UserError
from tests.support.data_files import dialogue

SIMILARITY = 0.7

# So few words give many near-duplicates.
words = st.sampled_from(["rice", "eggs", "sky", "blue", "lock", "why", "is", "the", "I"])
turns = st.lists(words, min_size=1, max_size=9).map(" ".join)
responses = st.sampled_from([" Yes.", " No.", " Maybe."])


def pair(turn: str, chosen: str = " Yes.", rejected: str = " No.", then: str = "") -> Pair:
    return Pair(dialogue(turn, then), chosen, rejected)


pairs_lists = st.lists(st.builds(pair, turns, responses, responses), min_size=12, max_size=60)


def split(
    pairs: list[Pair],
    *,
    seed: int = 0,
    test: int = 2,
    validation: int = 2,
    judge_share: float = 0,
    max_pairs: int | None = None,
) -> Splits:
    return split_pairs(
        pairs,
        seed=seed,
        test_prompts=test,
        validation_prompts=validation,
        near_duplicate_threshold=SIMILARITY,
        judge_share=judge_share,
        max_pairs=max_pairs,
    )


def jaccard(first: str, second: str) -> Fraction:
    """Similarity of two turns by its definition; both consist of words and single spaces."""
    sets = [{text[i : i + 5] for i in range(len(text) - 4)} or {text} for text in (first.lower(), second.lower())]
    return Fraction(len(sets[0] & sets[1]), len(sets[0] | sets[1]))


def turn_of(pair: Pair) -> str:
    return pair.prompt.removeprefix("\n\nHuman: ").split("\n\n")[0]


def is_near(first: Pair, second: Pair) -> bool:
    return jaccard(turn_of(first), turn_of(second)) >= Fraction(7, 10)


shares = st.sampled_from([0, 0.5])


@given(pairs_lists, st.integers(0, 3), shares)
@settings(max_examples=100, deadline=None)
def test_no_near_duplicate_of_a_test_or_validation_prompt_is_for_training(
    pairs: list[Pair], seed: int, judge_share: float
) -> None:
    try:
        splits = split(pairs, seed=seed, judge_share=judge_share)
    except UserError:
        return
    assert len(splits.test) == len({row.prompt for row in splits.validation}) == 2
    training = splits.training + splits.judge
    assert not any(is_near(row, other) for row in training for other in splits.test + splits.validation)
    assert not any(is_near(row, other) for row in splits.validation for other in splits.test)
    assert not is_near(*splits.test)
    first, second = {row.prompt: row for row in splits.validation}.values()
    assert not is_near(first, second)
    kept = training + splits.validation + splits.test
    assert len(kept) + splits.dropped.total() == len(pairs)
    assert not Counter(kept) - Counter(pairs)


@given(pairs_lists, st.integers(0, 3), st.sampled_from([0.2, 0.5, 0.8]))
@settings(max_examples=60, deadline=None)
def test_policy_and_judge_share_no_first_human_turn(pairs: list[Pair], seed: int, judge_share: float) -> None:
    """Not even with another case or punctuation; and the judge's pairs are those that training loses."""
    spelled = [*pairs, *(Pair(row.prompt.replace(" rice", " RICE!"), row.chosen, row.rejected) for row in pairs)]
    try:
        splits = split(spelled, seed=seed, judge_share=judge_share)
    except UserError:
        return
    assert splits.training
    assert splits.judge
    assert not {plain(row) for row in splits.training} & {plain(row) for row in splits.judge}
    everything = split(spelled, seed=seed)
    assert everything.judge == []
    assert Counter(splits.training + splits.judge) == Counter(everything.training)
    assert (splits.test, splits.validation) == (everything.test, everything.validation)


def plain(pair: Pair) -> str:
    """The first human turn without case, and without the only punctuation of these tests."""
    return turn_of(pair).lower().replace("!", "")


@given(pairs_lists.flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs))), st.integers(0, 3), shares)
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_rows_makes_no_difference(
    orders: tuple[list[Pair], list[Pair]], seed: int, judge_share: float
) -> None:
    results: list[Splits | str] = []
    for pairs in orders:
        try:
            results.append(split(pairs, seed=seed, judge_share=judge_share))
        except UserError as error:
            results.append(str(error))
    assert results[0] == results[1]


@given(turns, st.lists(turns, max_size=8), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.9, 1.0]))
@settings(max_examples=300, deadline=None)
def test_the_index_finds_exactly_the_near_duplicates(text: str, others: list[str], threshold: float) -> None:
    index = NearDuplicateIndex(threshold, Counter(shingles(normalize_text(text))))
    for other in others:
        index.add(normalize_text(other))
    expected = any(jaccard(text, other) >= Fraction(str(threshold)) for other in others)
    assert index.has_near(normalize_text(text)) is expected


def test_a_similarity_equal_to_the_threshold_counts() -> None:
    # 7 of 10 shingles in common: a text of 11 characters has 7, one of 14 that begins with it has 10.
    index = NearDuplicateIndex(0.7, Counter())
    index.add("abcdefghijklmn")
    assert index.has_near("abcdefghijk")
    assert not index.has_near("abcdefghij")


@pytest.mark.parametrize("copy", ["Why is the SKY blue", "why, is the sky... blue?!", " Why  is the\n sky blue? "])
def test_case_punctuation_and_white_space_make_no_difference(copy: str) -> None:
    assert normalize_text(copy) == "why is the sky blue"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is 1+1?", "What is 1-1?"),
        ("What is 8 * 2", "What is 8 / 2"),
        ("-5", "5"),
        ("1.5", "15"),
        ("3\u20135", "35"),
        ("😀", "🎉"),
        ("👍🏻", "👍🏿"),
        (":)", ":("),
        ("???", "!"),
        ("C#", "C++"),
        ("की", "का"),
        ("x²", "x³"),
        ("5%", "5€"),
    ],
)
def test_prompts_that_differ_in_signs_with_a_meaning_are_no_near_duplicates(first: str, second: str) -> None:
    index = NearDuplicateIndex(SIMILARITY, Counter())
    index.add(normalize_text(first))
    assert index.has_near(normalize_text(f" {first.upper()} "))
    assert not index.has_near(normalize_text(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("don't", "don\u2019t"),
        ("well-known", "well\u2013known"),
        ("„Ja“, gut …", "ja gut"),
        ("caf\u00e9", "cafe\u0301"),
        ("你好。", "你好"),
        ("3.", "3"),
        ("It is 5:30.", "it is 5:30"),
    ],
)
def test_marks_of_a_sentence_and_forms_of_one_letter_make_no_difference(first: str, second: str) -> None:
    assert normalize_text(first) == normalize_text(second) != ""


def test_blank_first_turns_do_not_make_prompts_near_duplicates() -> None:
    turns = ["why is the sky blue", "fix my bicycle tyre", "who was napoleon"]
    pairs = [Pair(f"\n\nHuman:{dialogue(turn, '')}", " Yes.", " No.") for turn in turns]
    splits = split(pairs, test=1, validation=1)
    assert len(splits.test) == len(splits.validation) == len(splits.training) == 1


def test_another_seed_draws_other_test_prompts() -> None:
    pairs = [pair(f"{n} {n * 7919} question about {n * 104729}") for n in range(60)]
    assert {row.prompt for row in split(pairs, seed=0).test} != {row.prompt for row in split(pairs, seed=1).test}


def test_all_pairs_of_a_validation_prompt_are_kept_but_only_one_of_a_test_prompt() -> None:
    turns = ["who was napoleon", "bake a chocolate cake", "fix my bicycle tyre"]
    pairs = [pair(turn, " Yes.", rejected) for turn in turns for rejected in (" No.", " Maybe.")]
    splits = split(pairs, test=1, validation=1)
    assert (len(splits.test), len(splits.validation), len(splits.training)) == (1, 2, 2)
    assert splits.dropped == {"near-duplicate of a test prompt": 1}


def test_later_turns_of_a_test_or_validation_dialogue_are_dropped() -> None:
    later = " Because.\n\nHuman: And at night?\n\nAssistant:"
    pairs = [pair("why is the sky blue"), pair("why is the sky blue", then=later), pair("fix my bicycle tyre")]
    pairs += [pair("fix my bicycle tyre", then=later), pair("who was napoleon"), pair("who was napoleon", then=later)]
    splits = split(pairs, test=1, validation=1)
    assert splits.dropped == {"near-duplicate of a test prompt": 1, "near-duplicate of a validation prompt": 1}
    assert len({turn_of(row) for row in splits.training}) == 1


def test_max_pairs_limits_only_the_training_pairs() -> None:
    pairs = [pair(f"{n} {n * 7919} question about {n * 104729}") for n in range(40)]
    full, limited = split(pairs), split(pairs, max_pairs=10)
    assert limited.training == full.training[:10]
    assert (limited.test, limited.validation) == (full.test, full.validation)
    assert limited.dropped["beyond max_pairs"] == len(full.training) - 10 == 26
    full, limited = split(pairs, judge_share=0.5), split(pairs, judge_share=0.5, max_pairs=10)
    assert limited.training == full.training[:10]
    assert limited.judge == full.judge
    assert limited.dropped["beyond max_pairs"] == 36 - len(full.judge) - 10


@pytest.mark.parametrize("judge_share", [0.1, 0.3, 0.7])
def test_the_judge_gets_its_share_of_the_dialogues_with_all_their_pairs(judge_share: float) -> None:
    """2,000 dialogues: the share has a standard deviation of at most sqrt(0.25 / 2000) = 0.011."""
    turns = [f"{n} {n * 7919} question about {n * 104729}" for n in range(2004)]
    pairs = [pair(turn, " Yes.", rejected) for turn in turns for rejected in (" No.", " Maybe.")]
    for seed in range(3):
        splits = split(pairs, seed=seed, judge_share=judge_share)
        judged = Counter(row.prompt for row in splits.judge)
        assert set(judged.values()) == {2}
        assert len(judged) / 2000 == pytest.approx(judge_share, abs=0.035)
    assert splits.judge != split(pairs, seed=seed - 1, judge_share=judge_share).judge


@pytest.mark.parametrize(("judge_share", "judged"), [(0.001, 0), (0.999, 36)])
def test_an_error_says_which_side_has_no_pairs(judge_share: float, judged: int) -> None:
    pairs = [pair(f"{n} {n * 7919} question about {n * 104729}") for n in range(40)]
    message = (
        rf"^data\.judge_share \({judge_share}\): of 36 training pairs, {judged} are for the judge and {36 - judged} "
        r"for the policy; both need some: change data\.judge_share or give more data$"
    )
    with pytest.raises(UserError, match=message):
        split(pairs, judge_share=judge_share)


def test_an_error_for_too_few_prompts_names_the_setting() -> None:
    pairs = [pair("why is the sky blue"), pair("Why is the sky blue?"), pair("fix my bicycle tyre")]
    near = (
        r"data\.test_prompts \(3\): the 3 available pairs have only 2 prompts that are not near-duplicates of each "
        r"other, of 3 different ones; raise data\.near_duplicate_threshold \(0\.7\), lower data\.test_prompts or give "
        r"more data$"
    )
    with pytest.raises(UserError, match=near):
        split(pairs, test=3)
    few = r"data\.test_prompts \(4\): the 3 available pairs have only 3 different prompts; lower data\.test"
    with pytest.raises(UserError, match=few):
        split(pairs, test=4)
    with pytest.raises(UserError, match=r"data\.validation_prompts \(2\): the [12] available pairs have only 1 "):
        split(pairs, test=1, validation=2)
    with pytest.raises(UserError, match=r"no pair is left to train on.*raise data\.near_duplicate_threshold \(0\.7\)"):
        split(pairs, test=1, validation=1)


def test_ids_depend_on_each_text_and_its_boundaries() -> None:
    ids = {content_id("a", "b"), content_id("b", "a"), content_id("ab"), content_id("ab", "")}
    assert len(ids) == 4
    assert all(len(name) == 16 for name in ids)
