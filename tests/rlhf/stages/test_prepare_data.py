"""Which rows fit, what every file contains, and whether the counts add up."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.config import SYNTHETIC, DataConfig
from rlhf.errors import UserError
from rlhf.models.tokenization import encode_prompt, encode_response
from rlhf.stage_config import DataStage
from rlhf.stages.prepare_data import _encode_all, count_prompt_tokens, count_response_tokens, prepare_data
from rlhf.storage.files import read_jsonl
from tests.support.data_files import dialogue, hh_row, shared, write_rows
from tests.support.tiny_models import tiny_tokenizer

END = "<|endoftext|>"
FILES = (
    "demonstrations",
    "validation_demonstrations",
    "preferences",
    "judge_preferences",
    "validation_preferences",
    "ppo_prompts",
    "validation_prompts",
    "test_prompts",
)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """One token for every byte, so that lengths can be counted by hand."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({symbol: n for n, symbol in enumerate([END, *alphabet])}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END)


def merging_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer like Llama's: it has a BOS, spaces are parts of words, and `:` is merged with the space after it."""
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    bpe = Tokenizer(models.BPE(unk_token=special["unk_token"]))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=list(special.values()), show_progress=False)
    bpe.train_from_iterator(["Human: why is it: so Assistant: yes it: is"] * 5, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **special)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of prepare_model with only the tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    byte_tokenizer().save_pretrained(folder / "model")
    return folder


def run(model: Path, source: Path, output: Path, seed: int = 0, **data: object) -> dict[str, float]:
    output.mkdir(parents=True, exist_ok=True)
    limits: dict[str, object] = {"test_prompts": 2, "validation_prompts": 2, "judge_share": 0, "source": str(source)}
    config = DataStage(seed=seed, data=DataConfig.model_validate(limits | data))
    return prepare_data(config, {"model": model, "source": source}, output)


def counts(output: Path) -> dict[str, int]:
    dropped = json.loads((output / "dropped.json").read_text())["dropped"]
    assert isinstance(dropped, dict)
    return dropped


def different_questions(count: int) -> list[dict[str, object]]:
    return [hh_row(f"{n} {n * 7919} {n * 104729}") for n in range(count)]


texts = st.text(st.sampled_from("Human: why so\n.é<s></s>yi"), max_size=40)


@pytest.mark.parametrize("tokenizer_of", [byte_tokenizer, merging_tokenizer, tiny_tokenizer])
@given(prompt_texts=st.lists(texts, max_size=5))
@settings(max_examples=60, deadline=None)
def test_token_counts_are_those_of_the_encoded_texts(
    tokenizer_of: Callable[[], PreTrainedTokenizerBase], prompt_texts: list[str]
) -> None:
    tokenizer = tokenizer_of()
    prompts = [f"\n\nHuman:{text}\n\nAssistant:" for text in prompt_texts]
    responses = [f" {text}" for text in prompt_texts]
    assert count_prompt_tokens(tokenizer, prompts) == [len(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    assert count_response_tokens(tokenizer, responses) == [
        len(encode_response(tokenizer, response)) for response in responses
    ]


def test_the_merging_tokenizer_merges_at_the_response_boundary() -> None:
    tokenizer = merging_tokenizer()
    assert "".join(tokenizer.convert_ids_to_tokens(tokenizer(": so").input_ids)).startswith("<s>▁:▁")
    assert len(tokenizer(": so", add_special_tokens=False).input_ids) < 5
    assert len(encode_prompt(tokenizer, "why")) == len(tokenizer("why", add_special_tokens=False).input_ids) + 1


def test_rows_over_a_limit_in_tokens_are_dropped(model: Path, tmp_path: Path) -> None:
    # dialogue("", "") has 21 bytes with the space after "Human:"; a response has its space and its EOS.
    rows = different_questions(5)
    rows += [hh_row("p" * 39), hh_row("q" * 40)]
    rows += [hh_row("fits", " " + "a" * 18), hh_row("too long", " " + "b" * 19), hh_row("two", " c", " " + "d" * 19)]
    assert len(dialogue("p" * 39, "").encode()) == 60
    run(model, write_rows(tmp_path / "a.jsonl", rows), tmp_path, max_prompt_tokens=60, max_response_tokens=20)
    assert counts(tmp_path) == {"prompt too long": 1, "response too long": 2}


def test_contents_of_every_file(model: Path, tmp_path: Path) -> None:
    rows = different_questions(9)
    question = "what is said twice"
    rows += [hh_row(question, " Yes.", " No."), hh_row(question, " Yes.", " Nay."), hh_row(question, " Aye.", " No.")]
    for seed in range(20):  # with some seed this question is for training
        run(model, write_rows(tmp_path / "a.jsonl", rows), tmp_path / "out", seed=seed)
        files = {name: read_jsonl(tmp_path / "out" / f"{name}.jsonl") for name in FILES}
        prompt = dialogue(question, "")
        if any(row["prompt"] == prompt for row in files["preferences"]):
            break
    assert {name: len(rows) for name, rows in files.items()} == {
        "demonstrations": 7,
        "validation_demonstrations": 2,
        "preferences": 8,
        "judge_preferences": 0,
        "validation_preferences": 2,
        "ppo_prompts": 6,
        "validation_prompts": 2,
        "test_prompts": 2,
    }
    own = {name: [row for row in rows if row["prompt"] == prompt] for name, rows in files.items()}
    assert {(row["chosen"], row["rejected"]) for row in own["preferences"]} == {
        (" Yes.", " No."),
        (" Yes.", " Nay."),
        (" Aye.", " No."),
    }
    assert {row["response"] for row in own["demonstrations"]} == {" Yes.", " Aye."}
    [only] = own["ppo_prompts"]
    assert only["chosen"] == own["preferences"][0]["chosen"]
    assert set(only) == {"id", "prompt", "chosen"}
    assert set(own["preferences"][0]) == {"id", "prompt", "chosen", "rejected"}
    assert set(own["demonstrations"][0]) == {"id", "prompt", "response"}
    for rows in files.values():
        assert len({row["id"] for row in rows}) == len(rows)


def test_no_file_of_the_policy_contains_a_row_of_the_judge(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each question has a response of its own, so that every text shows from which dialogue it is."""
    rows = [hh_row(f"{n} {n * 7919} {n * 104729}", f" Yes {n}.", f" No {n}.") for n in range(44)]
    metrics = run(model, write_rows(tmp_path / "a.jsonl", rows), tmp_path / "out", judge_share=0.4)
    texts = {name: (tmp_path / "out" / f"{name}.jsonl").read_text() for name in FILES}
    judged = read_jsonl(tmp_path / "out" / "judge_preferences.jsonl")
    policy = read_jsonl(tmp_path / "out" / "preferences.jsonl")
    assert len(judged) + len(policy) == 44 - 2 - 2
    assert 8 <= len(judged) <= 24
    assert set(judged[0]) == set(policy[0]) == {"id", "prompt", "chosen", "rejected"}
    for row in judged:
        for column in ("id", "prompt", "chosen", "rejected"):
            encoded = json.dumps(row[column])
            assert [name for name in FILES if encoded in texts[name]] == ["judge_preferences"]
    assert (metrics["judge_pairs"], metrics["training_pairs"]) == (len(judged), len(policy))
    assert f"{len(policy)} pairs to train on, {len(judged)} for the independent judge" in capsys.readouterr().out


@pytest.mark.parametrize("rows_at_once", [1, 4, 2000])
def test_every_reason_to_drop_a_row_is_counted_and_reported(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rows_at_once: int,
) -> None:
    monkeypatch.setattr("rlhf.stages.prepare_data.ROWS_AT_ONCE", rows_at_once)
    rows = different_questions(8)
    rows += [rows[0], rows[0], hh_row("e", " Yes.", " Yes."), hh_row("f", " "), {"chosen": "x", "rejected": "y"}]
    rows += [{"chosen": dialogue("g", " Yes."), "rejected": dialogue("h", " No.")}, {"chosen": 1, "rejected": 2}]
    source = write_rows(tmp_path / "a.jsonl", rows)
    metrics = run(model, source, tmp_path, on_bad_row="skip", max_pairs=3)
    expected = {
        "beyond max_pairs": 1,
        "context mismatch": 1,
        "duplicate": 2,
        "empty response": 1,
        "equal responses": 1,
        "no dialogue": 1,
        "unreadable line": 1,
    }
    assert counts(tmp_path) == expected
    assert metrics["rows_read"] == 15
    assert metrics["rows_dropped"] == 8
    out = capsys.readouterr().out
    assert "read 15 rows; 3 pairs to train on" in out
    assert "duplicate 2" in out


any_row = st.one_of(
    st.builds(
        hh_row,
        st.lists(st.sampled_from(["rice", "eggs", "sky", "why", "1", "23"]), max_size=5).map(" ".join),
        st.sampled_from([" Yes.", " No.", " ", " Never, not in all my life."]),
        st.sampled_from([" No.", " Nay.", ""]),
    ),
    st.sampled_from([{"chosen": None, "rejected": ""}, {"chosen": "a", "rejected": "b"}, {"x": 1}]),
)


@given(
    rows=st.lists(any_row, min_size=10, max_size=50),
    max_pairs=st.sampled_from([None, 1, 5]),
    judge_share=st.sampled_from([0, 0.5]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_in_exactly_one_file_or_count(
    model: Path, tmp_path: Path, rows: list[dict[str, object]], max_pairs: int | None, judge_share: float
) -> None:
    source = write_rows(tmp_path / "a.jsonl", [hh_row("the first row determines the layout"), *rows])
    try:
        run(
            model,
            source,
            tmp_path,
            max_prompt_tokens=40,
            max_response_tokens=20,
            max_pairs=max_pairs,
            judge_share=judge_share,
            on_bad_row="skip",
            test_prompts=1,
        )
    except UserError:
        return
    summary = json.loads((tmp_path / "dropped.json").read_text())
    kept = summary["kept"]
    assert kept == {f"{name}.jsonl": len(read_jsonl(tmp_path / f"{name}.jsonl")) for name in FILES}
    splits = ("preferences", "judge_preferences", "validation_preferences", "test_prompts")
    in_splits = sum(kept[f"{name}.jsonl"] for name in splits)
    assert summary["read"] == len(rows) + 1 == in_splits + sum(summary["dropped"].values())


def test_shuffled_rows_in_other_files_give_the_same_bytes(model: Path, tmp_path: Path) -> None:
    rows = different_questions(30)
    rows += [hh_row(f"what is said {word}", " Yes.", f" {n}") for word in ("twice", "often") for n in range(3)]
    write_rows(tmp_path / "one" / "a.jsonl", rows)
    random.Random(0).shuffle(rows)
    write_rows(tmp_path / "two" / "a.jsonl.gz", rows[:20])
    write_rows(tmp_path / "two" / "b.parquet", rows[20:])
    for name in ("one", "two"):
        run(model, tmp_path / name, tmp_path / f"out-{name}", judge_share=0.4)
    for path in sorted((tmp_path / "out-one").iterdir()):
        assert path.read_bytes() == (tmp_path / "out-two" / path.name).read_bytes(), path.name


def test_an_error_for_too_few_rows_says_what_was_dropped_and_what_to_change(model: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [*different_questions(6), hh_row("z" * 80)])
    with pytest.raises(UserError, match=r"lower data\.test_prompts.*Of 7 rows read, dropped before: prompt too long 1"):
        run(model, source, tmp_path, test_prompts=10, max_prompt_tokens=50)


FORMS_OF_A_TURN: list[Callable[[str], str]] = [
    lambda text: text.replace("\n\n", "\n"),
    lambda text: text.lstrip("\n"),
    lambda text: text.replace("\n\n", " "),
    lambda text: text.replace("Human:", "user:"),
]


@pytest.mark.parametrize("form", FORMS_OF_A_TURN)
def test_an_error_for_turns_that_are_marked_otherwise_says_how_to_mark_them(
    model: Path, tmp_path: Path, form: Callable[[str], str]
) -> None:
    rows: list[dict[str, object]] = [{name: form(str(row[name])) for name in row} for row in different_questions(9)]
    marked = r'dropped before: no dialogue 9; mark the turns as in "\\n\\nHuman: \.\.\.\\n\\nAssistant: \.\.\."'
    with pytest.raises(UserError, match=marked):
        run(model, write_rows(tmp_path / "a.jsonl", rows), tmp_path)


@pytest.mark.parametrize(
    ("setting", "limit", "remedy"),
    [
        ("max_prompt_tokens", 8, r"prompt too long 9; raise data\.max_prompt_tokens$"),
        ("max_response_tokens", 1, r"response too long 9; raise data\.max_response_tokens$"),
    ],
)
def test_an_error_for_too_few_rows_names_the_setting_that_dropped_most(
    model: Path, tmp_path: Path, setting: str, limit: int, remedy: str
) -> None:
    with pytest.raises(UserError, match=remedy):
        run(model, write_rows(tmp_path / "a.jsonl", different_questions(9)), tmp_path, seed=0, **{setting: limit})


def test_texts_that_are_too_long_for_sure_never_reach_the_tokenizer(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest token has 13 characters, END; the bound is 128 for each token, so 60 x 128 and 20 x 128."""
    lengths: list[int] = []

    def encode_all(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special_tokens: bool) -> list[list[int]]:
        lengths.extend(map(len, texts))
        return _encode_all(tokenizer, texts, special_tokens=special_tokens)

    monkeypatch.setattr("rlhf.stages.prepare_data._encode_all", encode_all)
    rows = different_questions(6)
    rows += [hh_row("p" * 3_000_000), hh_row(" " * 60 * 128), hh_row("🎉" * 300_000), hh_row("b" * 61)]
    rows += [hh_row("c", " y" + "\n" * 1_000_000 + "y"), hh_row("d", " Yes.", " n" * 20 * 64), hh_row("e", "f" * 30)]
    run(model, write_rows(tmp_path / "a.jsonl", rows), tmp_path, max_prompt_tokens=60, max_response_tokens=20)
    assert counts(tmp_path) == {"prompt too long": 4, "response too long": 3}
    assert 0 < max(lengths) <= 20 * 128 + 1


def test_synthetic_data_need_no_source(model: Path, tmp_path: Path) -> None:
    data = DataConfig(source=SYNTHETIC, synthetic_pairs=300, test_prompts=20, validation_prompts=20)
    prepare_data(DataStage(seed=1, data=data), {"model": model}, tmp_path)
    kept = json.loads((tmp_path / "dropped.json").read_text())["kept"]
    assert kept["test_prompts.jsonl"] == kept["validation_prompts.jsonl"] == 20
    assert kept["preferences.jsonl"] > 150


@pytest.mark.slow
def test_real_data_in_both_layouts(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "model" / "model")
    source = shared("data", "hh-rlhf")
    metrics = run(tmp_path / "model", source, tmp_path / "hh", max_prompt_tokens=2000, max_response_tokens=800)
    assert metrics["rows_read"] == 2354 + 2312
    dropped = counts(tmp_path / "hh")
    assert {name: dropped[name] for name in ("equal responses", "context mismatch", "empty response")} == {
        "equal responses": 2,
        "context mismatch": 14,
        "empty response": 8,
    }
    metrics = run(tmp_path / "model", shared("data", "hh-rlhf-rm-static-schema"), tmp_path / "parts")
    assert metrics["rows_read"] == 2339
