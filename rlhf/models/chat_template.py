"""The chat template of the models that this package trains: dialogues as they are in the training data."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from rlhf.models.tokenization import encode_prompt

TURNS = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ '\\n\\nHuman: ' + message['content'] | trim }}"
    "{%- elif message['role'] == 'assistant' -%}{{ '\\n\\nAssistant: ' + message['content'] | trim }}"
    "{%- else -%}{{ raise_exception('this model was trained on turns of user and assistant only') }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '\\n\\nAssistant:' }}{%- endif -%}"
)
"""Messages as in Anthropic's HH: `\\n\\nHuman: ...\\n\\nAssistant: ...`."""


def dialogue_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """A Jinja template that makes of messages the text whose token ids the model was trained on.

    It begins with the BOS token if the tokenizer adds one to prompts.
    """
    begins_with_bos = tokenizer.bos_token_id is not None and encode_prompt(tokenizer, ":")[0] == tokenizer.bos_token_id
    return ("{{- bos_token -}}" if begins_with_bos else "") + TURNS
