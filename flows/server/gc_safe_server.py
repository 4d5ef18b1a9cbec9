"""`prefect server` without a deadlock of Prefect 3.8 on SQLite: `python -m flows.server.gc_safe_server start`.

Prefect 3.8.8 leaves database cursors to the garbage collector.  If the collector runs on the server's event loop and
frees a cursor whose connection another thread is waiting on, both deadlock until SQLite's timeout of 60 s.  This module
runs the collector in a thread of its own, which the event loop does not wait for.
"""

from __future__ import annotations

import gc
import sys
import threading
import time

from prefect.cli import app

STARTUP_SECONDS = 30.0
"""Time until the server's permanent objects exist.  They are then excluded from later collections."""
COLLECT_SECONDS = 10.0


def collect_in_background() -> None:
    """Collect garbage every COLLECT_SECONDS.  Never returns."""
    time.sleep(STARTUP_SECONDS)
    gc.collect()
    gc.freeze()
    while True:
        time.sleep(COLLECT_SECONDS)
        gc.collect()


if __name__ == "__main__":
    gc.disable()
    threading.Thread(target=collect_in_background, daemon=True).start()
    sys.argv.insert(1, "server")
    app()
