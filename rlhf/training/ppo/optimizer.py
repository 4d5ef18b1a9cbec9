"""AdamW, sharded over the ranks, with float32 masters if the weights have fewer bits.

Gradients, masters and Adam state are sharded: each parameter has one owner rank, which updates it and broadcasts the
new weight (ZeRO stage 2; Rajbhandari et al., 2020).  Every rank has all weights, because each generates responses on
its own.  DeepSpeed and FSDP shard a model that is trained completely; here the top of a model is trained, while all of
it generates.

Masters are needed because, at a learning rate of 1e-5, an update is smaller than the distance between neighboring
bfloat16 numbers: without masters most weights would never change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from rlhf.runtime.distributed import all_reduce_sum, broadcast, reduce_to

STATE_KEYS = ("exp_avg", "exp_avg_sq", "step")
"""Entries of torch's AdamW state of a parameter."""


class Optimizer:
    """Takes the same step on all ranks.  A gradient is summed over the ranks as soon as backward has computed it."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        max_gradient_norm: float,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.parameters = parameters
        self.rank = rank
        self.owners = assign_owners({name: parameter.numel() for name, parameter in parameters.items()}, world_size)
        self.masters = {name: _master(parameter) for name, parameter in parameters.items() if self.owners[name] == rank}
        self.max_gradient_norm = max_gradient_norm
        self.adam = torch.optim.AdamW(
            self.masters.values(), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )
        self.has_state = False
        """Whether AdamW has state, which it has after the first step; the same on every rank."""
        for name, parameter in parameters.items():
            # untyped in torch
            register: Callable[[Callable[[Tensor], None]], object] = parameter.register_post_accumulate_grad_hook
            register(partial(self._reduce_gradient, name))

    @property
    def state_bytes(self) -> int:
        """Bytes of this rank's masters and Adam state after the first step."""
        adam = sum(2 * master.nbytes for master in self.masters.values())
        return adam + sum(m.nbytes for name, m in self.masters.items() if m is not self.parameters[name])

    def step(self) -> Tensor:
        """Update the weights with the summed gradients, then clear these; returns their norm before clipping."""
        own = nn.utils.get_total_norm([master.grad for master in self.masters.values() if master.grad is not None])
        norm = all_reduce_sum(own**2).sqrt()
        if norm.is_cuda or norm > self.max_gradient_norm:  # on a GPU the comparison would wait for the device
            nn.utils.clip_grads_with_norm_(self.masters.values(), self.max_gradient_norm, norm)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.has_state = True
        self._broadcast_weights()
        return norm

    def weights(self) -> dict[str, Tensor]:
        """Trained weights by name, at full precision.  All ranks must call this; only rank 0 gets all of them."""
        return self._gather({name: master.detach() for name, master in self.masters.items()})

    def state(self) -> dict[str, Tensor]:
        """AdamW state by `key.name`; empty before the first step.  All ranks must call this, as for `weights`."""
        gathered: dict[str, Tensor] = {}
        for key in STATE_KEYS if self.has_state else ():
            own = {name: self.adam.state[master][key] for name, master in self.masters.items()}
            gathered |= {f"{key}.{name}": value for name, value in self._gather(own, scalar=key == "step").items()}
        return gathered

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Set the trained weights to those that `weights` returned."""
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
        for name, master in self.masters.items():
            master.copy_(weights[name])

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set the AdamW state to the one that `state` returned."""
        self.has_state = bool(state)
        for name, master in self.masters.items() if state else ():
            self.adam.state[master] = {key: state[f"{key}.{name}"].to(master.device) for key in STATE_KEYS}

    def _reduce_gradient(self, name: str, parameter: Tensor) -> None:
        """Sum a gradient over the ranks on the parameter's owner, and free it on all others."""
        assert parameter.grad is not None
        gradient = parameter.grad.to(_master_dtype(parameter))
        parameter.grad = None
        reduce_to(self.owners[name], gradient)
        if name in self.masters:
            self.masters[name].grad = gradient

    @torch.no_grad()
    def _broadcast_weights(self) -> None:
        """Copy the owners' new weights into the model of every rank."""
        for name, parameter in self.parameters.items():
            if name in self.masters and (master := self.masters[name]) is not parameter:
                parameter.copy_(master)
            broadcast(self.owners[name], parameter)

    @torch.no_grad()
    def _gather(self, own: dict[str, Tensor], *, scalar: bool = False) -> dict[str, Tensor]:
        """Tensors of all owners, scalars or shaped like the masters, on rank 0; nothing on other ranks."""
        if len(own) == len(self.parameters):
            return own
        gathered = {}
        for name, parameter in self.parameters.items():
            shape = () if scalar else parameter.shape
            empty = torch.empty(shape, dtype=_master_dtype(parameter), device=parameter.device)
            value = own[name].to(empty.device) if name in own else empty
            broadcast(self.owners[name], value)
            if self.rank == 0:
                gathered[name] = value.cpu()
        return gathered


def assign_owners(sizes: dict[str, int], world_size: int) -> dict[str, int]:
    """Owner rank of each parameter: the largest first, each to the rank that owns the least so far."""
    assert world_size <= len(sizes)
    owned, owners = [0] * world_size, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = owned.index(min(owned))
        owners[name] = owner
        owned[owner] += sizes[name]
    return owners


def _master_dtype(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def _master(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype == _master_dtype(parameter):
        return parameter
    return nn.Parameter(parameter.detach().to(_master_dtype(parameter)))
