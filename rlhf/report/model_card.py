"""Model card: README.md of the exported model, filled from the results of its run."""

from __future__ import annotations

from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from rlhf.config import RunConfig, Settings
from rlhf.report.claims import lead
from rlhf.report.formatting import format_significant, show_text
from rlhf.report.page import TEMPLATES
from rlhf.results.headline import headline_metrics
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
"""The most important settings of each training stage; config.json of the run lists all."""


def model_card(results: Results, config: ExportStage) -> str:
    """The card as Markdown, with front matter for the Hugging Face Hub."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(),  # escapes only HTML templates; the card is Markdown
        finalize=show_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["format_significant"] = format_significant
    text = environment.get_template("model_card.md").render(
        results=results,
        config=config,
        lead=lead(results),
        base=results.lineage.revisions["base model"],
        rows=headline_metrics(results),
        training={name: _shown(getattr(config, name), names) for name, names in SETTINGS_SHOWN.items()},
    )
    return f"---\n{yaml.safe_dump(front_matter(results, config), sort_keys=False, allow_unicode=True)}---\n\n{text}"


def front_matter(results: Results, config: ExportStage) -> dict[str, object]:
    """Metadata of the card."""
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
            "type": row.key,
            "name": f"{row.name} (SFT {format_significant(row.sft)}; difference 95 % interval "
            f"{format_significant(row.difference.ci95[0])} to {format_significant(row.difference.ci95[1])})",
            "value": row.rlhf,
        }
        for row in headline_metrics(results)
    ]
    evaluated = {
        "task": {"type": "text-generation"},
        "dataset": {"type": "rlhf-workflow", "name": revisions["dialogues"]},
        "metrics": metrics,
    }
    return {**matter, "model-index": [{"name": config.run_name, "results": [evaluated]}]}


def _shown(settings: Settings, names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {value}" for name in names if (value := getattr(settings, name)) is not None)


def refresh_card(run: Path) -> None:
    """Rewrite the model card in the run's folder from its current results.  Does nothing if no model was exported."""
    if (run / MODEL).is_dir():
        results = Results.model_validate_json((run / RESULTS).read_bytes())
        config = RunConfig.model_validate_json((run / CONFIG).read_bytes())
        write_atomically(run / MODEL / CARD, model_card(results, part_of(config, ExportStage)))
