"""A stand-in for the launcher of stages, and two stages to run with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from prefect import flow

from rlhf.stage_config import DataStage, SftStage
from tasks.launch import StageCallbacks, StageJob
from tasks.run import Run
from tasks.stage import Stage
from tests.support.artifacts import finish

first = Stage("first", "rlhf.config", DataStage, needs_gpu=False)
second = Stage("second", "rlhf.config", SftStage)


class FakeLauncher:
    """Finishes each stage immediately and records its name in `started`."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.failing: dict[str, Exception] = {}
        """Errors to raise instead, by name of the stage."""

    def run(self, job: StageJob, _callbacks: StageCallbacks) -> None:
        """Replaces `launch_stage`."""
        request, output = job.request, job.output
        output.mkdir(parents=True, exist_ok=True)
        self.started.append(request.stage)
        if request.stage in self.failing:
            raise self.failing[request.stage]
        for stage_input in request.inputs.values():
            assert stage_input.path.exists(), f"{request.stage} was started before its input existed"
        (output / "out.txt").write_text(json.dumps(request.config))
        finish(output, request.stage, request.fingerprint, config=request.config, metrics={"loss": 0.5})


def final_states(make_run: Callable[[], Run], source: Path) -> list[str]:
    """Run the two stages in a flow; returns the names of their final states."""

    @flow
    def two_stages() -> list[str]:
        run = make_run()
        data = first.submit(run, source=source)
        sft = second.submit(run, data=data)
        for stage in (data, sft):
            stage.future.wait()
        for stage in (data, sft):
            if stage.future.state.is_failed():
                stage.future.result()
        return [str(stage.future.state.name) for stage in (data, sft)]

    return two_stages()
