"""Asks a language model in a local folder, by comparing the probabilities of the letters as its next token.

B questions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError, brief
from rlhf.evaluation.llm_judge.question import Letter, Pair, ask_in_both_orders, judge_pair
from rlhf.evaluation.policy_comparison import Dialogue, response_logprobs
from rlhf.models.loading import Dtype, load_causal_lm
from rlhf.models.tokenization import context_length, encode_prompt, encode_response, load_tokenizer, require_fit
from rlhf.results.llm_judge import LlmJudgement

LETTERS: tuple[Letter, ...] = ("A", "B", "C")
PLACEHOLDER = "the-question-stands-here"
"""Text that is put through the chat template in place of the question."""


class FolderJudge:
    """A causal language model and its tokenizer.

    With a chat template, the question is the user's message; without one, it is plain text that ends in `Answer:`.
    """

    def __init__(self, folder: Path, dtype: Dtype, device: torch.device, seed: int) -> None:
        """Load both.  Raises UserError if the folder has no model, or if its tokenizer has no token for the letters."""
        self.folder, self.seed = folder, seed
        self.tokenizer = load_tokenizer(folder)
        self.model = load_causal_lm(folder, dtype).to(device)
        self.template = _chat_template(folder, self.tokenizer)
        self.letter_ids = _letter_ids(folder, self.tokenizer)

    def judge(self, pairs: Sequence[Pair]) -> list[LlmJudgement]:
        """Judge `pairs` as one batch.  Padding can change the last bits of a probability, so batches must be fixed."""
        questions = [text for pair in pairs for text in ask_in_both_orders(pair, self.seed)]
        letters = self.choose(questions)
        return [
            judge_pair(pair.id, *both)
            for pair, both in zip(pairs, zip(letters[::2], letters[1::2], strict=True), strict=True)
        ]

    def choose(self, questions: Sequence[str]) -> list[Letter]:
        """The most probable of the letters after each question; of equally probable ones, the first.

        Raises UserError if a question does not fit the model's context, or if the model computes no finite number.
        """
        prompts = [self.encode(question) for question in questions]
        for ids in prompts:
            require_fit(
                "a question to the judge",
                len(ids),
                context_length(self.model.config),
                remedy="set judge.llm.path to a model with a longer context",
            )
        unused = [0]  # the response's own tokens are not read, only what is predicted in their place
        logprob_BRV, _ = response_logprobs(self.model, [Dialogue(ids, unused) for ids in prompts])
        by_letter = [logprob_BRV[:, -1, ids].logsumexp(1).tolist() for ids in self.letter_ids]
        return [self._best(logprobs) for logprobs in zip(*by_letter, strict=True)]

    def encode(self, question: str) -> list[int]:
        """Token ids after which the next token is the answer.  Special tokens that the question spells are text."""
        if self.template is None:
            return encode_prompt(self.tokenizer, f"{question}\n\nAnswer:")
        before, after = (self.tokenizer(part, add_special_tokens=False).input_ids for part in self.template)
        text: list[int] = self.tokenizer(question, add_special_tokens=False, split_special_tokens=True).input_ids
        return [*before, *text, *after]

    def _best(self, logprobs: tuple[float, ...]) -> Letter:
        if not all(map(math.isfinite, logprobs)):
            raise UserError(
                f"{self.folder}: the log-probabilities of A, B and C are {logprobs}; set judge.llm.path to a model "
                "with finite weights"
            )
        return LETTERS[logprobs.index(max(logprobs))]


def _chat_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """What the tokenizer's chat template writes before and after a user's message; None if it has no template."""
    if not tokenizer.chat_template:
        return None
    message = [{"role": "user", "content": PLACEHOLDER}]
    try:
        text = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError) as error:
        raise UserError(
            f"{folder}: the chat template cannot show a user's message ({brief(error)}); repair or remove "
            "chat_template in tokenizer_config.json"
        ) from error
    before, found, after = text.partition(PLACEHOLDER)
    if not found or PLACEHOLDER in after:
        raise UserError(
            f"{folder}: the chat template must show a user's message exactly once; repair or remove chat_template in "
            "tokenizer_config.json"
        )
    return before, after


def _letter_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """For each letter the ids of its tokens, with and without a space before it.

    A form counts only if it is one token for all three letters, so that none has an advantage.
    """
    forms = [[encode_response(tokenizer, space + letter)[:-1] for letter in LETTERS] for space in ("", " ")]
    usable = [form for form in forms if all(len(ids) == 1 for ids in form)]
    if not usable:
        raise UserError(
            f"{folder}: the tokenizer has no single tokens for A, B and C; set judge.llm.path to another model"
        )
    return [sorted({form[index][0] for form in usable}) for index in range(len(LETTERS))]
