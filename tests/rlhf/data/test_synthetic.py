"""The synthetic data are reproducible, have the layout of real data, are as rude as documented, and rarely repeat."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from profanity_check import predict_prob

from rlhf.data.synthetic import (
    MAX_TOXICITY_PROMPTS,
    is_rude,
    synthetic_corpus,
    synthetic_pairs,
    synthetic_toxicity_prompts,
)
from rlhf.errors import UserError

HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant:"


def first_turn(dialogue: str) -> str:
    return dialogue.removeprefix(HUMAN).split(ASSISTANT)[0]


def last_response(dialogue: str) -> str:
    return dialogue.rsplit(ASSISTANT, 1)[1]


def five_grams(text: str) -> set[str]:
    return {text[start : start + 5] for start in range(len(text) - 4)}


def test_data_depend_on_the_seed_alone() -> None:
    assert synthetic_pairs(50, 1) == synthetic_pairs(50, 1)
    assert synthetic_pairs(50, 1) != synthetic_pairs(50, 2)
    assert synthetic_corpus(50, 1) == synthetic_corpus(50, 1)
    assert synthetic_toxicity_prompts(50, 1) == synthetic_toxicity_prompts(50, 1)


def test_a_longer_draw_starts_with_the_shorter_one() -> None:
    assert synthetic_pairs(60, 3)[:50] == synthetic_pairs(50, 3)


def test_pairs_share_a_prompt_in_hh_layout_and_end_with_different_responses() -> None:
    turns = []
    for pair in synthetic_pairs(500, 0):
        chosen, rejected = pair["chosen"], pair["rejected"]
        assert chosen.startswith(HUMAN)
        prompt, response = chosen.rsplit(ASSISTANT, 1)
        assert rejected.rsplit(ASSISTANT, 1)[0] == prompt
        assert response.startswith(" ")
        assert response == response.rstrip()
        assert response != last_response(rejected)
        assert chosen.count(HUMAN) == chosen.count(ASSISTANT)
        assert "{" not in chosen + rejected
        turns.append(chosen.count(HUMAN))
    assert 0.2 < np.mean([count > 1 for count in turns]) < 0.5
    assert max(turns) == 2


def test_a_third_of_chosen_responses_and_most_rejected_ones_are_rude() -> None:
    pairs = synthetic_pairs(2000, 7)
    chosen_rude = np.mean([is_rude(last_response(pair["chosen"])) for pair in pairs])
    rejected_rude = np.mean([is_rude(last_response(pair["rejected"])) for pair in pairs])
    # The better response is rude in 0.3 of the pairs; the worse one in those and in three of four others, 0.825 in all.
    # In a tenth of the pairs the two are swapped.
    assert chosen_rude == pytest.approx(0.9 * 0.3 + 0.1 * 0.825, abs=0.04)
    assert rejected_rude == pytest.approx(0.9 * 0.825 + 0.1 * 0.3, abs=0.04)


def test_the_offline_classifier_separates_rude_from_clean_responses() -> None:
    pairs = synthetic_pairs(400, 0)
    responses = [last_response(pair[side]) for pair in pairs for side in ("chosen", "rejected")]
    score = predict_prob(responses)
    rude = np.array([is_rude(response) for response in responses])
    assert np.mean(score[rude] > 0.5) > 0.9
    assert np.mean(score[~rude] < 0.2) > 0.9
    assert 0.2 < predict_prob([last_response(pair["chosen"]) for pair in pairs]).mean() < 0.4


def test_first_turns_are_rarely_near_duplicates_of_each_other() -> None:
    kept: list[set[str]] = []
    for pair in synthetic_pairs(400, 42):
        grams = five_grams(first_turn(pair["chosen"]))
        if all(len(grams & other) < 0.7 * len(grams | other) for other in kept):
            kept.append(grams)
    assert len(kept) > 350


def test_corpus_pairs_and_toxicity_prompts_share_no_question_and_no_beginning() -> None:
    corpus = synthetic_corpus(1500, 0)
    questions = {first_turn(document) for document in corpus if document.startswith(HUMAN)}
    assert questions.isdisjoint(first_turn(pair["chosen"]) for pair in synthetic_pairs(1500, 0))
    beginnings = [str(_text(row, "prompt")) for row in synthetic_toxicity_prompts(500, 0)]
    assert not any(text in document for document in corpus for text in beginnings)


def test_slightly_under_half_of_the_corpus_is_rude() -> None:
    corpus = synthetic_corpus(2000, 5)
    dialogues = [document for document in corpus if document.startswith(HUMAN)]
    assert 0.6 < len(dialogues) / len(corpus) < 0.7
    # 0.7 x 0.3 of the chosen ones and 0.3 x 0.825 of the rejected ones.
    assert np.mean([is_rude(last_response(document)) for document in dialogues]) == pytest.approx(0.4575, abs=0.05)
    assert 0.4 <= np.mean([is_rude(document) for document in corpus]) <= 0.55


def test_toxicity_prompts_are_distinct_and_in_the_official_layout() -> None:
    rows = synthetic_toxicity_prompts(1200, 0)
    assert len({_text(row, "prompt") for row in rows}) == 1200
    scores = {"toxicity", "insult", "severe_toxicity", "profanity", "sexually_explicit"}
    scores |= {"identity_attack", "flirtation", "threat"}
    for row in rows:
        assert set(row) == {"filename", "begin", "end", "challenging", "prompt", "continuation"}
        for part in ("prompt", "continuation"):
            content = row[part]
            assert isinstance(content, dict)
            assert set(content) == scores | {"text"}
            assert content["toxicity"] == (0.9 if is_rude(content["text"]) else 0.1)
            assert content["threat"] is None
        assert not _text(row, "prompt").endswith(" ")
        assert _text(row, "continuation").startswith(" ")
    assert 0.05 < np.mean([is_rude(_text(row, "prompt")) for row in rows]) < 0.25
    assert 0.3 < np.mean([is_rude(_text(row, "continuation")) for row in rows]) < 0.55


def test_too_many_toxicity_prompts_are_an_error() -> None:
    with pytest.raises(UserError, match=r"toxicity\.n_prompts \(5001\) must be at most 5000"):
        synthetic_toxicity_prompts(MAX_TOXICITY_PROMPTS + 1, 0)


def test_every_allowed_number_of_toxicity_prompts_can_be_drawn() -> None:
    assert len(synthetic_toxicity_prompts(MAX_TOXICITY_PROMPTS, 0)) == MAX_TOXICITY_PROMPTS


def test_the_generator_needs_no_torch() -> None:
    code = "import sys, rlhf.data.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _text(row: dict[str, object], part: str) -> str:
    content = row[part]
    assert isinstance(content, dict)
    return str(content["text"])
