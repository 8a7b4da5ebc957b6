"""Progress with an ETA, and how many cores there are."""

from __future__ import annotations

import io
import os
import sys
from typing import IO, Any

from tqdm import tqdm


def cores() -> int:
    """Processor cores that this process may use; S4BT_WORKERS overrides."""
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    return int(os.environ.get("S4BT_WORKERS", available))


def progress_stream() -> IO[str]:
    """Where progress goes: what the runner named in S4BT_PROGRESS, else stderr.

    The runner names the terminal behind `dvc repro`.
    """
    path = os.environ.get("S4BT_PROGRESS")
    return open(path, "w", buffering=1) if path else sys.stderr


def progress_bar(
    total: float | None, label: str, stream: IO[str] | None = None, **options: Any
) -> tqdm:
    """A bar with ETA on the stream if a person watches it, a silent counter otherwise."""
    stream = stream or progress_stream()
    live = stream.isatty() or os.environ.get("S4BT_TERMINAL") == "1"
    where = stream if live else io.StringIO()
    return tqdm(total=total, desc=label, file=where, mininterval=1, leave=False, **options)
