"""Blinding is fair and reproducible, and nothing in the manifest reveals which model wrote which answer."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.labeling import manifest
from rlhf.labeling.blinding import Model, blinded_id, blinding_secret, model_shown_as_a
from rlhf.labeling.manifest import PromptResponses, blind, write_labeling_task
from rlhf.stage_config import LabelingStage
from rlhf.stages.export_labeling_manifest import export_labeling_manifest
from rlhf.storage.files import write_jsonl

PAIRS = [
    PromptResponses(f"test-{n:03d}", f"\n\nHuman: Question {n}?\n\nAssistant:", f" One {n}.", f" Two {n}.")
    for n in range(200)
]
SECRET = blinding_secret(7, ["ab", "cd"])


def responses(folder: Path, model: str, offset: float) -> Path:
    """An artifact of generate_responses with one model's responses."""
    folder.mkdir()
    rows: list[dict[str, object]] = [
        {
            "id": pair.id,
            "prompt": pair.prompt,
            "response": pair.sft if model == "sft" else pair.rlhf,
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
    assert export_labeling_manifest(LabelingStage(seed=42), inputs, output) == {"pairs": 200}
    return output, inputs


def flipped(secret: str, prompt_id: str) -> Model:
    return "rlhf" if model_shown_as_a(secret, prompt_id) == "sft" else "sft"


def test_key_and_manifest_restore_both_responses(exported: tuple[Path, dict[str, Path]]) -> None:
    output, _ = exported
    pairs = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    key = [json.loads(line) for line in (output / "key.jsonl").read_text().splitlines()]
    rows = {row.id: row for row in PAIRS}
    assert [pair["id"] for pair in pairs] == [entry["id"] for entry in key]
    assert {entry["prompt_id"] for entry in key} == set(rows)
    for pair, entry in zip(pairs, key, strict=True):
        row = rows[entry["prompt_id"]]
        assert pair["source"] == row.prompt
        assert {entry["a"]: pair["answer_a"], entry["b"]: pair["answer_b"]} == {"sft": row.sft, "rlhf": row.rlhf}


def test_exchanging_the_models_and_the_draws_changes_no_byte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The manifest depends only on answer A and answer B, not on which model wrote them."""
    exchanged = [PromptResponses(pair.id, pair.prompt, sft=pair.rlhf, rlhf=pair.sft) for pair in PAIRS]
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
    write_labeling_task(tmp_path / "before", *blind(PAIRS, SECRET))
    monkeypatch.setattr(manifest, "model_shown_as_a", flipped)
    write_labeling_task(tmp_path / "after", *blind(exchanged, SECRET))
    before, after = ((tmp_path / folder / "manifest.jsonl").read_bytes() for folder in ("before", "after"))
    assert before == after
    keys = [(tmp_path / folder / "key.jsonl").read_bytes() for folder in ("before", "after")]
    assert keys[0] != keys[1]


def test_exchanging_the_models_exchanges_the_answers_of_every_line(exported: tuple[Path, dict[str, Path]]) -> None:
    output, inputs = exported
    before = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    swapped = {"sft_responses": inputs["rlhf_responses"], "rlhf_responses": inputs["sft_responses"]}
    export_labeling_manifest(LabelingStage(seed=42), swapped, output)
    after = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    assert after == [{**line, "answer_a": line["answer_b"], "answer_b": line["answer_a"]} for line in before]


def test_the_manifest_contains_only_texts_and_ids(exported: tuple[Path, dict[str, Path]]) -> None:
    output, _ = exported
    content = (output / "manifest.jsonl").read_text()
    ids = set()
    for line in content.splitlines():
        pair = json.loads(line)
        assert pair.keys() == {"id", "source", "answer_a", "answer_b"}
        assert len(pair["id"]) == 12
        assert set(pair["id"]) <= set("0123456789abcdef")
        ids.add(pair["id"])
    assert len(ids) == 200
    for word in ("sft", "rlhf", "ppo", "policy", "reward", "seed", "test-0", str(output.parent), "fingerprint"):
        assert word not in content.lower()


def test_the_order_reveals_neither_prompt_nor_model() -> None:
    pairs, key = blind(PAIRS, SECRET)
    assert pairs != sorted(pairs, key=lambda pair: pair.source)
    changes = sum(first.a != second.a for first, second in pairwise(key))
    assert 75 <= changes <= 125  # 199 changes of a fair coin: 99.5 +- 3.5 standard deviations of 7.05


def test_the_draw_is_fair_and_independent_between_secrets() -> None:
    other = blinding_secret(8, ["ab", "cd"])
    draws = [model_shown_as_a(SECRET, str(n)) == "sft" for n in range(2000)]
    others = [model_shown_as_a(other, str(n)) == "sft" for n in range(2000)]
    assert 920 <= sum(draws) <= 1080  # 1,000 +- 3.6 standard deviations of 22.4
    assert 920 <= sum(a == b for a, b in zip(draws, others, strict=True)) <= 1080


def test_the_secret_depends_on_scores_that_annotators_do_not_see() -> None:
    """Files that differ in a score give a different secret.  The order of the models does not matter."""
    assert blinding_secret(42, ["ab", "cd"]) != blinding_secret(42, ["ab", "ce"])
    assert blinding_secret(42, ["ab", "cd"]) == blinding_secret(42, ["cd", "ab"])
    assert blinded_id(SECRET, "test-000") != blinded_id(blinding_secret(7, ["ab", "ce"]), "test-000")


def test_awkward_text_stays_one_line_of_valid_unicode(tmp_path: Path) -> None:
    awkward = 'a\u2028b\x85c\r\nd\ud83d e \ud83d\ude00 "{{ task.input }}" <script>\x00'
    write_labeling_task(tmp_path, *blind([PromptResponses("x", awkward, "", awkward)], SECRET))
    content = (tmp_path / "manifest.jsonl").read_bytes().decode("utf-8")
    assert content.count("\n") == len(content.splitlines()) == 1
    source = json.loads(content)["source"]
    assert source == 'a\u2028b\x85c\r\nd\ufffd e \U0001f600 "{{ task.input }}" <script>\x00'


def test_a_line_that_is_too_long_for_ground_truth_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test prompt p-9: 1000\d\d bytes .* at most 100000"):
        write_labeling_task(tmp_path, *blind([PromptResponses("p-9", "x" * 99_980, "", "")], SECRET))
    assert not list(tmp_path.iterdir())
