"""One writer at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from filelock import FileLock, Timeout

from s4bt.files import ROOT, UserError


@contextlib.contextmanager
def sole_writer(name: str) -> Iterator[None]:
    """Hold the lock .scratch/locks/<name>; the system lets go of it when the process ends.

    Raises UserError if another process holds it.
    """
    folder = ROOT / ".scratch" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / f"{name}.pid"
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):
            owner.write_text(str(os.getpid()))
            yield
            owner.unlink(missing_ok=True)
    except Timeout as error:
        who = owner.read_text() if owner.exists() else "?"
        raise UserError(
            f"process {who} is writing {name} already. Wait for it, or end it, and start again."
        ) from error
