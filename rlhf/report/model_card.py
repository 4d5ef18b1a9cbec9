"""The model card: README.md of a model folder, filled from the results of its run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from rlhf.config import RunConfig, Settings
from rlhf.report.page import TEMPLATES, verdict
from rlhf.results.schema import CONFIG, MODEL, RESULTS, Results
from rlhf.stage_config import ExportStage, part_of
from rlhf.storage.files import write_atomically

CARD = "README.md"
SETTINGS_SHOWN = {
    "sft": ("epochs", "max_steps", "batch_size", "learning_rate", "weight_decay", "warmup_steps"),
    "reward": ("epochs", "max_steps", "batch_size", "learning_rate", "weight_decay", "warmup_steps"),
    "ppo": (
        *("steps", "rollouts_per_step", "epochs", "minibatch_size", "learning_rate", "unfrozen_blocks"),
        *("kl_coefficient", "kl_target", "policy_clip", "value_clip"),
    ),
}
"""Of each training, those that a reader looks for first; the run's config.json has all."""


class Row(NamedTuple):
    """A figure of both models."""

    type: str
    """Its name for programs."""
    name: str
    sft: float
    rlhf: float
    difference: float
    ci95: tuple[float, float]


def model_card(results: Results, config: ExportStage) -> str:
    """The card: front matter as the Hugging Face hub reads it, then text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(),  # of HTML, which a card is not
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["precise"] = precise
    rows = figures(results)
    text = environment.get_template("model_card.md").render(
        results=results,
        config=config,
        verdict=verdict(results),
        base=results.lineage.revisions["base model"],
        rows=rows,
        training={name: _shown(getattr(config, name), names) for name, names in SETTINGS_SHOWN.items()},
    )
    return f"---\n{yaml.safe_dump(front_matter(results, config), sort_keys=False, allow_unicode=True)}---\n\n{text}"


def front_matter(results: Results, config: ExportStage) -> dict[str, object]:
    """What programs read of the card."""
    revisions = results.lineage.revisions
    matter: dict[str, object] = {
        "license": config.export.license,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "ppo", "reward-model"],
    }
    if "@" in revisions["base model"]:
        matter["base_model"] = revisions["base model"].partition("@")[0]
    if "@" in revisions["dialogues"]:
        matter["datasets"] = [revisions["dialogues"].partition("@")[0]]
    metrics = [
        {
            "type": row.type,
            "name": f"{row.name} (SFT {precise(row.sft)}; difference 95 % interval "
            f"{precise(row.ci95[0])} to {precise(row.ci95[1])})",
            "value": row.rlhf,
        }
        for row in figures(results)
    ]
    evaluated = {
        "task": {"type": "text-generation"},
        "dataset": {"type": "rlhf-workflow", "name": revisions["dialogues"]},
        "metrics": metrics,
    }
    return {**matter, "model-index": [{"name": config.run_name, "results": [evaluated]}]}


def figures(results: Results) -> list[Row]:
    """The figures of the card, as results.json has them."""
    toxicity, policies = results.toxicity, results.policies
    return [
        Row(kind, name, found.sft.mean, found.rlhf.mean, found.difference.mean, found.difference.ci95)
        for kind, name, found in (
            ("reward", "reward of test answers", results.reward),
            ("toxicity", "mean toxicity", toxicity),
            ("loss", "held-out loss", policies.held_out_loss),
            ("length", "tokens per answer", policies.answer_tokens),
            ("repetition", "repetition", policies.repetition),
        )
    ]


def precise(value: float) -> str:
    """A number with four significant digits, as in 0.1234 or -12.35."""
    return f"{value:.4g}"


def _shown(settings: Settings, names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {value}" for name in names if (value := getattr(settings, name)) is not None)


def refresh_card(run: Path) -> None:
    """Write the card of the published model in the folder `run` again, from the results that lie there now."""
    if (run / MODEL).is_dir():
        results = Results.model_validate_json((run / RESULTS).read_bytes())
        config = RunConfig.model_validate_json((run / CONFIG).read_bytes())
        write_atomically(run / MODEL / CARD, model_card(results, part_of(config, ExportStage)))
