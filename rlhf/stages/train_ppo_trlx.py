"""Stage: PPO by trlx.  The same inputs and files as rlhf.stages.train_ppo.

Runs in the environment of deployments/trlx.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.runtime.stage import main
from rlhf.stage_config import PpoStage
from rlhf.training.trlx_trainer.versions import check_versions


def train_ppo(config: PpoStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train and write the best model."""
    check_versions()
    from rlhf.training.trlx_trainer.run_ppo import train

    return train(config, inputs, output)


if __name__ == "__main__":
    main(PpoStage, train_ppo)
