"""Checks that a later stage can use a model of unknown origin, before the first one spends time on it.

Every failed check is one UserError that names path, problem and remedy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError, brief, user_message
from rlhf.models.config_file import read_config, require_size
from rlhf.models.decoder import Decoder
from rlhf.models.loading import ONE_LABEL, Dtype, load_causal_lm, require_score_head
from rlhf.models.tokenization import load_tokenizer
from rlhf.models.weight_files import find_weights

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""Files with a vocabulary.  Without any of them, transformers would use an empty vocabulary for some architectures."""
PROBE = tuple(range(8))
"""Token ids that the checks give to a model, modulo its vocabulary."""
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Largest difference between two ways to compute the same logits, as a share of their standard deviation."""
HEAD_ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
"""Largest difference between logits and output layer times hidden state, as a share of the largest logit."""


def read_model(
    folder: Path, dtype: Dtype, *, trains_reward_model: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model in `folder` and its tokenizer.

    Raises UserError if a check fails; with `trains_reward_model`, also if no reward model can be made of it.
    """
    read_config(folder)
    find_weights(folder)
    require_vocabulary(folder)
    tokenizer = load_tokenizer(folder)
    model = load_causal_lm(folder, dtype)
    require_matching_vocabulary(folder, model, tokenizer)
    require_causal(folder, model)
    require_plain_head(folder, model)
    require_decodable(folder, model)
    if trains_reward_model:
        require_reward_base(folder, model)
    return model, tokenizer


def has_vocabulary(folder: Path) -> bool:
    """Whether `folder` has one of TOKENIZER_FILES."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def require_vocabulary(folder: Path) -> None:
    """Raise UserError if `folder` has none of TOKENIZER_FILES."""
    if not has_vocabulary(folder):
        raise UserError(f"{folder}: no tokenizer ({', '.join(TOKENIZER_FILES)} are all missing); add that of the model")


def require_matching_vocabulary(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if the tokenizer has no tokens, or produces ids for which the model has no embedding."""
    rows, highest = model.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values(), default=None)
    if highest is None:
        raise UserError(f"{folder}: the tokenizer has no tokens; add the files of the model's own tokenizer")
    if highest >= rows:
        raise UserError(
            f"{folder}: the tokenizer's ids go up to {highest}, but the model has {rows} embeddings; "
            "use the tokenizer that the model was trained with"
        )


def require_reward_base(folder: Path, model: PreTrainedModel) -> None:
    """Raise UserError if transformers has no reward model of the kind of `model`, whose folder is `folder`."""
    config = read_config(folder, **ONE_LABEL)
    try:
        described = require_size(AutoModelForSequenceClassification, config, folder, find_weights(folder).size)
        require_score_head(folder, described)
    except UserError as error:
        raise UserError(
            f"{folder}: no reward model can be made of a {type(model).__name__} (transformers has no sequence "
            "classification with a linear head named score for it); set reward.path to a finished reward model, and "
            "judge.model to another base model or data.judge_share to 0"
        ) from error


def require_causal(folder: Path, model: PreTrainedModel) -> None:
    """Raise UserError if the model's output is not finite, or if it depends on later tokens.

    Compares the logits of two inputs that differ only in the last token.
    """
    first, second = _probe(model), _probe(model)
    second[0, -1] = 0
    with _told(folder, model):
        logits, other_logits = (model(input_ids=ids, use_cache=False).logits[0, :-1].float() for ids in (first, second))
    if not torch.isfinite(logits).all():
        raise UserError(f"{folder}: the model's output is not finite; the weights are damaged, copy them again")
    if (logits - other_logits).abs().max() > ROUNDING[torch.float32] * logits.std():
        raise UserError(
            f"{folder}: the output of {type(model).__name__} depends on later tokens; use a model that was trained to "
            "generate text"
        )


def require_plain_head(folder: Path, model: PreTrainedModel) -> None:
    """Raise UserError unless the model's logits are its output layer times its last hidden state.

    PPO and the comparison of policies compute them so, for the tokens of the responses only.
    """
    ids = _probe(model)
    with _told(folder, model):
        logits = model(input_ids=ids, use_cache=False).logits.float()
        computed = model.get_output_embeddings()(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if (logits - computed.float()).abs().max() > HEAD_ROUNDING[model.dtype] * logits.abs().max():
        raise UserError(
            f"{folder}: the logits of {type(model).__name__} are not its output layer times its last hidden state (it "
            "scales or caps them), as PPO computes them; use a model of another architecture"
        )


def require_decodable(folder: Path, model: PreTrainedModel) -> None:
    """Raise UserError unless responses can be drawn from the model one token at a time, from a batch of prompts.

    Compares the logits with those of whole sequences.
    """
    ids = _probe(model)[0].tolist()
    prompts, continuation = [ids[:6], ids[2:5]], ids[6:8]
    with _told(folder, model):
        decoder = Decoder(model, prompts, len(continuation) + 1, None)
        try:
            steps = [decoder.prefill().float()]
            for position, token in enumerate(continuation, start=len(prompts[0])):
                steps.append(decoder.decode_step(torch.tensor([token, token]), position).float())
        finally:
            decoder.close()
        for row, prompt in enumerate(prompts):
            whole = model(input_ids=torch.tensor([prompt + continuation]), use_cache=False).logits[0].float()
            expected, drawn = whole[len(prompt) - 1 :], torch.stack([logits[row] for logits in steps])
            if not (drawn - expected).abs().max() <= ROUNDING[model.dtype] * whole.std():
                raise UserError(
                    f"{folder}: the output of {type(model).__name__} is another one token by token, as responses are "
                    "drawn, than for the whole text; use a model of another architecture"
                )


def _probe(model: PreTrainedModel) -> Tensor:
    """Token ids [1, 8]."""
    return torch.tensor([PROBE]) % int(model.get_input_embeddings().weight.shape[0])


@contextmanager
def _told(folder: Path, model: PreTrainedModel) -> Iterator[None]:
    """Without gradients; makes any error of the model's own code a UserError."""
    try:
        with torch.no_grad():
            yield
    except Exception as error:
        if user_message(error) is not None:
            raise
        raise UserError(
            f"{folder}: {type(model).__name__} cannot be used like other causal language models ({brief(error)}); "
            "use a model of another architecture"
        ) from error
