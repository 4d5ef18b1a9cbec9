"""Plots as inline SVG.  They use the page's font and its light or dark colors; equal data give equal bytes.

Curves differ in dashes and labels as well as in color.  The two colors are Okabe and Ito's blue and vermilion, which
people with any kind of color vision can tell apart.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rlhf.report.formatting import format_number, format_signed
from rlhf.results.schema import Plot, Results, RewardModelResults
from rlhf.results.seeds import OverOptimizationPoint
from rlhf.results.toxicity import PairedToxicity

SMALL_INCHES, WIDE_INCHES = (3.4, 2.4), (4.5, 2.7)
"""Sizes for three and for two plots in a row; small enough to stay readable on a phone."""
INK, MUTED, GRID, SFT, RLHF = "#010203", "#020304", "#030405", "#040506", "#050607"
CSS_COLORS = {INK: "--ink", MUTED: "--muted", GRID: "--line", SFT: "--sft", RLHF: "--rlhf"}
"""Placeholder colors, and the CSS variables that replace them."""
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.6,
}
HISTOGRAM_BINS = 40


class Curve(NamedTuple):
    """A metric over PPO steps."""

    steps: Sequence[int]
    values: Sequence[float]


def plot_reward(validation: Curve, rollouts: Curve | None, chosen_step: int) -> Plot:
    """Mean reward on the validation prompts and of the rollouts."""
    figure, axes = _figure("PPO step", "mean reward")
    if rollouts is not None:
        axes.plot(rollouts.steps, rollouts.values, color=MUTED, linewidth=0.9, alpha=0.75, label="rollouts")
    axes.plot(validation.steps, validation.values, color=RLHF, marker="o", markersize=3.5, label="validation prompts")
    chosen = dict(zip(validation.steps, validation.values, strict=True))[chosen_step]
    axes.plot(
        [chosen_step], [chosen], linestyle="", marker="o", markersize=9, markerfacecolor="none", markeredgecolor=INK
    )
    later = 2 * chosen_step > validation.steps[-1]
    axes.annotate(
        "chosen ",
        (chosen_step, chosen),
        textcoords="offset points",
        xytext=(-4 if later else 4, -12),
        ha="right" if later else "left",
        color=INK,
    )
    _legend(axes)
    first, last = validation.values[0], validation.values[-1]
    return Plot(
        title="Reward",
        text=f"Mean reward on the validation prompts: {format_number(first, 3)} at step {validation.steps[0]}, "
        f"chosen {format_number(chosen, 3)} at step {chosen_step}, "
        f"last {format_number(last, 3)} at step {validation.steps[-1]}.",
        svg=_svg(figure, "reward"),
    )


def plot_reward_comparison(curves: Mapping[str, Curve]) -> Plot:
    """Mean reward of two runs on the validation prompts; `curves` by name of the run."""
    figure, axes = _figure("PPO step", "mean reward", WIDE_INCHES)
    styles: tuple[dict[str, Any], ...] = (
        {"color": SFT, "linestyle": (0, (5, 2)), "marker": "s"},
        {"color": RLHF, "linestyle": "solid", "marker": "o"},
    )
    for (name, curve), style in zip(curves.items(), styles, strict=True):
        axes.plot(curve.steps, curve.values, markersize=3.5, label=_plain(name), **style)
    _legend(axes)
    words = "; ".join(
        f"{name} from {format_number(curve.values[0], 3)} to {format_number(curve.values[-1], 3)} "
        f"at step {curve.steps[-1]}"
        for name, curve in curves.items()
    )
    return Plot(title="Reward on the validation prompts", text=f"{words}.", svg=_svg(figure, "reward-comparison"))


def plot_kl(kl: Curve, target: float | None) -> Plot:
    """KL of the policy to the SFT model, with the target if there is one."""
    figure, axes = _figure("PPO step", "nats per response")
    axes.plot(kl.steps, kl.values, color=RLHF)
    if target is not None and target < 3 * max(*kl.values, 1e-9):
        axes.axhline(target, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(1, target, "target ", transform=axes.get_yaxis_transform(), ha="right", va="bottom", color=INK)
    axes.set_ylim(bottom=min(0.0, *kl.values))
    target_text = "" if target is None else f"; the target is {target:g}"
    return Plot(
        title="KL to the SFT model",
        text=f"{_first_to_last(kl)} nats per response, at most {max(kl.values):.2f}{target_text}.",
        svg=_svg(figure, "kl"),
    )


def plot_length(tokens: Curve) -> Plot:
    """Mean response length.  Reward models often favor long responses, so PPO may learn to write longer ones."""
    figure, axes = _figure("PPO step", "tokens per response")
    axes.plot(tokens.steps, tokens.values, color=RLHF)
    axes.set_ylim(bottom=0, top=1.15 * max(tokens.values))
    return Plot(
        title="Response length", text=f"{_first_to_last(tokens)} tokens per response.", svg=_svg(figure, "length")
    )


def plot_toxicity(sft: Sequence[float], rlhf: Sequence[float], measure: str) -> Plot:
    """Share of continuations at or above each toxicity, for both models, on a logarithmic scale."""
    figure, axes = _figure(measure, f"share at or above this {measure}", WIDE_INCHES)
    for scores, color, dashes, label in ((sft, SFT, (0, (5, 2)), "SFT"), (rlhf, RLHF, "solid", "RLHF")):
        ordered = np.sort(np.asarray(scores))
        share = 1 - np.arange(len(ordered)) / len(ordered)
        axes.step(np.append(0, ordered), np.append(1, share), where="pre", color=color, linestyle=dashes, label=label)
    axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_ylim(0.5 / len(sft), 1.2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.3%}".rstrip("0%").rstrip(".") + " %"))
    axes.minorticks_off()
    _legend(axes)
    toxic = " and ".join(
        f"{100 * np.mean(np.asarray(scores) >= 0.5):.1f} % of {name}" for name, scores in (("SFT", sft), ("RLHF", rlhf))
    )
    return Plot(
        title=f"{measure.capitalize()} of the continuations",
        text=f"Share of continuations with a {measure} of at least 0.5: {toxic}.",
        svg=_svg(figure, "toxicity"),
    )


def plot_toxicity_difference(sft: Sequence[float], rlhf: Sequence[float], metric: PairedToxicity) -> Plot:
    """Change in the toxicity of the continuations per prompt; `metric` is their mean."""
    changes = np.asarray(rlhf) - np.asarray(sft)
    figure, axes = _figure("RLHF minus SFT, per prompt", "prompts", WIDE_INCHES)
    reach = max(0.05, float(np.abs(changes).max()))
    edges = np.linspace(-reach, reach, HISTOGRAM_BINS + 1).tolist()
    axes.set_ylim(0.7, 3 * max(1, *np.histogram(changes[changes != 0], edges)[0]))
    for side, color, hatch in ((changes < 0, RLHF, ""), (changes > 0, SFT, "////")):
        axes.hist(changes[side], edges, color=color, alpha=0.8, hatch=hatch, edgecolor=GRID, linewidth=0.3)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.minorticks_off()
    axes.axvline(0, color=INK, linewidth=1)
    less, more = int((changes < 0).sum()), int((changes > 0).sum())
    for x, words, align in ((0.02, f"{less} less toxic", "left"), (0.98, f"{more} more toxic", "right")):
        axes.text(x, 0.99, words, transform=axes.transAxes, ha=align, va="top", color=INK)
    low, high = metric.ci95
    return Plot(
        title="Change in toxicity from SFT to RLHF",
        text=f"The RLHF model is less toxic on {less} prompts, more toxic on {more}, "
        f"and equally toxic on {len(changes) - less - more}. Mean change {format_signed(metric.difference, 4)}, "
        f"95 % interval {format_signed(low, 4)} to {format_signed(high, 4)}.",
        svg=_svg(figure, "difference"),
    )


def plot_calibration(reward_model: RewardModelResults) -> Plot:
    """Agreement of the reward model with people, by its predicted probability."""
    figure, axes = _figure(
        "predicted probability of the preferred response", "share of pairs in which people agree", WIDE_INCHES
    )
    bins = reward_model.calibration
    axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="perfect calibration")
    expected, observed = [row.expected for row in bins], [row.observed for row in bins]
    ends = [[row.observed - row.ci95[0] for row in bins], [row.ci95[1] - row.observed for row in bins]]
    axes.errorbar(expected, observed, ends, color=RLHF, marker="o", markersize=4, elinewidth=1, label="reward model")
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(-0.03, 1.03)
    _legend(axes)
    words = "; ".join(
        f"{100 * row.observed:.0f} % of {row.pairs} pairs predicted at {100 * row.expected:.0f} %" for row in bins
    )
    return Plot(
        title="Calibration of the reward model",
        text=f"People agree in {words}. Calibration error: {format_number(reward_model.calibration_error, 3)}. "
        "Bars are 95 % intervals.",
        svg=_svg(figure, "calibration"),
    )


def plot_over_optimization(points: Sequence[OverOptimizationPoint]) -> Plot:
    """Optimized score, and below it the independent judge's win rate, over KL: of PPO and of best-of-n."""
    judged = all(point.judge_win_rate is not None for point in points)
    with _style():
        figure = Figure(figsize=(4.5, 4.4 if judged else 2.7), layout="constrained")
        panels = figure.subplots(2 if judged else 1, 1, sharex=True, squeeze=False)[:, 0]
    for axes, title in zip(
        panels, ("score by the optimized reward model", "win rate by the independent judge"), strict=False
    ):
        axes.set_title(title, loc="left", fontsize=9, color=MUTED)
    panels[-1].set_xlabel("KL to the SFT model, nats per response")
    if judged:
        panels[1].axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    styles: dict[str, dict[str, Any]] = {
        "ppo": {"color": RLHF, "marker": "o", "linestyle": "solid"},
        "best_of_n": {"color": SFT, "marker": "s", "linestyle": (0, (5, 2))},
    }
    labels, words = {"ppo": "PPO", "best_of_n": "best-of-n"}, []
    for method, seed in dict.fromkeys((point.method, point.seed) for point in points):
        curve = [point for point in points if (point.method, point.seed) == (method, seed)]
        label = labels.pop(method, None)
        kl = [point.kl for point in curve]
        panels[0].plot(kl, [point.optimised_score for point in curve], markersize=3.5, label=label, **styles[method])
        if judged:
            panels[1].plot(kl, [point.judge_win_rate for point in curve], markersize=3.5, **styles[method])
        words.append(_curve_in_words(curve))
    _legend(panels[0])
    return Plot(
        title="Optimized reward and independent judge",
        text=" ".join(words) + " A score that rises while the judge's win rate falls is over-optimization. KL says how "
        "far a method went, not how good it is: compare methods by the judge.",
        svg=_svg(figure, "over-optimization"),
    )


def plot_seeds(results: Results) -> Plot:
    """Every PPO training as a dot, with the interval over trainings and prompts, for the main metrics."""
    rows: list[tuple[str, list[float], tuple[float, float], float]] = [
        (
            "optimized reward at equal length",
            [seed.reward_length_controlled for seed in results.seeds],
            results.reward.length_controlled.ci95,
            0.0,
        ),
        (
            results.toxicity.measure,
            [seed.toxicity_difference for seed in results.seeds],
            results.toxicity.difference.ci95,
            0.0,
        ),
    ]
    rates = [seed.judge_win_rate for seed in results.seeds if seed.judge_win_rate is not None]
    rows += [
        ("win rate by the independent judge", rates, judge.win_rate.ci95, 0.5)
        for judge in results.judges
        if judge.kind == "independent"
    ]
    with _style():
        figure = Figure(figsize=(4.5, 1.1 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (name, values, (low, high), null) in zip(panels, rows, strict=True):
        axes.set_title(name, loc="left", fontsize=9, color=MUTED)
        axes.grid(visible=False)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.axvline(null, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot([low, high], [0, 0], color=MUTED, linewidth=1.5)
        axes.plot(values, [0] * len(values), linestyle="", marker="o", markersize=6, color=RLHF, markeredgecolor=INK)
    words = "; ".join(f"{name} {', '.join(format_number(value, 3) for value in values)}" for name, values, _, _ in rows)
    return Plot(
        title="Every training as a dot",
        text=f"In the order of the seeds: {words}. Lines are 95 % intervals over trainings and prompts; the dashed "
        "line means no difference.",
        svg=_svg(figure, "seeds"),
    )


def _curve_in_words(curve: Sequence[OverOptimizationPoint]) -> str:
    first, last = curve[0], curve[-1]
    name = f"PPO (seed {last.seed}), step {last.step}" if last.method == "ppo" else f"Best of {last.n}"
    judge = "" if last.judge_win_rate is None else f", win rate by the judge {100 * last.judge_win_rate:.0f} %"
    return (
        f"{name}: score {format_number(last.optimised_score, 2)}, {format_number(first.optimised_score, 2)} at the "
        f"start, at {last.kl:.1f} nats{judge}."
    )


def _first_to_last(curve: Curve) -> str:
    return f"From {curve.values[0]:.2f} at step {curve.steps[0]} to {curve.values[-1]:.2f} at step {curve.steps[-1]}"


def _figure(x_label: str, y_label: str, size: tuple[float, float] = SMALL_INCHES) -> tuple[Figure, Axes]:
    with _style():
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_title(y_label, loc="left", fontsize=9, color=MUTED)
    if x_label == "PPO step":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    return figure, axes


def _plain(name: str) -> str:
    """A name without characters that matplotlib would treat as math or as a hidden label."""
    return name.replace("$", "").lstrip("_")


def _legend(axes: Axes) -> None:
    axes.figure.legend(loc="outside lower right", ncols=2, frameon=False, labelcolor=INK, fontsize=9, borderpad=0)


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an element for a page.  `salt` makes its ids differ from those of other figures."""
    buffer = io.StringIO()
    with _style({"svg.hashsalt": salt}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    for pattern, replacement in (
        (r"<metadata>.*?</metadata>\s*", ""),
        (r"<style.*?</style>\s*", ""),  # it would apply to the complete page
        (r"font-family: [^;\"]*; ", ""),
        (r'\bid="([^"]+)"', rf'id="{salt}-\1"'),
        (r"(url\(#|href=\"#)", rf"\g<1>{salt}-"),
        (r'^<svg ([^>]*?)width="[^"]*" ([^>]*?)height="[^"]*"', r'<svg aria-hidden="true" \1\2'),
    ):
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    for color, name in CSS_COLORS.items():
        svg = svg.replace(color, f"var({name})")
    return svg


def _style(more: dict[str, Any] | None = None) -> AbstractContextManager[None]:
    """Our style on top of matplotlib's defaults, independent of the user's settings."""
    return mpl.style.context(["default", {**STYLE, **(more or {})}])
