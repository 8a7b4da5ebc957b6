"""Pretrain on a GPU that is lent for minutes, and bring back what is done.

    python -m tools.gpu --minutes 25 --out back                    # scale paper, ListOps first
    python -m tools.gpu --minutes 25 --out more --put back         # goes on from there
    python -m tools.gpu --put back                                 # at home; then: make paper

The tasks are pretrained one after the other until the time is up. --out receives the finished runs
and the checkpoints of the others, a few MB each; --put lays them where the stage looks for them, so
that `dvc repro` does not repeat them. Without --minutes, --out takes what any interrupted stage has
done. Both sides need the same files of s4bt and params.yaml: else the stage starts anew.
Checkpoints also need the same version of PyTorch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from s4bt.files import ROOT, UserError, atomic_path
from s4bt.study.config import SCALES, load_task
from s4bt.study.experiments import scratch
from s4bt.study.places import task_dir
from s4bt.study.pretraining import pretrain_all, pretrain_steps
from s4bt.study.runner import Runner
from s4bt.tasks import TASKS
from s4bt.tasks.prepare import prepare

SCRATCH = ROOT / ".scratch"


def pretrain(scale: str, task: str) -> None:
    """Make the arrays of a task if they are missing, and do the runs of its stage."""
    config, grid = load_task(scale, task)
    arrays = task_dir(scale, task) / "arrays"
    if not arrays.exists():
        print(f"{task}: making the data", flush=True)
        prepare(task, config.data, arrays)
    steps = pretrain_steps(config, grid.seeds)
    with Runner(scratch(scale, task, "pretrain"), f"pretrain {task}", steps) as runner:
        pretrain_all(runner, scale, task, config, grid.seeds)


def ended(process: subprocess.Popen, deadline: float) -> bool:
    """Whether the process ends before the deadline; it and its children are killed there.

    Raises UserError if it failed.
    """
    try:
        code = process.wait(timeout=max(0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        for member in family:
            member.kill()
        process.wait()
        return False
    if code:
        raise UserError("pretraining failed: what it said stands above; what is done is kept")
    return True


def bring(scale: str, tasks: list[str], out: Path) -> None:
    """Copy what interrupted stages have done to `out`, runs and checkpoints; print what it is."""
    for task in tasks:
        for runs in sorted((SCRATCH / scale / task).glob("*-*")):
            with atomic_path(out / scale / task / runs.name) as temporary:
                shutil.copytree(runs, temporary, ignore=shutil.ignore_patterns(".*.part"))
            for result in sorted(runs.glob("*/result.json")):
                about = json.loads(result.read_text())
                print(f"{about['name']}: accuracy {about['accuracy']:.3f}, {about['seconds']} s")
            for checkpoint in sorted(runs.glob("*.checkpoint")):
                print(f"{checkpoint.stem}: not finished, its checkpoint is kept")


def put(folder: Path) -> None:
    """Lay what `bring` brought where stages look.  Raises UserError if nothing is there."""
    found = sorted(folder.glob("*/*/*-*"))
    if not found:
        raise UserError(f"{folder} holds no runs: name the folder that --out has filled")
    for runs in found:
        target = SCRATCH / runs.relative_to(folder)
        target.mkdir(parents=True, exist_ok=True)
        for entry in sorted(runs.iterdir()):
            if not (target / entry.name).exists():
                with atomic_path(target / entry.name) as temporary:
                    (shutil.copytree if entry.is_dir() else shutil.copyfile)(entry, temporary)
        print(f"{runs.relative_to(folder)}: put back")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", help=f"default: {' '.join(TASKS)}")
    parser.add_argument("--scale", default="paper", choices=SCALES)
    parser.add_argument("--minutes", type=float, default=0, help="time for training, 0: none")
    parser.add_argument("--out", type=Path, help="receives what is done")
    parser.add_argument("--put", type=Path, help="what an earlier machine has done")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the process that can be killed
    options = parser.parse_args()
    try:
        if options.only:
            pretrain(options.scale, options.only)
            return 0
        tasks, deadline = options.tasks or list(TASKS), time.monotonic() + 60 * options.minutes
        for task in tasks:
            load_task(options.scale, task)
        if options.minutes and not options.out:
            raise UserError("say where the runs go: --out FOLDER")
        if options.put:
            put(options.put)
        try:
            for task in tasks if options.minutes else []:
                command = [sys.executable, "-m", "tools.gpu", "--scale", options.scale]
                if not ended(subprocess.Popen([*command, "--only", task]), deadline):
                    print(f"{task}: the time is up")
                    break
        finally:
            if options.out:
                bring(options.scale, tasks, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
