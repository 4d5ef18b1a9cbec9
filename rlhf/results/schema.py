"""results.json and report.html of a run.  `Results` is the documented schema of results.json.

`Results.model_json_schema()` gives it as JSON Schema, with the docstrings as descriptions.  The report also shows what
is too long for results.json, plots and answers, which lies beside it in the artifact as evidence.json; from both files
the report can be written again at any time.
"""

from __future__ import annotations

from pydantic import Field

from rlhf.results.base import Difference, Mean, Record
from rlhf.results.human_evaluation import HumanEvaluation
from rlhf.results.policies import HackingSign, PolicyResults
from rlhf.results.toxicity import ToxicityFigures

RESULTS = "results.json"
EVIDENCE = "evidence.json"
REPORT = "report.html"
CONFIG = "config.json"
MODEL = "model"
"""Folder of the aligned model, ready to share."""
LABELS = "human_evaluation.json"
"""What people said of a run, beside its results: written when labels are imported, read whenever results are."""


class RewardResults(Record):
    """Scores of the reward model: higher is better."""

    relative: bool
    """Whether `first`, `best` and `last` are differences to the chosen answers' scores, as PPO was trained on."""
    first: float
    """Mean over the validation prompts before the first PPO step."""
    best: float
    """Mean over the validation prompts of the checkpoint that was kept."""
    last: float
    """Mean over the validation prompts after the last PPO step."""
    best_step: int = Field(ge=0)
    """PPO step of the checkpoint that was kept."""
    sft: Mean
    """Answers of the SFT model to the test prompts."""
    rlhf: Mean
    """Answers of the RLHF model to the test prompts."""
    chosen: Mean
    """Answers to the test prompts that people chose in the data."""
    difference: Difference
    """Over the test prompts, which nothing was trained or chosen on."""


class ToxicityResults(Record):
    """Toxicity of continuations, 0 to 1: lower is better."""

    classifier: str
    """Classifier that scored the continuations."""
    sft: Mean
    """Continuations of the SFT model."""
    rlhf: Mean
    """Continuations of the RLHF model."""
    difference: Difference
    """Over the same prompts with the same seeds."""
    figures: ToxicityFigures
    """Mean, expected maximum and probability of toxicity, by label and by the prompts' own toxicity."""


class CalibrationBin(Record):
    """Held-out pairs of which the reward model is about as sure."""

    low: float = Field(ge=0.5, le=1)
    """Least probability that it gives to the answer it prefers, in the bin."""
    high: float = Field(ge=0.5, le=1)
    """Largest."""
    pairs: int = Field(ge=1)
    """Pairs in the bin."""
    expected: float = Field(ge=0, le=1)
    """Mean probability: the share in which it should agree with people."""
    observed: float = Field(ge=0, le=1)
    """Share in which it does."""
    ci95: tuple[float, float]
    """95 % Wilson interval of `observed`, low end first."""


class RewardModelResults(Record):
    """How often the reward model agrees with people on held-out pairs, and whether it knows how sure it may be."""

    accuracy: float = Field(ge=0, le=1)
    """Share of held-out pairs in which the chosen answer scores higher; a tie counts half."""
    ci95: tuple[float, float]
    """95 % Wilson interval of the accuracy, low end first."""
    pairs: int = Field(ge=1)
    """Held-out pairs."""
    mean_margin: float
    """Mean of score(chosen) - score(rejected)."""
    loss: float = Field(ge=0)
    """Bradley-Terry loss in nats per pair; log 2 = 0.693 is that of a coin."""
    calibration_error: float = Field(ge=0, le=1)
    """Mean distance between `expected` and `observed` over the pairs (ECE); 0 is perfect."""
    calibration: list[CalibrationBin]
    """Reliability by confidence, bins without pairs left out."""


class DataResults(Record):
    """What became of the rows of the data."""

    read: int = Field(ge=0)
    """Rows in the source."""
    kept: dict[str, int]
    """Rows by file of the prepared data."""
    left_out: dict[str, int]
    """Rows left out by reason."""


class Lineage(Record):
    """Everything that the figures depend on."""

    seed: int
    """Seed of every draw."""
    fingerprints: dict[str, str]
    """Fingerprint of each step's artifact."""
    revisions: dict[str, str]
    """Where models, dialogues and toxicity prompts come from: repository@commit, or what else they are."""
    versions: dict[str, str]
    """Python and libraries; several versions where steps ran with different ones."""
    devices: dict[str, str]
    """Device of each step and its number of processes."""


class StageRow(Record):
    """One step of the run."""

    name: str
    """Step, and which model it ran on where it runs once for each."""
    seconds: float = Field(ge=0)
    """Wall time that the step took when it ran."""
    cached: bool
    """Whether the artifact was there already, so that nothing ran."""
    fingerprint: str
    """Fingerprint of the step's artifact."""
    device: str
    """Where it ran: number of processes, where there are several, and the name of the device."""
    dollars: float | None = Field(default=None, ge=0)
    """What the time cost at compute.dollars_per_hour; none where no price is set."""
    planned_seconds: float | None = Field(default=None, ge=0)
    """What `rlhf plan` says that the step takes on this machine; none where it knows neither machine nor model."""


class Results(Record):
    """Figures of one run: the content of results.json."""

    run_name: str
    """Name of the run."""
    synthetic: bool
    """Whether dialogues, toxicity prompts or base model are synthetic material."""
    reward: RewardResults
    toxicity: ToxicityResults
    policies: PolicyResults
    warnings: list[HackingSign]
    """Signs that the reward was gained by something else than better answers; empty where there are none."""
    human_evaluation: HumanEvaluation
    reward_model: RewardModelResults
    data: DataResults
    lineage: Lineage
    stages: list[StageRow]
    """Steps in the order in which they depend on each other."""


class Plot(Record):
    """A picture with what it says in words."""

    title: str
    """What is shown."""
    text: str
    """The same in words and numbers, for those who do not see it."""
    svg: str
    """The picture, an <svg> element without references to anything outside."""


class AnswerPair(Record):
    """Both models' answers to a test prompt."""

    prompt: str
    """Dialogue up to the answer."""
    sft: str
    """Answer of the SFT model."""
    rlhf: str
    """Answer of the RLHF model."""
    sft_reward: float
    """Reward of the SFT model's answer."""
    rlhf_reward: float
    """Reward of the RLHF model's answer."""
    prompt_toxicity: float
    """Toxicity of the prompt by the run's classifier, as those of the answers."""
    sft_toxicity: float
    """Toxicity of the SFT model's answer."""
    rlhf_toxicity: float
    """Toxicity of the RLHF model's answer."""


class ContinuationPair(Record):
    """Both models' most toxic continuations of a toxicity prompt."""

    prompt: str
    """The prompt."""
    prompt_toxicity: float | None
    """Toxicity of the prompt as the data have it."""
    sft: str
    """Continuation by the SFT model."""
    rlhf: str
    """Continuation by the RLHF model."""
    sft_toxicity: float
    """Its toxicity."""
    rlhf_toxicity: float
    """Its toxicity."""


class Measurement(Record):
    """The policy on the validation prompts."""

    step: int
    """PPO steps taken."""
    reward: float
    """Mean reward."""


class Evidence(Record):
    """What the report shows beside the figures."""

    training: list[Plot]
    """Reward, KL and answer length over the PPO steps."""
    toxicity: list[Plot]
    """Distribution of the scores and of their paired differences."""
    reward_model: list[Plot]
    """Calibration."""
    validation: list[Measurement]
    """The numbers behind the reward curve."""
    answers: list[AnswerPair]
    """In the order of the test prompts."""
    continuations: list[ContinuationPair]
    """Those with the highest score of either model first."""


class ImportedLabels(Record):
    """Content of human_evaluation.json."""

    comparison: str
    """Fingerprint of the blinded pairs; labels of other pairs do not count."""
    source: str
    """Where the labels were imported from."""
    evaluation: HumanEvaluation
    """The figures."""
    judgements: list[dict[str, object]]
    """Every answer, unblinded, with the annotator's pseudonym."""
