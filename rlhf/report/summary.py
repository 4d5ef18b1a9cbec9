"""Results of a run as Markdown and tables, for the Prefect UI."""

from __future__ import annotations

from rlhf.report.claims import lead
from rlhf.report.formatting import format_duration, format_significant
from rlhf.results.headline import headline_metrics
from rlhf.results.schema import Results, StageRow

Table = list[dict[str, str]]


def summary(results: Results) -> str:
    """Verdict with its evidence, signs of reward hacking and headline metrics."""
    signs = [f"- **{sign.metric}**: {sign.text}" for sign in results.reward_hacking_signs]
    rows = [" | ".join(row.values()) for row in metrics_table(results)]
    return "\n".join(
        [
            f"# {results.verdict.headline}",
            lead(results),
            *(["", "Signs of reward hacking:", *signs] if signs else []),
            "",
            "| metric | SFT | RLHF | difference | 95 % interval |",
            "| --- | ---: | ---: | ---: | ---: |",
            *(f"| {row} |" for row in rows),
        ]
    )


def metrics_table(results: Results) -> Table:
    """One row per headline metric."""
    return [
        {
            "metric": row.name,
            "SFT": format_significant(row.sft),
            "RLHF": format_significant(row.rlhf),
            "difference": format_significant(row.difference.mean),
            "95 % interval": " to ".join(map(format_significant, row.difference.ci95)),
        }
        for row in headline_metrics(results)
    ]


def stage_table(stages: list[StageRow]) -> Table:
    """One row per stage."""
    return [
        {
            "stage": stage.name,
            "time": format_duration(stage.seconds),
            "cost": "" if stage.dollars is None else f"${stage.dollars:.4f}",
            "device": stage.device,
            "cached": "yes" if stage.cached else "no",
            "fingerprint": stage.fingerprint,
        }
        for stage in stages
    ]
