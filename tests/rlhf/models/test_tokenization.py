"""Encoding against the tokenizer's own encoding of the whole dialogue, for byte-level and Llama-type tokenizers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.models.tokenization import decode_response, encode_response, encode_prompt
from tests.support.tiny_models import CORPUS, END, tiny_tokenizer

PROMPT = "\n\nHuman: What can I cook?\n\nAssistant:"
BYTE_LEVEL = tiny_tokenizer()


UNKNOWN, BEGIN, FINISH = "<unk>", "<s>", "</s>"


def llama_tokenizer(template: str) -> PreTrainedTokenizerBase:
    """A tokenizer that puts a space before every text and takes one away again, as Llama 2's does."""
    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = [UNKNOWN, BEGIN, FINISH]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=specials, show_progress=False)
    bpe.train_from_iterator([text.replace("\n", "") for text in CORPUS], trainer)
    bpe.post_processor = processors.TemplateProcessing(single=template, special_tokens=[(BEGIN, 1), (FINISH, 2)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=FINISH)


def test_byte_level_prompt_and_answer_are_the_whole_dialogue() -> None:
    answer = " You can make fried rice."
    ids = encode_prompt(BYTE_LEVEL, PROMPT) + encode_response(BYTE_LEVEL, answer)
    assert ids == [*BYTE_LEVEL(PROMPT + answer).input_ids, BYTE_LEVEL.eos_token_id]
    assert ids.count(BYTE_LEVEL.eos_token_id) == 1


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A </s>"])
def test_llama_prompt_has_bos_and_no_eos_and_the_answer_no_space_of_its_own(template: str) -> None:
    tokenizer = llama_tokenizer(template)
    prompt, answer = "Human: What can I cook? Assistant:", " You can make rice."
    assert tokenizer(answer, add_special_tokens=False).input_ids != encode_response(tokenizer, answer)[:-1]
    ids = encode_prompt(tokenizer, prompt) + encode_response(tokenizer, answer)
    assert ids == [1, *tokenizer(prompt + answer, add_special_tokens=False).input_ids, 2]
    assert decode_response(tokenizer, encode_response(tokenizer, answer)) == answer


def test_an_answer_that_merges_with_the_seam_comes_back_whole() -> None:
    vocabulary = {character: index for index, character in enumerate(":)x ")} | {":)": 4, END: 5}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [(":", ")")])), eos_token=END)
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    assert encode_response(tokenizer, ")x") == [1, 2, 5]
    assert decode_response(tokenizer, [1, 2, 5]) == ")x"


def test_text_that_spells_a_special_token_is_text() -> None:
    answer = f" one{END} two"
    ids = encode_response(BYTE_LEVEL, answer)
    assert ids.index(BYTE_LEVEL.eos_token_id) == len(ids) - 1
    assert decode_response(BYTE_LEVEL, ids) == answer
    assert BYTE_LEVEL.eos_token_id not in encode_prompt(BYTE_LEVEL, END + PROMPT)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_byte_level_decoding_gives_every_answer_back(answer: str) -> None:
    assert decode_response(BYTE_LEVEL, encode_response(BYTE_LEVEL, answer)) == answer


def test_spaces_before_punctuation_stay() -> None:
    assert decode_response(BYTE_LEVEL, encode_response(BYTE_LEVEL, " Hi , you 're . ")) == " Hi , you 're . "


def test_an_empty_answer_is_an_end_of_text() -> None:
    assert encode_response(BYTE_LEVEL, "") == [BYTE_LEVEL.eos_token_id]
