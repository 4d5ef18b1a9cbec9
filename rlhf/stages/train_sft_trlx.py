"""Stage: SFT by trlx.  The same inputs and files as rlhf.stages.train_sft.

Runs in the environment of deployments/trlx.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.runtime.stage import main
from rlhf.stage_config import SftStage
from rlhf.training.trlx_trainer.versions import check_versions


def train_sft(config: SftStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Fine-tune and write the model."""
    check_versions()
    from rlhf.training.trlx_trainer.run_sft import train

    return train(config, inputs, output)


if __name__ == "__main__":
    main(SftStage, train_sft)
