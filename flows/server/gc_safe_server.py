"""`prefect server`, safe from a deadlock of Prefect's server on SQLite: `python -m flows.server.gc_safe_server start`.

Prefect 3.8.8 leaves database cursors to the collector of cycles.  Where that runs on the server's event loop and frees
one whose connection waits for the database in another thread, both stand still until SQLite's timeout of a minute is
over.  Here a thread of its own collects, for which the event loop need not wait.
"""

from __future__ import annotations

import gc
import sys
import threading
import time

from prefect.cli import app

STARTED_SECONDS = 30.0
"""When the server has everything that it keeps for good, which a collection need not look through again."""
COLLECT_SECONDS = 10.0


def collect_for_ever() -> None:
    """Free what refers to itself, now and then."""
    time.sleep(STARTED_SECONDS)
    gc.collect()
    gc.freeze()
    while True:
        time.sleep(COLLECT_SECONDS)
        gc.collect()


if __name__ == "__main__":
    gc.disable()
    threading.Thread(target=collect_for_ever, daemon=True).start()
    sys.argv.insert(1, "server")
    app()
