"""The settings of a run: parameter of the flow, content of a profile, input of a stage.

They are immutable, and an unknown key is an error.  The docstring under a field is its description in the Prefect form
and in docs/settings.md (`make docs`).  Profiles are read by `rlhf.profiles`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rlhf.errors import UserError

HUB = "hub"
"""Value of a path setting: download from the Hugging Face hub at the pinned revision."""
SYNTHETIC = "synthetic"
"""Value of a path setting: generate synthetic data."""


Trainer = Literal["own", "trlx"]
"""Code of supervised fine-tuning and PPO: this package, or trlx in a separate environment."""
Control = Literal["none", "shuffled"]
"""`shuffled`: a negative control, in which the reward model learns from pairs with shuffled labels."""
PrimaryEndpoint = Literal["human_preference", "judge_preference", "toxicity"]
"""What a run can be declared to be about.  The optimized reward cannot: PPO was trained to raise it."""


class Settings(BaseModel):
    """Base class of all settings: immutable, no unknown keys, docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SyntheticModel(Settings):
    """A small GPT-J with a byte-level BPE tokenizer, trained from scratch on the synthetic corpus."""

    vocab_size: int = Field(default=1280, ge=300)
    """Maximum size of the vocabulary, in tokens."""
    hidden_size: int = Field(default=192, ge=16)
    """Size of the hidden states."""
    num_layers: int = Field(default=4, ge=2)
    """Number of transformer blocks."""
    num_heads: int = Field(default=6, ge=1)
    """Number of attention heads; `hidden_size` must be a multiple of twice this number."""
    context_tokens: int = Field(default=128, ge=32)
    """Context length, in tokens."""
    documents: int = Field(default=8000, ge=10)
    """Number of generated documents; each is used for training once."""
    batch_size: int = Field(default=4, ge=1)
    """Sequences per optimizer step, summed over all processes."""
    learning_rate: float = Field(default=4e-3, gt=0)
    """Peak learning rate of AdamW."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        """`model.synthetic.hidden_size` must be a multiple of 2 x `model.synthetic.num_heads`."""
        require_multiple("hidden_size", self.hidden_size, "2 x num_heads", 2 * self.num_heads)
        return self


class ModelConfig(Settings):
    """The base model that all training starts from.  `path` wins over `synthetic`, which wins over `repository`."""

    path: str | None = None
    """Folder of a causal language model (transformers format, safetensors weights); if set, nothing is downloaded."""
    synthetic: SyntheticModel | None = None
    """Train a small model from scratch instead of loading one."""
    repository: str = "EleutherAI/gpt-j-6b"
    """Hugging Face repository of the base model; its own tokenizer is used."""
    revision: str = "47e169305d2e8376be1d31e765533382721b2cc1"
    """Commit of `repository` that is downloaded."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights, on disk and in training."""


class DataConfig(Settings):
    """Preference data: dialogues with a chosen and a rejected last response."""

    source: str = HUB
    """`hub`, `synthetic`, or a file or folder of .jsonl, .jsonl.gz or .parquet files in HH or rm-static format."""
    repository: str = "Anthropic/hh-rlhf"
    """Hugging Face dataset that `source: hub` downloads."""
    revision: str = "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa"
    """Commit of `repository` that is downloaded."""
    subsets: tuple[str, ...] = ("helpful-base", "harmless-base", "helpful-online", "helpful-rejection-sampled")
    """Folders of `repository` that are used."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`error` stops at the first unreadable row and names its file and line; `skip` drops and counts such rows."""
    synthetic_pairs: int = Field(default=3000, ge=50)
    """Number of pairs that `source: synthetic` generates."""
    max_pairs: int | None = Field(default=None, ge=1)
    """Maximum number of training pairs, drawn by seed after the split; null keeps all."""
    judge_share: float = Field(default=0.3, ge=0, lt=1)
    """Share of the training dialogues, by first human turn, that train the independent judge and nothing else."""
    max_prompt_tokens: int = Field(default=384, ge=8)
    """Maximum length of a prompt, in tokens of the base model; longer rows are dropped."""
    max_response_tokens: int = Field(default=128, ge=1)
    """Maximum length of a response, in tokens including the end of text; longer rows are dropped."""
    test_prompts: int = Field(default=100, ge=1)
    """Number of test prompts, for the comparison of the final models; never used for training or selection."""
    validation_prompts: int = Field(default=128, ge=1)
    """Number of validation prompts; they select the best checkpoint, and their pairs measure the reward model."""
    near_duplicate_threshold: float = Field(default=0.7, gt=0, le=1)
    """Two prompts with at least this Jaccard similarity are near-duplicates (character 5-grams, first human turn)."""


class TrainingConfig(Settings):
    """Settings that supervised fine-tuning and reward model training share."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training data."""
    max_steps: int | None = Field(default=None, ge=1)
    """Maximum number of optimizer steps; null runs all epochs."""
    batch_size: int = Field(default=8, ge=1)
    """Examples (reward model: pairs) per optimizer step, summed over all processes."""
    device_batch_size: int = Field(default=8, ge=1)
    """Examples (reward model: pairs) per forward pass of one process; gradients accumulate up to `batch_size`."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of AdamW; decays linearly to 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of AdamW."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps of linear warmup."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Optimizer steps between checkpoints; the validation loss is measured at the same time."""


class SftConfig(TrainingConfig):
    """Supervised fine-tuning on the chosen responses.  The loss covers the response and its end of text."""


class RewardConfig(TrainingConfig):
    """Bradley-Terry reward model, trained on the preference pairs or loaded."""

    path: str | None = None
    """Folder of a finished reward model (sequence classification with one label); if set, none is trained."""


class LlmJudgeConfig(Settings):
    """A language model that compares the test responses of both models, each pair in both orders."""

    url: str | None = None
    """Base address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    model: str = ""
    """Name of the model on that server."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the server's API key, where the stage runs; without it no key is sent."""
    path: str | None = None
    """Folder of a causal language model to use instead of a server."""
    requests_at_once: int = Field(default=8, ge=1)
    """Questions that are asked at the same time (folder: compared in one batch)."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        """`judge.llm` needs either `url` and `model`, or `path`."""
        if (self.url is None) == (self.path is None) or (self.url is not None and not self.model):
            raise ValueError("judge.llm needs either url and model, or path")
        return self


class JudgeConfig(Settings):
    """The independent judge: a reward model on the dialogues of `data.judge_share`, which PPO never sees."""

    model: ModelConfig | None = None
    """Base model of the judge; null uses that of the policy.  A text is the folder of one."""
    training: TrainingConfig | None = None
    """Settings of its training; null uses those of `reward`."""
    llm: LlmJudgeConfig | None = None
    """A second judge: a language model that is asked which response is better; null asks none."""

    @field_validator("model", mode="before")
    @classmethod
    def _text_is_a_folder(cls, model: object) -> object:
        return {"path": model} if isinstance(model, str) else model


class SamplingConfig(Settings):
    """How tokens are sampled."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Maximum number of sampled tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature: the logits are divided by it."""
    top_k: int = Field(default=0, ge=0)
    """Sample from the k most likely tokens only; 0 keeps all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the most likely tokens that together have this probability; 1 keeps all."""


class SelectionConfig(Settings):
    """Bounds that a PPO checkpoint must keep to become the final model, measured on the validation prompts.

    Reasons for the defaults: docs/ppo.md.
    """

    max_kl: float = Field(default=25.0, gt=0)
    """Largest KL to the SFT model, in nats per response."""
    max_ended_share_drop: float = Field(default=0.05, ge=0, le=1)
    """Largest fall of the share of responses that end by themselves, below that of the SFT model."""
    max_length_ratio: float = Field(default=1.5, gt=1)
    """Largest ratio of mean response lengths, RLHF to SFT or SFT to RLHF."""
    min_diversity_ratio: float = Field(default=0.8, ge=0, le=1)
    """Smallest ratio, RLHF to SFT, of the share of distinct 3-grams of tokens across all responses."""


class PpoConfig(Settings):
    """PPO against the reward model.  The defaults are the published 6B recipe (trlx, examples/hh/ppo_hh.py)."""

    steps: int = Field(default=94, ge=1)
    """PPO steps; each samples rollouts, then trains on them.  94, in minibatches of 28, are 6,000 optimizer steps."""
    rollouts_per_step: int = Field(default=448, ge=1)
    """Responses sampled per PPO step, summed over all processes."""
    epochs: int = Field(default=4, ge=1)
    """Passes over the rollouts of a PPO step."""
    minibatch_size: int = Field(default=32, ge=1)
    """Rollouts per optimizer step, summed over all processes."""
    rollout_batch_size: int = Field(default=64, ge=1)
    """Maximum number of rollouts that one process samples or scores at the same time; limited by its memory."""
    unfrozen_blocks: int | Literal["all"] = 2
    """Number of top transformer blocks that are trained; `all` trains every weight and keeps a full reference model."""
    sampling: SamplingConfig = SamplingConfig()
    """How rollouts are sampled.  `top_k` and `top_p` must be off: PPO needs the probabilities of all tokens."""
    seeds: int = Field(default=1, ge=1)
    """Number of trainings, which differ in their seed only: `seed`, `seed` + 1, ...; people compare the first."""
    learning_rate: float = Field(default=8e-6, gt=0)
    """Learning rate of AdamW, constant."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's gradient averages."""
    weight_decay: float = Field(default=1e-6, ge=0)
    """Decoupled weight decay of AdamW."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this L2 norm."""
    kl_coefficient: float = Field(default=0.05, ge=0)
    """Initial weight of the KL penalty."""
    kl_target: float | None = Field(default=6.0, gt=0)
    """KL to the reference, in nats per response, that the adaptive KL coefficient aims at; null keeps it constant."""
    kl_horizon: int = Field(default=10_000, ge=1)
    """Time constant of the adaptive KL coefficient, in rollouts."""
    max_kl: float = Field(default=100.0, gt=0)
    """Mean KL of a step's rollouts, in nats per response, at which PPO ends early with the best checkpoint so far."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Discount factor of later rewards (gamma)."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Decay of generalized advantage estimation (lambda)."""
    policy_clip: float = Field(default=0.2, gt=0)
    """The probability ratio is clipped to 1 plus or minus this."""
    value_clip: float = Field(default=0.2, gt=0)
    """A value is clipped to its old value plus or minus this."""
    value_coefficient: float = Field(default=1.0, ge=0)
    """Weight of the value loss."""
    score_clip: float = Field(default=10.0, gt=0)
    """Scores are clipped to plus or minus this, before scaling."""
    missing_eos_penalty: float = Field(default=1.0, ge=0)
    """Subtracted from the score of a rollout that was cut at the maximum length; not with `trainer: trlx`."""
    subtract_chosen_score: bool = True
    """Subtract the score of the prompt's chosen response from each score."""
    scale_scores: bool = True
    """Divide scores by their running standard deviation."""
    validate_every: int = Field(default=50, ge=1)
    """PPO steps between measurements on the validation prompts, which select the best checkpoint."""
    selection: SelectionConfig = SelectionConfig()
    """Bounds of the best checkpoint."""
    checkpoint_every: int = Field(default=50, ge=1)
    """PPO steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of latest checkpoints that are kept, in addition to the best one."""

    @model_validator(mode="after")
    def _seeds_can_be_compared(self) -> Self:
        """`ppo.seeds` must be 1 or at least 3: two trainings hardly show how much trainings differ."""
        if self.seeds == 2:
            raise ValueError("ppo.seeds (2) must be 1 or at least 3: two trainings hardly show how much they differ")
        return self

    @model_validator(mode="after")
    def _samples_from_all_tokens(self) -> Self:
        """`ppo.sampling.top_k` must be 0 and `ppo.sampling.top_p` 1."""
        if self.sampling.top_k != 0 or self.sampling.top_p != 1:
            raise ValueError(
                f"ppo.sampling.top_k ({self.sampling.top_k}) must be 0, and ppo.sampling.top_p "
                f"({self.sampling.top_p:g}) 1: PPO needs the probabilities of all tokens; use temperature instead"
            )
        return self


class ToxicityConfig(Settings):
    """Toxicity of continuations of RealToxicityPrompts."""

    prompts: str = HUB
    """`hub`, `synthetic`, or a .jsonl or .jsonl.gz file in RealToxicityPrompts format."""
    repository: str = "allenai/real-toxicity-prompts"
    """Hugging Face dataset that `prompts: hub` downloads."""
    revision: str = "88a5d7954c54f31e153959c2db98e15cf5cbec01"
    """Commit of `repository` that is downloaded."""
    n_prompts: int = Field(default=1000, ge=2)
    """Number of prompts, drawn by seed."""
    continuations: int = Field(default=1, ge=1)
    """Continuations per prompt and model; the RealToxicityPrompts paper (Gehman et al., 2020) uses 25."""
    classifier: Literal["detoxify", "profanity-check"] = "detoxify"
    """`detoxify` downloads its weights once, unless `checkpoint` is set; `profanity-check` works offline."""
    detoxify_model: Literal["original", "unbiased", "multilingual", "original-small", "unbiased-small"] = "original"
    """Released Detoxify model that is used; `checkpoint` wins over it."""
    checkpoint: str | None = None
    """Checkpoint file in Detoxify's format; if set, nothing is downloaded."""
    checkpoint_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Expected SHA-256 of `checkpoint`, 64 hex digits."""
    checkpoint_config: str | None = None
    """Folder with config.json and tokenizer of the encoder that `checkpoint` was trained from."""
    second_opinion: str | None = None
    """Folder of a safety model (sequence classification, any labels) that also scores all continuations."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=20)
    """How continuations are sampled; the RealToxicityPrompts paper uses 20 tokens."""
    batch_size: int = Field(default=64, ge=1)
    """Continuations that one process samples, then scores, at the same time."""

    @model_validator(mode="after")
    def _checkpoint_is_complete(self) -> Self:
        """`toxicity.checkpoint`, `toxicity.checkpoint_sha256` and `toxicity.checkpoint_config` must be set together.

        They need `toxicity.classifier: detoxify`.
        """
        checkpoint = [self.checkpoint, self.checkpoint_sha256, self.checkpoint_config]
        if any(checkpoint) and not (all(checkpoint) and self.classifier == "detoxify"):
            raise ValueError(
                "toxicity.checkpoint, toxicity.checkpoint_sha256 and toxicity.checkpoint_config go together, "
                "with toxicity.classifier detoxify; set all three or none"
            )
        return self


class ResponsesConfig(Settings):
    """Responses of both models to the test prompts."""

    sampling: SamplingConfig = SamplingConfig()
    """How responses are sampled."""
    stop_sequences: tuple[str, ...] = ("Human:", "human:", "Assistant:", "assistant:")
    """A response ends before the first of these texts, in evaluation and in PPO."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts that one process responds to at the same time."""


class EvaluationConfig(Settings):
    """What the verdict rests on.  It is fixed before the run, and part of the report's fingerprint."""

    primary_endpoints: tuple[PrimaryEndpoint, ...] = Field(
        default=("human_preference", "toxicity"), min_length=1, max_length=3
    )
    """Endpoints that the headline may rest on; all other metrics are secondary.  People's answers always count."""
    best_of: int = Field(default=16, ge=1)
    """Responses of the SFT model per validation prompt for best-of-n, a baseline of PPO; 1 leaves it out."""
    questions: str | None = None
    """Multiple-choice questions that show whether capability is kept: a .jsonl file or `synthetic`; null asks none."""


class ExportConfig(Settings):
    """The exported model folder, ready to share."""

    license: str = "unknown"
    """License in the model card: an identifier of the Hugging Face hub such as apache-2.0, or `unknown`."""


class ComputeConfig(Settings):
    """Where and how stages run.  These settings never change a fingerprint, so cached stages stay valid."""

    accelerate: str = "cpu"
    """Accelerate configuration: the name of a file in deployments/accelerate, without .yaml."""
    processes: int = Field(default=1, ge=1)
    """Processes of each GPU stage, summed over all machines."""
    machines: int = Field(default=1, ge=1)
    """Machines of each GPU stage, with equally many processes on each; all must see the same workspace."""
    main_address: str | None = None
    """HOST or HOST:PORT of the machine that runs the flow, as other machines see it; needed if `machines` > 1."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of each process.  Results are byte-identical only for equal thread counts."""
    parallel_stages: int = Field(default=1, ge=1)
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
    seed: int = Field(default=42, ge=0)
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

    @model_validator(mode="after")
    def _run_name_is_a_folder_name(self) -> Self:
        """`run_name` must be the name of a folder, without `/` and without a leading dot."""
        if not self.run_name or self.run_name.startswith(".") or "/" in self.run_name:
            raise ValueError(f"run_name ({self.run_name!r}) must be a folder name, without / and without a leading dot")
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


def require_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raises UserError, which suggests the nearest smaller multiple, if `value` is not a multiple of `divisor`."""
    if value % divisor:
        nearest = max(1, value // divisor) * divisor
        raise UserError(f"{name} ({value}) must be a multiple of {divisor_name} ({divisor}); try {nearest}")


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names: `{"ppo": {"steps": 2}}` is `{"ppo.steps": 2}`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
