"""Requests to a fake hub, and the errors that users see if it fails."""

from __future__ import annotations

import errno
from pathlib import Path

import httpx
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from rlhf.config import DataConfig, ToxicityConfig
from rlhf.data import hub
from rlhf.data.dialogues import Pair, read_pairs
from rlhf.data.toxicity_prompts import read_toxicity_prompts
from rlhf.errors import UserError
from tests.support.data_files import hh_row, write_rows


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, object]]:
    """The requests to a fake hub, on which every data set has the files in tmp_path."""
    calls: list[dict[str, object]] = []

    def snapshot_download(repository: str, **request: object) -> str:
        calls.append({"repository": repository, **request})
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return calls


def test_only_the_configured_subsets_are_read(requests: list[dict[str, object]], tmp_path: Path) -> None:
    for name in ("b/train.jsonl.gz", "b/test.jsonl.gz", "a/train.jsonl.gz", "of-another-run/train.jsonl.gz"):
        write_rows(tmp_path / name, [hh_row(name)])
    config = DataConfig(repository="some/pairs", revision="c0ffee", subsets=("b", "a"))
    pairs = list(read_pairs(config, seed=0, source=None))

    questions = [pair.prompt.split()[1] for pair in pairs if isinstance(pair, Pair)]
    assert questions == ["b/test.jsonl.gz", "b/train.jsonl.gz", "a/train.jsonl.gz"]
    [request] = requests
    patterns = request.pop("allow_patterns")
    assert request == {
        "repository": "some/pairs",
        "repo_type": "dataset",
        "revision": "c0ffee",
        "ignore_patterns": None,
    }
    assert isinstance(patterns, list)
    assert {"b/*.jsonl.gz", "a/*.jsonl.gz"} <= set(patterns)
    assert all(pattern.startswith(("a/", "b/")) for pattern in patterns)


@pytest.mark.usefixtures("requests")
def test_an_error_for_a_missing_subset_names_it(tmp_path: Path) -> None:
    write_rows(tmp_path / "a" / "train.jsonl.gz", [hh_row("x")])
    with pytest.raises(UserError, match=r"data\.subsets \(helpfull\)"):
        list(read_pairs(DataConfig(subsets=("a", "helpfull")), seed=0, source=None))


@pytest.mark.usefixtures("requests")
def test_a_subset_is_a_folder_inside_the_repository(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write_rows(outside / "train.jsonl.gz", [hh_row("x")])
    (tmp_path / "a").symlink_to(outside)
    with pytest.raises(UserError, match="a link that leads out of"):
        list(read_pairs(DataConfig(subsets=("a",)), seed=0, source=None))


def test_only_the_file_of_toxicity_prompts_is_downloaded(requests: list[dict[str, object]], tmp_path: Path) -> None:
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": {"text": text, "toxicity": 0.5}} for text in "ab"])
    config = ToxicityConfig(repository="some/prompts", revision="c0ffee", n_prompts=2)
    assert {prompt.text for prompt in read_toxicity_prompts(config, 0, None)} == {"a", "b"}
    [request] = requests
    assert request == {
        "repository": "some/prompts",
        "repo_type": "dataset",
        "revision": "c0ffee",
        "allow_patterns": ["prompts.jsonl"],
        "ignore_patterns": None,
    }


@pytest.mark.parametrize(
    "failure",
    [
        LocalEntryNotFoundError("no connection"),
        httpx.ReadTimeout("too slow"),
        HFValidationError("bad name"),
        OSError(),
        ValueError("Invalid pointer path"),
        RuntimeError("bad list"),
    ],
)
def test_an_error_for_a_failed_download_names_the_setting_for_a_local_copy(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise failure

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"some/pairs at c0ffee.*set data\.source to a local copy"):
        hub.download("dataset", "some/pairs", "c0ffee", ["*"], setting="data.source")


def test_an_error_for_a_full_disk_does_not_blame_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(OSError, match="No space left"):
        hub.download("dataset", "some/pairs", "c0ffee", ["*"], setting="data.source")
