"""Device of a rank, and two real ranks on the CPU of a machine that claims to have a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf.runtime.distributed import uses_cpu
from tests.support.cli import free_port

RANKS = """
import json, sys
import torch
from rlhf.runtime.distributed import all_gather_rows, all_reduce_sum, barrier, broadcast, init_distributed, reduce_to

torch.cuda.is_available = lambda: True
state = init_distributed()
rank = state.process_index
sent, reduced = torch.tensor([float(rank)]), torch.tensor([1.0 + rank])
broadcast(1, sent)
reduce_to(0, reduced)
barrier()
result = {
    "world_size": state.num_processes,
    "device": state.device.type,
    "sum": all_reduce_sum(torch.tensor([1.0, rank])).tolist(),
    "rows": all_gather_rows([f"row {rank}"] * (rank + 1)),
    "broadcast": sent.tolist(),
    "reduced": reduced.tolist(),
}
with open(f"{sys.argv[1]}/{rank}.json", "w") as stream:
    json.dump(result, stream)
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("requested", "has_gpu", "expected"),
    [
        ("true", True, True),
        ("True", True, True),
        ("1", True, True),
        ("false", True, False),
        ("", True, False),
        ("false", False, True),
        ("", False, True),
    ],
)
def test_the_cpu_is_used_if_it_is_requested_or_there_is_no_gpu(
    requested: str, has_gpu: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", requested)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert uses_cpu() is expected


def test_two_ranks_share_a_cpu_if_it_is_requested(tmp_path: Path) -> None:
    port = str(free_port())
    ranks = []
    for rank in ("0", "1"):
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        settings = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        environment = os.environ | world | address | settings
        ranks.append(subprocess.Popen([sys.executable, "-c", RANKS, str(tmp_path)], env=environment))
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == {
        "world_size": 2,
        "device": "cpu",
        "sum": [2.0, 1.0],
        "rows": ["row 0", "row 1", "row 1"],
        "broadcast": [1.0],
        "reduced": [3.0],
    }
    assert {name: second[name] for name in ("world_size", "device", "sum", "rows", "broadcast")} == {
        name: first[name] for name in ("world_size", "device", "sum", "rows", "broadcast")
    }
