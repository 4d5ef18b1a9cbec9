"""The result of a run in Markdown, for pages that are not ours."""

from __future__ import annotations

from rlhf.report.model_card import figures, precise
from rlhf.report.page import duration, verdict
from rlhf.results.schema import Results, StageRow

Table = list[dict[str, str]]


def summary(results: Results) -> str:
    """Verdict, signs of reward hacking and figures."""
    found = verdict(results)
    signs = [f"- **{sign.figure}**: {sign.text}" for sign in results.warnings]
    rows = [" | ".join(row.values()) for row in figure_table(results)]
    return "\n".join(
        [
            f"# {found.headline}",
            found.sentence,
            *(["", "Signs of reward hacking:", *signs] if signs else []),
            "",
            "| figure | SFT | RLHF | difference | 95 % interval |",
            "| --- | ---: | ---: | ---: | ---: |",
            *(f"| {row} |" for row in rows),
        ]
    )


def figure_table(results: Results) -> Table:
    """The figures, a row each."""
    return [
        {
            "figure": row.name,
            "SFT": precise(row.sft),
            "RLHF": precise(row.rlhf),
            "difference": precise(row.difference),
            "95 % interval": f"{precise(row.ci95[0])} to {precise(row.ci95[1])}",
        }
        for row in figures(results)
    ]


def stage_table(stages: list[StageRow]) -> Table:
    """What each step took, a row each."""
    return [
        {
            "stage": stage.name,
            "took": duration(stage.seconds),
            "cost": "" if stage.dollars is None else f"${stage.dollars:.4f}",
            "on": stage.device,
            "cached": "yes" if stage.cached else "no",
            "fingerprint": stage.fingerprint,
        }
        for stage in stages
    ]
