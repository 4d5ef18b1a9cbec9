"""A small GPT-J trained from nothing on the synthetic corpus, so that the workflow runs without any download.

Each document is seen once.  The corpus is packed: documents follow one another, an end of text after each, cut into
rows of `context_tokens`.  Nothing draws a random number after the first weights, so a checkpoint is weights, optimizer
and metrics, and a run that was killed and resumed ends in the same bytes as one that was not.

Left out: dropout and validation, since no document comes twice.
"""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

from rlhf.config import SyntheticModel
from rlhf.data.synthetic import synthetic_corpus
from rlhf.errors import UserError
from rlhf.runtime.stage import progress
from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import write_jsonl

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
LOG_EVERY = 10
"""Optimizer steps between rows of metrics.jsonl."""
CHECKPOINT_EVERY = 50
"""Optimizer steps between checkpoints, some seconds' work on two CPU cores; a multiple of LOG_EVERY."""
WARMUP_SHARE = 0.05
LAST_LEARNING_RATE_SHARE = 0.05
"""Share of the peak at which the learning rate ends."""
ADAM_BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0

Metrics = list[dict[str, float]]


class Trained(NamedTuple):
    """A model in float32 on the CPU, its tokenizer, and the mean loss of the last steps in nats per token."""

    model: GPTJForCausalLM
    tokenizer: PreTrainedTokenizerFast
    loss: float


def train_synthetic_model(settings: SyntheticModel, seed: int, output: Path) -> Trained:
    """Train as `settings` say, writing `output`/metrics.jsonl and resuming from `output`/checkpoints.

    Runs on every rank alike.  Raises UserError where the documents do not fill one batch, or where a batch cannot be
    shared out evenly.
    """
    accelerator = Accelerator(cpu=_is_on_cpu(), mixed_precision="no")
    documents = synthetic_corpus(settings.documents, seed)
    tokenizer = train_tokenizer(documents, settings)
    ids_SBT, positions_SBT = pack(documents, tokenizer, settings)
    steps, processes, rank = len(ids_SBT), accelerator.num_processes, accelerator.process_index
    if settings.batch_size % processes:
        raise UserError(
            f"model.synthetic.batch_size ({settings.batch_size}) must be a multiple of compute.processes "
            f"({processes}); try {max(1, settings.batch_size // processes) * processes}"
        )

    torch.manual_seed(seed)
    model = new_model(settings, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), betas=ADAM_BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    checkpoint = output / CHECKPOINTS / "pretraining.pt"
    metrics = _load_checkpoint(checkpoint, model, optimizer)
    replica, stepper = accelerator.prepare(model, optimizer)
    replica.train()

    losses: list[Tensor] = []
    for step in range(int(metrics[-1]["step"]) if metrics else 0, steps):
        rate = learning_rate(step, steps, settings.learning_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids_BT = ids_SBT[step, rank::processes].to(accelerator.device)
        positions_BT = positions_SBT[step, rank::processes].to(accelerator.device)
        # Positions that start anew make transformers keep the documents of a row apart.
        loss = replica(input_ids=ids_BT, position_ids=positions_BT, labels=ids_BT, use_cache=False).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(replica.parameters(), MAX_GRADIENT_NORM)
        stepper.step()
        stepper.zero_grad()
        losses.append(loss.detach())

        done = step + 1
        if done % LOG_EVERY == 0 or done == steps:
            mean_loss = float(accelerator.reduce(torch.stack(losses).mean(), "mean"))
            losses.clear()
            metrics.append({"step": done, "loss": mean_loss, "learning_rate": rate})
            progress("pretraining", done, steps, loss=mean_loss)
        if accelerator.is_main_process and (done % CHECKPOINT_EVERY == 0 or done == steps):
            write_jsonl(output / "metrics.jsonl", [dict(row) for row in metrics])
            _save_checkpoint(checkpoint, model, optimizer, metrics)
    return Trained(model.cpu().eval(), tokenizer, metrics[-1]["loss"])


def train_tokenizer(documents: list[str], settings: SyntheticModel) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `settings.vocab_size` entries: END_OF_TEXT, PAD, bytes, then what was learnt."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        model_max_length=settings.context_tokens,
        clean_up_tokenization_spaces=False,
    )


def pack(documents: list[str], tokenizer: PreTrainedTokenizerFast, settings: SyntheticModel) -> tuple[Tensor, Tensor]:
    """Token ids and positions [steps, batch_size, context_tokens] of the documents in order, END_OF_TEXT after each.

    Positions count from 0 at each document's start, and again where a row cuts it.  The end that fills no batch is
    dropped.  Raises UserError where not even the first batch is full.
    """
    ids_N: list[int] = []
    positions_N: list[int] = []
    for document_ids in tokenizer(documents).input_ids:
        for token in (*document_ids, tokenizer.eos_token_id):
            starts = not ids_N or ids_N[-1] == tokenizer.eos_token_id or len(ids_N) % settings.context_tokens == 0
            positions_N.append(0 if starts else positions_N[-1] + 1)
            ids_N.append(token)
    batch = settings.batch_size * settings.context_tokens
    steps = len(ids_N) // batch
    if steps == 0:
        raise UserError(
            f"model.synthetic.documents ({settings.documents}) make {len(ids_N)} tokens, fewer than a batch of "
            f"batch_size x context_tokens ({batch}); try documents={settings.documents * batch // len(ids_N) + 1}"
        )
    shape = (steps, settings.batch_size, settings.context_tokens)
    return torch.tensor(ids_N[: steps * batch]).view(shape), torch.tensor(positions_N[: steps * batch]).view(shape)


def new_model(settings: SyntheticModel, tokenizer: PreTrainedTokenizerFast) -> GPTJForCausalLM:
    """A GPT-J with weights drawn from torch's generator.  Half of each head is rotated, an even number."""
    config = GPTJConfig(
        vocab_size=len(tokenizer),
        n_positions=settings.context_tokens,
        n_embd=settings.hidden_size,
        n_layer=settings.num_layers,
        n_head=settings.num_heads,
        rotary_dim=max(2, settings.hidden_size // settings.num_heads // 4 * 2),
        activation_function="gelu_pytorch_tanh",  # gelu_new, but in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPTJForCausalLM(config)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of the step with this index: linear warm-up to `peak`, then half a cosine to its last share."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    fall = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - 1 - warmup)))
    return peak * (LAST_LEARNING_RATE_SHARE + (1 - LAST_LEARNING_RATE_SHARE) * fall)


def _is_on_cpu() -> bool:
    """Whether to train on the CPU: accelerate does not see by itself that its processes share one."""
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true") or not torch.cuda.is_available()


def _load_checkpoint(path: Path, model: GPTJForCausalLM, optimizer: torch.optim.Optimizer) -> Metrics:
    """Put model and optimizer where the checkpoint was; the metrics up to there, none without a checkpoint."""
    if not path.is_file():
        return []
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    metrics: Metrics = state["metrics"]
    return metrics


def _save_checkpoint(path: Path, model: GPTJForCausalLM, optimizer: torch.optim.Optimizer, metrics: Metrics) -> None:
    """Replace the checkpoint so that a kill or a power cut leaves the old one or the new one, never a part."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".new")
    whole = io.BytesIO()  # on a full disk torch tells of positions in its archive; a plain write says what is wrong
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "metrics": metrics}, whole)
    with temporary.open("wb") as stream:
        stream.write(whole.getbuffer())
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
