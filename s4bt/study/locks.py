"""One writer at a time."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from s4bt.files import ROOT, UserError

# What a file system without locks answers, besides ENOSYS, which filelock knows.
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)


def _held(path: Path) -> BaseFileLock:
    """A lock that is held; a mere file where the file system has none.  Raises Timeout."""
    lock: BaseFileLock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        lock = SoftFileLock(path.with_suffix(".softlock"), timeout=0)
        lock.acquire()
    return lock


@contextlib.contextmanager
def sole_writer(name: str) -> Iterator[None]:
    """Hold the lock .scratch/locks/<name>; the system lets go of it when the process ends.

    Raises UserError if another process holds it.
    """
    folder = ROOT / ".scratch" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / f"{name}.pid"
    try:
        lock = _held(folder / f"{name}.lock")
    except Timeout as error:
        who = owner.read_text() if owner.exists() else "?"
        raise UserError(
            f"process {who} is writing {name} already. Wait for it, or end it, and start again."
        ) from error
    try:
        owner.write_text(str(os.getpid()))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
