"""Log-probabilities and KL of responses, computed in another way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf.evaluation.policy_comparison import Dialogue, ModelPair, response_kl, response_logprobs
from rlhf.models.loading import load_causal_lm
from rlhf.models.tokenization import load_tokenizer
from tests.support.tiny_models import tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two tiny models with different weights."""
    root = tmp_path_factory.mktemp("models")
    tiny_model(root / "sft", seed=0)
    tiny_model(root / "rlhf", seed=1)
    return root / "sft", root / "rlhf"


@pytest.fixture
def models(folders: tuple[Path, Path]) -> ModelPair:
    sft, rlhf = folders
    return ModelPair(load_tokenizer(sft), load_causal_lm(sft, "float32"), load_causal_lm(rlhf, "float32"))


def test_kl_is_the_mean_log_ratio_over_the_vocabulary(models: ModelPair) -> None:
    """torch's own kl_div of the two models' distributions at every position, one unpadded row at a time."""
    dialogues = [Dialogue([5, 6, 7], [8, 9, 10, 0]), Dialogue([11], [12]), Dialogue([3, 4], [])]
    for dialogue, kl in zip(dialogues, response_kl(models, dialogues), strict=True):
        ids = torch.tensor([dialogue.prompt + dialogue.response])
        with torch.no_grad():
            rlhf, sft = (model(input_ids=ids).logits[0].log_softmax(-1) for model in (models.rlhf, models.sft))
        positions = slice(len(dialogue.prompt) - 1, len(dialogue.prompt) - 1 + len(dialogue.response))
        expected = torch.nn.functional.kl_div(sft[positions], rlhf[positions], reduction="sum", log_target=True)
        assert kl == pytest.approx(float(expected), abs=1e-5)
        assert (kl > 0.01) == bool(dialogue.response)


def test_log_probabilities_by_hand(models: ModelPair) -> None:
    """A model whose output layer is all zeros gives every token the log-probability log(1 / V)."""
    models.sft.lm_head.weight.data.zero_()
    models.sft.lm_head.bias.data.zero_()
    logprob_BRV, mask_BR = response_logprobs(models.sft, [Dialogue([1, 2], [3, 4]), Dialogue([1], [2])])
    assert mask_BR.tolist() == [[True, True], [False, True]]
    assert logprob_BRV.shape[:2] == (2, 2)
    assert torch.allclose(logprob_BRV, -torch.tensor(float(logprob_BRV.shape[2])).log())
