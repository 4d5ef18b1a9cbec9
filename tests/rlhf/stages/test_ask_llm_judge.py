"""ask_llm_judge with a real server, whose judgements follow a rule, and with a tiny model in a folder."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from pathlib import Path

import pytest

from rlhf.config import LlmJudgeConfig, ModelConfig
from rlhf.errors import UserError
from rlhf.evaluation.llm_judge import server as server_module
from rlhf.results.llm_judge import LlmJudgement, iter_llm_judgements
from rlhf.runtime.stage import StageRequest, execute
from rlhf.stage_config import LlmJudgeStage
from rlhf.stages.ask_llm_judge import ask_llm_judge
from rlhf.storage.artifacts import read_manifest
from rlhf.storage.files import write_jsonl
from tests.support.cli import free_port
from tests.support.llm_server import LlmServer, Rule, llm_server, prefers_more
from tests.support.stages import Stages
from tests.support.tiny_inputs import write_request
from tests.support.tiny_judge import tiny_judge

MODULE = "rlhf.stages.ask_llm_judge"
PAIRS = 12


def write_responses(folder: Path, sft: list[str], rlhf: list[str]) -> dict[str, Path]:
    """Write both models' responses in the layout of generate_responses; returns the inputs of the stage."""
    inputs = {name: folder / name for name in ("sft_responses", "rlhf_responses")}
    for path, responses in zip(inputs.values(), (sft, rlhf), strict=True):
        path.mkdir(parents=True)
        rows: list[dict[str, object]] = [
            {"id": f"p{number}", "prompt": f"\n\nHuman: Question {number}?\n\nAssistant:", "response": f" {response}"}
            for number, response in enumerate(responses)
        ]
        write_jsonl(path / "responses.jsonl", [{**row, "seed": 1, "reward": 0.5, "stopped": True} for row in rows])
    return inputs


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """12 pairs of different responses; RLHF's have more eggs."""
    return write_responses(
        tmp_path / "inputs",
        [f"rice {number}" for number in range(PAIRS)],
        [f"rice and eggs {number}" for number in range(PAIRS)],
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_judge(tmp_path_factory.mktemp("judge") / "model")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short delays between attempts, and no key of the developer."""
    monkeypatch.setattr(server_module, "FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def settings(llm: LlmJudgeConfig) -> LlmJudgeStage:
    return LlmJudgeStage(seed=5, model=ModelConfig(), llm=llm)


def on_server(server: LlmServer, requests_at_once: int = 2) -> LlmJudgeStage:
    return settings(LlmJudgeConfig(url=f"{server.url}/v1", model="judge", requests_at_once=requests_at_once))


def in_folder(folder: Path, requests_at_once: int = 8) -> LlmJudgeStage:
    return settings(LlmJudgeConfig(path=str(folder), requests_at_once=requests_at_once))


def run(config: LlmJudgeStage, inputs: dict[str, Path], output: Path) -> tuple[dict[str, float], list[LlmJudgement]]:
    output.mkdir(exist_ok=True)
    metrics = ask_llm_judge(config, inputs, output)
    return metrics, list(iter_llm_judgements(output / "llm_judgements.jsonl"))


def test_a_true_preference_is_found_in_both_orders(tmp_path: Path) -> None:
    """The judge counts eggs; RLHF has more of them in two pairs, SFT in one, and one pair is even."""
    inputs = write_responses(
        tmp_path / "in", ["no", "eggs and eggs", "eggs now", "rice"], ["eggs", "eggs", "eggs soon", "rice, eggs"]
    )
    with llm_server(prefers_more("eggs")) as server:
        metrics, _ = run(on_server(server), inputs, tmp_path / "out")
    assert [json.loads(line) for line in (tmp_path / "out" / "llm_judgements.jsonl").read_text().splitlines()] == [
        {"id": "p0", "first": "rlhf", "second": "rlhf", "vote": 1, "flipped": False},
        {"id": "p1", "first": "sft", "second": "sft", "vote": -1, "flipped": False},
        {"id": "p2", "first": "tie", "second": "tie", "vote": 0, "flipped": False},
        {"id": "p3", "first": "rlhf", "second": "rlhf", "vote": 1, "flipped": False},
    ]
    assert metrics == {"wins": 2, "ties": 1, "losses": 1, "position_flips": 0, "unreadable": 0}
    shown = Counter(server.questions)
    assert shown[("eggs", "no")] == shown[("no", "eggs")] == 1
    assert shown.total() == 8


@pytest.mark.parametrize(
    ("reply", "answers", "counted"),
    [
        ("A", ("rlhf", "sft"), {"position_flips": PAIRS, "unreadable": 0}),
        ("B", ("sft", "rlhf"), {"position_flips": PAIRS, "unreadable": 0}),
        ("Both are fine.", ("unreadable", "unreadable"), {"position_flips": 0, "unreadable": 2 * PAIRS}),
    ],
)
def test_a_judge_that_always_says_the_same_has_no_vote(
    inputs: dict[str, Path], tmp_path: Path, reply: str, answers: tuple[str, str], counted: dict[str, int]
) -> None:
    with llm_server(lambda a, b: reply) as server:  # noqa: ARG005 a rule gets both responses
        metrics, rows = run(on_server(server), inputs, tmp_path / "out")
    assert {(row.first, row.second, row.vote) for row in rows} == {(*answers, 0)}
    assert metrics == {"wins": 0, "ties": PAIRS, "losses": 0} | counted


def test_unreadable_replies_are_reported(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with llm_server(lambda a, b: "A" if "eggs" in a else "hm") as server:  # noqa: ARG005 a rule gets both responses
        metrics, _ = run(on_server(server), inputs, tmp_path / "out")
    assert metrics["unreadable"] == PAIRS
    assert '@note "12 of 24 replies of the language model are not A, B or C"' in capsys.readouterr().out


def test_equal_responses_are_a_tie_without_a_question(tmp_path: Path) -> None:
    inputs = write_responses(tmp_path / "in", ["same", "rice", "spaces"], ["same", "eggs", "spaces  "])
    with llm_server(lambda a, b: "A") as server:  # noqa: ARG005 a rule gets both responses
        metrics, rows = run(on_server(server), inputs, tmp_path / "out")
    assert sorted(server.questions) == [("eggs", "rice"), ("rice", "eggs")]
    assert [(row.first, row.flipped) for row in rows] == [("tie", False), ("rlhf", True), ("tie", False)]
    assert metrics == {"wins": 0, "ties": 3, "losses": 0, "position_flips": 1, "unreadable": 0}


def test_a_failed_run_keeps_what_it_paid_for(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The server refuses the question after the fifth pair; the pairs before it are not asked again."""
    with llm_server(prefers_more("eggs")) as server:
        run(on_server(server), inputs, tmp_path / "expected")
        server.bodies.clear()
        refused = threading.Event()
        rule = server.rule
        config = on_server(server, requests_at_once=1)

        def refuse_after_ten(a: str, b: str) -> str | None:
            if len(server.bodies) == 10 and not refused.is_set():
                server.faults = [402]
                refused.set()
            return rule(a, b)

        server.rule = refuse_after_ten
        with pytest.raises(UserError, match="status 402"):
            run(config, inputs, tmp_path / "out")
        assert len(server.bodies) == 11
        _, rows = run(config, inputs, tmp_path / "out")
        assert len(server.bodies) == 11 + 2 * (PAIRS - 5)
        assert max(Counter(server.questions[:10] + server.questions[11:]).values()) == 1
    assert rows == list(iter_llm_judgements(tmp_path / "expected" / "llm_judgements.jsonl"))


def test_an_unreachable_server_is_one_error(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = on_server(LlmServer(prefers_more("eggs"), url=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(UserError, match=r"chat/completions: ConnectError: .*check that the server of judge\.llm\.url"):
        run(config, inputs, tmp_path / "out")


def test_the_key_is_sent_but_in_no_file_and_no_log(
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with llm_server(prefers_more("eggs")) as server, caplog.at_level(logging.DEBUG):
        llm = LlmJudgeConfig(url=f"{server.url}/v1", model="judge", api_key_variable="JUDGE_KEY")
        request = write_request(tmp_path / "request.json", "ask_llm_judge", settings(llm), inputs)
        execute(StageRequest.model_validate_json(request.read_bytes()), LlmJudgeStage, ask_llm_judge, tmp_path / "out")
    assert set(server.authorizations) == {"Bearer sk-secret"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "out" / "manifest.json" in files
    assert not [path for path in files if b"sk-secret" in path.read_bytes()]
    log = caplog.text + "".join(capfd.readouterr())
    assert "/v1/chat/completions" in log
    assert "sk-secret" not in log


def test_a_key_that_is_sent_openly_is_reported(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server is reached by another address of this machine, which is not one of the loopback names."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with llm_server(prefers_more("eggs")) as server:
        server.url = server.url.replace("127.0.0.1", "127.0.0.2")
        with pytest.raises(UserError, match="ConnectError"):
            run(on_server(server), inputs, tmp_path / "out")
    assert '@note "the API key is sent to 127.0.0.2 without encryption' in capsys.readouterr().out


def test_a_folder_judges_twice_the_same_and_its_flips_are_counted(
    inputs: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    config, with_model = in_folder(model), inputs | {"llm": model}
    metrics, rows = run(config, with_model, tmp_path / "one")
    again, _ = run(config, with_model, tmp_path / "two")
    one, two = (tmp_path / name / "llm_judgements.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert metrics == again
    assert [row.id for row in rows] == [f"p{number}" for number in range(PAIRS)]
    flips = sum(row.first != row.second for row in rows)
    assert 0 < flips < PAIRS
    assert metrics["position_flips"] == flips
    assert metrics["unreadable"] == 0
    assert metrics["wins"] + metrics["ties"] + metrics["losses"] == PAIRS


@pytest.mark.slow
@pytest.mark.parametrize("requests_at_once", [1, 100])
def test_a_folder_judges_the_same_in_batches_of_any_size(
    inputs: dict[str, Path], model: Path, tmp_path: Path, requests_at_once: int
) -> None:
    _, expected = run(in_folder(model), inputs | {"llm": model}, tmp_path / "expected")
    _, rows = run(in_folder(model, requests_at_once), inputs | {"llm": model}, tmp_path / "actual")
    assert rows == expected


@pytest.mark.slow
def test_a_killed_stage_asks_only_about_the_other_pairs(
    inputs: dict[str, Path], tmp_path: Path, stages: Stages
) -> None:
    """The command itself.  A pair in progress when it is killed is asked again, so each of two threads may lose it."""
    journal = tmp_path / "killed" / "checkpoints" / "llm_judgements.jsonl"
    stages.load(MODULE)
    with llm_server(prefers_more("eggs")) as server:
        request = write_request(tmp_path / "request.json", "ask_llm_judge", on_server(server), inputs)
        assert stages.run(MODULE, request, tmp_path / "undisturbed")
        assert len(server.bodies) == 2 * PAIRS
        server.bodies.clear()

        hold = threading.Event()
        server.rule = holding_after(10, hold, server, server.rule)
        assert not stages.run(MODULE, request, tmp_path / "killed", kill_when=lambda: len(server.bodies) > 10)
        hold.set()
        finished = {json.loads(line)["id"] for line in journal.read_bytes().splitlines()}
        assert 3 <= len(finished) <= 5
        server.bodies.clear()
        assert stages.run(MODULE, request, tmp_path / "killed")
    assert len(server.bodies) == 2 * (PAIRS - len(finished))
    manifests = [read_manifest(tmp_path / name) for name in ("undisturbed", "killed")]
    assert manifests[0] is not None
    assert manifests[1] is not None
    assert manifests[0].files == manifests[1].files
    assert list(manifests[0].files) == ["llm_judgements.jsonl"]
    assert not journal.exists()


def holding_after(count: int, release: threading.Event, server: LlmServer, rule: Rule) -> Rule:
    """A rule that replies to `count` questions like `rule`, and to the others only when released."""

    def hold(a: str, b: str) -> str | None:
        if len(server.bodies) > count:
            release.wait(60)
        return rule(a, b)

    return hold


@pytest.mark.slow
def test_only_the_main_rank_asks_a_server(inputs: dict[str, Path], tmp_path: Path, stages: Stages) -> None:
    with llm_server(prefers_more("eggs")) as server:
        request = write_request(tmp_path / "request.json", "ask_llm_judge", on_server(server), inputs)
        assert stages.run(MODULE, request, tmp_path / "out", processes=2)
    assert len(server.bodies) == 2 * PAIRS
    assert [row.vote for row in iter_llm_judgements(tmp_path / "out" / "llm_judgements.jsonl")] == [1] * PAIRS


@pytest.mark.slow
def test_two_ranks_resume_a_folders_judgements_to_the_same_bytes(
    inputs: dict[str, Path], model: Path, tmp_path: Path, stages: Stages
) -> None:
    """12 pairs in 4 batches; the first run is killed after some of them."""
    journal = tmp_path / "killed" / "checkpoints" / "llm_judgements.jsonl"
    config = in_folder(model, requests_at_once=6)
    request = write_request(tmp_path / "request.json", "ask_llm_judge", config, inputs | {"llm": model})
    assert stages.run(MODULE, request, tmp_path / "undisturbed")
    assert not stages.run(MODULE, request, tmp_path / "killed", kill_when=journal.exists)
    assert stages.run(MODULE, request, tmp_path / "killed", processes=2)
    killed, undisturbed = (tmp_path / name / "llm_judgements.jsonl" for name in ("killed", "undisturbed"))
    assert killed.read_bytes() == undisturbed.read_bytes()
