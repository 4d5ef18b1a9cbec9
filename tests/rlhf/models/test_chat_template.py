"""The chat template makes of messages the token ids that the model was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2.exceptions import TemplateError
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf.config import ModelConfig
from rlhf.models.chat_template import dialogue_template
from rlhf.models.loading import load_causal_lm, save_model
from rlhf.models.tokenization import encode_prompt, encode_response, load_tokenizer
from rlhf.stage_config import ModelStage
from rlhf.stages.prepare_model import prepare_model
from tests.support.tiny_models import END, tiny_model, tiny_tokenizer

PROMPT = "\n\nHuman: Why is the sky blue?\n\nAssistant: Air.\n\nHuman: And rice?\n\nAssistant:"
MESSAGES = [
    {"role": "user", "content": "Why is the sky blue?"},
    {"role": "assistant", "content": " Air."},
    {"role": "user", "content": "And rice?\n"},
]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{% endfor %}"
)


def with_bos() -> PreTrainedTokenizerBase:
    """A tokenizer that begins every text with BOS, as Llama's does."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return tokenizer


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), with_bos()], ids=["without BOS", "with BOS"])
def test_messages_become_the_ids_of_the_training_data(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = dialogue_template(tokenizer)
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert ids == encode_prompt(tokenizer, PROMPT)
    answered = [*MESSAGES, {"role": "assistant", "content": "With eggs."}]
    ids = tokenizer.apply_chat_template(answered, return_dict=False)
    assert ids == encode_prompt(tokenizer, PROMPT) + encode_response(tokenizer, " With eggs.")[:-1]


def test_a_role_that_the_model_was_not_trained_on_is_an_error() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = dialogue_template(tokenizer)
    with pytest.raises(TemplateError, match="trained on turns of user and assistant only"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be brief."}, *MESSAGES])


@pytest.mark.parametrize("template", [CHATML, {"default": CHATML, "tool_use": CHATML}])
def test_the_template_of_a_chat_model_does_not_stay(tmp_path: Path, template: str | dict[str, str]) -> None:
    """Its several EOS and its sampling settings do not stay either: generation stops at the one that is trained."""
    source = tiny_model(tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(source)
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 0], "temperature": 0.3, "do_sample": false}')
    prepare_model(ModelStage(seed=0, model=ModelConfig(path=str(source))), {"source": source}, tmp_path)

    save_model(load_causal_lm(tmp_path / "model", "float32"), load_tokenizer(tmp_path / "model"), tmp_path / "trained")
    trained = AutoTokenizer.from_pretrained(tmp_path / "trained")
    text = trained.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert text == PROMPT
    assert not any("im_start" in path.read_text() for path in (tmp_path / "trained").rglob("*.j*"))
    assert '"eos_token_id": 0' in (tmp_path / "trained" / "generation_config.json").read_text()
