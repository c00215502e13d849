"""Run the guard with short intervals, so that a short run flushes, prunes and retries: hurried_guard.py ARGUMENTS OF guard."""

from __future__ import annotations

from conntrackd_guard.cli.main import entry
from conntrackd_guard.core import tuning
from conntrackd_guard.recording import worker

tuning.MIN_STEP = 64
tuning.LOOKAHEAD_SECONDS = 0.0
worker.FLUSH_SECONDS = 0.1
worker.SERIES_SECONDS = 0.3
worker.PRUNE_SECONDS = 0.5
worker.STEADY_SECONDS = 0.0
worker._RETRY_SECONDS = 0.5

if __name__ == "__main__":
    entry()
