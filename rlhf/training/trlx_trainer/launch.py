"""Start the ranks of a trlx stage, and reduce trlx's own logging."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import cast

import torch
import trlx.utils.logging
from accelerate import PartialState
from transformers import AutoConfig, AutoTokenizer

from rlhf.errors import UserError
from rlhf.models.tokenization import context_length, require_fit
from rlhf.runtime.distributed import init_distributed


def prepare_processes() -> PartialState:
    """This process's place among all.

    Raises UserError if there are several ranks without DeepSpeed, which trlx needs to shard its model.
    """
    # A bar would end up in the same line as what the stage tells of its progress.
    trlx.utils.logging.disable_progress_bar()
    trlx.utils.logging.set_verbosity(logging.WARNING)
    state = init_distributed()
    if state.num_processes > 1 and os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true":
        raise UserError(
            f"compute.processes ({state.num_processes}): trlx runs in several processes only on GPUs, under DeepSpeed; "
            "set compute.processes to 1, or compute.accelerate to gpu"
        )
    return state


def reward_device(state: PartialState) -> torch.device:
    """A GPU on which no rank trains if there is one, as in the published recipe; else the main rank's."""
    if state.device.type == "cuda" and torch.cuda.device_count() > state.num_processes:
        return torch.device("cuda", torch.cuda.device_count() - 1)
    return cast(torch.device, state.device)


def longest_text(model: Path, texts: list[str], new_tokens: int) -> int:
    """Tokens of the longest of `texts`; raises UserError if it leaves no room for `new_tokens` in the context."""
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    longest = max(len(ids) for ids in tokenizer(texts).input_ids)
    context = context_length(AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False))
    require_fit("the longest text", longest, context, new_tokens=new_tokens)
    return longest
