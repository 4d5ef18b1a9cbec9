"""`rlhf clean` on the command line, and on a Prefect server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from typer.testing import CliRunner

from flows.cli import app
from flows.server.deploy import deploy
from flows.server.specs import read_deployments
from flows.server.undeploy import undeploy
from rlhf.profiles import load_profile


def test_files_are_listed_and_removed_only_with_yes(tmp_path: Path) -> None:
    record = tmp_path / "records" / f"train_sft-{'1' * 16}"
    record.parent.mkdir()
    record.write_text("{}")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "a\n  remove   results").touch()
    listed = CliRunner().invoke(app, ["clean", "--workspace", str(tmp_path)])
    assert listed.exit_code == 0, listed.output
    assert "remove   records (1 files)" in listed.output
    assert "keep     notes.txt (not created by a run)" in listed.output
    assert "\n  remove   results" not in listed.output
    assert r"keep     'a\n  remove   results' (not created by a run)" in listed.output
    assert "nothing was removed; repeat with --yes to remove" in listed.output
    assert record.exists()
    CliRunner().invoke(app, ["clean", "--workspace", str(tmp_path), "--yes"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a\n  remove   results", "notes.txt"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_deployed_objects_are_removed_and_others_of_the_same_name_are_kept(tmp_path: Path) -> None:
    def removable() -> dict[str, bool]:
        return {item.name: item.removable for item in undeploy(remove=False)}

    undeploy(remove=True)  # deployments of other tests
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="cpu", type="process", description="somebody's"))
        assert removable() == {"cpu": False}
        undeploy(remove=True)
        client.delete_work_pool("cpu")  # raises if the pool was removed
        deploy(load_profile("quickstart"), str(tmp_path))
        names = {spec.full_name for spec in read_deployments()} | {"cpu", "p4d", "rlhf-lost-runs"}
        assert removable() == dict.fromkeys(names, True)
        flow = client.create_flow_from_name("somebodys")
        client.create_deployment(flow_id=flow, name="nightly", work_pool_name="p4d", entrypoint="a.py:b")
        assert {name for name, removable in removable().items() if not removable} == {"p4d"}
        undeploy(remove=True)
        assert removable() == {"p4d": False}
        client.delete_deployment(client.read_deployment_by_name("somebodys/nightly").id)
        undeploy(remove=True)
    assert removable() == {}
