"""Plots: reproducible bytes, the page's colors, captions with the numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Literal

import pytest

from rlhf.report.plots import (
    Curve,
    plot_kl,
    plot_length,
    plot_over_optimization,
    plot_reward,
    plot_toxicity,
    plot_toxicity_difference,
)
from rlhf.results.schema import Plot
from rlhf.results.seeds import OverOptimizationPoint
from rlhf.results.toxicity import PairedToxicity
from tests.support.paths import ROOT

VALIDATION = Curve([0, 10, 20], [-0.5, 0.25, 0.125])
STEPS = Curve([1, 2, 3], [0.5, 1.5, 1.0])
SFT, RLHF = [0.0, 0.2, 0.6, 0.9], [0.0, 0.1, 0.7, 0.2]


def metric(difference: float, ci95: tuple[float, float]) -> PairedToxicity:
    return PairedToxicity(sft=0.5, rlhf=0.5, difference=difference, ci95=ci95, p_value=0.3)


def point(
    method: Literal["ppo", "best_of_n"],
    judge: float | None,
    kl: float,
    score: float,
    *,
    step: int | None = None,
    n: int | None = None,
) -> OverOptimizationPoint:
    return OverOptimizationPoint(
        method=method,
        seed=42,
        step=step,
        n=n,
        kl=kl,
        optimised_score=score,
        judge_win_rate=judge,
        ended_share=1.0,
        response_words=5.0,
        distinct_ngrams=None,
    )


POINTS = [
    point("ppo", 0.5, 0.0, 0.5, step=0),
    point("ppo", 0.62, 4.0, 1.5, step=10),
    point("best_of_n", 0.5, 0.0, 0.5, n=1),
    point("best_of_n", 0.55, 0.19, 1.0, n=2),
]


def all_plots() -> list[Plot]:
    return [
        plot_reward(VALIDATION, STEPS, chosen_step=10),
        plot_kl(STEPS, target=2.0),
        plot_length(STEPS),
        plot_toxicity(SFT, RLHF, "toxicity"),
        plot_toxicity_difference(SFT, RLHF, metric(-0.175, (-0.4, 0.05))),
        plot_over_optimization(POINTS),
    ]


def test_captions_state_what_the_plots_show() -> None:
    reward, kl, length, toxicity, difference, optimization = (
        plot.text.replace("\N{MINUS SIGN}", "-") for plot in all_plots()
    )
    assert "-0.500 at step 0, chosen 0.250 at step 10, last 0.125 at step 20" in reward
    assert kl == "From 0.50 at step 1 to 1.00 at step 3 nats per response, at most 1.50; the target is 2."
    assert length == "From 0.50 at step 1 to 1.00 at step 3 tokens per response."
    assert "50.0 % of SFT and 25.0 % of RLHF" in toxicity
    assert "less toxic on 2 prompts, more toxic on 1, and equally toxic on 1" in difference
    assert "-0.1750, 95 % interval -0.4000 to +0.0500" in difference
    assert (
        "PPO (seed 42), step 10: score 1.50, 0.50 at the start, at 4.0 nats, win rate by the judge 62 %."
        in optimization
    )
    assert "Best of 2: score 1.00, 0.50 at the start, at 0.2 nats, win rate by the judge 55 %." in optimization


def test_plots_are_small_and_take_colors_from_the_page() -> None:
    for plot in all_plots():
        assert len(plot.svg) < 60_000
        colors = set(re.findall(r"#[0-9a-fA-F]{6}\b", plot.svg))
        assert not colors, colors
        assert "var(--ink)" in plot.svg or "var(--muted)" in plot.svg
        assert not re.search(r"<style|<!DOCTYPE|metadata|font-family|DejaVu", plot.svg)


def test_another_process_draws_equal_bytes() -> None:
    program = "from tests.rlhf.report.test_plots import all_plots; print(*[plot.svg for plot in all_plots()], sep='')"
    drawn = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert drawn.strip() == "".join(plot.svg for plot in all_plots()).strip()


@pytest.mark.parametrize(
    "plot",
    [
        lambda: plot_reward(Curve([0], [0.5]), Curve([], []), chosen_step=0),
        lambda: plot_kl(Curve([1], [0.0]), target=None),
        lambda: plot_length(Curve([1], [1.0])),
        lambda: plot_toxicity([0.0, 0.0], [0.0, 0.0], "profanity"),
        lambda: plot_toxicity_difference([0.2], [0.2], metric(0.0, (0.0, 0.0))),
        lambda: plot_over_optimization([point("ppo", None, 0.0, 0.5, step=0)]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_minimal_data_can_be_drawn(plot: object) -> None:
    assert callable(plot)
    assert plot().svg.startswith("<svg")
