"""S3: files up and down beside `aws s3 sync`, against the same server on this machine (moto), in turn.

`AWS_CLI` names the command, from an environment of its own; without it our side alone is measured.  Each side is a
process of its own and its seconds are those of the whole command.  What we send has its sha256 already, which a stage
took when it wrote its manifest; what we fetch is hashed, as always.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import boto3
from rich.table import Table

from rlhf.storage.artifacts import record_files
from tests.benchmarks.measure import status_bytes
from tests.benchmarks.part import Options, Result
from tests.benchmarks.s3_side import RECORDS
from tests.support.cli import free_port
from tests.support.paths import ROOT
from tests.support.s3_server import clients_of

FILES, BYTES, QUICK_BYTES = 200, 2 * 2**30, 200 * 2**20
MEBIBYTE = 2**20
START_SECONDS = 120.0
POLL_SECONDS = 0.05


class Side(NamedTuple):
    """What a command took."""

    seconds: float
    peak_bytes: int


def run(options: Options) -> Result:
    """2 GiB (quick: 200 MiB) in 200 files, each way, as often as `options` says; the best of each counts."""
    total = QUICK_BYTES if options.quick else BYTES
    with TemporaryDirectory() as folder, moto_server():
        made, got = Path(folder) / "made", Path(folder) / "got"
        write_files(made, total)
        (Path(folder) / "records.json").write_bytes(RECORDS.dump_json(record_files(made)))
        commands = {"ours": _ours(Path(folder))}
        if cli := os.environ.get("AWS_CLI"):
            commands["aws"] = _aws(cli, made, got)
        sides: dict[str, list[Side]] = {}
        for _ in range(options.repeats):
            for name, (up, down) in commands.items():
                shutil.rmtree(got, ignore_errors=True)
                boto3.resource("s3").Bucket("bench").objects.all().delete()
                sides.setdefault(f"{name}.upload", []).append(measured(up))
                sides.setdefault(f"{name}.download", []).append(measured(down))
                assert sum(path.stat().st_size for path in got.iterdir() if path.is_file()) == total // FILES * FILES
    best = {
        name: Side(min(side.seconds for side in runs), max(side.peak_bytes for side in runs))
        for name, runs in sides.items()
    }
    return Result(metrics=_metrics(best, total), tables=[_table(best, total)])


def write_files(folder: Path, total: int) -> None:
    """FILES files of equal size that no server can compress."""
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:03}.bin").write_bytes(random.Random(number).randbytes(total // FILES))


@contextmanager
def moto_server() -> Iterator[None]:
    """moto in a process of its own, which keeps objects on the disk."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=os.environ | {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": "65536"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + START_SECONDS
        while not _answers(port):
            assert time.monotonic() < until, "moto did not start"
            time.sleep(0.2)
        with clients_of(f"http://127.0.0.1:{port}"):
            boto3.client("s3").create_bucket(Bucket="bench")
            yield
    finally:
        server.terminate()
        server.wait()


def measured(command: list[str]) -> Side:
    """Run a command to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        with suppress(FileNotFoundError, ProcessLookupError, AssertionError):  # it ended meanwhile
            peak = max(peak, status_bytes("VmHWM", process.pid))
        time.sleep(POLL_SECONDS)
    assert process.returncode == 0, command
    return Side(time.perf_counter() - started, peak)


def _ours(folder: Path) -> tuple[list[str], list[str]]:
    command = [sys.executable, "-m", "tests.benchmarks.s3_side"]
    return [*command, "upload", str(folder)], [*command, "download", str(folder)]


def _aws(cli: str, made: Path, got: Path) -> tuple[list[str], list[str]]:
    sync, quiet = [cli, "s3", "sync"], "--only-show-errors"
    return [*sync, str(made), "s3://bench/aws", quiet], [*sync, "s3://bench/aws", str(got), quiet]


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _metrics(best: dict[str, Side], total: int) -> dict[str, float]:
    metrics = {"bytes": float(total)}
    for name, side in best.items():
        metrics |= {f"{name}_seconds": side.seconds, f"{name}_peak_bytes": float(side.peak_bytes)}
    if "aws.upload" in best:
        for way in ("upload", "download"):
            metrics[f"{way}_ratio"] = best[f"aws.{way}"].seconds / best[f"ours.{way}"].seconds
    return metrics


def _table(best: dict[str, Side], total: int) -> Table:
    alone = "" if "aws.upload" in best else "; `aws s3 sync` left out: AWS_CLI names no command"
    table = Table(title=f"S3, {total // MEBIBYTE} MiB in {FILES} files", caption=f"moto on this machine{alone}")
    for column in ("", "seconds", "MiB/s", "peak memory, MiB"):
        table.add_column(column, justify="left" if not column else "right")
    for name, side in best.items():
        rate, peak = total / MEBIBYTE / side.seconds, side.peak_bytes / MEBIBYTE
        table.add_row(name.replace(".", ", "), f"{side.seconds:.1f}", f"{rate:.0f}", f"{peak:.0f}")
    return table
