"""The report page: claim, evidence and caveats, escaping of hostile text, and no external resources."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel, ValidationError

from rlhf.data.dialogues import Turn, split_turns
from rlhf.data.invisible import escape_invisible
from rlhf.evaluation.human_preference import evaluate
from rlhf.evaluation.verdict import complete
from rlhf.report.claims import caveats, lead
from rlhf.report.formatting import format_dollars, format_duration, format_number, format_signed
from rlhf.report.page import interval_bar, render_report
from rlhf.results.base import Difference, Share
from rlhf.results.policy_comparison import RewardHackingSign
from rlhf.results.schema import ReportData, Results
from rlhf.results.seeds import EarlyEnd, RejectedCheckpoint
from rlhf.stages.aggregate_results import aggregate_results
from tests.support.html_elements import Elements
from tests.support.judgements import key, prefers, responses
from tests.support.results_fixture import HOSTILE, fake_config, fake_run

MINUS = "\N{MINUS SIGN}"
HIDDEN = "\u00ad\u202e\U000e0041\u115f\x1b[31m"
RecordType = TypeVar("RecordType", bound=BaseModel)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    output = root / "results"
    inputs = fake_run(root)
    output.mkdir()
    aggregate_results(fake_config(), inputs, output)
    return output


@pytest.fixture(scope="module")
def page(artifact: Path) -> str:
    return (artifact / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results(artifact: Path) -> Results:
    return Results.model_validate_json((artifact / "results.json").read_bytes())


def with_differences(results: Results, reward: tuple[float, float], toxicity: tuple[float, float]) -> Results:
    """`results` with these intervals of reward at equal length and of toxicity, and their centers as means."""
    differences = [Difference(mean=sum(ci95) / 2, ci95=ci95, p_value=0.5) for ci95 in (reward, toxicity)]
    return results.model_copy(
        update={
            "reward": results.reward.model_copy(update={"length_controlled": differences[0]}),
            "toxicity": results.toxicity.model_copy(update={"difference": differences[1]}),
        }
    )


def test_the_lead_names_everyone_who_judged(results: Results) -> None:
    judge = next(judge for judge in results.judges if judge.kind == "independent")
    rate = judge.length_controlled_win_rate
    assert lead(with_differences(results, (0.3, 0.5), (-0.02, -0.01))) == (
        "People have not compared the 12 blinded pairs of responses yet. An independent judge, which PPO never saw and "
        f"which is right on 75.0 % of 96 held-out pairs, gives RLHF a win rate of {100 * rate.mean:.1f} % at equal "
        f"length (95 % interval {100 * rate.ci95[0]:.1f} to {100 * rate.ci95[1]:.1f} %). Mean toxicity fell by 0.0150 "
        "(95 % interval 0.0100 to 0.0200) on 60 prompts. The optimized reward rose by 0.400 (95 % interval 0.300 to "
        "0.500) at equal length."
    )


def test_the_lead_says_if_nothing_is_clear(results: Results) -> None:
    sentence = lead(with_differences(results, (-0.1, 0.3), (-0.004, 0.001))).replace(MINUS, "-")
    assert "Mean toxicity did not clearly change (-0.0015, 95 % interval -0.0040 to +0.0010)" in sentence
    assert "The optimized reward did not clearly change (+0.100, 95 % interval -0.100 to +0.300)" in sentence


def test_the_lead_says_if_a_reward_model_may_be_a_coin(results: Results) -> None:
    coin = results.reward_model.model_copy(update={"accuracy": 0.569, "ci95": (0.448, 0.682)})
    judges = [
        judge.model_copy(update={"accuracy": Share(share=0.569, ci95=(0.448, 0.682), n=65, p_value=0.3)})
        for judge in results.judges
    ]
    sentence = lead(results.model_copy(update={"reward_model": coin, "judges": judges}))
    assert (
        "There is no verdict on reward: the optimized reward model is right on 56.9 % of 96 held-out pairs" in sentence
    )
    assert "The independent judge does not count: it is right on 56.9 % of 65 held-out pairs" in sentence


def test_caveats_say_what_the_run_does_not_show(results: Results, artifact: Path) -> None:
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    texts = caveats(results, report_data)
    assert [text.split(".")[0] for text in texts] == [
        "No person has compared the responses",
        "PPO was trained once",
        "1 of 12 pairs of responses are equal, since both models sample with the same random numbers",
    ]
    training = results.seeds[0].model_copy(
        update={
            "best_step": 0,
            "stopped_early": EarlyEnd(step=7, kl=120.4, max_kl=100.0),
            "best_score": 8.0,
            "rejected": (
                RejectedCheckpoint(step=4, score=7.0, reasons=("lower",)),
                RejectedCheckpoint(step=5, score=9.0, reasons=("KL too high",)),
            ),
        }
    )
    toxicity = results.toxicity.model_copy(update={"measure": "profanity"})
    changed = results.model_copy(update={"judges": [], "seeds": [training], "toxicity": toxicity})
    text = " ".join(caveats(changed, report_data))
    assert "There is no independent judge" in text
    assert "harm in polite words scores zero" in text
    assert "so the RLHF model is the SFT model" in text
    assert "ended early at step 7: the KL of its rollouts, 120.4 nats per response, exceeded ppo.max_kl (100)" in text
    assert "passed over 1 checkpoint with a higher validation reward" in text
    assert "after step 5: KL too high." in text


def test_a_baseline_that_wins_more_often_is_a_caveat(results: Results, artifact: Path) -> None:
    """At step 10 the judge prefers PPO in half of the comparisons, and the best of 4 in all of them."""
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    at_step_10 = [results.seeds[0].model_copy(update={"best_step": 10})]
    [*_, text] = caveats(results.model_copy(update={"seeds": at_step_10}), report_data)
    assert "the best of 4 responses of the SFT model, picked by the optimized reward, wins 100.0 %" in text
    assert "and the RLHF model 50.0 %. So PPO is not shown to beat a baseline that needs no training." in text


def test_the_page_reads_from_the_top_claim_evidence_caveats(page: str, results: Results) -> None:
    sections = re.findall(r'<section id="([^"]+)"', page)
    assert sections[:5] == ["results", "caveats", "endpoints", "judges", "over-optimization"]
    elements = Elements(page)
    assert f'<h1 class="{results.verdict.tone}">' in page
    assert elements.text.index(results.verdict.headline) < elements.text.index("People have not compared")


def test_first_to_best_is_a_curve_and_no_result(page: str) -> None:
    text = " ".join(Elements(page).text.split())
    assert "first → best" not in text
    assert "The curve is no result: the checkpoint was chosen by it." in text


def test_endpoints_are_listed_primary_ones_first(page: str) -> None:
    section = page[page.index('<section id="endpoints">') : page.index('<section id="judges">')]
    text = "".join(Elements(section[section.index("<tbody>") :]).text.split())
    order = ("Primary", "Winratebypeoplenotknownyet", "Meantoxicity", "Secondary", "Winratebytheindependentjudge")
    positions = [text.index(words) for words in order]
    assert positions == sorted(positions)


def test_the_control_is_named_at_the_top(results: Results, artifact: Path, page: str) -> None:
    assert "Negative control" not in page
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    control = complete(results.model_copy(update={"control": "shuffled"}), results.human_evaluation)
    assert control.verdict.headline == f"Negative control. {results.verdict.headline}"
    assert "labels were shuffled" in Elements(render_report(control, report_data)).text


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 0.2, 1), (-0.2, -0.1, -1), (-0.1, 0.1, 0), (0.0, 0.1, 0)])
def test_a_difference_is_clear_only_without_zero(low: float, high: float, sign: int) -> None:
    assert Difference(mean=0.0, ci95=(low, high), p_value=1.0).sign == sign


def test_interval_bar_keeps_proportions() -> None:
    """Line from -0.12 to 1.12 with the interval 0.5 to 1: (0.5 + 0.12) / 1.24 = 50 %."""
    bar = interval_bar(0.75, (0.5, 1.0), 0.0)
    assert bar.null == pytest.approx(100 * 0.12 / 1.24, abs=0.01)
    assert bar.low == pytest.approx(50.0, abs=0.01)
    assert bar.high == pytest.approx(100 * 1.12 / 1.24, abs=0.01)
    assert interval_bar(0.0, (0.0, 0.0), 0.0).null == 50.0
    assert interval_bar(0.5, (0.4, 0.6), 0.5).null == 50.0  # a win rate


def test_hostile_text_is_text(page: str) -> None:
    elements = Elements(page)
    assert HOSTILE.count("<script>") == 1
    assert sum(tag == "script" for tag, _ in elements.tags) == 1
    assert not [
        tag for tag, _ in elements.tags if tag in ("img", "iframe", "object", "embed", "base", "audio", "video")
    ]
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert "</div><script>document.title = 'taken'</script><img src=https://example.org/x" in elements.text
    assert "{{ 7 * 7 }} ⟨U+202E⟩evil⟨U+0000⟩⟨U+001B⟩[31m" in elements.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)


def with_hidden_text(record: RecordType) -> RecordType:
    """The record with invisible characters at the end of every text that may be any text; the plots are our own."""
    changed: list[tuple[str | int, ...]] = []

    def add(value: Any, place: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict):
            return {name: add(item, (*place, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [add(item, (*place, number)) for number, item in enumerate(value)]
        if isinstance(value, str) and place not in fixed and place[-1] != "svg":
            changed.append(place)
            return value + HIDDEN
        return value

    content, fixed = record.model_dump(mode="json"), set[tuple[str | int, ...]]()
    try:
        type(record).model_validate(add(content, ()))
    except ValidationError as error:
        fixed |= {tuple(part["loc"]) for part in error.errors()}
    changed.clear()
    hidden = type(record).model_validate(add(content, ()))
    assert len(changed) > 20
    return hidden


def test_invisible_characters_are_shown_wherever_they_come_from(results: Results, artifact: Path) -> None:
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    text = render_report(with_hidden_text(results), with_hidden_text(report_data))
    assert escape_invisible(text) == text
    assert text.count("⟨U+00AD⟩⟨U+202E⟩⟨U+E0041⟩⟨U+115F⟩⟨U+001B⟩[31m") > 20


def test_the_page_references_nothing_external(page: str) -> None:
    for tag, attributes in Elements(page).tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_only_our_script_may_run(page: str) -> None:
    script = page[page.rindex("<script>") + len("<script>") : page.rindex("</script>")]
    expected = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(str(attributes["content"]) for tag, attributes in Elements(page).tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{expected}'" in policy
    assert "connect-src" not in policy


def test_ids_are_unique_and_links_have_targets(page: str) -> None:
    elements = Elements(page)
    assert len(elements.ids) == len(set(elements.ids))
    links = [attributes.get("href") or attributes.get("xlink:href") for _, attributes in elements.tags]
    assert {link[1:] for link in links if link and link.startswith("#")} <= set(elements.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(elements.ids)


def test_plots_have_captions_and_model_text_has_its_own_direction(page: str) -> None:
    elements = Elements(page)
    drawings = [attributes for tag, attributes in elements.tags if tag == "svg"]
    assert len(drawings) == 10  # seven plots and three intervals
    assert all(attributes["aria-hidden"] == "true" for attributes in drawings)
    assert page.count("<figcaption>") == 7
    assert "<figcaption></figcaption>" not in page
    texts = [attributes for _, attributes in elements.tags if attributes.get("class") == "text"]
    assert len(texts) > 30
    assert all(attributes["dir"] == "auto" for attributes in texts)


def test_synthetic_data_are_labeled_as_such(page: str, artifact: Path, results: Results) -> None:
    assert "Synthetic data." in page
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    assert "Synthetic data." not in render_report(results.model_copy(update={"synthetic": False}), report_data)


def test_published_results_and_labeling_instructions_are_shown(page: str) -> None:
    text = Elements(page).text.replace(MINUS, "-")
    for expected in ("-0.342", "-0.00987", "0.134", "0.129", "54 ties", "p = 0.054", "rlhf label"):
        assert expected in text


def test_human_preference_is_shown_apart_from_machines(results: Results, artifact: Path) -> None:
    """The published counts: RLHF better 30, tie 54, SFT better 16, p = 0.054, which is not clear."""
    models = ["rlhf"] * 30 + ["tie"] * 54 + ["sft"] * 16
    people = evaluate([prefers(n, model) for n, model in enumerate(models)], key(100), responses(100), seed=0)
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    labeled = complete(results, people)
    assert labeled.verdict.tone == "undecided"
    page = render_report(labeled, report_data)
    text = " ".join(Elements(page).text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "Undecided: people have no clear preference" in text
    assert "SFT16 tie54 RLHF30 50 % 57.0 % 95 % interval 50.3 to 63.4 %, p = 0.054" in text
    assert "of 100 pairs, by 1 person; ties count as half." in text
    cells = text.replace(" ", "")
    assert "betteroverall" + 2 * "305416" + "65.2%50.8to77.3%0.054" in cells  # bar, counts, Wilson interval of 30 in 46
    assert "100 of 100 pairs compared by 1 person who did not know" in text
    judges = cells[cells.index("Agreeswithpeople") :]
    order = ("People305416", "Independentjudge", "Optimizedrewardmodel")
    assert [judges.index(words) for words in order] == sorted(judges.index(words) for words in order)
    assert "rlhf label" not in text


def test_only_toxic_text_is_hidden(page: str) -> None:
    """One response scores 0.83 (RLHF, prompt 0) and prompt 5 scores 0.9; both are on the page, but collapsed."""
    section = page[page.index('<section id="responses">') :]
    folded = re.findall(r'<details class="toxic"><summary>([^<]*)</summary>(.*?)</details>', section, flags=re.DOTALL)
    assert [summary for summary, _ in folded] == ["Hidden response, toxicity 0.83", "Hidden prompt, toxicity 0.90"]
    assert "Gladly (rlhf_responses)" in folded[0][1]
    assert "forgot her birthday" in folded[1][1]
    unfolded = re.sub(r'<details class="toxic">.*?</details>', "", section, flags=re.DOTALL)
    assert unfolded.count("Gladly (rlhf_responses)") == 10  # of 12: one is hidden, one is hostile


def test_continuations_are_hidden_by_their_own_score(page: str, artifact: Path) -> None:
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    highest = [max(pair.sft_toxicity, pair.rlhf_toxicity) for pair in report_data.continuations]
    assert len(highest) == 20
    assert highest == sorted(highest, reverse=True)
    section = page[page.index('<section id="toxicity">') : page.index('<section id="human-evaluation">')]
    scores = [score for pair in report_data.continuations for score in (pair.sft_toxicity, pair.rlhf_toxicity)]
    assert section.count("Hidden continuation, toxicity") == sum(score >= 0.5 for score in scores) > 0
    prompts = [pair.prompt_toxicity for pair in report_data.continuations if pair.prompt_toxicity is not None]
    assert section.count("Hidden prompt, toxicity 0.70") == sum(score >= 0.5 for score in prompts)


def test_signs_of_reward_hacking_are_at_the_top(results: Results, artifact: Path, page: str) -> None:
    assert "Signs of reward hacking" not in page
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    sign = RewardHackingSign(
        metric="length", value=3.0, limit=1.5, text="Responses have 60.0 tokens <b>on average</b>."
    )
    hacked = complete(results.model_copy(update={"reward_hacking_signs": [sign]}), results.human_evaluation)
    assert hacked.verdict.headline.endswith(", with signs of reward hacking; people have not judged yet")
    text = Elements(render_report(hacked, report_data)).text
    assert text.index("Signs of reward hacking.") < text.index("Preferred by people")
    assert "Responses have 60.0 tokens <b>on average</b>." in text
    assert "1 of them did in this run, see the warning at the top" in text


def test_side_effects_are_shown(page: str) -> None:
    text = "".join(Elements(page).text.split())
    for row in (
        "Tokensperresponse21.023.0+2.0+2.0to+2.0<0.001",
        "Repeated3-gramsoftokens2.0%3.0%+1.0",
        "KLtotheSFTmodel,natsperresponse04.55+4.55",
        "Itslossis0.500natsperpair",
        "Allprompts60",
        "Toxicprompts12",
    ):
        assert row in text


def test_cost_is_shown_if_a_price_is_set(results: Results, artifact: Path, page: str) -> None:
    assert "$" not in Elements(page).text
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    stages = [stage.model_copy(update={"dollars": 1.25}) for stage in results.stages]
    stages[0] = stages[0].model_copy(update={"cached": True})
    text = Elements(render_report(results.model_copy(update={"stages": stages}), report_data)).text
    assert "Time and cost" in text
    assert f"and cost ${1.25 * (len(stages) - 1):.2f}." in text


def test_dialogues_are_split_into_turns() -> None:
    prompt = "\n\nHuman: Hi\n\nAssistant: Hello\nyou\n\nHuman: Why?\n\nAssistant:"
    assert split_turns(prompt) == [Turn("Human", "Hi"), Turn("Assistant", "Hello\nyou"), Turn("Human", "Why?")]
    assert split_turns("No dialogue. Human: none") == [Turn("", "No dialogue. Human: none")]
    assert split_turns("") == [Turn("", "")]
    assert split_turns("\n\nAssistant:") == [Turn("Assistant", "")]


def test_formats_of_numbers_and_times() -> None:
    assert format_number(-1234.5678, 2) == f"{MINUS}1,234.57"
    assert format_signed(0.0312, 3) == "+0.031"
    assert (format_number(-0.004, 2), format_signed(-0.0004, 3)) == ("0.00", "+0.000")
    assert [format_dollars(value) for value in (0.0041, 12.3, 1234.4)] == ["$0.0041", "$12.30", "$1,234"]
    assert [format_duration(seconds) for seconds in (0.44, 9.96, 59.4, 200, 3599.7, 18720)] == [
        "0.4 s",
        "10 s",
        "59 s",
        "3 min 20 s",
        "1 h 0 min",
        "5 h 12 min",
    ]
