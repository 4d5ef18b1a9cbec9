"""What a person or Prefect starts.

Importing it takes the current folder off the import path if an empty or relative entry of PYTHONPATH has put it there,
so that a file named like a library is not run because `rlhf` is started next to it.
"""

# ruff: noqa: PTH100, PTH117, PTH120 pathlib is imported from that path
import os
import sys

if _entries := os.environ.get("PYTHONPATH"):
    _relative = {os.path.abspath(entry) for entry in _entries.split(os.pathsep) if not os.path.isabs(entry)}
    _relative.discard(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) not in _relative]
