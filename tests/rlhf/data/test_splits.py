"""Splits by prompt: nothing near a test prompt is ever trained on, and the order of the rows has no say."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.dialogues import Pair
from rlhf.data.splits import NearCopies, Splits, comparable, content_id, shingles, split_pairs
from rlhf.errors import UserError
from tests.support.data_files import dialogue

SIMILARITY = 0.7

# Few words and few sentences made of them: groups and near-copies abound.
words = st.sampled_from(["rice", "eggs", "sky", "blue", "lock", "why", "is", "the", "I"])
turns = st.lists(words, min_size=1, max_size=9).map(" ".join)
answers = st.sampled_from([" Yes.", " No.", " Maybe."])


def pair(turn: str, chosen: str = " Yes.", rejected: str = " No.", then: str = "") -> Pair:
    return Pair(dialogue(turn, then), chosen, rejected)


pairs_lists = st.lists(st.builds(pair, turns, answers, answers), min_size=12, max_size=60)


def split(
    pairs: list[Pair], *, seed: int = 0, test: int = 2, validation: int = 2, max_pairs: int | None = None
) -> Splits:
    return split_pairs(
        pairs,
        seed=seed,
        test_prompts=test,
        validation_prompts=validation,
        near_duplicate_threshold=SIMILARITY,
        max_pairs=max_pairs,
    )


def jaccard(one: str, other: str) -> Fraction:
    """Similarity of two turns of words and single spaces, by the definition."""
    sets = [{text[i : i + 5] for i in range(len(text) - 4)} or {text} for text in (one.lower(), other.lower())]
    return Fraction(len(sets[0] & sets[1]), len(sets[0] | sets[1]))


def turn_of(pair: Pair) -> str:
    return pair.prompt.removeprefix("\n\nHuman: ").split("\n\n")[0]


def is_near(one: Pair, other: Pair) -> bool:
    return jaccard(turn_of(one), turn_of(other)) >= Fraction(7, 10)


@given(pairs_lists, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_nothing_near_a_held_out_prompt_is_trained_on(pairs: list[Pair], seed: int) -> None:
    try:
        splits = split(pairs, seed=seed)
    except UserError:
        return
    assert len(splits.test) == len({row.prompt for row in splits.validation}) == 2
    assert not any(is_near(row, held) for row in splits.training for held in splits.test + splits.validation)
    assert not any(is_near(row, held) for row in splits.validation for held in splits.test)
    assert not is_near(*splits.test)
    one, other = {row.prompt: row for row in splits.validation}.values()
    assert not is_near(one, other)
    kept = splits.training + splits.validation + splits.test
    assert len(kept) + splits.left_out.total() == len(pairs)
    assert not Counter(kept) - Counter(pairs)


@given(pairs_lists.flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs))), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_rows_has_no_say(orders: tuple[list[Pair], list[Pair]], seed: int) -> None:
    results: list[Splits | str] = []
    for pairs in orders:
        try:
            results.append(split(pairs, seed=seed))
        except UserError as error:
            results.append(str(error))
    assert results[0] == results[1]


@given(turns, st.lists(turns, max_size=8), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.9, 1.0]))
@settings(max_examples=300, deadline=None)
def test_the_index_finds_exactly_the_near_copies(text: str, held_out: list[str], similarity: float) -> None:
    index = NearCopies(similarity, Counter(shingles(comparable(text))))
    for held in held_out:
        index.add(comparable(held))
    expected = any(jaccard(text, held) >= Fraction(str(similarity)) for held in held_out)
    assert index.has_near(comparable(text)) is expected


def test_similarity_on_the_threshold_counts_as_near() -> None:
    # 7 of 10 shingles in common: a text of 11 characters has 7, one of 14 that begins with it has 10.
    index = NearCopies(0.7, Counter())
    index.add("abcdefghijklmn")
    assert index.has_near("abcdefghijk")
    assert not index.has_near("abcdefghij")


@pytest.mark.parametrize("copy", ["Why is the SKY blue", "why, is the sky... blue?!", " Why  is the\n sky blue? "])
def test_case_punctuation_and_white_space_make_no_other_prompt(copy: str) -> None:
    assert comparable(copy) == "why is the sky blue"


def test_what_has_no_letters_is_one_prompt() -> None:
    index = NearCopies(SIMILARITY, Counter())
    index.add(comparable("???"))
    assert index.has_near(comparable("!"))
    assert not index.has_near(comparable("hi"))


def test_another_seed_draws_other_test_prompts() -> None:
    pairs = [pair(f"{n} {n * 7919} question about {n * 104729}") for n in range(60)]
    assert {row.prompt for row in split(pairs, seed=0).test} != {row.prompt for row in split(pairs, seed=1).test}


def test_every_pair_of_a_validation_prompt_is_kept_and_one_of_a_test_prompt() -> None:
    turns = ["who was napoleon", "bake a chocolate cake", "fix my bicycle tyre"]
    pairs = [pair(turn, " Yes.", rejected) for turn in turns for rejected in (" No.", " Maybe.")]
    splits = split(pairs, test=1, validation=1)
    assert (len(splits.test), len(splits.validation), len(splits.training)) == (1, 2, 2)
    assert splits.left_out == {"near-copy of a test prompt": 1}


def test_later_turns_of_a_held_out_conversation_are_left_out() -> None:
    later = " Because.\n\nHuman: And at night?\n\nAssistant:"
    pairs = [pair("why is the sky blue"), pair("why is the sky blue", then=later), pair("fix my bicycle tyre")]
    pairs += [pair("fix my bicycle tyre", then=later), pair("who was napoleon"), pair("who was napoleon", then=later)]
    splits = split(pairs, test=1, validation=1)
    assert splits.left_out == {"near-copy of a test prompt": 1, "near-copy of a validation prompt": 1}
    assert len({turn_of(row) for row in splits.training}) == 1


def test_max_pairs_leaves_the_held_out_prompts_as_they_are() -> None:
    pairs = [pair(f"{n} {n * 7919} question about {n * 104729}") for n in range(40)]
    whole, part = split(pairs), split(pairs, max_pairs=10)
    assert part.training == whole.training[:10]
    assert (part.test, part.validation) == (whole.test, whole.validation)
    assert part.left_out["beyond max_pairs"] == len(whole.training) - 10 == 26


def test_too_few_prompts_name_the_setting() -> None:
    pairs = [pair("why is the sky blue"), pair("Why is the sky blue?"), pair("fix my bicycle tyre")]
    with pytest.raises(UserError, match=r"data\.test_prompts \(3\): the 3 pairs at hand have only 2 prompts"):
        split(pairs, test=3)
    with pytest.raises(UserError, match=r"data\.validation_prompts \(2\): the [12] pairs at hand have only 1 prompts"):
        split(pairs, test=1, validation=2)
    with pytest.raises(UserError, match=r"no pair is left to train on"):
        split(pairs, test=1, validation=1)


def test_ids_depend_on_each_text_and_where_it_ends() -> None:
    ids = {content_id("a", "b"), content_id("b", "a"), content_id("ab"), content_id("ab", "")}
    assert len(ids) == 4
    assert all(len(name) == 16 for name in ids)
