"""A run of the pipeline: its settings, its workspace and the stores that belong to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from rlhf.config import RunConfig, Settings, expand_home
from rlhf.runtime.stage import StageInput
from rlhf.storage.artifacts import Store
from rlhf.storage.fingerprints import fingerprint_path
from rlhf.storage.s3 import S3
from rlhf.storage.s3_store import ARTIFACTS, S3Store, open_s3_store
from tasks.launch import RemoteWorkspace
from tasks.records import RecordStorage, saved_record_storage


@dataclass(frozen=True)
class Run:
    """One run of the pipeline: its settings and its workspace."""

    config: RunConfig
    workspace: Path
    """The workspace, or its local cache if the workspace is in S3."""
    remote_store: S3Store | None = None
    """Store of the artifacts, if the workspace is in S3."""
    _user_inputs: dict[Path, StageInput] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, config: RunConfig, workspace: str) -> Run:
        """A run in a workspace: a folder or s3://bucket/prefix."""
        if not workspace.startswith(S3):
            return cls(config, Path(expand_home(workspace)))
        store = open_s3_store(workspace)
        return cls(config, store.workspace, store)

    def with_settings(self, **changes: Settings | int) -> Run:
        """The same run with other values of some settings, for a stage that runs more than once."""
        return replace(self, config=self.config.model_copy(update=changes))

    @property
    def store(self) -> Store:
        """The artifacts of the workspace, shared by all of its runs."""
        return self.remote_store or Store(self.workspace / ARTIFACTS)

    @property
    def remote_workspace(self) -> RemoteWorkspace | None:
        """What other machines need to know of a workspace in S3."""
        return RemoteWorkspace(uri=self.remote_store.bucket.uri, cache=self.workspace) if self.remote_store else None

    @cached_property
    def result_storage(self) -> RecordStorage:
        """Where Prefect stores the records of finished stages: next to the artifacts."""
        return saved_record_storage(
            self.remote_store.bucket.uri if self.remote_store else str(self.workspace.absolute())
        )

    @property
    def folder(self) -> Path:
        """Folder in which the results of this run are published."""
        return self.workspace / self.config.run_name

    def user_input(self, path: Path) -> StageInput:
        """A user's file or folder as the input of a stage, uploaded if the workspace is in S3.

        It is hashed and uploaded once, even if several stages use it.  Raises UserError if there is no file at `path`.
        """
        if path not in self._user_inputs:
            fingerprint = fingerprint_path(path)
            local = self.remote_store.upload_input(path, fingerprint) if self.remote_store else path.absolute()
            self._user_inputs[path] = StageInput(fingerprint=fingerprint, path=local)
        return self._user_inputs[path]
