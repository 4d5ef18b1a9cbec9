"""Schema of results.json (`Results`) and of the files next to it.

`Results.model_json_schema()` is the JSON Schema; the docstrings are its descriptions.  Plots and responses are too
large for results.json and are stored in report_data.json.  The report can be rebuilt from these two files at any time.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlhf.config import Control, PrimaryEndpoint
from rlhf.results.base import Difference, Mean, Record
from rlhf.results.capability import CapabilityResults
from rlhf.results.human_evaluation import HumanEvaluation
from rlhf.results.judges import JudgeKind, JudgeResults
from rlhf.results.policy_comparison import PolicyComparison, RewardHackingSign
from rlhf.results.second_opinion import SecondOpinion
from rlhf.results.seeds import OverOptimizationPoint, SeedResults
from rlhf.results.toxicity import ToxicityMetrics
from rlhf.results.verdict import Verdict

RESULTS = "results.json"
REPORT_DATA = "report_data.json"
REPORT = "report.html"
CONFIG = "config.json"
MODEL = "model"
"""Folder of the exported model."""
LABELS = "human_evaluation.json"
"""Imported labels of a run, stored next to results.json and merged into it whenever it is written."""


class SubsetDifference(Difference):
    """RLHF minus SFT on some of the test prompts."""

    n: int = Field(ge=1)
    """Number of compared pairs of responses."""


class RewardResults(Record):
    """Scores of the reward model: higher is better."""

    is_delta: bool
    """Whether the score of the chosen response is subtracted from `first`, `best` and `last`, as in PPO."""
    first: float
    """Mean over the validation prompts before the first PPO step; of the first seed, as are `best` and `last`."""
    best: float
    """Mean over the validation prompts for the best checkpoint, the final model.  It was chosen by this number, so it
    is a point of the training curve and no result."""
    last: float
    """Mean over the validation prompts after the last PPO step."""
    best_step: int = Field(ge=0)
    """PPO step of the best checkpoint."""
    sft: Mean
    """Responses of the SFT model to the test prompts."""
    rlhf: Mean
    """Responses of the RLHF model to the test prompts."""
    chosen: Mean
    """Responses to the test prompts that people chose in the data."""
    difference: Difference
    """RLHF minus SFT on the test prompts, which were used neither for training nor for choosing the checkpoint."""
    length_controlled: Difference
    """The same at equal length: linear regression on the difference in tokens, at zero."""
    both_ended: SubsetDifference | None
    """The same among the prompts to which both responses ended by themselves; null if there are none."""


class ToxicityResults(Record):
    """Toxicity of continuations, 0 to 1: lower is better."""

    classifier: str
    """Classifier that scored the continuations."""
    measure: Literal["toxicity", "profanity"]
    """What the classifier detects.  Profanity is only a part of toxicity: polite harm scores zero."""
    sft: Mean
    """Continuations of the SFT model."""
    rlhf: Mean
    """Continuations of the RLHF model."""
    difference: Difference
    """RLHF minus SFT for the same prompts and random numbers."""
    probability: Difference
    """The same for the share of prompts with a continuation that scores 0.5 or more; one seed: McNemar's exact test."""
    metrics: ToxicityMetrics
    """Mean, expected maximum and probability of toxicity, by label and prompts' own toxicity; of the first seed."""
    second_opinion: SecondOpinion | None = None
    """Scores of the same continuations by another model; of the first seed."""


class CalibrationBin(Record):
    """Validation pairs for which the reward model has about the same confidence."""

    low: float = Field(ge=0.5, le=1)
    """Lower end of the bin: probability that the model gives to the response it prefers."""
    high: float = Field(ge=0.5, le=1)
    """Upper end of the bin."""
    pairs: int = Field(ge=1)
    """Pairs in the bin."""
    expected: float = Field(ge=0, le=1)
    """Mean predicted probability: the share of pairs in which the model expects to agree with people."""
    observed: float = Field(ge=0, le=1)
    """Share of pairs in which it agrees with people."""
    ci95: tuple[float, float]
    """95 % Wilson interval of `observed`, low end first."""


class RewardModelResults(Record):
    """Accuracy and calibration of the reward model on validation pairs."""

    accuracy: float = Field(ge=0, le=1)
    """Share of validation pairs in which the chosen response scores higher; a tie counts one half."""
    ci95: tuple[float, float]
    """95 % Wilson interval of the accuracy, low end first."""
    p_value: float = Field(ge=0, le=1)
    """Exact two-sided sign test against one half."""
    pairs: int = Field(ge=1)
    """Validation pairs."""
    mean_margin: float
    """Mean of score(chosen) - score(rejected)."""
    loss: float = Field(ge=0)
    """Bradley-Terry loss in nats per pair; guessing gives log 2 = 0.693."""
    calibration_error: float = Field(ge=0, le=1)
    """Expected calibration error: mean of |expected - observed|, weighted by pairs; 0 is perfect."""
    calibration: list[CalibrationBin]
    """Calibration by confidence, without empty bins."""


class DataResults(Record):
    """Number of rows that were read, kept and dropped."""

    read: int = Field(ge=0)
    """Rows in the source."""
    kept: dict[str, int]
    """Rows per file of the prepared data."""
    dropped: dict[str, int]
    """Dropped rows by reason."""


class Lineage(Record):
    """Everything that the results depend on."""

    seed: int
    """Seed of all random draws."""
    fingerprints: dict[str, str]
    """Fingerprint of each stage's artifact."""
    revisions: dict[str, str]
    """Source of models, dialogues and toxicity prompts: repository@commit, own files or synthetic."""
    versions: dict[str, str]
    """Versions of Python and libraries; several if stages ran with different ones."""
    devices: dict[str, str]
    """Number of processes and device of each stage."""


class StageRow(Record):
    """One stage of the run."""

    name: str
    """Stage, with the model in brackets if the stage runs once per model."""
    seconds: float = Field(ge=0)
    """Wall time of the stage when it ran."""
    cached: bool
    """Whether the artifact existed already, so that this run did not execute the stage."""
    fingerprint: str
    """Fingerprint of the stage's artifact."""
    device: str
    """Device, with the number of processes if there were several."""
    dollars: float | None = Field(default=None, ge=0)
    """Cost of the time at compute.dollars_per_hour; null if no price is set."""
    planned_seconds: float | None = Field(default=None, ge=0)
    """Estimate of `rlhf plan` for this machine; null if it knows the machine or the model too little."""


class Measurements(Record):
    """Everything that was measured in one run."""

    run_name: str
    """Name of the run."""
    synthetic: bool
    """Whether dialogues, toxicity prompts or base model are synthetic."""
    control: Control
    """`shuffled`: a negative control, whose reward model learned from shuffled labels."""
    primary_endpoints: tuple[PrimaryEndpoint, ...]
    """Endpoints that were declared before the run."""
    judges: list[JudgeResults]
    """Everyone who compared both models' responses to the test prompts; people first, once there are labels."""
    reward: RewardResults
    toxicity: ToxicityResults
    policy_comparison: PolicyComparison
    reward_hacking_signs: list[RewardHackingSign]
    """Metrics that got clearly worse while the reward rose; empty if there are none."""
    human_evaluation: HumanEvaluation
    seeds: list[SeedResults]
    """The PPO trainings.  The first one's model is exported and compared by people."""
    over_optimisation: list[OverOptimizationPoint]
    """Optimized reward and independent judge along PPO, and for best-of-n."""
    capability: CapabilityResults | None
    """Multiple-choice questions before and after PPO; null if none were asked.  Of the first seed."""
    reward_model: RewardModelResults
    """The optimized reward model."""
    data: DataResults
    lineage: Lineage
    stages: list[StageRow]
    """Stages in order of dependency."""


class Results(Measurements):
    """Measurements and verdict of one run: the content of results.json."""

    verdict: Verdict
    """Whether the model got better."""


class Plot(Record):
    """A plot and a description of it in words."""

    title: str
    """What is shown."""
    text: str
    """The same in words and numbers, for readers who cannot see it."""
    svg: str
    """The plot: an <svg> element that references nothing outside itself."""


class ResponsePair(Record):
    """Both models' responses to a test prompt."""

    id: str
    """ID of the prompt."""
    prompt: str
    """Dialogue up to the response."""
    sft: str
    """Response of the SFT model."""
    rlhf: str
    """Response of the RLHF model."""
    sft_reward: float
    """Reward of the SFT model's response."""
    rlhf_reward: float
    """Reward of the RLHF model's response."""
    more_tokens: int
    """Tokens of the RLHF model's response minus those of the SFT model's."""
    votes: dict[JudgeKind, Literal[-1, 0, 1]]
    """Judges that are no people: 1 if the RLHF model's response is better, -1 if the SFT model's is, 0 for a tie."""
    prompt_toxicity: float
    """Toxicity of the prompt by the run's classifier."""
    sft_toxicity: float
    """Toxicity of the SFT model's response."""
    rlhf_toxicity: float
    """Toxicity of the RLHF model's response."""


class ContinuationPair(Record):
    """Both models' continuations of a toxicity prompt, the pair with the highest score."""

    prompt: str
    """The prompt."""
    prompt_toxicity: float | None
    """Toxicity of the prompt according to the data."""
    sft: str
    """Continuation of the SFT model."""
    rlhf: str
    """Continuation of the RLHF model."""
    sft_toxicity: float
    """Toxicity of the SFT model's continuation."""
    rlhf_toxicity: float
    """Toxicity of the RLHF model's continuation."""


class ValidationPoint(Record):
    """Mean reward on the validation prompts after some PPO steps."""

    step: int
    """PPO steps so far."""
    reward: float
    """Mean reward."""


class ReportData(Record):
    """Plots and texts of the report: the content of report_data.json."""

    training: list[Plot]
    """Reward, KL and response length over the PPO steps."""
    toxicity: list[Plot]
    """Distribution of the scores and of their paired differences."""
    reward_model: list[Plot]
    """Calibration of the optimized reward model."""
    over_optimisation: list[Plot]
    """Optimized reward and independent judge over KL."""
    seeds: list[Plot]
    """Every PPO training as a dot; empty if there is only one."""
    validation: list[ValidationPoint]
    """Numbers of the validation curve in the reward plot."""
    responses: list[ResponsePair]
    """In the order of the test prompts."""
    continuations: list[ContinuationPair]
    """Most toxic pairs first."""

    @property
    def plots(self) -> list[Plot]:
        """All plots, in the order of the report."""
        return [*self.over_optimisation, *self.training, *self.seeds, *self.toxicity, *self.reward_model]


class ImportedLabels(Record):
    """Content of human_evaluation.json."""

    labeling_task: str
    """Fingerprint of the blinded pairs; labels of other pairs are ignored."""
    source: str
    """Path or URL that the labels were imported from."""
    evaluation: HumanEvaluation
    """Their evaluation."""
    judgements: list[dict[str, object]]
    """Every answer, unblinded, with the annotator's pseudonym."""
