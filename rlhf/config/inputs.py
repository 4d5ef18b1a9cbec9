"""Settings of what a run starts from: the base model and the preference data."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import HUB, PathText, Settings, require_multiple

NAME = r"[^./\\*?\[\]\x00-\x1f][^/\\*?\[\]\x00-\x1f]*"
FolderName = Annotated[str, Field(pattern=rf"^{NAME}(/{NAME})*$")]
"""Path of a folder in a repository: it leads nowhere else, is not hidden, and has no wildcards."""


class SyntheticModel(Settings):
    """A small GPT-J with a byte-level BPE tokenizer, trained from scratch on the synthetic corpus."""

    vocab_size: int = Field(default=1280, ge=300, le=1_000_000)
    """Maximum size of the vocabulary, in tokens."""
    hidden_size: int = Field(default=192, ge=16, le=100_000)
    """Size of the hidden states."""
    num_layers: int = Field(default=4, ge=2, le=1000)
    """Number of transformer blocks."""
    num_heads: int = Field(default=6, ge=1, le=1000)
    """Number of attention heads; `hidden_size` must be a multiple of twice this number."""
    context_tokens: int = Field(default=128, ge=32, le=1_000_000)
    """Context length, in tokens."""
    documents: int = Field(default=8000, ge=10, le=10_000_000)
    """Number of generated documents; each is used for training once."""
    batch_size: int = Field(default=4, ge=1, le=1_000_000)
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

    path: PathText | None = None
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

    source: PathText = HUB
    """`hub`, `synthetic`, or a file or folder of .jsonl, .jsonl.gz or .parquet files in HH or rm-static format."""
    repository: str = "Anthropic/hh-rlhf"
    """Hugging Face dataset that `source: hub` downloads."""
    revision: str = "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa"
    """Commit of `repository` that is downloaded."""
    subsets: tuple[FolderName, ...] = ("helpful-base", "harmless-base", "helpful-online", "helpful-rejection-sampled")
    """Folders of `repository` that are used."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`error` stops at the first unreadable row and names its file and line; `skip` drops and counts such rows."""
    synthetic_pairs: int = Field(default=3000, ge=50, le=10_000_000)
    """Number of pairs that `source: synthetic` generates."""
    max_pairs: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Maximum number of training pairs, drawn by seed after the split; null keeps all."""
    judge_share: float = Field(default=0.3, ge=0, lt=1)
    """Share of the training dialogues, by first human turn, that train the independent judge and nothing else."""
    max_prompt_tokens: int = Field(default=384, ge=8, le=1_000_000)
    """Maximum length of a prompt, in tokens of the base model; longer rows are dropped."""
    max_response_tokens: int = Field(default=128, ge=1, le=1_000_000)
    """Maximum length of a response, in tokens including the end of text; longer rows are dropped."""
    test_prompts: int = Field(default=100, ge=1, le=1_000_000)
    """Number of test prompts, for the comparison of the final models; never used for training or selection."""
    validation_prompts: int = Field(default=128, ge=1, le=1_000_000)
    """Number of validation prompts; they select the best checkpoint, and their pairs measure the reward model."""
    near_duplicate_threshold: float = Field(default=0.7, gt=0, le=1)
    """Two prompts with at least this Jaccard similarity are near-duplicates (character 5-grams, first human turn)."""
