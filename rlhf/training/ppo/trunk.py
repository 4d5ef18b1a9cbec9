"""A language model in two: a frozen trunk that is run once per rollout, and a top that is trained.

Both parts are shallow copies of the model's own backbone with fewer blocks.  They share its parameters, so that the
model that draws the answers is always the one that is trained, and nothing is copied between the two.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.errors import UserError
from rlhf.models.kernels import block_forward_at, supports_partial_forward
from rlhf.runtime.stage import note

ModuleT = TypeVar("ModuleT", bound=nn.Module)

SPLITTABLE = ("gpt2", "gpt_neox", "gptj", "llama", "mistral", "qwen2", "qwen3")
"""Model types whose backbone is embeddings, equal blocks and a final norm, and takes embeddings as input."""
FINAL_NORMS = ("ln_f", "final_layer_norm", "norm", "final_layernorm", "final_norm")
"""Names of the norm behind the last block."""
PROBE_TOKENS = 16
"""Length of the sequences on which the parts are compared with the whole."""
PROBE_TOLERANCE = 1e-5
"""Largest difference of their logits, as a share of the largest logit."""


@dataclass(frozen=True)
class Body:
    """From what is kept of a rollout to its last hidden states [B, L, d], behind the final norm."""

    backbone: nn.Module
    takes: Literal["inputs_embeds", "input_ids"]
    end: End | None = None
    """The last block and the norm, where they run at single places alone."""

    def __call__(self, kept: Tensor) -> Tensor:
        """Padding stands on the right, where causal attention does not see it: no mask is needed."""
        hidden: Tensor = self.backbone(**{self.takes: kept}, use_cache=False).last_hidden_state
        return hidden

    def at(self, kept: Tensor, row_T: Tensor, place_T: Tensor, first: int) -> Tensor:
        """The last hidden states [T, d] at some places, of which `first` is the lowest."""
        if self.end is None:
            return self(kept)[row_T, place_T]
        below_BLd = self.end.below(inputs_embeds=kept, use_cache=False).last_hidden_state
        states_Td: Tensor = self.end.norm(block_forward_at(self.end.block, below_BLd, row_T, place_T, first))
        return states_Td


class End(NamedTuple):
    """A stack of blocks without its last one, that block, and the norm behind it."""

    below: nn.Module
    block: nn.Module
    norm: nn.Module


@dataclass(frozen=True)
class Split:
    """The parts of a causal language model that PPO works with."""

    trunk: Body | None
    """Frozen, takes embeddings; None where all blocks are run anew for every minibatch and token ids are kept."""
    boundary: nn.Module | None
    """The lowest block of the top, which takes in what is kept; None where token ids are."""
    embedding: nn.Module
    top: Body
    head: nn.Module
    """Hidden state to logits."""
    reference_top: Body
    reference_head: nn.Module
    trained: dict[str, nn.Parameter]
    """Trained parameters of the model by their names in it."""

    @property
    def width(self) -> int:
        """Size of the hidden states that the head reads."""
        weight = self.head.weight
        assert isinstance(weight, Tensor)
        return weight.shape[1]

    @torch.no_grad()
    def keep(self, ids_BL: Tensor) -> Tensor:
        """What the top needs of sequences: the trunk's hidden states [B, L, d], or the ids themselves [B, L]."""
        return ids_BL if self.trunk is None else self.trunk(self.embedding(ids_BL))


def split_model(model: PreTrainedModel, unfrozen_blocks: int | Literal["all"]) -> Split:
    """Freeze what is not trained and take the model apart.

    Trained are the top blocks, the final norm, and the output layer unless it is tied to the embeddings; with `all`
    everything.  The reference is a frozen copy of what is trained.

    Raises UserError where the model has fewer blocks, or none that can be told apart.
    """
    if unfrozen_blocks == "all":
        model.requires_grad_(True)
        return _whole(model)
    _freeze_below(model, unfrozen_blocks)
    if model.config.model_type not in SPLITTABLE:
        note(f"{model.config.model_type} models are not taken apart: every PPO epoch runs all blocks, and is slower")
        return _whole(model)
    split = _parts(model, unfrozen_blocks)
    if not _agrees(split, model):
        note(f"this {model.config.model_type} differs from its parts: every PPO epoch runs all blocks, and is slower")
        return _whole(model)
    return split


def _freeze_below(model: PreTrainedModel, unfrozen_blocks: int) -> None:
    stack, blocks_name = _find_blocks(model)
    blocks = getattr(stack, blocks_name)
    if not 1 <= unfrozen_blocks <= len(blocks):
        raise UserError(
            f"ppo.unfrozen_blocks ({unfrozen_blocks}) must be all or 1 to {len(blocks)}, the model's blocks"
        )
    model.requires_grad_(False)
    blocks[-unfrozen_blocks:].requires_grad_(True)
    for name in FINAL_NORMS:
        if (norm := getattr(stack, name, None)) is not None:
            norm.requires_grad_(True)
    if not _is_tied(model):
        model.get_output_embeddings().requires_grad_(True)


def _parts(model: PreTrainedModel, unfrozen_blocks: int) -> Split:
    backbone, blocks_name = _find_blocks(model)
    blocks = list(getattr(backbone, blocks_name))
    norm_name = next(name for name in FINAL_NORMS if hasattr(backbone, name))
    embedding_name = next(name for name, child in backbone.named_children() if child is model.get_input_embeddings())

    lower = nn.ModuleList(blocks[: len(blocks) - unfrozen_blocks])
    trunk = _with_modules(backbone, {blocks_name: lower, norm_name: nn.Identity()})

    replaced: dict[str, nn.Module] = {
        blocks_name: nn.ModuleList(blocks[-unfrozen_blocks:]),
        embedding_name: nn.Identity(),
    }
    if hasattr(backbone, "wpe"):
        replaced["wpe"] = _NoPositions()
    top = _with_modules(backbone, replaced)
    if getattr(model.config, "layer_types", None):
        config = copy.deepcopy(model.config)
        config.layer_types = model.config.layer_types[-unfrozen_blocks:]
        top.config = config

    head = model.get_output_embeddings()
    return Split(
        trunk=Body(trunk, "inputs_embeds"),
        boundary=blocks[-unfrozen_blocks],
        embedding=model.get_input_embeddings(),
        top=_top_body(top, blocks_name, norm_name),
        head=head,
        reference_top=_top_body(_frozen_copy(top), blocks_name, norm_name),
        reference_head=head if _is_tied(model) else _frozen_copy(head),
        trained=_trained(model),
    )


def _top_body(top: nn.Module, blocks_name: str, norm_name: str) -> Body:
    *lower, last = getattr(top, blocks_name)
    if not supports_partial_forward(last):
        return Body(top, "inputs_embeds")
    below = _with_modules(top, {blocks_name: nn.ModuleList(lower), norm_name: nn.Identity()})
    return Body(top, "inputs_embeds", End(below, last, getattr(top, norm_name)))


def _whole(model: PreTrainedModel) -> Split:
    reference = _frozen_copy(model)
    return Split(
        trunk=None,
        boundary=None,
        embedding=model.get_input_embeddings(),
        top=Body(model.base_model, "input_ids"),
        head=model.get_output_embeddings(),
        reference_top=Body(reference.base_model, "input_ids"),
        reference_head=reference.get_output_embeddings(),
        trained=_trained(model),
    )


@torch.no_grad()
def _agrees(split: Split, model: PreTrainedModel) -> bool:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    probe = torch.randint(vocabulary, (2, PROBE_TOKENS), generator=torch.Generator().manual_seed(0)).to(model.device)
    whole = model(input_ids=probe, use_cache=False).logits
    parts = split.head(split.top(split.keep(probe)))
    largest_difference, largest_logit = (parts - whole).abs().max(), whole.abs().max()
    return bool(largest_difference <= PROBE_TOLERANCE * largest_logit)


def _with_modules(backbone: nn.Module, modules: dict[str, nn.Module]) -> nn.Module:
    """A copy of `backbone` with some of its modules replaced, the others shared."""
    part = copy.copy(backbone)
    part._modules = {**backbone._modules, **modules}
    return part


def _frozen_copy(module: ModuleT) -> ModuleT:
    duplicate = copy.deepcopy(module)
    duplicate.requires_grad_(False)
    return duplicate


def _trained(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _is_tied(model: PreTrainedModel) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _find_blocks(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The module that holds the list of blocks, and the list's name in it."""
    count = model.config.get_text_config().num_hidden_layers
    modules: list[nn.Module] = list(model.base_model.modules())
    for module in modules:
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name
    raise UserError(
        f"the blocks of a {model.config.model_type} model cannot be told apart; set ppo.unfrozen_blocks to all"
    )


class _NoPositions(nn.Module):
    """Stands where GPT-2 would add its position embeddings a second time."""

    def forward(self, position_ids: Tensor) -> Tensor:
        return position_ids.new_zeros(1)
