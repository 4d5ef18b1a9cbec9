"""Blinding: fair, repeatable, and nothing in the manifest tells which model wrote which answer."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.labeling import manifest
from rlhf.labeling.blinding import Model, blinding_secret, item_name, toss_coin
from rlhf.labeling.manifest import Pair, blind, write_comparison
from rlhf.stage_config import LabelingStage
from rlhf.stages.export_labeling_manifest import export_labeling_manifest
from rlhf.storage.files import write_jsonl

PAIRS = [
    Pair(f"test-{n:03d}", f"\n\nHuman: Question {n}?\n\nAssistant:", f" One {n}.", f" Two {n}.") for n in range(200)
]
SECRET = blinding_secret(7, ["ab", "cd"])


def responses(folder: Path, model: str, offset: float) -> Path:
    """An artifact with one model's answers, as the stage before leaves it."""
    folder.mkdir()
    rows: list[dict[str, object]] = [
        {
            "id": pair.id,
            "prompt": pair.prompt,
            "answer": pair.sft if model == "sft" else pair.rlhf,
            "seed": 5,
            "reward": offset + number / 7,
            "stopped": True,
        }
        for number, pair in enumerate(PAIRS)
    ]
    write_jsonl(folder / "responses.jsonl", rows)
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    inputs = {
        "sft_responses": responses(tmp_path / "policy-before", "sft", 0.0),
        "rlhf_responses": responses(tmp_path / "policy-after", "rlhf", 1.0),
    }
    output = tmp_path / "labeling"
    output.mkdir()
    assert export_labeling_manifest(LabelingStage(seed=42), inputs, output) == {"items": 200}
    return output, inputs


def flipped(secret: str, prompt_id: str) -> Model:
    return "rlhf" if toss_coin(secret, prompt_id) == "sft" else "sft"


def test_key_and_manifest_give_back_both_answers(exported: tuple[Path, dict[str, Path]]) -> None:
    output, _ = exported
    items = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    key = [json.loads(line) for line in (output / "key.jsonl").read_text().splitlines()]
    by_id = {pair.id: pair for pair in PAIRS}
    assert [item["item"] for item in items] == [line["item"] for line in key]
    assert {line["id"] for line in key} == set(by_id)
    for item, line in zip(items, key, strict=True):
        pair = by_id[line["id"]]
        assert item["source"] == pair.prompt
        assert {line["a"]: item["answer_a"], line["b"]: item["answer_b"]} == {"sft": pair.sft, "rlhf": pair.rlhf}


def test_exchanging_models_and_coins_leaves_every_byte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The manifest is a function of (answer A, answer B) alone: nothing in it depends on who is called what."""
    exchanged = [Pair(pair.id, pair.prompt, sft=pair.rlhf, rlhf=pair.sft) for pair in PAIRS]
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
    write_comparison(tmp_path / "before", *blind(PAIRS, SECRET))
    monkeypatch.setattr(manifest, "toss_coin", flipped)
    write_comparison(tmp_path / "after", *blind(exchanged, SECRET))
    before, after = ((tmp_path / folder / "manifest.jsonl").read_bytes() for folder in ("before", "after"))
    assert before == after
    keys = [(tmp_path / folder / "key.jsonl").read_bytes() for folder in ("before", "after")]
    assert keys[0] != keys[1]


def test_exchanging_the_models_exchanges_the_answers_of_each_line(exported: tuple[Path, dict[str, Path]]) -> None:
    output, inputs = exported
    before = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    swapped = {"sft_responses": inputs["rlhf_responses"], "rlhf_responses": inputs["sft_responses"]}
    export_labeling_manifest(LabelingStage(seed=42), swapped, output)
    after = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    assert after == [{**line, "answer_a": line["answer_b"], "answer_b": line["answer_a"]} for line in before]


def test_the_manifest_holds_nothing_but_texts_and_names(exported: tuple[Path, dict[str, Path]]) -> None:
    output, _ = exported
    content = (output / "manifest.jsonl").read_text()
    names = set()
    for line in content.splitlines():
        item = json.loads(line)
        assert item.keys() == {"item", "source", "answer_a", "answer_b"}
        assert len(item["item"]) == 12
        assert set(item["item"]) <= set("0123456789abcdef")
        names.add(item["item"])
    assert len(names) == 200
    for word in ("sft", "rlhf", "ppo", "policy", "reward", "seed", "test-0", str(output.parent), "fingerprint"):
        assert word not in content.lower()


def test_order_tells_neither_prompt_nor_model() -> None:
    items, key = blind(PAIRS, SECRET)
    assert items != sorted(items, key=lambda item: item.source)
    changes = sum(first.a != second.a for first, second in pairwise(key))
    assert 75 <= changes <= 125  # 199 neighbours of a fair coin: 99.5 +- 3.5 standard deviations of 7.05


def test_the_coin_is_fair_and_each_secret_tosses_its_own() -> None:
    other = blinding_secret(8, ["ab", "cd"])
    tosses = [toss_coin(SECRET, str(n)) == "sft" for n in range(2000)]
    others = [toss_coin(other, str(n)) == "sft" for n in range(2000)]
    assert 920 <= sum(tosses) <= 1080  # 1,000 +- 3.6 standard deviations of 22.4
    assert 920 <= sum(a == b for a, b in zip(tosses, others, strict=True)) <= 1080


def test_the_secret_needs_what_no_annotator_sees() -> None:
    """Same seed and texts, another reward: another secret.  The order of the models does not matter."""
    assert blinding_secret(42, ["ab", "cd"]) != blinding_secret(42, ["ab", "ce"])
    assert blinding_secret(42, ["ab", "cd"]) == blinding_secret(42, ["cd", "ab"])
    assert item_name(SECRET, "test-000") != item_name(blinding_secret(7, ["ab", "ce"]), "test-000")


def test_awkward_text_stays_one_line_of_valid_unicode(tmp_path: Path) -> None:
    awkward = 'a\u2028b\x85c\r\nd\ud83d e \ud83d\ude00 "{{ task.input }}" <script>\x00'
    write_comparison(tmp_path, *blind([Pair("x", awkward, "", awkward)], SECRET))
    content = (tmp_path / "manifest.jsonl").read_bytes().decode("utf-8")
    assert content.count("\n") == len(content.splitlines()) == 1
    source = json.loads(content)["source"]
    assert source == 'a\u2028b\x85c\r\nd\ufffd e \U0001f600 "{{ task.input }}" <script>\x00'


def test_a_line_that_ground_truth_would_refuse_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test prompt p-9: 1000\d\d bytes .* at most 100000"):
        write_comparison(tmp_path, *blind([Pair("p-9", "x" * 99_980, "", "")], SECRET))
    assert not list(tmp_path.iterdir())
