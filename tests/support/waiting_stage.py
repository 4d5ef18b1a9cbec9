"""A stage, to be run as a process, that waits for a file and then writes one."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rlhf.runtime.stage import main
from rlhf.stage_config import ModelStage

CONTROL = "WAITING_STAGE_CONTROL"
"""Environment variable: the folder by which a test controls the stage."""


def waiting_stage(_config: ModelStage, _inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Make `started-PID` in the folder that CONTROL names, wait there for `go`, and write `out.txt`."""
    control = Path(os.environ[CONTROL])
    (control / f"started-{os.getpid()}").touch()
    while not (control / "go").exists():
        time.sleep(0.01)
    (output / "out.txt").write_text("made once")
    return {}


if __name__ == "__main__":
    main(ModelStage, waiting_stage)
