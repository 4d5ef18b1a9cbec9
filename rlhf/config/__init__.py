"""The settings of a run: parameter of the flow, content of a profile, input of a stage.

They are immutable, and an unknown key is an error.  The docstring under a field is its description in the Prefect form
and in docs/settings.md (`make docs`).  Profiles are read by `rlhf.profiles`.  Upper bounds of counts are far above what
makes sense: they catch typing errors.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import HUB, SYNTHETIC, PathText, Settings, expand_home, flatten, require_multiple
from rlhf.config.inputs import DataConfig, ModelConfig, SyntheticModel
from rlhf.config.measurements import EvaluationConfig, ExportConfig, PrimaryEndpoint, ResponsesConfig, ToxicityConfig
from rlhf.config.training import (
    JudgeConfig,
    LlmJudgeConfig,
    PpoConfig,
    RewardConfig,
    SamplingConfig,
    SelectionConfig,
    SftConfig,
    TrainingConfig,
)

__all__ = [
    "HUB",
    "SYNTHETIC",
    "ComputeConfig",
    "Control",
    "DataConfig",
    "EvaluationConfig",
    "ExportConfig",
    "JudgeConfig",
    "LlmJudgeConfig",
    "ModelConfig",
    "PathText",
    "PpoConfig",
    "PrimaryEndpoint",
    "ResponsesConfig",
    "RewardConfig",
    "RunConfig",
    "SamplingConfig",
    "SelectionConfig",
    "Settings",
    "SftConfig",
    "SyntheticModel",
    "ToxicityConfig",
    "Trainer",
    "TrainingConfig",
    "expand_home",
    "flatten",
    "require_multiple",
]

Trainer = Literal["own", "trlx"]
"""Code of supervised fine-tuning and PPO: this package, or trlx in a separate environment."""
Control = Literal["none", "shuffled"]
"""`shuffled`: a negative control, in which the reward model learns from pairs with shuffled labels."""
MAX_RUN_NAME_BYTES = 100
"""Longest name of a run, so that names of files made from it stay valid."""
WORKSPACE_FOLDERS = ("artifacts", "inputs", "unfinished")
"""Folders next to those of the runs."""


class ComputeConfig(Settings):
    """Where and how stages run.  These settings never change a fingerprint, so cached stages stay valid."""

    accelerate: str = Field(default="cpu", pattern=r"^[A-Za-z0-9_-]+$")
    """Accelerate configuration: the name of a file in deployments/accelerate, without .yaml."""
    processes: int = Field(default=1, ge=1, le=100_000)
    """Processes of each GPU stage, summed over all machines."""
    machines: int = Field(default=1, ge=1, le=10_000)
    """Machines of each GPU stage, with equally many processes on each; all must see the same workspace."""
    main_address: str | None = None
    """HOST or HOST:PORT of the machine that runs the flow, as other machines see it; needed if `machines` > 1."""
    threads: int = Field(default=2, ge=1, le=1000)
    """CPU threads of each process.  Results are byte-identical only for equal thread counts."""
    parallel_stages: int = Field(default=1, ge=1, le=1000)
    """Maximum number of stages that run at the same time on this machine."""
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    """Experiment tracker for training metrics; event files are in WORKSPACE/RUN_NAME/tracker."""
    dollars_per_hour: float | None = Field(default=None, gt=0)
    """Price of all machines of a stage, in dollars per hour; null: list price in the plan, no cost in the report."""
    gpu_pool: str | None = None
    """Prefect work pool that runs the GPU stages (see `rlhf deploy`); null runs them on this machine."""

    @model_validator(mode="after")
    def _machines_are_reachable(self) -> Self:
        """`compute.machines` > 1 needs `compute.main_address` and cannot be combined with `compute.gpu_pool`."""
        if self.machines > 1 and self.main_address is None:
            raise ValueError(f"machines ({self.machines}) need main_address, the address of this machine")
        if self.machines > 1 and self.gpu_pool is not None:
            raise ValueError(
                f"machines ({self.machines}) cannot be combined with gpu_pool ({self.gpu_pool}); set one of them"
            )
        return self


class RunConfig(Settings):
    """All settings of a run."""

    run_name: str = "custom"
    """Name of the run; its report is in WORKSPACE/RUN_NAME.  A profile that sets none gives the run its own name."""
    seed: int = Field(default=42, ge=0, le=4_000_000_000)
    """Seed of all random draws."""
    trainer: Trainer = "own"
    """Code of supervised fine-tuning and PPO: `own` (this package) or `trlx` (own environment, `make trlx-env`)."""
    control: Control = "none"
    """`shuffled`: a negative control; the reward model learns from shuffled labels, so nothing should get better."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sft: SftConfig = SftConfig()
    reward: RewardConfig = RewardConfig()
    judge: JudgeConfig = JudgeConfig()
    ppo: PpoConfig = PpoConfig()
    responses: ResponsesConfig = ResponsesConfig()
    toxicity: ToxicityConfig = ToxicityConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    compute: ComputeConfig = ComputeConfig()

    @property
    def trains_reward_model(self) -> bool:
        """Whether a reward model is trained from `model`: the one that PPO maximizes, or the judge."""
        return self.reward.path is None or (self.data.judge_share > 0 and self.judge.model is None)

    @model_validator(mode="after")
    def _run_name_is_a_folder_name(self) -> Self:
        """`run_name` must be the name of a folder, without `/`, a leading dot or control characters.

        It has at most 100 bytes, and is none of the folders that a workspace has anyway, such as `artifacts`.
        """
        name = self.run_name
        is_plain = name.isprintable() and not name.startswith(".") and not {"/", "\\"} & {*name}
        if not name.strip() or not is_plain or len(name.encode()) > MAX_RUN_NAME_BYTES:
            raise ValueError(
                f"run_name ({name[:200]!r}) must be a folder name, without / and without a leading dot, "
                f"of at most {MAX_RUN_NAME_BYTES} bytes and without control characters"
            )
        if name in WORKSPACE_FOLDERS:
            raise ValueError(f"run_name ({name}) is a folder that every workspace has; choose another name")
        return self

    @model_validator(mode="after")
    def _control_trains_a_reward_model(self) -> Self:
        """`control: shuffled` trains a reward model: `reward.path` must not be set."""
        if self.control == "shuffled" and self.reward.path is not None:
            raise ValueError(f"control (shuffled) trains a reward model; unset reward.path ({self.reward.path})")
        return self

    @model_validator(mode="after")
    def _judge_preference_has_a_judge(self) -> Self:
        """`evaluation.primary_endpoints` with `judge_preference` needs `data.judge_share` > 0."""
        if "judge_preference" in self.evaluation.primary_endpoints and self.data.judge_share == 0:
            raise ValueError("evaluation.primary_endpoints (judge_preference) needs data.judge_share above 0")
        return self

    @model_validator(mode="after")
    def _trlx_has_one_machine(self) -> Self:
        """`trainer: trlx` runs on one machine: `compute.machines` must be 1."""
        if self.trainer == "trlx" and self.compute.machines > 1:
            raise ValueError(f"trainer (trlx) runs on one machine; compute.machines is {self.compute.machines}")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        """`ppo.rollouts_per_step` must be a multiple of `ppo.minibatch_size`, and both of `compute.processes`.

        `sft.batch_size`, `reward.batch_size` and `judge.training.batch_size` must be multiples of their
        `device_batch_size` x `compute.processes`.
        `compute.processes` must be a multiple of `compute.machines`.
        """
        processes = self.compute.processes
        require_multiple(
            "ppo.rollouts_per_step", self.ppo.rollouts_per_step, "ppo.minibatch_size", self.ppo.minibatch_size
        )
        require_multiple("ppo.rollouts_per_step", self.ppo.rollouts_per_step, "compute.processes", processes)
        require_multiple("ppo.minibatch_size", self.ppo.minibatch_size, "compute.processes", processes)
        require_multiple("compute.processes", processes, "compute.machines", self.compute.machines)
        for name, stage in (("sft", self.sft), ("reward", self.reward), ("judge.training", self.judge.training)):
            if stage is None:
                continue
            held = stage.device_batch_size * processes
            require_multiple(
                f"{name}.batch_size", stage.batch_size, f"{name}.device_batch_size x compute.processes", held
            )
        return self
