"""Downloads, with the hub replaced: what is asked of it, and what its failures tell the user."""

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
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, object]]:
    """The requests to a hub whose every data set lies in tmp_path."""
    requests: list[dict[str, object]] = []

    def snapshot_download(repository: str, **request: object) -> str:
        requests.append({"repository": repository, **request})
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return requests


def test_the_pinned_subsets_and_nothing_else_are_read(asked: list[dict[str, object]], tmp_path: Path) -> None:
    for name in ("b/train.jsonl.gz", "b/test.jsonl.gz", "a/train.jsonl.gz", "of-another-run/train.jsonl.gz"):
        write_rows(tmp_path / name, [hh_row(name)])
    config = DataConfig(repository="some/pairs", revision="c0ffee", subsets=("b", "a"))
    pairs = list(read_pairs(config, seed=0, source=None))

    questions = [pair.prompt.split()[1] for pair in pairs if isinstance(pair, Pair)]
    assert questions == ["b/test.jsonl.gz", "b/train.jsonl.gz", "a/train.jsonl.gz"]
    [request] = asked
    patterns = request.pop("allow_patterns")
    assert request == {"repository": "some/pairs", "repo_type": "dataset", "revision": "c0ffee"}
    assert isinstance(patterns, list)
    assert {"b/*.jsonl.gz", "a/*.jsonl.gz"} <= set(patterns)
    assert all(pattern.startswith(("a/", "b/")) for pattern in patterns)


@pytest.mark.usefixtures("asked")
def test_a_subset_that_the_hub_lacks_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "a" / "train.jsonl.gz", [hh_row("x")])
    with pytest.raises(UserError, match=r"data\.subsets \(helpfull\)"):
        list(read_pairs(DataConfig(subsets=("a", "helpfull")), seed=0, source=None))


def test_toxicity_prompts_come_from_their_one_file(asked: list[dict[str, object]], tmp_path: Path) -> None:
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": {"text": text, "toxicity": 0.5}} for text in "ab"])
    config = ToxicityConfig(repository="some/prompts", revision="c0ffee", n_prompts=2)
    assert {prompt.text for prompt in read_toxicity_prompts(config, 0, None)} == {"a", "b"}
    [request] = asked
    assert request == {
        "repository": "some/prompts",
        "repo_type": "dataset",
        "revision": "c0ffee",
        "allow_patterns": ["prompts.jsonl"],
    }


@pytest.mark.parametrize(
    "failure",
    [LocalEntryNotFoundError("no connection"), httpx.ReadTimeout("too slow"), HFValidationError("bad name"), OSError()],
)
def test_a_failed_download_names_the_way_out(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise failure

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"some/pairs at c0ffee.*set data\.source to a local copy"):
        hub.download_dataset("some/pairs", "c0ffee", ["*"], field="data.source")


def test_a_full_disk_is_not_blamed_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(OSError, match="No space left"):
        hub.download_dataset("some/pairs", "c0ffee", ["*"], field="data.source")
