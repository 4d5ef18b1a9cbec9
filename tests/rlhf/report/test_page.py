"""The report page: the verdict, escaping of hostile text, and no external resources."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from rlhf.data.dialogues import Turn, split_turns
from rlhf.data.text import escape_invisible
from rlhf.evaluation.human_preference import evaluate
from rlhf.report.formatting import format_dollars, format_duration, format_number, format_signed
from rlhf.report.page import HEADLINES, interval_bar, render_report, verdict
from rlhf.results.base import Difference
from rlhf.results.policy_comparison import RewardHackingSign
from rlhf.results.schema import ReportData, Results
from rlhf.stages.aggregate_results import aggregate_results
from tests.support.html_elements import Elements
from tests.support.judgements import key, prefers, rewards
from tests.support.results_fixture import HOSTILE, fake_config, fake_run

MINUS = "\N{MINUS SIGN}"


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
    """`results` with these intervals and their centers as means."""
    changed = [
        part.model_copy(update={"difference": Difference(mean=sum(ci95) / 2, ci95=ci95, p_value=0.5)})
        for part, ci95 in ((results.reward, reward), (results.toxicity, toxicity))
    ]
    return results.model_copy(update={"reward": changed[0], "toxicity": changed[1]})


def test_verdict_of_a_clear_result(results: Results) -> None:
    conclusion = verdict(with_differences(results, (0.3, 0.5), (-0.02, -0.01)))
    assert conclusion.tone == "good"
    assert conclusion.headline == "Better: higher reward and less toxicity"
    assert conclusion.sentence == (
        "On 12 test prompts that were not used in training, the mean reward of the responses rose by 0.400 "
        "(95 % interval 0.300 to 0.500); on 60 toxicity prompts, mean toxicity fell by 0.0150 (95 % interval 0.0100 to "
        "0.0200)."
    )


def test_verdict_says_if_an_interval_includes_zero(results: Results) -> None:
    conclusion = verdict(with_differences(results, (-0.1, 0.3), (-0.004, 0.001)))
    assert conclusion.headline == "No clear difference"
    assert conclusion.sentence.count("includes zero") == 2
    sentence = conclusion.sentence.replace(MINUS, "-")
    assert "mean toxicity changed by -0.0015, which cannot be distinguished from no change" in sentence
    assert "-0.0040 to +0.0010, includes zero" in sentence


def test_verdict_says_if_the_model_got_worse(results: Results) -> None:
    assert verdict(with_differences(results, (-0.3, -0.1), (0.01, 0.02))).tone == "bad"
    assert verdict(with_differences(results, (0.1, 0.3), (0.01, 0.02))).headline == "Higher reward, but more toxicity"
    assert {(reward, toxicity) for reward in (-1, 0, 1) for toxicity in (-1, 0, 1)} == set(HEADLINES)


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 0.2, 1), (-0.2, -0.1, -1), (-0.1, 0.1, 0), (0.0, 0.1, 0)])
def test_a_difference_is_clear_only_without_zero(low: float, high: float, sign: int) -> None:
    assert Difference(mean=0.0, ci95=(low, high), p_value=1.0).sign == sign


def test_interval_bar_keeps_proportions() -> None:
    """Line from -0.12 to 1.12 with the interval 0.5 to 1: (0.5 + 0.12) / 1.24 = 50 %."""
    bar = interval_bar(Difference(mean=0.75, ci95=(0.5, 1.0), p_value=0.1))
    assert bar.zero == pytest.approx(100 * 0.12 / 1.24, abs=0.01)
    assert bar.low == pytest.approx(50.0, abs=0.01)
    assert bar.high == pytest.approx(100 * 1.12 / 1.24, abs=0.01)
    assert interval_bar(Difference(mean=0.0, ci95=(0.0, 0.0), p_value=1.0)).zero == 50.0


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
    assert len(drawings) == 8  # six plots and two intervals
    assert all(attributes["aria-hidden"] == "true" for attributes in drawings)
    assert page.count("<figcaption>") == 6
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


def test_human_preference_is_shown_apart_from_the_reward_model(results: Results, artifact: Path) -> None:
    """The published counts: RLHF better 30, tie 54, SFT better 16, p = 0.054; the reward model is not counted."""
    models = ["rlhf"] * 30 + ["tie"] * 54 + ["sft"] * 16
    people = evaluate([prefers(n, model) for n, model in enumerate(models)], key(100), rewards(100), seed=0)
    report_data = ReportData.model_validate_json((artifact / "report_data.json").read_bytes())
    page = render_report(results.model_copy(update={"human_evaluation": people}), report_data)
    text = " ".join(Elements(page).text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "of 100 pairs, by 1 person; exact sign test p = 0.054" in text
    cells = text.replace(" ", "")
    assert "betteroverall" + 2 * "305416" + "65.2%50.8to77.3%0.054" in cells  # bar, counts, Wilson interval of 30 in 46
    assert "100 of 100 pairs compared by 1 person who did not know" in text
    assert "not an independent judge: PPO was trained to maximize its score" in text
    assert "gives RLHF the higher reward in 89 pairs, the same reward in 1 and a lower one in 10" in text
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
    hacked = with_differences(results, (0.3, 0.5), (-0.02, -0.01))
    hacked = hacked.model_copy(update={"reward_hacking_signs": [sign]})
    assert verdict(hacked).tone == "mixed"
    assert verdict(hacked).headline == "Higher reward and less toxicity, with signs of reward hacking"
    text = Elements(render_report(hacked, report_data)).text
    assert text.index("Signs of reward hacking.") < text.index("Reward of test responses")
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


def test_invisible_characters_are_shown_by_their_code() -> None:
    assert escape_invisible("a\tb\nc") == "a\tb\nc"
    assert escape_invisible("\r\x7f\u200f\ud800") == "⟨U+000D⟩⟨U+007F⟩⟨U+200F⟩⟨U+D800⟩"
    assert escape_invisible("שלום 👩\u200d🔬") == "שלום 👩\u200d🔬"


def test_dialogues_are_split_into_turns() -> None:
    prompt = "\n\nHuman: Hi\n\nAssistant: Hello\nyou\n\nHuman: Why?\n\nAssistant:"
    assert split_turns(prompt) == [Turn("Human", "Hi"), Turn("Assistant", "Hello\nyou"), Turn("Human", "Why?")]
    assert split_turns("No dialogue. Human: none") == [Turn("", "No dialogue. Human: none")]
    assert split_turns("") == [Turn("", "")]
    assert split_turns("\n\nAssistant:") == [Turn("Assistant", "")]


def test_formats_of_numbers_and_times() -> None:
    assert format_number(-1234.5678, 2) == f"{MINUS}1,234.57"
    assert format_signed(0.0312, 3) == "+0.031"
    assert [format_dollars(value) for value in (0.0041, 12.3, 1234.4)] == ["$0.0041", "$12.30", "$1,234"]
    assert [format_duration(seconds) for seconds in (0.44, 9.96, 59.4, 200, 3599.7, 18720)] == [
        "0.4 s",
        "10 s",
        "59 s",
        "3 min 20 s",
        "1 h 0 min",
        "5 h 12 min",
    ]
