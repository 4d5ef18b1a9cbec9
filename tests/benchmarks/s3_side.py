"""Our side of the S3 benchmark: `python -m tests.benchmarks.s3_side upload|download FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import TypeAdapter

from rlhf.storage.artifacts import FileRecord
from rlhf.storage.s3 import Bucket
from rlhf.storage.s3_transfer import download, upload

RECORDS = TypeAdapter(dict[str, FileRecord])
"""Content of FOLDER/records.json."""
SOURCE, TARGET = "source", "target"


def main(way: str, folder: Path) -> None:
    """Upload FOLDER/source, or download it to FOLDER/target."""
    records = RECORDS.validate_json((folder / "records.json").read_bytes())
    bucket = Bucket("s3://bench/ours")
    if way == "upload":
        upload(bucket, "x", {name: (folder / SOURCE / name, record) for name, record in records.items()})
    else:
        download(bucket, "x", records, folder / TARGET)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
