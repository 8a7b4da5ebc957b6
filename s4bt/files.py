"""Files that are whole or not there, and errors meant for the user."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

# Of a checkout of the project; only tasks and the study use it.
ROOT = Path(__file__).resolve().parents[1]
# Reasons for which the user can make room or give permission.
MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """Something the user can mend.

    The message says what, where and how, and is shown without a traceback.
    """


def digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of the files in a folder.

    Raises UserError if it is missing.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is missing. Run the stage that makes it: dvc repro")
    if path.is_dir():
        files = (p for p in sorted(path.rglob("*")) if p.is_file())
        parts = [f"{p.relative_to(path)} {digest(p)}" for p in files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _alive(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def leftovers(folder: Path) -> list[Path]:
    """Temporary paths of `atomic_path` in a folder whose process has died.

    Those of other machines, of which one cannot know, are none.
    """
    found = []
    for path in folder.glob(".*.part"):
        host, _, process = path.name.rsplit("+", 1)[0].rpartition("+")
        here = host.endswith(f".{socket.gethostname()}")
        if here and process.isdigit() and not _alive(int(process)):
            found.append(path)
    return found


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    It vanishes when the block does not. Works for a file and for a folder (made here by the
    caller). A full or read-only disk becomes a UserError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"{socket.gethostname()}+{os.getpid()}+{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{owner}.part")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        raise UserError(
            f"{path} could not be written: {error.strerror or error}. Free some space or make the "
            "folder writable, then start again; what was finished is kept."
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
