"""score_toxicity on a tiny model: paired seeds, resuming, several ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from rlhf.config import ModelConfig, SamplingConfig, ToxicityConfig
from rlhf.data.toxicity_prompts import read_toxicity_prompts
from rlhf.errors import UserError
from rlhf.evaluation.toxicity.continuations import (
    Continuation,
    append_rows,
    count_complete_rows,
    iter_continuations,
)
from rlhf.evaluation.toxicity.metrics import toxicity_metrics
from rlhf.evaluation.toxicity.second_opinion import load_second_opinion
from rlhf.models.loading import load_causal_lm
from rlhf.models.tokenization import encode_prompt, load_tokenizer
from rlhf.runtime.seeds import derive_seed
from rlhf.stage_config import ToxicityStage
from rlhf.stages import score_toxicity as stage
from rlhf.stages.score_toxicity import continue_texts, score_toxicity
from rlhf.storage.artifacts import read_manifest
from rlhf.storage.files import file_sha256, read_jsonl
from rlhf.storage.fingerprints import fingerprint_stage
from tests.support.detoxify_checkpoints import ORIGINAL, make_checkpoint, make_classifier
from tests.support.stages import Stages
from tests.support.tiny_inputs import write_request
from tests.support.tiny_models import CONTEXT, tiny_model

WORDS = ("rice", "eggs", "the sky", "a lock", "light and air", "why")


class LetterClassifier:
    """Toxicity is the share of the letter e, so that any change of a text changes its score."""

    labels = ("toxicity",)
    main_label = "toxicity"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def score(self, texts: list[str]) -> dict[str, list[float]]:
        self.texts += texts
        return {"toxicity": [text.count("e") / len(text) for text in texts]}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    tiny_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = [f"What about {first} and {second}" for first in WORDS for second in WORDS]
    rows = [{"prompt": {"text": text, "toxicity": number / 100}} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> LetterClassifier:
    fake = LetterClassifier()
    monkeypatch.setattr(stage, "load_classifier", lambda *_: fake)
    return fake


def settings(batch_size: int = 3, n_prompts: int = 30, continuations: int = 1) -> ToxicityStage:
    return ToxicityStage(
        seed=11,
        model=ModelConfig(),
        toxicity=ToxicityConfig(
            prompts="a file",
            n_prompts=n_prompts,
            continuations=continuations,
            classifier="profanity-check",
            sampling=SamplingConfig(max_new_tokens=5),
            batch_size=batch_size,
        ),
    )


def run(
    config: ToxicityStage, policy: Path, prompts: Path, output: Path, second: Path | None = None
) -> dict[str, float]:
    output.mkdir(exist_ok=True)
    inputs = {"policy": policy, "source": prompts} | ({} if second is None else {"second_opinion": second})
    return score_toxicity(config, inputs, output)


def test_every_row_has_the_seed_and_score_of_its_prompt(
    policy: Path, prompts: Path, classifier: LetterClassifier, tmp_path: Path
) -> None:
    metrics = run(settings(), policy, prompts, tmp_path)
    rows = list(iter_continuations(tmp_path / "continuations.jsonl"))
    drawn = read_toxicity_prompts(settings().toxicity, 11, prompts)
    assert [(row.id, row.prompt, row.prompt_toxicity) for row in rows] == [tuple(prompt) for prompt in drawn]
    assert [row.seed for row in rows] == [derive_seed(11, "toxicity", row.id) for row in rows]
    for row in rows:
        expected = row.continuation.count("e") / len(row.continuation) if row.continuation.strip() else 0.0
        assert row.toxicity == pytest.approx(expected)
    assert metrics == {"toxicity": pytest.approx(sum(row.toxicity for row in rows) / 30), "n": 30}
    assert not set(classifier.texts) & {row.prompt for row in rows}  # the continuation alone is scored


@pytest.mark.usefixtures("classifier")
@pytest.mark.parametrize("batch_size", [1, 7, 30])
def test_rows_do_not_depend_on_the_batch_size(policy: Path, prompts: Path, tmp_path: Path, batch_size: int) -> None:
    run(settings(), policy, prompts, tmp_path / "expected")
    run(settings(batch_size), policy, prompts, tmp_path / "actual")
    expected, actual = (tmp_path / name / "continuations.jsonl" for name in ("expected", "actual"))
    assert actual.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("tail", [b"", b'{"id": "1234', b"\0" * 300, b'{"id": "not the next prompt"}\n', b"{}\n"])
def test_a_killed_run_resumes_after_the_last_complete_row(
    policy: Path, prompts: Path, classifier: LetterClassifier, tmp_path: Path, tail: bytes
) -> None:
    run(settings(), policy, prompts, tmp_path)
    path = tmp_path / "continuations.jsonl"
    complete = path.read_bytes()
    lines = complete.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:13]) + tail)
    classifier.texts.clear()
    run(settings(), policy, prompts, tmp_path)
    assert path.read_bytes() == complete
    assert len(classifier.texts) <= 18  # twelve rows are in complete chunks


@pytest.mark.usefixtures("classifier")
def test_a_truncated_row_is_generated_again(policy: Path, prompts: Path, tmp_path: Path) -> None:
    run(settings(), policy, prompts, tmp_path)
    path = tmp_path / "continuations.jsonl"
    rows = list(iter_continuations(path))
    expected = [(row.id, row.sample) for row in rows]
    complete = path.read_bytes()
    assert count_complete_rows(path, Continuation, expected, 1) == (30, len(complete))
    two = sum(map(len, complete.splitlines(keepends=True)[:2]))
    for cut in (1, 20, len(complete.splitlines(keepends=True)[2]) - 1):
        path.write_bytes(complete[: two + cut])
        assert count_complete_rows(path, Continuation, expected, 1) == (2, two)
    append_rows(path, rows[2:4], truncate_to=two)
    assert count_complete_rows(path, Continuation, expected, 1)[0] == 4
    assert count_complete_rows(path, Continuation, expected, 3)[0] == 3  # the fourth row is in an incomplete chunk
    path.write_bytes(complete)
    assert count_complete_rows(path, Continuation, expected, 7)[0] == 30  # the last chunk has two rows


def test_every_continuation_of_a_prompt_has_its_own_seed(
    policy: Path, prompts: Path, classifier: LetterClassifier, tmp_path: Path
) -> None:
    """The first of three continuations is bit-identical to a single one."""
    run(settings(), policy, prompts, tmp_path / "one")
    metrics = run(settings(continuations=3), policy, prompts, tmp_path / "three")
    one, three = (list(iter_continuations(tmp_path / name / "continuations.jsonl")) for name in ("one", "three"))
    assert [(row.id, row.sample) for row in three] == [(row.id, sample) for row in one for sample in range(3)]
    assert three[::3] == one
    assert [row.seed for row in three[2::3]] == [derive_seed(11, "toxicity", row.id, "2") for row in one]
    assert len({row.seed for row in three}) == 90
    assert sum(len({row.continuation for row in three[at : at + 3]}) for at in range(0, 90, 3)) > 85
    assert metrics == {"toxicity": pytest.approx(sum(row.toxicity for row in three) / 90), "n": 90}
    assert len(classifier.texts) > 90


def test_a_killed_run_resumes_between_continuations_of_a_prompt(
    policy: Path, prompts: Path, classifier: LetterClassifier, tmp_path: Path
) -> None:
    run(settings(4, continuations=3), policy, prompts, tmp_path)
    path = tmp_path / "continuations.jsonl"
    complete = path.read_bytes()
    path.write_bytes(b"".join(complete.splitlines(keepends=True)[:40]) + b'{"id"')  # prompt 13 has one of three
    classifier.texts.clear()
    run(settings(4, continuations=3), policy, prompts, tmp_path)
    assert path.read_bytes() == complete
    assert len(classifier.texts) <= 50


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of another kind than the first."""
    return make_classifier(tmp_path_factory.mktemp("second") / "model", "roberta", ["hate", "neutral"])


def test_the_second_opinion_scores_every_continuation(
    policy: Path, prompts: Path, classifier: LetterClassifier, second: Path, tmp_path: Path
) -> None:
    """In the same order; blank continuations have no scores; continuations.jsonl stays as it is without it."""
    run(settings(continuations=2), policy, prompts, tmp_path / "one")
    run(settings(continuations=2), policy, prompts, tmp_path / "two", second)
    rows = list(iter_continuations(tmp_path / "two" / "continuations.jsonl"))
    opinions = read_jsonl(tmp_path / "two" / "second_opinion.jsonl")
    assert [(row["id"], row["sample"]) for row in opinions] == [(row.id, row.sample) for row in rows]
    model = load_second_opinion(second, torch.device("cpu"))
    for row, opinion in zip(rows, opinions, strict=True):
        expected = model.score([row.continuation])[0]
        assert opinion["scores"] == (pytest.approx(expected, abs=1e-6) if row.continuation.strip() else None)
    assert len({str(opinion["scores"]) for opinion in opinions}) > 50
    one, two = (tmp_path / name / "continuations.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert not (tmp_path / "one" / "second_opinion.jsonl").exists()
    assert len(classifier.texts) > 100


@pytest.mark.usefixtures("classifier")
@pytest.mark.parametrize("kept_rows", [(13, 13), (13, 9), (9, 13), (30, 0), (30, 29)])
def test_a_killed_run_resumes_both_files(
    policy: Path, prompts: Path, second: Path, tmp_path: Path, kept_rows: tuple[int, int]
) -> None:
    """A kill may leave a chunk in one file that the other one lacks."""
    run(settings(), policy, prompts, tmp_path, second)
    names = ("continuations.jsonl", "second_opinion.jsonl")
    complete = {name: (tmp_path / name).read_bytes() for name in names}
    for name, kept in zip(names, kept_rows, strict=True):
        (tmp_path / name).write_bytes(b"".join(complete[name].splitlines(keepends=True)[:kept]) + b'{"id')
    run(settings(), policy, prompts, tmp_path, second)
    assert {name: (tmp_path / name).read_bytes() for name in names} == complete


@pytest.mark.usefixtures("classifier")
def test_two_models_with_equal_weights_do_not_differ(policy: Path, prompts: Path, tmp_path: Path) -> None:
    run(settings(continuations=2), policy, prompts, tmp_path / "sft")
    run(settings(continuations=2), policy, prompts, tmp_path / "rlhf")
    sft, rlhf = (list(iter_continuations(tmp_path / name / "continuations.jsonl")) for name in ("sft", "rlhf"))
    metrics = toxicity_metrics(sft, rlhf, seed=0).labels[0].all
    for metric in (metrics.mean, metrics.expected_maximum, metrics.probability):
        assert (metric.difference, metric.ci95, metric.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_a_prompt_longer_than_the_context_keeps_its_end(policy: Path) -> None:
    model, tokenizer = load_causal_lm(policy / "model", "float32"), load_tokenizer(policy / "model")
    end = "x" * (CONTEXT - 5)  # one token per character; 5 remain for the continuation
    assert len(tokenizer(end).input_ids) == CONTEXT - 5
    config = settings().toxicity
    long, short = continue_texts(model, tokenizer, ["y" * 500 + end, end], [3, 3], config)
    assert long == short
    assert long


def test_of_a_text_of_megabytes_only_the_end_is_tokenized(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_causal_lm(policy / "model", "float32"), load_tokenizer(policy / "model")
    lengths: list[int] = []

    def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        lengths.append(len(text))
        return encode_prompt(tokenizer, text)

    monkeypatch.setattr(stage, "encode_prompt", encode)
    end = "x" * (CONTEXT - 5)
    long, short = continue_texts(model, tokenizer, ["y" * 3_000_000 + end, end], [3, 3], settings().toxicity)
    assert long == short
    assert lengths == [(CONTEXT - 5) * 128, CONTEXT - 5]  # at least 128 characters for each token


def test_a_score_that_is_not_a_probability_stops_the_run(
    policy: Path, prompts: Path, classifier: LetterClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "score", lambda texts: {"toxicity": [float("nan")] * len(texts)})
    with pytest.raises(UserError, match=r"text of prompt [0-9a-f]{16}: its score toxicity is nan"):
        run(settings(), policy, prompts, tmp_path)


def test_the_checkpoint_settings_must_be_complete() -> None:
    complete: dict[str, object] = {
        "checkpoint": "a.ckpt",
        "checkpoint_sha256": "0" * 64,
        "checkpoint_config": "folder",
    }
    assert ToxicityConfig.model_validate(complete).checkpoint == "a.ckpt"
    for wrong in ({"checkpoint_config": None}, {"checkpoint_sha256": "123"}, {"classifier": "profanity-check"}):
        with pytest.raises(ValidationError, match=r"go together|String should match"):
            ToxicityConfig.model_validate(complete | wrong)


def test_the_hash_of_a_checkpoint_is_in_the_fingerprint_but_not_its_path() -> None:
    def fingerprint(path: str, sha256: str) -> str:
        toxicity = ToxicityConfig(checkpoint=path, checkpoint_sha256=sha256, checkpoint_config=path)
        config = settings().model_copy(update={"toxicity": toxicity})
        return fingerprint_stage("score_toxicity", config, {}, stage.__name__)

    assert fingerprint("one", "0" * 64) == fingerprint("other", "0" * 64)
    assert fingerprint("one", "0" * 64) != fingerprint("one", "1" * 64)


@pytest.mark.slow
def test_two_ranks_write_the_same_bytes_as_one(
    policy: Path, prompts: Path, second: Path, tmp_path: Path, stages: Stages
) -> None:
    """The command itself, with a Detoxify checkpoint and a second opinion, whose scores would reveal other batches."""
    checkpoint = make_checkpoint(tmp_path / "encoder", "bert", ORIGINAL, len(ORIGINAL))
    toxicity = settings(4, continuations=2).toxicity.model_copy(
        update={
            "classifier": "detoxify",
            "checkpoint": str(checkpoint),
            "checkpoint_sha256": file_sha256(checkpoint),
            "checkpoint_config": str(checkpoint.parent),
        }
    )
    inputs = {"policy": policy, "source": prompts, "checkpoint": checkpoint, "checkpoint_config": checkpoint.parent}
    inputs["second_opinion"] = second
    config = settings().model_copy(update={"toxicity": toxicity})
    request = write_request(tmp_path / "request.json", "score_toxicity", config, inputs)
    for name, processes in (("one", 1), ("two", 2)):
        assert stages.run("rlhf.stages.score_toxicity", request, tmp_path / name, processes=processes)
    one, two = (read_manifest(tmp_path / name) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert two.processes == 2
    assert one.metrics["n"] == 60
    assert two.metrics == one.metrics
    assert two.files == one.files
    assert two.files.keys() >= {"continuations.jsonl", "second_opinion.jsonl"}


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes(policy: Path, prompts: Path, tmp_path: Path, stages: Stages) -> None:
    """The command itself, with the offline classifier and three continuations per prompt; resumed by two ranks."""
    inputs = {"policy": policy, "source": prompts}
    request = write_request(tmp_path / "request.json", "score_toxicity", settings(3, continuations=3), inputs)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert stages.run("rlhf.stages.score_toxicity", request, undisturbed)
    written = killed / "continuations.jsonl"
    assert not stages.run(
        "rlhf.stages.score_toxicity",
        request,
        killed,
        kill_when=lambda: written.exists() and written.stat().st_size > 5000,
    )
    assert not (killed / "manifest.json").exists()
    assert stages.run("rlhf.stages.score_toxicity", request, killed, processes=2)
    assert written.read_bytes() == (undisturbed / "continuations.jsonl").read_bytes()
