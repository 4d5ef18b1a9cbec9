"""Encoding compared with the tokenizer's own encoding of a complete dialogue, byte-level and Llama-type."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BloomConfig, GPT2Config, LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.errors import UserError
from rlhf.models.tokenization import context_length, decode_response, encode_prompt, encode_response, require_fit
from tests.support.tiny_models import CORPUS, END, tiny_tokenizer

PROMPT = "\n\nHuman: What can I cook?\n\nAssistant:"
BYTE_LEVEL = tiny_tokenizer()


UNKNOWN, BEGIN, FINISH = "<unk>", "<s>", "</s>"


def llama_tokenizer(template: str) -> PreTrainedTokenizerBase:
    """A tokenizer that adds a space before every text and drops it when decoding, as Llama 2's does."""
    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = [UNKNOWN, BEGIN, FINISH]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=specials, show_progress=False)
    bpe.train_from_iterator([text.replace("\n", "") for text in CORPUS], trainer)
    bpe.post_processor = processors.TemplateProcessing(single=template, special_tokens=[(BEGIN, 1), (FINISH, 2)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=FINISH)


def test_byte_level_prompt_and_response_make_up_the_dialogue() -> None:
    response = " You can make fried rice."
    ids = encode_prompt(BYTE_LEVEL, PROMPT) + encode_response(BYTE_LEVEL, response)
    assert ids == [*BYTE_LEVEL(PROMPT + response).input_ids, BYTE_LEVEL.eos_token_id]
    assert ids.count(BYTE_LEVEL.eos_token_id) == 1


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A </s>"])
def test_llama_prompt_has_bos_and_no_eos_and_the_response_no_extra_space(template: str) -> None:
    tokenizer = llama_tokenizer(template)
    prompt, response = "Human: What can I cook? Assistant:", " You can make rice."
    assert tokenizer(response, add_special_tokens=False).input_ids != encode_response(tokenizer, response)[:-1]
    ids = encode_prompt(tokenizer, prompt) + encode_response(tokenizer, response)
    assert ids == [1, *tokenizer(prompt + response, add_special_tokens=False).input_ids, 2]
    assert decode_response(tokenizer, encode_response(tokenizer, response)) == response


def test_a_response_that_merges_with_the_boundary_is_decoded_unchanged() -> None:
    vocabulary = {character: index for index, character in enumerate(":)x ")} | {":)": 4, END: 5}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [(":", ")")])), eos_token=END)
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    assert encode_response(tokenizer, ")x") == [1, 2, 5]
    assert decode_response(tokenizer, [1, 2, 5]) == ")x"


def test_a_boundary_that_merges_with_the_space_adds_no_second_space() -> None:
    """`:▁` is a token, and every text gets a space before it, also a response that is encoded alone."""
    characters = {character: index for index, character in enumerate("▁:\nrice")}
    bpe = Tokenizer(models.BPE(characters | {":▁": 8, END: 9}, [(":", "▁")]))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END)
    rice = [characters[character] for character in "▁rice"]
    assert encode_response(tokenizer, " rice") == [*rice, 9]
    assert decode_response(tokenizer, encode_response(tokenizer, " rice")) == " rice"


def test_text_that_spells_a_special_token_is_text() -> None:
    response = f" one{END} two"
    ids = encode_response(BYTE_LEVEL, response)
    assert ids.index(BYTE_LEVEL.eos_token_id) == len(ids) - 1
    assert decode_response(BYTE_LEVEL, ids) == response
    assert BYTE_LEVEL.eos_token_id not in encode_prompt(BYTE_LEVEL, END + PROMPT)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_byte_level_decoding_restores_every_response(response: str) -> None:
    assert decode_response(BYTE_LEVEL, encode_response(BYTE_LEVEL, response)) == response


def test_spaces_before_punctuation_stay() -> None:
    assert decode_response(BYTE_LEVEL, encode_response(BYTE_LEVEL, " Hi , you 're . ")) == " Hi , you 're . "


def test_an_empty_response_is_an_eos() -> None:
    assert encode_response(BYTE_LEVEL, "") == [BYTE_LEVEL.eos_token_id]


def test_the_context_is_that_of_the_configuration() -> None:
    assert context_length(GPT2Config(n_positions=64)) == 64
    assert context_length(LlamaConfig(max_position_embeddings=128)) == 128
    assert context_length(BloomConfig()) is None  # ALiBi has no limit


def test_text_that_does_not_fit_the_context_is_an_error_with_both_lengths() -> None:
    require_fit("row a", 9, None)
    require_fit("row a", 8, 8)
    require_fit("row a", 6, 8, new_tokens=2)
    with pytest.raises(UserError, match=r"^row a has 9 tokens, more than the model's context of 8; lower data"):
        require_fit("row a", 9, 8)
    with pytest.raises(UserError, match=r"^row a has 7 tokens, which leaves no room for 2 more in .* of 8; cut it$"):
        require_fit("row a", 7, 8, new_tokens=2, remedy="cut it")
