"""Complete runs: the files that they write, and resuming with byte-identical results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm
from rlhf.stage_config import PpoStage
from rlhf.stages import train_ppo
from rlhf.storage.files import file_sha256, read_jsonl
from rlhf.training.ppo import loop
from rlhf.training.ppo.context import PpoContext
from rlhf.training.ppo.loop import EXIT_TERMINATED
from rlhf.training.ppo.step import run_step
from rlhf.training.ppo.validation import Validation
from tests.support.paths import ROOT
from tests.support.stages import Stages, undisturbed_and_killed
from tests.support.tiny_inputs import write_request
from tests.support.tiny_ppo import settings, write_inputs

TIMES = ("_seconds", "_per_second")
"""Suffixes of the metrics that differ from run to run."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def restored_sigterm_handler() -> object:
    """Restore the SIGTERM handler, which a run replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run_body(config: PpoStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    output.mkdir(exist_ok=True)
    return train_ppo.train_ppo(config, inputs, output)


def weights(output: Path) -> str:
    return file_sha256(output / "model" / "model.safetensors")


def untimed(path: Path) -> list[dict[str, object]]:
    """The rows of a log without metrics that depend on the clock."""
    return [{name: value for name, value in row.items() if not name.endswith(TIMES)} for row in read_jsonl(path)]


def assert_same_run(output: Path, expected: Path) -> None:
    assert weights(output) == weights(expected)
    assert untimed(output / "metrics.jsonl") == untimed(expected / "metrics.jsonl")
    for name in ("validation.jsonl", "validation_responses.jsonl", "summary.json"):
        assert (output / name).read_bytes() == (expected / name).read_bytes()


def validations(scores: dict[int, float], lengths: dict[int, float]) -> Callable[[PpoContext, int], Validation]:
    """A `validate` that measures these scores and mean lengths, else always the same."""

    def validate(_context: PpoContext, step: int) -> Validation:
        row = {"step": step, "score": scores[step], "kl": 1.0, "truncated_share": 0.0, "distinct_ngrams": 0.5}
        return Validation(row | {"response_tokens": lengths.get(step, 8.0)}, [])

    return validate


def test_the_files_that_a_run_writes(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = run_body(settings(), inputs, tmp_path)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert {"score", "reward", "kl", "kl_coefficient", "entropy", "policy_loss", "value_loss"} <= set(rows[0])
    assert {"policy_clip_fraction", "value_clip_fraction", "explained_variance", "response_tokens"} <= set(rows[0])
    assert {"truncated_share", "repetition", "generate_seconds", "evaluate_seconds", "score_seconds"} <= set(rows[0])
    assert {"train_seconds", "generate_tokens_per_second", "train_tokens_per_second"} <= set(rows[0])
    assert rows[0]["kl"] == 0
    assert rows[0]["kl_coefficient"] == 0.05

    validation = read_jsonl(tmp_path / "validation.jsonl")
    assert [row["step"] for row in validation] == [0, 2, 3]
    assert validation[0]["kl"] == 0
    scores = {int(str(row["step"])): float(str(row["score"])) for row in validation}
    best_step = max(scores, key=lambda step: (scores[step], -step))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == {
        "first": scores[0],
        "best": scores[best_step],
        "last": scores[3],
        "best_step": best_step,
        "stopped_early": None,
        "rejected": [],
    }
    responses = read_jsonl(tmp_path / "validation_responses.jsonl")
    assert [(row["step"], row["id"]) for row in responses] == [
        (step, prompt_id) for step in (0, 2, 3) for prompt_id in ("prompt-4", "prompt-5")
    ]
    assert metrics["best_score"] == summary["best"]

    trained = load_causal_lm(tmp_path / "model", "float32").state_dict()
    before = load_causal_lm(inputs["sft"] / "model", "float32").state_dict()
    changed = {name for name, value in trained.items() if not value.equal(before[name])}
    assert best_step == 0 or changed
    assert all(name.startswith(("transformer.h.2.", "transformer.ln_f.", "lm_head.")) for name in changed)


def test_the_model_is_the_best_one(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the validation score is best after step 1, the model equals that of a run with one step."""
    monkeypatch.setattr(loop, "validate", validations({0: 0.0, 1: 5.0, 2: 3.0, 3: 4.0}, {}))
    run_body(settings(validate_every=1, keep_checkpoints=1), inputs, tmp_path / "long")
    run_body(settings(validate_every=1, steps=1), inputs, tmp_path / "short")
    assert weights(tmp_path / "long") == weights(tmp_path / "short")
    summary = json.loads((tmp_path / "long" / "summary.json").read_text())
    assert summary == {
        "first": 0.0,
        "best": 5.0,
        "last": 4.0,
        "best_step": 1,
        "stopped_early": None,
        "rejected": [],
    }
    checkpoints = sorted(path.name for path in (tmp_path / "long" / "checkpoints").iterdir())
    assert checkpoints == ["step-000001", "step-000003"]


def test_the_model_is_the_best_one_within_the_bounds(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best score, of step 2, has responses of twice the length of the SFT model's."""
    monkeypatch.setattr(loop, "validate", validations({0: 0.0, 1: 3.0, 2: 5.0, 3: 2.0}, {2: 16.0}))
    run_body(settings(validate_every=1, keep_checkpoints=1), inputs, tmp_path / "long")
    run_body(settings(validate_every=1, steps=1), inputs, tmp_path / "short")
    assert weights(tmp_path / "long") == weights(tmp_path / "short")
    summary = json.loads((tmp_path / "long" / "summary.json").read_text())
    assert (summary["best"], summary["best_step"]) == (3.0, 1)
    reason = "mean length 16.0 tokens, 8.0 of the SFT model, 5.3 to 12.0 allowed (ppo.selection.max_length_ratio)"
    assert summary["rejected"] == [{"step": 2, "score": 5.0, "reasons": [reason]}]


def test_a_kl_above_max_kl_ends_ppo_with_the_best_checkpoint_so_far(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 1 has KL 0; step 2 does not train, and nothing is validated after it."""
    monkeypatch.setattr(loop, "validate", validations({0: 0.0, 1: 3.0}, {}))
    metrics = run_body(settings(validate_every=1, max_kl=1e-9), inputs, tmp_path / "ended")
    run_body(settings(validate_every=1, steps=1), inputs, tmp_path / "short")
    assert metrics == {"first_score": 0.0, "best_score": 3.0, "last_score": 3.0, "best_step": 1}
    assert weights(tmp_path / "ended") == weights(tmp_path / "short")
    assert [row["step"] for row in read_jsonl(tmp_path / "ended" / "metrics.jsonl")] == [1]
    stopped = json.loads((tmp_path / "ended" / "summary.json").read_text())["stopped_early"]
    assert (stopped["step"], stopped["max_kl"]) == (2, 1e-9)
    assert stopped["kl"] > 1e-9
    assert "PPO ended before step 2 of 3: the KL of its rollouts is " in capsys.readouterr().out


def ending_early(inputs: dict[str, Path], folder: Path, **changes: object) -> PpoStage:
    """Settings of a run that ends early after its first steps, and in which every trained checkpoint is rejected."""
    run_body(settings(**changes), inputs, folder)
    kls = [float(str(row["kl"])) for row in read_jsonl(folder / "metrics.jsonl")]
    assert max(kls) > max(kls[:3]), "the KL grows"
    return settings(**changes | {"max_kl": (max(kls) + max(kls[:3])) / 2, "selection": {"max_kl": 1e-9}})


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True])
def test_a_run_that_failed_in_any_step_resumes(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    """Fails once in each step and each validation, with checkpoints at every second step only."""
    config = settings(steps=4, checkpoint_every=2)
    if early:
        config = ending_early(inputs, tmp_path / "complete", steps=4, checkpoint_every=2)
    run_body(config, inputs, tmp_path / "expected")
    failed: set[tuple[str, int]] = set()

    def failing(name: str) -> None:
        original = getattr(loop, name)

        def fail_once(context: PpoContext, step: int) -> object:
            row: object = original(context, step)
            if (name, step) not in failed:
                failed.add((name, step))
                raise UserError("as if the machine failed")
            return row

        monkeypatch.setattr(loop, name, fail_once)

    failing("run_step")
    failing("validate")
    for _ in range(20):
        try:
            run_body(config, inputs, tmp_path / "output")
            break
        except UserError:
            continue
    assert len(failed) == (5 if early else 7)  # the fourth step does not end, and is not validated
    summary = json.loads((tmp_path / "output" / "summary.json").read_text())
    assert (summary["stopped_early"] is not None) == early
    assert [rejected["step"] for rejected in summary["rejected"]] == ([2] if early else [])
    assert_same_run(tmp_path / "output", tmp_path / "expected")


@pytest.mark.slow
def test_sigterm_ends_the_run_after_the_step_and_a_checkpoint(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(checkpoint_every=100)
    run_body(config, inputs, tmp_path / "expected")

    def step_with_sigterm(context: PpoContext, step: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return run_step(context, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_step", step_with_sigterm)
        with pytest.raises(SystemExit) as ended:
            run_body(config, inputs, tmp_path / "output")
    assert ended.value.code == EXIT_TERMINATED == 143
    assert (tmp_path / "output" / "checkpoints" / "step-000001").is_dir()
    run_body(config, inputs, tmp_path / "output")
    assert_same_run(tmp_path / "output", tmp_path / "expected")


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_body(settings(), inputs, tmp_path / "expected")
    with monkeypatch.context() as patch:
        patch.setattr("rlhf.training.ppo.checkpoints.fsync", _fail_from_the_third_checkpoint())
        with pytest.raises(OSError, match="No space left"):
            run_body(settings(), inputs, tmp_path / "output")
    run_body(settings(), inputs, tmp_path / "output")
    assert_same_run(tmp_path / "output", tmp_path / "expected")


def _fail_from_the_third_checkpoint() -> object:
    calls = iter(range(1000))

    def fsync(path: Path) -> None:
        if next(calls) >= 9:
            raise OSError(28, "No space left on device", str(path))

    return fsync


def test_a_prompt_that_fills_the_context_is_an_error_before_the_first_step(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    with (inputs["data"] / "ppo_prompts.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": "prompt-0", "prompt": "\n\nHuman: " + "x" * 200, "chosen": ""}) + "\n")
    with pytest.raises(UserError, match=r"prompt 5 has \d+ tokens.*context of 128"):
        run_body(settings(), inputs, tmp_path / "output")


@pytest.mark.parametrize(
    ("changes", "world_size", "message"),
    [
        ({"rollouts_per_step": 5}, 1, r"rollouts_per_step \(5\) must be a multiple of ppo.minibatch_size \(2\); try 4"),
        ({}, 4, r"minibatch_size \(2\) must be a multiple of the number of processes \(4\); try 4"),
    ],
)
def test_unequal_shares_are_an_error(changes: dict[str, object], world_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_ppo.require_equal_shares(settings(**changes).ppo, world_size)


def launch_two(request: Path, output: Path) -> None:
    """Run the stage in two processes, as the flow does."""
    output.mkdir()
    config = ROOT / "deployments" / "accelerate" / "cpu.yaml"
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config), "--multi_gpu", "--num_processes=2"]
    command = [
        sys.executable,
        *launcher,
        "-m",
        "rlhf.stages.train_ppo",
        "--config",
        str(request),
        "--output",
        str(output),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("unfrozen_blocks", [2, "all"])
def test_two_processes_equal_one(
    inputs: dict[str, Path], tmp_path: Path, stages: Stages, unfrozen_blocks: object
) -> None:
    """Each rank has half of the rollouts, of each minibatch and of the optimizer; only the order of sums differs."""
    config = settings(rollouts_per_step=8, minibatch_size=4, unfrozen_blocks=unfrozen_blocks)
    request = write_request(tmp_path / "request.json", "train_ppo", config, inputs)
    assert stages.run("rlhf.stages.train_ppo", request, tmp_path / "one")
    launch_two(request, tmp_path / "two")
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert manifest["processes"] == 2
    for name in ("metrics.jsonl", "validation.jsonl"):
        one, two = untimed(tmp_path / "one" / name), untimed(tmp_path / "two" / name)
        assert len(one) == len(two)
        for row, expected in zip(two, one, strict=True):
            clip_fractions = {key for key in expected if key.endswith("_clip_fraction")}
            for key in clip_fractions:
                # of 4 minibatches of 32 tokens: rounding may move one token across the bound
                assert row.pop(key) == pytest.approx(expected.pop(key), abs=1.01 / 128), key
            assert row == pytest.approx(expected, rel=1e-3, abs=1e-5)
    one, two = (read_jsonl(tmp_path / name / "validation_responses.jsonl") for name in ("one", "two"))
    for row, expected in zip(two, one, strict=True):
        for key in ("kl", "reward"):
            assert row.pop(key) == pytest.approx(expected.pop(key), rel=1e-3, abs=1e-5), key
        assert row == expected
    expected_weights = load_causal_lm(tmp_path / "one" / "model", "float32").state_dict()
    for name, value in load_causal_lm(tmp_path / "two" / "model", "float32").state_dict().items():
        assert (value - expected_weights[name]).abs().max() < 1e-4, name


@pytest.mark.slow
def test_two_processes_end_early_together(inputs: dict[str, Path], tmp_path: Path, stages: Stages) -> None:
    config = ending_early(inputs, tmp_path / "complete", steps=4, checkpoint_every=2)
    request = write_request(tmp_path / "request.json", "train_ppo", config, inputs)
    summaries = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        assert stages.run("rlhf.stages.train_ppo", request, output, processes=processes)
        summaries.append(json.loads((output / "summary.json").read_text()))
    one, two = (summary["stopped_early"] for summary in summaries)
    assert two == pytest.approx(one, rel=1e-3)
    assert [[rejected["step"] for rejected in summary["rejected"]] for summary in summaries] == [[2], [2]]


@pytest.mark.slow
def test_two_processes_resume_after_a_kill(inputs: dict[str, Path], tmp_path: Path, stages: Stages) -> None:
    """Byte-identical to an undisturbed run of two processes; each loads its shard of the optimizer state."""
    config = settings(steps=12, validate_every=4, checkpoint_every=2)
    request = write_request(tmp_path / "request.json", "train_ppo", config, inputs)
    output, expected = tmp_path / "output", tmp_path / "expected"
    fourth = output / "checkpoints" / "step-000004"
    assert not stages.run("rlhf.stages.train_ppo", request, output, processes=2, kill_when=fourth.is_dir)
    for folder in (output, expected):
        assert stages.run("rlhf.stages.train_ppo", request, folder, processes=2)
    assert "resuming after step" in (output / "log.txt").read_text()
    assert_same_run(output, expected)


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True])
def test_a_run_killed_ten_times_at_random_equals_an_undisturbed_one(
    inputs: dict[str, Path], tmp_path: Path, stages: Stages, early: bool
) -> None:
    config = settings(steps=6, checkpoint_every=2)
    if early:
        config = ending_early(inputs, tmp_path / "complete", steps=6, checkpoint_every=2)
    request = write_request(tmp_path / "request.json", "train_ppo", config, inputs)
    expected, output = undisturbed_and_killed(stages, "rlhf.stages.train_ppo", request, tmp_path)
    assert_same_run(output, expected)
