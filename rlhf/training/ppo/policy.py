"""The model under training with its value head.  B rollouts of a batch, L tokens, d hidden size, T response tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.training.ppo.trunk import Body, Split


class Batch(NamedTuple):
    """Rollouts padded on the right, and where their response tokens are predicted."""

    kept: Tensor
    """Trunk states [B, L, d], or token ids [B, L] where no trunk is kept."""
    row: Tensor
    """Rollout of each response token [T]."""
    place: Tensor
    """Place of the token before it, whose hidden state predicts it [T]."""
    first: int
    """The lowest of these places."""
    token: Tensor
    """The response tokens [T]."""


@dataclass(frozen=True)
class Policy:
    """Everything that is computed from a batch."""

    model: PreTrainedModel
    """The whole model, which draws the answers; shares its parameters with `split`."""
    split: Split
    value_head: nn.Module
    temperature: float
    """Divides the logits, as in sampling, so that the probabilities are those that the tokens were drawn with."""

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """All trained parameters by name: the model's own names, and `value_head.*`."""
        return self.split.trained | {f"value_head.{name}": value for name, value in self.value_head.named_parameters()}

    def training_operations(self, sequence_tokens: float, response_tokens: float) -> float:
        """Multiplications and additions of one epoch's matrix products, attention's left out.

        Two for each parameter and token forward, and four backward where it is trained; the output layer sees response
        tokens alone.
        """
        embedding = self.model.get_input_embeddings().weight
        passed = [p for p in self.split.top.backbone.parameters() if p.dim() == 2 and p is not embedding]
        each = sum(p.numel() * (6 if p.requires_grad else 2) for p in passed)
        ends = [p for p in [*self.split.head.parameters(), *self.value_head.parameters()] if p.dim() == 2]
        return each * sequence_tokens + 6 * sum(p.numel() for p in ends) * response_tokens

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [T, V] and values [T] of the response tokens; the values in float32 at least."""
        hidden_Td = _response_states(self.split.top, batch)
        value_T = self.value_head(hidden_Td)[:, 0]
        return self._scaled(self.split.head(hidden_Td)), value_T.to(torch.promote_types(value_T.dtype, torch.float32))

    @torch.no_grad()
    def predict_reference(self, batch: Batch) -> Tensor:
        """Logits [T, V] of the reference."""
        return self._scaled(self.split.reference_head(_response_states(self.split.reference_top, batch)))

    def _scaled(self, logits_TV: Tensor) -> Tensor:
        return logits_TV if self.temperature == 1 else logits_TV / self.temperature


def make_value_head(width: int, seed: int) -> nn.Module:
    """A new value head: hidden state to one number, through a layer of twice the width.  Shape as in trlx."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1))


def _response_states(top: Body, batch: Batch) -> Tensor:
    """Hidden states [T, d] that predict the response tokens: the output layer, the dearest, never sees the others."""
    return top.at(batch.kept, batch.row, batch.place, batch.first)
