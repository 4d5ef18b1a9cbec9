"""S3: upload and download of files, compared with `aws s3 sync` against the same server on this machine (moto).

`AWS_CLI` names the command, from an environment of its own; without it only our side is measured.  Each side is a
separate process, and its seconds include the start of the process.  The sha256 of uploaded files is known, since a
stage computes it for its manifest; downloaded files are hashed, as always.
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
from tests.benchmarks.s3_side import RECORDS, SOURCE, TARGET
from tests.support.cli import free_port
from tests.support.paths import ROOT
from tests.support.s3_server import clients_of

FILES, BYTES, QUICK_BYTES = 200, 2 * 2**30, 200 * 2**20
MEBIBYTE = 2**20
START_SECONDS = 120.0
POLL_SECONDS = 0.05


class Side(NamedTuple):
    """Time and memory of a command."""

    seconds: float
    peak_bytes: int


def run(options: Options) -> Result:
    """Transfer 2 GiB (quick: 200 MiB) in 200 files each way, `options.repeats` times; the best of each counts."""
    total = QUICK_BYTES if options.quick else BYTES
    with TemporaryDirectory() as folder, moto_server():
        source, target = Path(folder) / SOURCE, Path(folder) / TARGET
        write_files(source, total)
        (Path(folder) / "records.json").write_bytes(RECORDS.dump_json(record_files(source)))
        commands = {"ours": _ours(Path(folder))}
        if cli := os.environ.get("AWS_CLI"):
            commands["aws"] = _aws(cli, source, target)
        sides: dict[str, list[Side]] = {}
        for _ in range(options.repeats):
            for name, (up, down) in commands.items():
                shutil.rmtree(target, ignore_errors=True)
                boto3.resource("s3").Bucket("bench").objects.all().delete()
                sides.setdefault(f"{name}.upload", []).append(measured(up))
                sides.setdefault(f"{name}.download", []).append(measured(down))
                assert sum(path.stat().st_size for path in target.iterdir() if path.is_file()) == total // FILES * FILES
    best = {
        name: Side(min(side.seconds for side in runs), max(side.peak_bytes for side in runs))
        for name, runs in sides.items()
    }
    return Result(metrics=_metrics(best, total), tables=[_table(best, total)])


def write_files(folder: Path, total: int) -> None:
    """Write FILES files of equal size that no server can compress."""
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:03}.bin").write_bytes(random.Random(number).randbytes(total // FILES))


@contextmanager
def moto_server() -> Iterator[None]:
    """Run moto in a separate process that keeps objects on disk."""
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
    """Run a command until it ends."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        with suppress(FileNotFoundError, ProcessLookupError, AssertionError):  # the process has just ended
            peak = max(peak, status_bytes("VmHWM", process.pid))
        time.sleep(POLL_SECONDS)
    assert process.returncode == 0, command
    return Side(time.perf_counter() - started, peak)


def _ours(folder: Path) -> tuple[list[str], list[str]]:
    command = [sys.executable, "-m", "tests.benchmarks.s3_side"]
    return [*command, "upload", str(folder)], [*command, "download", str(folder)]


def _aws(cli: str, source: Path, target: Path) -> tuple[list[str], list[str]]:
    sync, quiet = [cli, "s3", "sync"], "--only-show-errors"
    return [*sync, str(source), "s3://bench/aws", quiet], [*sync, "s3://bench/aws", str(target), quiet]


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
    skipped = "" if "aws.upload" in best else "; `aws s3 sync` skipped: AWS_CLI names no command"
    table = Table(title=f"S3, {total // MEBIBYTE} MiB in {FILES} files", caption=f"moto on this machine{skipped}")
    for column in ("", "seconds", "MiB/s", "peak memory, MiB"):
        table.add_column(column, justify="left" if not column else "right")
    for name, side in best.items():
        rate, peak = total / MEBIBYTE / side.seconds, side.peak_bytes / MEBIBYTE
        table.add_row(name.replace(".", ", "), f"{side.seconds:.1f}", f"{rate:.0f}", f"{peak:.0f}")
    return table
