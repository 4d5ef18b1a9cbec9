"""The trained model with its value head.

B rollouts of a batch, L tokens, T response tokens flattened, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.training.ppo.trunk import Backbone, Split


class Batch(NamedTuple):
    """Rollouts padded on the right, and the positions at which their response tokens are predicted."""

    trunk_states: Tensor
    """Hidden states of the trunk [B, L, H], or token ids [B, L] if there is no trunk."""
    row: Tensor
    """Rollout of each response token [T]."""
    position: Tensor
    """Position of the token before it, whose hidden state predicts it [T]."""
    first_position: int
    """The lowest of these positions."""
    token: Tensor
    """The response tokens [T]."""


@dataclass(frozen=True)
class Policy:
    """Policy, reference and value head."""

    model: PreTrainedModel
    """The unsplit model, which generates the responses; shares its parameters with `split`."""
    split: Split
    value_head: nn.Module
    temperature: float
    """Divides the logits, as in sampling, so that probabilities are those that the tokens were sampled with."""

    @property
    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """All trained parameters by name: the model's own names, and `value_head.*`."""
        value_head = {f"value_head.{name}": parameter for name, parameter in self.value_head.named_parameters()}
        return self.split.trained_parameters | value_head

    def training_flops(self, sequence_tokens: float, response_tokens: float) -> float:
        """Floating-point operations of one epoch's matrix products, without those of attention.

        Two per parameter and token forward, and four backward if the parameter is trained.  The output layer sees only
        response tokens.
        """
        embedding = self.model.get_input_embeddings().weight
        blocks = [p for p in self.split.top.module.parameters() if p.dim() == 2 and p is not embedding]
        per_token = sum(p.numel() * (6 if p.requires_grad else 2) for p in blocks)
        heads = [p for p in [*self.split.head.parameters(), *self.value_head.parameters()] if p.dim() == 2]
        return per_token * sequence_tokens + 6 * sum(p.numel() for p in heads) * response_tokens

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [T, V] and values [T] of the response tokens; the values in float32 or better."""
        hidden_TH = _response_states(self.split.top, batch)
        value_T = self.value_head(hidden_TH)[:, 0]
        return self._scaled(self.split.head(hidden_TH)), value_T.to(torch.promote_types(value_T.dtype, torch.float32))

    @torch.no_grad()
    def predict_reference(self, batch: Batch) -> Tensor:
        """Logits [T, V] of the reference."""
        return self._scaled(self.split.reference_head(_response_states(self.split.reference_top, batch)))

    def _scaled(self, logits_TV: Tensor) -> Tensor:
        return logits_TV if self.temperature == 1 else logits_TV / self.temperature


def make_value_head(hidden_size: int, seed: int) -> nn.Module:
    """A new value head: from a hidden state through a layer of twice its size to one number, as in trlx."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(hidden_size, 2 * hidden_size), nn.ReLU(), nn.Linear(2 * hidden_size, 1))


def _response_states(top: Backbone, batch: Batch) -> Tensor:
    """Hidden states [T, H] that predict the response tokens; the expensive output layer runs on no others."""
    return top.at_positions(batch.trunk_states, batch.row, batch.position, batch.first_position)
