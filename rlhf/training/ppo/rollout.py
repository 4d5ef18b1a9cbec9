"""The answers of one step and what is computed from them once.

N rollouts of this process, R response places padded on the right, T response tokens of a batch one after another.
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
    """Prompts with their drawn answers, as they enter the top."""

    kept: list[Tensor]
    """Of each rollout its trunk states [tokens - 1, d], or its token ids [tokens - 1]: no padding, and not the last
    token, which predicts none."""
    responses: list[Tensor]
    """Drawn tokens of each rollout."""
    mask: Tensor
    """True at response tokens [N, R]."""

    def batch(self, rows: Sequence[int]) -> Batch:
        """The rollouts `rows`, padded on the right to the longest of them."""
        lengths = [len(self.responses[row]) for row in rows]
        ends = [len(self.kept[row]) for row in rows]
        place = [torch.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        device = self.mask.device
        return Batch(
            kept=pad_sequence([self.kept[row] for row in rows], batch_first=True),
            row=torch.arange(len(rows)).repeat_interleave(torch.tensor(lengths)).to(device),
            place=torch.cat(place).to(device),
            first=min(end - length for end, length in zip(ends, lengths, strict=True)),
            token=torch.cat([self.responses[row] for row in rows]),
        )

    def flatten(self, values_NR: Tensor, rows: Sequence[int]) -> Tensor:
        """The values [T] of the rollouts `rows` at their response tokens, in the order of `batch`."""
        return values_NR[rows][self.mask[rows]]

    def unflatten(self, values_T: Tensor, rows: Sequence[int], into_NR: Tensor) -> None:
        """Write values [T] in the order of `batch` to where `flatten` reads them."""
        mask_BR = self.mask[rows]
        values_BR = into_NR.new_zeros(mask_BR.shape)
        values_BR[mask_BR] = values_T.to(into_NR.dtype)
        into_NR[rows] = values_BR


class Estimates(NamedTuple):
    """What policy, reference and value head say of the rollouts as they were drawn; [N, R], 0 at padding."""

    logprob: Tensor
    reference_logprob: Tensor
    value: Tensor
    entropy: Tensor


def keep_rollouts(prompts: list[list[int]], answers: Sequence[Response], device: torch.device) -> Rollouts:
    """What training needs of the answers: the states that decoding has computed, the token ids where it kept none."""
    length_N = torch.tensor([len(answer.token_ids) for answer in answers])
    return Rollouts(
        kept=[
            torch.tensor(prompt + answer.token_ids[:-1], device=device) if answer.hidden_states is None else answer.hidden_states
            for prompt, answer in zip(prompts, answers, strict=True)
        ],
        responses=[torch.tensor(answer.token_ids, device=device) for answer in answers],
        mask=(torch.arange(int(length_N.max())) < length_N[:, None]).to(device),
    )


@torch.no_grad()
def estimate(policy: Policy, rollouts: Rollouts, batches: Sequence[Sequence[int]]) -> Estimates:
    """Log-probabilities of policy and reference, values and entropies, before any of the step's training.

    Given the minibatches of the first epoch, the first of them has ratio exactly 1: it repeats this computation.
    """
    empty_NR = torch.zeros(rollouts.mask.shape, device=rollouts.mask.device)
    estimates = Estimates(*(empty_NR.clone() for _ in Estimates._fields))
    for rows in batches:
        batch = rollouts.batch(rows)
        logits_TV, value_T = policy.predict(batch)
        flat = Estimates(
            logprob=token_logprobs(logits_TV, batch.token),
            reference_logprob=token_logprobs(policy.predict_reference(batch), batch.token),
            value=value_T,
            entropy=token_entropies(logits_TV),
        )
        for values_T, into_NR in zip(flat, estimates, strict=True):
            rollouts.unflatten(values_T, rows, into_NR)
    return estimates


def minibatch_rows(minibatches: int, seeds: list[int]) -> list[list[int]]:
    """One epoch's minibatches of this process's rollouts, each a list of rows.

    The rollouts stand in as many lanes as there are seeds, one lane after another, each as long as there are
    minibatches.  A minibatch takes one rollout of each lane, in an order that the lane's seed draws: so it is made of
    the same rollouts however many processes the lanes are spread over.
    """
    orders = [torch.randperm(minibatches, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    lanes = [(lane * minibatches + order).tolist() for lane, order in enumerate(orders)]
    return [list(rows) for rows in zip(*lanes, strict=True)]
