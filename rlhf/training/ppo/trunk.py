"""A language model in two parts: a frozen trunk that runs once per rollout, and a top that is trained.

Both parts are shallow copies of the model's own backbone with fewer blocks.  They share its parameters, so the model
that generates responses is always the one that is trained, and no weights are copied between the two.

B rollouts of a batch, L tokens, T response tokens flattened, H hidden size.
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

SPLITTABLE_TYPES = ("gpt2", "gpt_neox", "gptj", "llama", "mistral", "qwen2", "qwen3")
"""Model types whose backbone is embeddings, equal blocks and a final norm, and accepts embeddings as input."""
FINAL_NORMS = ("ln_f", "final_layer_norm", "norm", "final_layernorm", "final_norm")
"""Names of the norm after the last block."""
PROBE_TOKENS = 16
"""Length of the sequences on which the split model is compared with the unsplit one."""
PROBE_TOLERANCE = 1e-5
"""Largest accepted difference of their logits, as a share of the largest logit."""


@dataclass(frozen=True)
class Backbone:
    """Computes last hidden states [B, L, H], after the final norm, from trunk states or token ids."""

    module: nn.Module
    input_name: Literal["inputs_embeds", "input_ids"]
    last_block: LastBlock | None = None
    """Set if the last block can run at the response tokens only."""

    def __call__(self, trunk_states: Tensor) -> Tensor:
        """Needs no mask: padding is on the right, where causal attention does not see it."""
        hidden_BLH: Tensor = self.module(**{self.input_name: trunk_states}, use_cache=False).last_hidden_state
        return hidden_BLH

    def at_positions(self, trunk_states: Tensor, row_T: Tensor, position_T: Tensor, first_position: int) -> Tensor:
        """Last hidden states [T, H] at some positions; `first_position` is the lowest of them."""
        if self.last_block is None:
            return self(trunk_states)[row_T, position_T]
        lower_blocks, block, norm = self.last_block
        hidden_BLH = lower_blocks(inputs_embeds=trunk_states, use_cache=False).last_hidden_state
        hidden_TH: Tensor = norm(block_forward_at(block, hidden_BLH, row_T, position_T, first_position))
        return hidden_TH


class LastBlock(NamedTuple):
    """A stack of blocks without its last one, the last one, and the norm after it."""

    lower_blocks: nn.Module
    block: nn.Module
    norm: nn.Module


@dataclass(frozen=True)
class Split:
    """The parts of a causal language model that PPO works with."""

    trunk: Backbone | None
    """Frozen, takes embeddings; None if all blocks run for every minibatch, on token ids."""
    first_trained_block: nn.Module | None
    """Lowest block of the top, whose input are the trunk states; None if there is no trunk."""
    embedding: nn.Module
    top: Backbone
    head: nn.Module
    """Hidden states to logits."""
    reference_top: Backbone
    reference_head: nn.Module
    trained_parameters: dict[str, nn.Parameter]
    """Trained parameters of the model, by their names in it."""

    @property
    def hidden_size(self) -> int:
        """Size of the hidden states that the head takes."""
        weight = self.head.weight
        assert isinstance(weight, Tensor)
        return weight.shape[1]

    @torch.no_grad()
    def trunk_states(self, ids_BL: Tensor) -> Tensor:
        """Input of the top: hidden states of the trunk [B, L, H], or the token ids [B, L] if there is no trunk."""
        return ids_BL if self.trunk is None else self.trunk(self.embedding(ids_BL))


def split_model(model: PreTrainedModel, unfrozen_blocks: int | Literal["all"]) -> Split:
    """Freeze the parameters that are not trained, and split the model.

    Trained are the top blocks, the final norm, and the output layer unless it is tied to the embeddings; with `all`
    every parameter.  The reference is a frozen copy of the trained parameters.

    Raises UserError if the model has fewer blocks, or if its blocks cannot be found.
    """
    if unfrozen_blocks == "all":
        model.requires_grad_(True)
        return _unsplit(model)
    _freeze_trunk(model, unfrozen_blocks)
    model_type = model.config.model_type
    if model_type not in SPLITTABLE_TYPES:
        note(f"{model_type} models cannot be split: every PPO epoch runs all blocks, which is slower")
        return _unsplit(model)
    split = _split(model, unfrozen_blocks)
    if not _matches_unsplit_model(split, model):
        note(f"this {model_type} model differs once it is split: every PPO epoch runs all blocks, which is slower")
        return _unsplit(model)
    return split


def _freeze_trunk(model: PreTrainedModel, unfrozen_blocks: int) -> None:
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


def _split(model: PreTrainedModel, unfrozen_blocks: int) -> Split:
    backbone, blocks_name = _find_blocks(model)
    blocks = list(getattr(backbone, blocks_name))
    norm_name = next(name for name in FINAL_NORMS if hasattr(backbone, name))
    embedding_name = next(name for name, child in backbone.named_children() if child is model.get_input_embeddings())

    trunk_blocks = nn.ModuleList(blocks[: len(blocks) - unfrozen_blocks])
    trunk = _with_modules(backbone, {blocks_name: trunk_blocks, norm_name: nn.Identity()})

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
        trunk=Backbone(trunk, "inputs_embeds"),
        first_trained_block=blocks[-unfrozen_blocks],
        embedding=model.get_input_embeddings(),
        top=_top_backbone(top, blocks_name, norm_name),
        head=head,
        reference_top=_top_backbone(_frozen_copy(top), blocks_name, norm_name),
        reference_head=head if _is_tied(model) else _frozen_copy(head),
        trained_parameters=_trained_parameters(model),
    )


def _top_backbone(top: nn.Module, blocks_name: str, norm_name: str) -> Backbone:
    *lower, last = getattr(top, blocks_name)
    if not supports_partial_forward(last):
        return Backbone(top, "inputs_embeds")
    lower_blocks = _with_modules(top, {blocks_name: nn.ModuleList(lower), norm_name: nn.Identity()})
    return Backbone(top, "inputs_embeds", LastBlock(lower_blocks, last, getattr(top, norm_name)))


def _unsplit(model: PreTrainedModel) -> Split:
    reference = _frozen_copy(model)
    return Split(
        trunk=None,
        first_trained_block=None,
        embedding=model.get_input_embeddings(),
        top=Backbone(model.base_model, "input_ids"),
        head=model.get_output_embeddings(),
        reference_top=Backbone(reference.base_model, "input_ids"),
        reference_head=reference.get_output_embeddings(),
        trained_parameters=_trained_parameters(model),
    )


@torch.no_grad()
def _matches_unsplit_model(split: Split, model: PreTrainedModel) -> bool:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    probe = torch.randint(vocabulary, (2, PROBE_TOKENS), generator=torch.Generator().manual_seed(0)).to(model.device)
    unsplit_logits = model(input_ids=probe, use_cache=False).logits
    split_logits = split.head(split.top(split.trunk_states(probe)))
    largest_difference, largest_logit = (split_logits - unsplit_logits).abs().max(), unsplit_logits.abs().max()
    return bool(largest_difference <= PROBE_TOLERANCE * largest_logit)


def _with_modules(backbone: nn.Module, modules: dict[str, nn.Module]) -> nn.Module:
    """A copy of `backbone` with some of its modules replaced and all others shared."""
    part = copy.copy(backbone)
    part._modules = {**backbone._modules, **modules}
    return part


def _frozen_copy(module: ModuleT) -> ModuleT:
    duplicate = copy.deepcopy(module)
    duplicate.requires_grad_(False)
    return duplicate


def _trained_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _is_tied(model: PreTrainedModel) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _find_blocks(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The module that holds the list of blocks, and the name of that list."""
    count = model.config.get_text_config().num_hidden_layers
    modules: list[nn.Module] = list(model.base_model.modules())
    for module in modules:
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name
    raise UserError(f"cannot find the blocks of a {model.config.model_type} model; set ppo.unfrozen_blocks to all")


class _NoPositions(nn.Module):
    """Replaces GPT-2's position embeddings in the top, which must not add them a second time."""

    def forward(self, position_ids: Tensor) -> Tensor:
        return position_ids.new_zeros(1)
