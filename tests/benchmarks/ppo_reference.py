"""Child process: the same work in a loop structured like trlx's, on plain transformers.

The structure follows trlx@3340c2f (AcceleratePPOTrainer.make_experience and .loss,
AutoModelForCausalLMWithHydraValueHead, freeze_bottom_causal_layers).  Responses are sampled in chunks by
`model.generate`.  The reward model scores response and chosen response of each chunk.  The reference costs a second
pass through the complete model before its own top blocks.  Every minibatch runs the complete model forward and
backward, with logits at all positions.  Only blocks are frozen, not the embeddings, as in the recipe's trlx@355c974,
so gradients pass through all blocks; 3340c2f also freezes the embeddings: `--freeze-embeddings`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from rlhf.models.reward_model import RewardModel
from rlhf.models.tokenization import load_tokenizer
from rlhf.runtime.distributed import init_distributed
from rlhf.storage.files import read_jsonl
from rlhf.training.ppo.advantages import estimate_advantages, shape_rewards, whiten
from rlhf.training.ppo.losses import ppo_loss
from rlhf.training.ppo.policy import make_value_head
from rlhf.training.ppo.trunk import split_model
from tests.benchmarks.measure import Gauge, Measured, print_measured
from tests.benchmarks.work import Work, as_published, read_work


class Loop:
    """Models, and the seconds of each phase."""

    def __init__(self, folder: Path, device: torch.device, *, freeze_embeddings: bool) -> None:
        self.device = device
        self.work: Work = read_work(folder)
        self.tokenizer = load_tokenizer(folder / "sft" / "model")
        self.model: PreTrainedModel = as_published(AutoModelForCausalLM, folder / "sft" / "model", self.work.dtype)
        self.model.to(device)
        self.reference = split_model(self.model, self.work.unfrozen_blocks)
        self.model.get_input_embeddings().requires_grad_(not freeze_embeddings)
        self.value_head: nn.Module = make_value_head(self.work.hidden_size, 0).to(device, self.model.dtype)
        reward_model = as_published(AutoModelForSequenceClassification, folder / "reward" / "model", self.work.dtype)
        self.reward_model = RewardModel(folder / "reward" / "model", reward_model.to(device), self.tokenizer)
        trained = [*self.model.parameters(), *self.value_head.parameters()]
        self.optimizer = torch.optim.AdamW([parameter for parameter in trained if parameter.requires_grad], lr=8e-6)
        self.rows = read_jsonl(folder / "data" / "ppo_prompts.jsonl")
        self.seconds = dict.fromkeys(("generate", "score", "evaluate", "train"), 0.0)

    def run(self) -> None:
        """Responses to all prompts, then training on them."""
        chunks = [
            self.experience(self.rows[at : at + self.work.chunk]) for at in range(0, len(self.rows), self.work.chunk)
        ]
        ids_NL, logprob_NR, value_NR, reward_NR = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        started = self.now()
        for _ in range(self.work.epochs):
            for at in range(0, len(ids_NL), self.work.minibatch):
                rows = slice(at, at + self.work.minibatch)
                self.train(ids_NL[rows], logprob_NR[rows], value_NR[rows], reward_NR[rows])
        self.seconds["train"] = self.now() - started

    def now(self) -> float:
        """Current time, after all work on the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @torch.no_grad()
    def experience(self, rows: list[dict[str, object]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sequences [B, L], log-probabilities, values and rewards [B, R] of a chunk."""
        prompts = [str(row["prompt"]) for row in rows]
        started = self.now()
        prompt_BP = torch.tensor(self.tokenizer(prompts).input_ids, device=self.device)
        ids_BL = self.model.generate(
            prompt_BP,
            attention_mask=torch.ones_like(prompt_BP),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.work.response_tokens,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        generated = self.now()
        responses = self.tokenizer.batch_decode(ids_BL[:, self.work.prompt_tokens :])
        score_B = self.reward_model.score(prompts, responses, self.work.chunk)
        score_B -= self.reward_model.score(prompts, [str(row["chosen"]) for row in rows], self.work.chunk)
        score_B = score_B.to(self.device)
        scored = self.now()
        logits_BLV, value_BL = self.forward(ids_BL)
        states = self.model(ids_BL, attention_mask=torch.ones_like(ids_BL), output_hidden_states=True).hidden_states
        reference_BLV = self.reference.reference_head(
            self.reference.reference_top(states[-1 - self.work.unfrozen_blocks])
        )
        logprob_BR, reference_BR = (self.response_logprobs(logits, ids_BL) for logits in (logits_BLV, reference_BLV))
        everywhere = torch.ones_like(logprob_BR, dtype=torch.bool)
        reward_BR = shape_rewards(score_B, logprob_BR, reference_BR, everywhere, kl_coefficient=0.05)
        for phase, seconds in zip(
            ("generate", "score", "evaluate"),
            (generated - started, scored - generated, self.now() - scored),
            strict=True,
        ):
            self.seconds[phase] += seconds
        return ids_BL, logprob_BR, self.response_part(value_BL), reward_BR

    def train(self, ids_BL: Tensor, old_logprob_BR: Tensor, old_value_BR: Tensor, reward_BR: Tensor) -> None:
        """One optimizer step."""
        everywhere = torch.ones_like(reward_BR, dtype=torch.bool)
        advantage_BR, return_BR = estimate_advantages(
            reward_BR, old_value_BR, everywhere, discount=1.0, gae_lambda=0.95
        )
        logits_BLV, value_BL = self.forward(ids_BL)
        loss = ppo_loss(
            self.response_logprobs(logits_BLV, ids_BL).flatten(),
            self.response_part(value_BL).flatten(),
            old_logprob_T=old_logprob_BR.flatten(),
            old_value_T=old_value_BR.flatten(),
            advantage_T=whiten(advantage_BR.flatten()),
            return_T=return_BR.flatten(),
            policy_clip=0.2,
            value_clip=0.2,
            value_coefficient=1.0,
            token_count=reward_BR.numel(),
        )
        torch.autograd.backward(loss.total)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def forward(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, L, V] and values [B, L] at all positions."""
        output = self.model(ids_BL, attention_mask=torch.ones_like(ids_BL), output_hidden_states=True)
        return output.logits, self.value_head(output.hidden_states[-1])[..., 0]

    def response_logprobs(self, logits_BLV: Tensor, ids_BL: Tensor) -> Tensor:
        """Log-probabilities [B, R] of the response, computed at all positions as trlx does."""
        logprob_BLV = logits_BLV[:, :-1].log_softmax(-1)
        return logprob_BLV.gather(-1, ids_BL[:, 1:, None])[:, self.work.prompt_tokens - 1 :, 0]

    def response_part(self, values_BL: Tensor) -> Tensor:
        """Values [B, R] at the positions that predict the response."""
        return values_BL[:, self.work.prompt_tokens - 1 : -1]


def main() -> None:
    """Do the work and report its time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--freeze-embeddings", action="store_true")
    options = parser.parse_args()
    device = init_distributed().device
    gauge = Gauge(device)
    loop = Loop(options.folder, device, freeze_embeddings=options.freeze_embeddings)
    if loop.work.warm_up:
        loop.run()
        loop.seconds = dict.fromkeys(loop.seconds, 0.0)
    gauge.begin()
    cpu_started = time.process_time()
    loop.run()
    print_measured(
        Measured(seconds=loop.seconds, cpu_seconds=time.process_time() - cpu_started, peak_bytes=gauge.peak_bytes())
    )


if __name__ == "__main__":
    main()
