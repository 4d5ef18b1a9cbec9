"""Order of rows, and checkpoints, of the training loop of SFT and reward model."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
import transformers.trainer

from rlhf.config import ModelConfig, SftConfig
from rlhf.stage_config import SftStage
from rlhf.stages.train_sft import train_sft
from rlhf.training.checkpoint_record import RECORD, write_record
from rlhf.training.trl_trainer import newest_checkpoint, remove_unusable, training_order
from tests.support.tiny_inputs import tiny_inputs

CONFIG = SftStage(
    seed=1,
    model=ModelConfig(),
    sft=SftConfig(
        batch_size=8, device_batch_size=4, learning_rate=1e-2, checkpoint_every=1, warmup_steps=0, max_steps=5
    ),
)


def test_every_epoch_has_every_row_once_and_every_batch_is_sorted_by_length() -> None:
    lengths = [10 + row % 7 for row in range(60)]  # 7 batches of 8; the other 4 rows start the first batch of epoch 2
    order = training_order(lengths, batch_size=8, steps=15, seed=1)
    assert sorted(order) == sorted([*range(60), *range(60)])
    assert len(set(order[:56])) == 56
    batches = [[lengths[row] for row in order[start : start + 8]] for start in range(0, 120, 8)]
    assert all(batch == sorted(batch) for batch in batches)
    assert len({tuple(batch) for batch in batches}) > 10  # batches are drawn from all lengths


def test_the_order_is_drawn_by_seed() -> None:
    first, repeated, other = (training_order([5] * 30, batch_size=4, steps=7, seed=seed) for seed in (1, 1, 2))
    assert first == repeated != other


def test_rows_are_repeated_until_a_batch_is_full() -> None:
    assert training_order([5, 6], batch_size=4, steps=1, seed=0).count(0) == 2


def make_checkpoint(output: Path, step: int, content: str = "weights") -> Path:
    folder = output / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(content)
    write_record(folder, output, step)
    return folder


def left_over(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def test_an_incomplete_checkpoint_is_deleted_and_never_resumed_from(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (90, 100, 110):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / "checkpoint-110" / RECORD).unlink()
    (tmp_path / "checkpoints" / "checkpoint-x").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-120").symlink_to(tmp_path / "checkpoints" / "checkpoint-100")
    shutil.copytree(tmp_path / "checkpoints" / "checkpoint-90", tmp_path / "checkpoints" / "checkpoint-130")

    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "checkpoint-100"
    remove_unusable(tmp_path)
    assert left_over(tmp_path) == ["checkpoint-100", "checkpoint-90"]


def test_without_a_complete_checkpoint_none_is_kept(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    remove_unusable(tmp_path)
    assert left_over(tmp_path) == []


def test_a_checkpoint_of_another_run_is_not_resumed_from(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "one", 5)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    remove_unusable(tmp_path / "other")
    assert newest_checkpoint(tmp_path / "other") is None


def test_damaged_checkpoints_are_told_and_if_all_are_the_training_starts_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        folder = make_checkpoint(tmp_path, step)
        (folder / "model.safetensors").write_text("Weights")
    remove_unusable(tmp_path)
    assert left_over(tmp_path) == []
    told = capsys.readouterr().out
    assert told.count("this checkpoint is damaged (model.safetensors was changed) and was removed") == 2
    assert "no intact checkpoint is left; the training starts again" in told


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
"""What transformers reads when it resumes."""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    """Inputs of SFT, and the output of a run of 5 steps with a checkpoint after each but the last; 3 and 4 are kept."""
    folder = tmp_path_factory.mktemp("interrupted")
    inputs = tiny_inputs(folder)
    train_sft(CONFIG, inputs, folder / "out")
    return inputs, folder / "out"


@pytest.mark.parametrize("file", FILES)
def test_a_run_with_a_damaged_checkpoint_ends_with_the_same_model(
    interrupted: tuple[dict[str, Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    inputs, whole = interrupted
    output = tmp_path / whole.name
    shutil.copytree(whole, output)
    shutil.rmtree(output / "model")
    path = output / "checkpoints" / "checkpoint-4" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    train_sft(CONFIG, inputs, output)
    told = capsys.readouterr().out
    assert f"checkpoint-4: this checkpoint is damaged ({file} was changed)" in told
    assert "resuming after step 3" in told
    assert (output / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def test_transformers_unpickles_nothing_when_it_resumes() -> None:
    """Each of its torch.load reads tensors and plain values only."""
    source = Path(str(transformers.trainer.__file__)).read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    assert len(loads) > 5
    assert all("weights_only=True" in ast.unparse(call) for call in loads)
    assert not [call for call in calls if ast.unparse(call.func).startswith("pickle.load")]
