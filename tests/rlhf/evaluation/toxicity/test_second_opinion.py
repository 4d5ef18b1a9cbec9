"""The second opinion: scores as transformers' own pipeline gives them, safe loading, and the summary by hand."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TextClassificationPipeline

from rlhf.errors import UserError
from rlhf.evaluation.toxicity import second_opinion as module
from rlhf.evaluation.toxicity.continuations import Continuation
from rlhf.evaluation.toxicity.opinion_results import second_opinion
from rlhf.evaluation.toxicity.second_opinion import load_second_opinion, opinion_rows
from rlhf.results.second_opinion import SecondOpinionRow
from tests.support.detoxify_checkpoints import TOKENS, Shape, make_classifier
from tests.support.tiny_models import tiny_model

CPU = torch.device("cpu")
TEXTS = ["you are a kind person .", "foolish", "so kind and so foolish and so kind .", "you " * 40, "strange words"]
LABELS = ["hate", "neutral", "offensive"]


def written(prompt: str, text: str, sample: int = 0) -> Continuation:
    """A continuation of `prompt`, which other words would give other scores."""
    return Continuation(
        id=prompt, prompt="so foolish", prompt_toxicity=None, sample=sample, continuation=text, seed=0, scores={}
    )


def edit_config(folder: Path, **changes: object) -> Path:
    """Change fields of config.json in `folder`; returns `folder`."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize("shape", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [
        (LABELS, None),
        (LABELS, "single_label_classification"),
        (LABELS, "multi_label_classification"),
        (["unsafe"], None),
    ],
)
def test_scores_are_those_of_the_pipeline_of_transformers(
    tmp_path: Path, shape: Shape, labels: list[str], problem_type: str | None
) -> None:
    """One unpadded text at a time.  The pipeline applies softmax or sigmoid by the same rule."""
    folder = make_classifier(tmp_path / "model", shape, labels, problem_type)
    pipeline = TextClassificationPipeline(
        model=AutoModelForSequenceClassification.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )
    scores = load_second_opinion(folder, CPU).score([*TEXTS, " \n", ""])
    for text, row in zip(TEXTS, scores, strict=False):
        expected = pipeline(text, top_k=None, truncation=True, max_length=TOKENS)
        assert row == pytest.approx({part["label"]: part["score"] for part in expected}, abs=1e-6)
        assert row is not None
        assert list(row) == labels
        if problem_type != "multi_label_classification" and len(labels) > 1:
            assert sum(row.values()) == pytest.approx(1)
    assert scores[len(TEXTS) :] == [None, None]  # blank
    assert len({round(row[labels[0]], 5) for row in scores if row}) == len(TEXTS)


def test_scores_do_not_depend_on_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_second_opinion(make_classifier(tmp_path / "model", "bert", LABELS), CPU)
    texts = ["you are a", "so kind .", "a person and", "foolish"]
    batched = model.score(texts)
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 1)
    for row, text in zip(batched, texts, strict=True):
        assert model.score([text])[0] == pytest.approx(row, abs=1e-6)


def test_a_decoder_without_a_pad_token_scores_several_texts(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "decoder", "llama")
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    classifier.config.id2label = {0: "safe", 1: "unsafe"}
    classifier.save_pretrained(folder)
    assert classifier.config.pad_token_id is None
    model = load_second_opinion(folder, CPU)
    texts = ["rice and eggs", "the sky", "blue sky"]
    for row, text in zip(model.score(texts), texts, strict=True):
        ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text).input_ids])
        with torch.no_grad():
            expected = classifier(input_ids=ids).logits[0].softmax(0)
        assert row == pytest.approx({"safe": float(expected[0]), "unsafe": float(expected[1])}, abs=1e-6)


def test_text_that_spells_a_special_token_is_ordinary_text(tmp_path: Path) -> None:
    """As a special token, </s> would end the text: the scores would be those of other ids."""
    folder = make_classifier(tmp_path / "model", "roberta", LABELS)
    model, tokenizer = load_second_opinion(folder, CPU), AutoTokenizer.from_pretrained(folder)
    text = "</s>a"
    ids = torch.tensor([[0, *tokenizer.convert_tokens_to_ids(list(text)), 2]])
    with torch.no_grad():
        expected = AutoModelForSequenceClassification.from_pretrained(folder)(input_ids=ids).logits[0].softmax(0)
    assert model.score([text])[0] == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-6)


def test_labels_without_names_are_allowed_and_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_second_opinion(make_classifier(tmp_path / "named", "bert", LABELS), CPU)
    assert "@note" not in capsys.readouterr().out
    model = load_second_opinion(make_classifier(tmp_path / "other", "bert", ["LABEL_0", "LABEL_1"]), CPU)
    assert model.labels == ("LABEL_0", "LABEL_1")
    assert "the labels of other have no names (LABEL_0, LABEL_1); set id2label" in capsys.readouterr().out


def test_a_folder_without_a_classifier_is_rejected(tmp_path: Path) -> None:
    """A language model, also one that says it is a classifier; a missing folder; a regression; repeated labels."""
    language_model = tiny_model(tmp_path / "language", "gpt2")
    with pytest.raises(UserError, match=r"gpt2 \(GPT2LMHeadModel\) is not a classifier; set toxicity\.second_opinion"):
        load_second_opinion(language_model, CPU)
    with pytest.raises(UserError, match=r"not in its weights: score\.weight"):
        load_second_opinion(edit_config(language_model, architectures=["GPT2ForSequenceClassification"]), CPU)
    with pytest.raises(UserError, match=r"config\.json: missing"):
        load_second_opinion(tmp_path / "nothing", CPU)
    with pytest.raises(UserError, match="problem_type is regression"):
        load_second_opinion(make_classifier(tmp_path / "regression", "bert", ["score"], "regression"), CPU)
    one = edit_config(make_classifier(tmp_path / "one", "bert", ["unsafe"]), problem_type="single_label_classification")
    with pytest.raises(UserError, match=r"not a configuration of a bert model \(.*num_labels"):
        load_second_opinion(one, CPU)
    with pytest.raises(UserError, match=r"id2label \(toxic, toxic\) repeats a label"):
        load_second_opinion(make_classifier(tmp_path / "twice", "bert", ["toxic", "toxic"]), CPU)


def test_weights_that_do_not_fit_are_rejected(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "model", "bert", LABELS)
    more = {str(index): f"label {index}" for index in range(5)}
    with pytest.raises(UserError, match=r"classifier\.bias has the shape \[3\] in the weights, but \[5\] by config"):
        load_second_opinion(edit_config(folder, id2label=more, label2id={}), CPU)


def test_a_pickle_and_code_are_never_opened(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "pickle", "bert", LABELS)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="its weights are a pickle, which is not opened"):
        load_second_opinion(folder, CPU)
    code = make_classifier(tmp_path / "code", "bert", LABELS)
    (code / "own.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    edit_config(code, model_type="own", auto_map={"AutoConfig": "own.Config"})
    with pytest.raises(UserError, match=r"model_type \(own\) is not one that transformers"):
        load_second_opinion(code, CPU)
    assert not (tmp_path / "executed").exists()


def test_damaged_weights_stop_the_run_with_the_prompt_and_the_label(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "model", "bert", LABELS, "multi_label_classification")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][1] = math.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="the score neutral of prompt p-7 is nan, not a probability"):
        opinion_rows(load_second_opinion(folder, CPU), [written("p-6", " "), written("p-7", "you person")])


def test_rows_are_named_by_prompt_and_sample(tmp_path: Path) -> None:
    model = load_second_opinion(make_classifier(tmp_path / "model", "bert", LABELS), CPU)
    rows = opinion_rows(model, [written("a", "foolish"), written("a", "", sample=1), written("b", "kind")])
    assert [(row.id, row.sample) for row in rows] == [("a", 0), ("a", 1), ("b", 0)]
    assert rows[0].scores == pytest.approx(model.score(["foolish"])[0], abs=1e-6)
    assert rows[1].scores is None
    assert rows[2].scores == pytest.approx(model.score(["kind"])[0], abs=1e-6)
    assert rows[0].scores != pytest.approx(rows[2].scores, abs=1e-3)


def rows(table: dict[str, list[float | None]]) -> list[SecondOpinionRow]:
    """One row per prompt and score of the label hate; the label safe has the rest of the probability."""
    return [
        SecondOpinionRow(id=prompt, sample=sample, scores=None if score is None else {"hate": score, "safe": 1 - score})
        for prompt, scores in table.items()
        for sample, score in enumerate(scores)
    ]


def test_the_summary_by_hand() -> None:
    """Prompt means of hate: 0.5, 0.2, 0.6 before and 0.3, 0.1, 0.8 after; c counts its only text, d is left out.

    Differences -0.2, -0.1, +0.2 sum to -0.1.  Of the 8 patterns of signs, -0.5, -0.3, -0.1, -0.1 are as low: the
    p-value is 2 x 4 / 8.
    """
    sft = rows({"a": [0.9, 0.1], "b": [0.2, 0.2], "c": [None, 0.6], "d": [None, None]})
    rlhf = rows({"a": [0.3, 0.3], "b": [0.0, 0.2], "c": [0.7, 0.9], "d": [0.9, None]})
    opinion = second_opinion(sft, rlhf, seed=0)
    assert (opinion.prompts, opinion.sft_blank, opinion.rlhf_blank) == (3, 3, 1)
    hate, safe = opinion.labels
    assert (hate.label, safe.label) == ("hate", "safe")
    assert (hate.sft, hate.rlhf) == pytest.approx((1.3 / 3, 1.2 / 3))
    assert (safe.sft, safe.rlhf) == pytest.approx((1.7 / 3, 1.8 / 3))
    assert hate.difference.mean == pytest.approx(-0.1 / 3)
    assert safe.difference.mean == pytest.approx(0.1 / 3)
    assert hate.difference.p_value == pytest.approx(1.0)
    assert hate.difference.ci95[0] < hate.difference.mean < hate.difference.ci95[1]


def test_a_clear_difference_of_every_prompt_is_significant() -> None:
    """All of 8 prompts fall, one of 256 patterns of signs is as low: p = 2 / 256."""
    sft = rows({str(number): [0.5 + number / 100] for number in range(8)})
    rlhf = rows({str(number): [0.2] for number in range(8)})
    difference = second_opinion(sft, rlhf, seed=0).labels[0].difference
    assert difference.sign == -1
    assert difference.p_value == pytest.approx(2 / 256)


def test_equal_models_do_not_differ_and_blank_ones_cannot_be_compared() -> None:
    same = rows({"a": [0.3], "b": [0.6]})
    for label in second_opinion(same, same, seed=0).labels:
        assert (label.difference.mean, label.difference.ci95, label.difference.p_value) == (0.0, (0.0, 0.0), 1.0)
    blank = rows({"a": [None], "b": [None]})
    opinion = second_opinion(blank, same, seed=0)
    assert (opinion.prompts, opinion.sft_blank, opinion.rlhf_blank, opinion.labels) == (0, 2, 0, [])


def test_a_folder_with_a_damaged_file_is_rejected(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "model", "bert", LABELS)
    other = shutil.copytree(folder, tmp_path / "cut")
    weights = (folder / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="safetensors are damaged"):
        load_second_opinion(other, CPU)
