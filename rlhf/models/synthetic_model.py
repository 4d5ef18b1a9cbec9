"""Trains a small GPT-J from scratch on the synthetic corpus, so that the pipeline runs without any download.

S steps, B rows of a batch, L tokens of a row, N tokens of the corpus.

Each document is seen once.  The corpus is packed: documents follow one another, each ends with END_OF_TEXT, and the
sequence is cut into rows of `context_tokens`.  No random number is drawn after weight initialization, so a checkpoint
is weights, optimizer state and metrics, and a resumed run produces the same bytes as an undisturbed one.

There is no dropout and no validation, because no document is repeated.
"""

from __future__ import annotations

import io
import math
import os
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

from rlhf.config import SyntheticModel, require_multiple
from rlhf.data.synthetic import synthetic_corpus
from rlhf.errors import UserError
from rlhf.runtime.distributed import uses_cpu
from rlhf.runtime.stage import note, progress
from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import write_jsonl

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
LOG_EVERY = 10
"""Optimizer steps between rows of metrics.jsonl."""
CHECKPOINT_EVERY = 50
"""Optimizer steps between checkpoints, some seconds on two CPU cores; a multiple of LOG_EVERY."""
WARMUP_SHARE = 0.05
"""Share of all steps in which the learning rate rises."""
LAST_LEARNING_RATE_SHARE = 0.05
"""Share of the peak at which the learning rate ends."""
ADAM_BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0

DIGEST_BYTES = 32
"""Length of the SHA-256 at the beginning of a checkpoint."""
Metrics = list[dict[str, float]]


class TrainedModel(NamedTuple):
    """A model in float32 on the CPU, its tokenizer, and the mean loss of the last steps in nats per token."""

    model: GPTJForCausalLM
    tokenizer: PreTrainedTokenizerFast
    loss: float


def train_synthetic_model(settings: SyntheticModel, seed: int, output: Path) -> TrainedModel:
    """Train with `settings`; writes `output`/metrics.jsonl and resumes from `output`/checkpoints.

    Every rank must call it.  Raises UserError if the documents do not fill one batch, or if a batch cannot be split
    evenly over the ranks.
    """
    accelerator = Accelerator(cpu=uses_cpu(), mixed_precision="no")
    documents = synthetic_corpus(settings.documents, seed)
    tokenizer = train_tokenizer(documents, settings)
    ids_SBL, positions_SBL = pack(documents, tokenizer, settings)
    steps, world_size, rank = len(ids_SBL), accelerator.num_processes, accelerator.process_index
    require_multiple("model.synthetic.batch_size", settings.batch_size, "compute.processes", world_size)

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
        ids_BL = ids_SBL[step, rank::world_size].to(accelerator.device)
        positions_BL = positions_SBL[step, rank::world_size].to(accelerator.device)
        # Positions restart at 0 for each document; from that transformers masks the documents of a row from each other.
        loss = replica(input_ids=ids_BL, position_ids=positions_BL, labels=ids_BL, use_cache=False).loss
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
    return TrainedModel(model.cpu().eval(), tokenizer, metrics[-1]["loss"])


def train_tokenizer(documents: list[str], settings: SyntheticModel) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `settings.vocab_size` entries: END_OF_TEXT, PAD, all bytes, then learned merges."""
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

    Positions restart at 0 at the start of each document and of each row.  Tokens that do not fill a last batch are
    dropped.  Raises UserError if there is not even one full batch.
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
    """A GPT-J with weights drawn from torch's generator; half of each head, rounded to even, has rotary embeddings."""
    config = GPTJConfig(
        vocab_size=len(tokenizer),
        n_positions=settings.context_tokens,
        n_embd=settings.hidden_size,
        n_layer=settings.num_layers,
        n_head=settings.num_heads,
        rotary_dim=max(2, settings.hidden_size // settings.num_heads // 4 * 2),
        activation_function="gelu_pytorch_tanh",  # same as gelu_new, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPTJForCausalLM(config)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of the step with this index: linear warm-up to `peak`, then a half cosine down to
    LAST_LEARNING_RATE_SHARE of it."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    fall = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - 1 - warmup)))
    return peak * (LAST_LEARNING_RATE_SHARE + (1 - LAST_LEARNING_RATE_SHARE) * fall)


def _load_checkpoint(path: Path, model: GPTJForCausalLM, optimizer: torch.optim.Optimizer) -> Metrics:
    """Load the checkpoint into model and optimizer; returns its metrics, an empty list if there is no checkpoint."""
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        digest, content = stream.read(DIGEST_BYTES), stream.read()
    if digest != _digest(path, content):
        note(f"{path}: this checkpoint is damaged or of another run and is not used; the training starts again")
        return []
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    metrics: Metrics = state["metrics"]
    return metrics


def _save_checkpoint(path: Path, model: GPTJForCausalLM, optimizer: torch.optim.Optimizer, metrics: Metrics) -> None:
    """Replace the checkpoint; after a kill or a power cut it is either the old one or the new one, never a part."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".new")
    buffer = io.BytesIO()  # if the disk is full, a plain write raises a clear error, torch.save an obscure one
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "metrics": metrics}, buffer)
    content = buffer.getvalue()
    with temporary.open("wb") as stream:
        stream.write(_digest(path, content) + content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _digest(path: Path, content: bytes) -> bytes:
    """SHA-256 of a checkpoint's content and of the name of the stage's output, which is its fingerprint."""
    return sha256(path.resolve().parents[1].name.encode() + b"\n" + content).digest()
