"""The rollouts of one step, and everything that is computed from them once.

N rollouts of this rank, R response tokens padded on the right, T response tokens of a batch flattened, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.models.sampling import Response
from rlhf.training.ppo.losses import token_entropies, token_logprobs
from rlhf.training.ppo.policy import Batch, Policy


@dataclass(frozen=True)
class Rollouts:
    """Prompts with their sampled responses, as input of the top."""

    trunk_states: list[Tensor]
    """Hidden states of the trunk [tokens - 1, H] for each rollout, or token ids [tokens - 1] if there is no trunk.
    Without padding, and without the last token, which predicts none."""
    responses: list[Tensor]
    """Sampled tokens of each rollout."""
    mask: Tensor
    """True at response tokens [N, R]."""

    def batch(self, rows: Sequence[int]) -> Batch:
        """The rollouts `rows`, padded on the right to the longest of them."""
        lengths = [len(self.responses[row]) for row in rows]
        ends = [len(self.trunk_states[row]) for row in rows]
        positions = [torch.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        device = self.mask.device
        return Batch(
            trunk_states=pad_sequence([self.trunk_states[row] for row in rows], batch_first=True),
            row=torch.arange(len(rows)).repeat_interleave(torch.tensor(lengths)).to(device),
            position=torch.cat(positions).to(device),
            first_position=min(end - length for end, length in zip(ends, lengths, strict=True)),
            token=torch.cat([self.responses[row] for row in rows]),
        )

    def flatten(self, values_NR: Tensor, rows: Sequence[int]) -> Tensor:
        """Values [T] of the rollouts `rows` at their response tokens, in the order of `batch`."""
        return values_NR[rows][self.mask[rows]]

    def unflatten(self, values_T: Tensor, rows: Sequence[int], into_NR: Tensor) -> None:
        """Inverse of `flatten`: write values [T] into the rollouts `rows` of `into_NR`."""
        mask_BR = self.mask[rows]
        values_BR = into_NR.new_zeros(mask_BR.shape)
        values_BR[mask_BR] = values_T.to(into_NR.dtype)
        into_NR[rows] = values_BR


class OldOutputs(NamedTuple):
    """Outputs of policy, reference and value head before training on the rollouts; [N, R], 0 at padding."""

    logprob: Tensor
    reference_logprob: Tensor
    value: Tensor
    entropy: Tensor


def pack_rollouts(prompts: list[list[int]], responses: Sequence[Response], device: torch.device) -> Rollouts:
    """Collect the tensors that training needs: the trunk states recorded during decoding, else the token ids."""
    length_N = torch.tensor([len(response.token_ids) for response in responses])
    return Rollouts(
        trunk_states=[
            torch.tensor(prompt + response.token_ids[:-1], device=device)
            if response.hidden_states is None
            else response.hidden_states
            for prompt, response in zip(prompts, responses, strict=True)
        ],
        responses=[torch.tensor(response.token_ids, device=device) for response in responses],
        mask=(torch.arange(int(length_N.max())) < length_N[:, None]).to(device),
    )


@torch.no_grad()
def evaluate_rollouts(policy: Policy, rollouts: Rollouts, batches: Sequence[Sequence[int]]) -> OldOutputs:
    """Log-probabilities of policy and reference, values and entropies, before any training of the step.

    If `batches` are the minibatches of the first epoch, the first of them has ratio exactly 1 in training, because
    training repeats this computation.
    """
    empty_NR = torch.zeros(rollouts.mask.shape, device=rollouts.mask.device)
    outputs = OldOutputs(*(empty_NR.clone() for _ in OldOutputs._fields))
    for rows in batches:
        batch = rollouts.batch(rows)
        logits_TV, value_T = policy.predict(batch)
        flat = OldOutputs(
            logprob=token_logprobs(logits_TV, batch.token),
            reference_logprob=token_logprobs(policy.predict_reference(batch), batch.token),
            value=value_T,
            entropy=token_entropies(logits_TV),
        )
        for values_T, into_NR in zip(flat, outputs, strict=True):
            rollouts.unflatten(values_T, rows, into_NR)
    return outputs


def minibatch_rows(minibatch_count: int, seeds: list[int]) -> list[list[int]]:
    """One epoch's minibatches of this rank's rollouts, each a list of rows.

    Split the rollouts into `len(seeds)` equal slots; every minibatch takes one rollout from each slot, in an order
    drawn from the slot's seed.  The result does not depend on the number of ranks that share the slots.
    """
    orders = [torch.randperm(minibatch_count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    slots = [(slot * minibatch_count + order).tolist() for slot, order in enumerate(orders)]
    return [list(rows) for rows in zip(*slots, strict=True)]
