"""Where things are, files that are whole or not there, progress, and errors meant for the user.

scale   quick, laptop, study or paper;  task   one of the six tasks;  phase   pretrain, truncate, retrain
"""
from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
import socket
import sys
from pathlib import Path

import psutil
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
RAW = ROOT / "data" / "raw"
PINS = ROOT / "data" / "packages"


class UserError(Exception):
    """Something the user can mend: the message says what, where and how, and is shown without a traceback."""


def task_dir(scale: str, task: str = "") -> Path:
    """Where the results of a scale, or of one of its tasks, are read: tables and figures in git, arrays and models in DVC."""
    return ROOT / "results" / scale / task


def output_dir(scale: str, task: str = "") -> Path:
    """Where a notebook writes: `task_dir`, or its place below S4BT_STAGE, from where the runner moves it when all is done."""
    folder = task_dir(scale, task)
    if stage := os.environ.get("S4BT_STAGE"):
        folder = Path(stage) / folder.relative_to(ROOT)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def scratch_dir(scale: str, task: str, phase: str, settings: list, *inputs: Path) -> Path:
    """Where the finished runs of an interrupted phase wait, keyed by its settings, its inputs and the code that runs use."""
    apart = ("summary", "figures", "notebook", "parallel", "project")
    code = [digest(p) for p in sorted((ROOT / "s4bt").rglob("*.py")) if p.stem not in apart]
    key = hashlib.sha256("\n".join([*(s.model_dump_json() for s in settings), *code, *map(digest, inputs)]).encode()).hexdigest()[:16]
    return ROOT / ".scratch" / scale / task / f"{phase}-{key}"


def digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of the files in a folder.  Raises UserError if it is missing."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is missing. Run the stage that makes it: dvc repro")
    if path.is_dir():
        parts = [f"{p.relative_to(path)} {digest(p)}" for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cores() -> int:
    """Processor cores that this process may use; S4BT_WORKERS overrides."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("S4BT_WORKERS", available))


def progress_stream():
    """Where progress goes: what the runner named in S4BT_PROGRESS (the terminal behind `dvc repro`), else stderr."""
    path = os.environ.get("S4BT_PROGRESS")
    return open(path, "w", buffering=1) if path else sys.stderr


def progress_bar(total: int, label: str, stream=None, **options) -> tqdm:
    """A bar with ETA on the stream if a person watches it, a silent counter otherwise."""
    stream = stream or progress_stream()
    live = stream.isatty() or os.environ.get("S4BT_TERMINAL") == "1"
    return tqdm(total=total, desc=label, file=stream if live else io.StringIO(), mininterval=1, leave=False, **options)


def leftovers(folder: Path) -> list[Path]:
    """Temporary paths of `atomic_path` in a folder whose process has died; those of other machines, of which one cannot know, are none."""
    found = []
    for path in folder.glob(".*.part"):
        host, _, pid = path.name.rsplit("+", 1)[0].rpartition("+")
        if host.endswith(f".{socket.gethostname()}") and pid.isdigit() and not psutil.pid_exists(int(pid)):
            found.append(path)
    return found


@contextlib.contextmanager
def atomic_path(path: Path):
    """Yield a temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    Works for a file and for a folder (made here by the caller). A full or read-only disk becomes a UserError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}+{os.getpid()}+{secrets.token_hex(4)}.part")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise UserError(f"{path} could not be written: {error.strerror or error}. Free some space or make the folder writable, "
                        "then start again; what was finished is kept.") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
