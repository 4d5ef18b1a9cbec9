"""AdamW over the trained parameters, with float32 masters where the weights have fewer bits.

At a learning rate of 1e-5 an update is smaller than the distance between neighbouring bfloat16 numbers: without masters
most weights would never move.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlhf.processes import sum_in_place

STATE_KEYS = ("exp_avg", "exp_avg_sq", "step")
"""What torch's AdamW remembers of a parameter."""


class Optimizer:
    """Takes the same step in all processes: gradients are summed over them."""

    def __init__(
        self,
        trained: dict[str, nn.Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        max_gradient_norm: float,
    ) -> None:
        self.trained = trained
        self.masters = {name: _master(parameter) for name, parameter in trained.items()}
        self.max_gradient_norm = max_gradient_norm
        self.adam = torch.optim.AdamW(
            self.masters.values(), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )

    def step(self) -> Tensor:
        """One step against the summed gradients, which are cleared; returns their norm before clipping."""
        for name, parameter in self.trained.items():
            if (master := self.masters[name]) is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.to(master.dtype)
                parameter.grad = None
        sum_in_place([master.grad for master in self.masters.values() if master.grad is not None])
        norm = nn.utils.clip_grad_norm_(self.masters.values(), self.max_gradient_norm)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self._publish()
        return norm

    def weights(self) -> dict[str, Tensor]:
        """The trained weights by name, at full precision."""
        return {name: master.detach() for name, master in self.masters.items()}

    def moments(self) -> dict[str, Tensor]:
        """What AdamW remembers, by key and name; empty before the first step."""
        return {
            f"{key}.{name}": value
            for name, master in self.masters.items()
            for key, value in self.adam.state.get(master, {}).items()
        }

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Set the trained weights to what `weights` returned once."""
        for name, master in self.masters.items():
            master.copy_(weights[name])
        self._publish()

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Go on from what `moments` returned once."""
        for name, master in self.masters.items():
            if moments:
                self.adam.state[master] = {key: moments[f"{key}.{name}"].to(master.device) for key in STATE_KEYS}

    @torch.no_grad()
    def _publish(self) -> None:
        for name, parameter in self.trained.items():
            if (master := self.masters[name]) is not parameter:
                parameter.copy_(master)


def _master(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return nn.Parameter(parameter.detach().float().clone())
