"""A copy of the project to run in, and commands in it; for the tests that run stages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from s4bt.files import ROOT
from s4bt.tasks.releases import RAW

ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
    "DVC_NO_ANALYTICS": "1",
    "CI": "true",
}
for name in (
    "MAKELEVEL",
    "MAKEFLAGS",
    "MFLAGS",
    "MAKE_TERMOUT",
    "MAKE_TERMERR",
):  # this may run inside `make test`
    ENVIRONMENT.pop(name, None)


def call(command: str, folder: Path, **extra: str):
    """Run a shell command in a copy of the project; returns the finished process with its output as
    text.
    """
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**ENVIRONMENT, "PYTHONPATH": str(folder), **extra},
    )


def good(command: str, folder: Path, **extra: str) -> str:
    done = call(command, folder, **extra)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def copy_project(folder: Path) -> Path:
    """The files that git tracks, as they are now, in a repository of their own;
    the data packages come along if they are there.
    """
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    if RAW.exists():
        shutil.copytree(RAW, folder / "data" / "raw")
    good(
        "git init -q && git add -A && git -c user.name=t -c user.email=t@example.org commit -qm "
        "all",
        folder,
    )
    return folder
