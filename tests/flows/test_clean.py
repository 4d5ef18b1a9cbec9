"""`rlhf clean` on the command line, and on a Prefect server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from typer.testing import CliRunner

from flows.cli import app
from flows.server.deploy import deploy
from flows.server.undeploy import FLOWS, undeploy
from rlhf.profiles import load_profile


def test_it_lists_first_and_removes_when_told_to(tmp_path: Path) -> None:
    record = tmp_path / "records" / f"train_sft-{'1' * 16}"
    record.parent.mkdir()
    record.write_text("{}")
    (tmp_path / "mine.txt").write_text("mine")
    listed = CliRunner().invoke(app, ["clean", "--workspace", str(tmp_path)])
    assert listed.exit_code == 0, listed.output
    assert "remove   records (1 files)" in listed.output
    assert "keep     mine.txt (not created by a run)" in listed.output
    assert "nothing was removed; repeat with --yes to remove" in listed.output
    assert record.exists()
    CliRunner().invoke(app, ["clean", "--workspace", str(tmp_path), "--yes"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_was_deployed_goes_and_what_bears_the_same_name_stays(tmp_path: Path) -> None:
    def there() -> dict[str, bool]:
        return {thing.name: thing.ours for thing in undeploy(remove=False)}

    undeploy(remove=True)  # other tests' deployments
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="cpu", type="process", description="somebody's"))
        assert there() == {"cpu": False}
        undeploy(remove=True)
        client.delete_work_pool("cpu")  # it was still there
        deploy(load_profile("quickstart"), str(tmp_path))
        names = {f"{flow}/{name}" for name, flow in FLOWS.items()} | {"cpu", "p4d", "rlhf-lost-runs"}
        assert there() == dict.fromkeys(names, True)
        flow = client.create_flow_from_name("somebodys")
        client.create_deployment(flow_id=flow, name="nightly", work_pool_name="p4d", entrypoint="a.py:b")
        assert {name for name, ours in there().items() if not ours} == {"p4d"}
        undeploy(remove=True)
        assert there() == {"p4d": False}
        client.delete_deployment(client.read_deployment_by_name("somebodys/nightly").id)
        undeploy(remove=True)
    assert there() == {}
