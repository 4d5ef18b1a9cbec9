"""What a person or Prefect starts.

Importing it takes the current folder off the import path if an empty or relative entry of PYTHONPATH has put it there,
so that a file named like a library is not run because `rlhf` is started next to it.
"""

import os
import sys

_relative = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if not os.path.isabs(entry)]  # noqa: PTH117
if os.environ.get("PYTHONPATH"):
    _added = {os.path.abspath(entry) for entry in _relative}  # noqa: PTH100 importing pathlib might import a file there
    _added.discard(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) not in _added]  # noqa: PTH100
