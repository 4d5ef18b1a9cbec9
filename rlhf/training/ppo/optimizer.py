"""AdamW over the trained parameters, shared out over the processes, with float32 masters where weights have fewer bits.

Every process has all weights, since each draws answers on its own.  Of everything else that training needs, each has
its part: a parameter's summed gradient, master and moments live on one process, its owner, which sends the new weight
to the others.  This is ZeRO's second stage (Rajbhandari et al., 2020), which DeepSpeed and FSDP offer too, but around
a model that is trained as a whole; here one part of a model is trained while all of it draws.

At a learning rate of 1e-5 an update is smaller than the distance between neighbouring bfloat16 numbers: without masters
most weights would never move.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from rlhf.runtime.distributed import broadcast_from, sum_onto, sum_over_processes

STATE_KEYS = ("exp_avg", "exp_avg_sq", "step")
"""What torch's AdamW remembers of a parameter."""


class Optimizer:
    """Takes the same step in all processes: gradients are summed over them, each as soon as backward has made it."""

    def __init__(
        self,
        trained: dict[str, nn.Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        max_gradient_norm: float,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.trained = trained
        self.process = process
        self.owners = share_out({name: parameter.numel() for name, parameter in trained.items()}, processes)
        self.masters = {name: _master(parameter) for name, parameter in trained.items() if self.owners[name] == process}
        self.max_gradient_norm = max_gradient_norm
        self.adam = torch.optim.AdamW(
            self.masters.values(), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )
        self.begun = False
        """Whether there are moments: the same on every process."""
        for name, parameter in trained.items():
            # Untyped in torch.
            register: Callable[[Callable[[Tensor], None]], object] = parameter.register_post_accumulate_grad_hook
            register(partial(self._take_gradient, name))

    @property
    def bytes(self) -> int:
        """What this process's masters and moments take, once there are any."""
        moments = sum(2 * master.nbytes for master in self.masters.values())
        return moments + sum(m.nbytes for name, m in self.masters.items() if m is not self.trained[name])

    def step(self) -> Tensor:
        """One step against the summed gradients, which are cleared; returns their norm before clipping."""
        own = nn.utils.get_total_norm([master.grad for master in self.masters.values() if master.grad is not None])
        norm = sum_over_processes(own**2).sqrt()
        if norm.is_cuda or norm > self.max_gradient_norm:  # to ask a GPU for a number is to wait for it
            nn.utils.clip_grads_with_norm_(self.masters.values(), self.max_gradient_norm, norm)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.begun = True
        self._publish()
        return norm

    def weights(self) -> dict[str, Tensor]:
        """The trained weights by name, at full precision; to be asked for by all processes, and told to the first."""
        return self._gather({name: master.detach() for name, master in self.masters.items()})

    def moments(self) -> dict[str, Tensor]:
        """What AdamW remembers, by key and name; empty before the first step.  Asked for and told as the weights."""
        gathered: dict[str, Tensor] = {}
        for key in STATE_KEYS if self.begun else ():
            own = {name: self.adam.state[master][key] for name, master in self.masters.items()}
            gathered |= {f"{key}.{name}": value for name, value in self._gather(own, scalar=key == "step").items()}
        return gathered

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Set the trained weights to what `weights` returned once."""
        for name, parameter in self.trained.items():
            parameter.copy_(weights[name])
        for name, master in self.masters.items():
            master.copy_(weights[name])

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Go on from what `moments` returned once."""
        self.begun = bool(moments)
        for name, master in self.masters.items() if moments else ():
            self.adam.state[master] = {key: moments[f"{key}.{name}"].to(master.device) for key in STATE_KEYS}

    def _take_gradient(self, name: str, parameter: Tensor) -> None:
        """Hand a gradient over to the parameter's owner, and forget it elsewhere."""
        assert parameter.grad is not None
        gradient = parameter.grad.to(_master_dtype(parameter))
        parameter.grad = None
        sum_onto(self.owners[name], gradient)
        if name in self.masters:
            self.masters[name].grad = gradient

    @torch.no_grad()
    def _publish(self) -> None:
        """Put the owners' new weights into the model of every process."""
        for name, parameter in self.trained.items():
            if name in self.masters and (master := self.masters[name]) is not parameter:
                parameter.copy_(master)
            broadcast_from(self.owners[name], parameter)

    @torch.no_grad()
    def _gather(self, own: dict[str, Tensor], *, scalar: bool = False) -> dict[str, Tensor]:
        """All owners' tensors, like the masters in shape or a number each, on the first process; elsewhere nothing."""
        if len(own) == len(self.trained):
            return own
        gathered = {}
        for name, parameter in self.trained.items():
            shape = () if scalar else parameter.shape
            empty = torch.empty(shape, dtype=_master_dtype(parameter), device=parameter.device)
            value = own[name].to(empty.device) if name in own else empty
            broadcast_from(self.owners[name], value)
            if self.process == 0:
                gathered[name] = value.cpu()
        return gathered


def share_out(sizes: dict[str, int], processes: int) -> dict[str, int]:
    """The owner of each parameter: the largest first, each to the process that has least so far."""
    assert processes <= len(sizes)
    held, owners = [0] * processes, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = held.index(min(held))
        owners[name] = owner
        held[owner] += sizes[name]
    return owners


def _master_dtype(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def _master(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype == _master_dtype(parameter):
        return parameter
    return nn.Parameter(parameter.detach().to(_master_dtype(parameter)))
