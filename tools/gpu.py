"""Pretrain on a GPU for a limited time, and bring back what is done.

    python -m tools.gpu --minutes 25 --out back              # scale paper, ListOps first
    python -m tools.gpu --minutes 25 --out back --put back   # on another machine: goes on
    python -m tools.gpu --put back                           # at home; then: make paper

The tasks are pretrained one after the other until the time is up. --out receives the finished runs
and the checkpoints of the others, a few MB each; --put lays them where the stage looks for them, so
that `dvc repro` does not repeat them. Without --minutes, --out takes what any interrupted stage has
done. All sides need the same files of s4bt, params.yaml and arrays: else the stage starts anew.
Checkpoints go on only where PyTorch is the same and there is a GPU again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from s4bt.files import ROOT, UserError, atomic_path
from s4bt.study import environment
from s4bt.study.config import SCALES, load_task
from s4bt.study.experiments import scratch
from s4bt.study.locks import sole_writer
from s4bt.study.places import task_dir
from s4bt.study.pretraining import pretrain_all, pretrain_steps
from s4bt.study.runner import Runner
from s4bt.study.workers import heartbeat
from s4bt.tasks import TASKS
from s4bt.tasks.prepare import prepare

SCRATCH = ROOT / ".scratch"


def make_data(scale: str, task: str) -> None:
    """Make the arrays of a task if they are missing."""
    arrays = task_dir(scale, task) / "arrays"
    if not arrays.exists():
        print(f"{task}: making the data", flush=True)
        prepare(task, load_task(scale, task)[0].data, arrays)


def pretrain(scale: str, task: str) -> None:
    """Do the runs of the stage of a task."""
    config, grid = load_task(scale, task)
    steps, waiting = pretrain_steps(config, grid.seeds), scratch(scale, task, "pretrain")
    with (
        sole_writer(f"{scale}-{task}-20_pretrain"),
        Runner(waiting, f"pretrain {task}", steps) as runner,
    ):
        pretrain_all(runner, scale, task, config, grid.seeds)


def ended(process: subprocess.Popen, deadline: float) -> bool:
    """Whether the process ends before the deadline.

    It and its children are killed there, and where this process is interrupted.
    """
    try:
        process.wait(timeout=max(0, deadline - time.monotonic()))
    except BaseException as error:
        children = psutil.Process(process.pid).children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()
        psutil.wait_procs(children, timeout=10)
        if isinstance(error, subprocess.TimeoutExpired):
            return False
        raise
    return True


def step_of(entry: Path) -> int:
    """The step of a checkpoint, from the report beside it; 0 if there is none."""
    return heartbeat(entry.with_suffix(""))[0]


def copy(source: Path, target: Path) -> int:
    """Copy the runs of one stage that the target has not, and checkpoints that are further on.

    Returns how many runs and checkpoints were copied.
    """
    target.mkdir(parents=True, exist_ok=True)
    copied = 0
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and not entry.name.startswith(".") and not place.exists():
            with atomic_path(place) as temporary:
                shutil.copytree(entry, temporary)
            copied += 1
        further = not place.exists() or step_of(entry) > step_of(place)
        if entry.suffix == ".checkpoint" and further:
            for name in (entry, entry.with_suffix(".progress")):
                if name.exists():
                    with atomic_path(target / name.name) as temporary:
                        shutil.copyfile(name, temporary)
            copied += 1
    return copied


def bring(scale: str, tasks: list[str], out: Path, silent: bool = False) -> None:
    """Copy what interrupted stages have done to `out`, and print what it is."""
    for task in tasks:
        for runs in sorted((SCRATCH / scale / task).glob("*-*")):
            copy(runs, out / scale / task / runs.name)
            if silent:
                continue
            for result in sorted(runs.glob("*/result.json")):
                about = json.loads(result.read_text())
                scored = f"accuracy {about['accuracy']:.3f}, " if "accuracy" in about else ""
                print(f"{about['name']}: {scored}{about['seconds']} s")
            for checkpoint in sorted(runs.glob("*.checkpoint")):
                print(f"{checkpoint.stem}: step {step_of(checkpoint)}, not finished")


def put(folder: Path) -> None:
    """Lay what `bring` brought where stages look.  Raises UserError if nothing is there."""
    found = sorted(folder.glob("*/*/*-*"))
    if not found:
        raise UserError(f"{folder} holds no runs: name the folder that --out has filled")
    for runs in found:
        name = runs.relative_to(folder)
        print(f"{name}: {copy(runs, SCRATCH / name)} runs and checkpoints are put back")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", help=f"default: {' '.join(TASKS)}")
    parser.add_argument("--scale", default="paper", choices=SCALES)
    parser.add_argument("--minutes", type=float, default=0, help="time for training, 0: none")
    parser.add_argument("--out", type=Path, help="receives what is done")
    parser.add_argument("--put", type=Path, help="what an earlier machine has done")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the process that can be killed
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options, failed = parser.parse_args(), 0
    try:
        if options.data:
            make_data(options.scale, options.data)
            return 0
        if options.only:
            pretrain(options.scale, options.only)
            return 0
        if not (options.minutes or options.out or options.put):
            raise UserError("nothing to do: give --minutes, --out or --put")
        tasks, deadline = options.tasks or list(TASKS), time.monotonic() + 60 * options.minutes
        for task in tasks:
            load_task(options.scale, task)
        if options.minutes and not options.out:
            raise UserError("say where the runs go: --out FOLDER")
        if options.put:
            put(options.put)
        environment.fix(variables := dict(os.environ), ROOT)
        # whoever takes the machine back ends this program politely: bring home what is there
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        command = [sys.executable, "-m", "tools.gpu", "--scale", options.scale]
        try:
            for task in tasks if options.minutes else []:
                start = time.monotonic()
                subprocess.run([*command, "--data", task], env=variables, check=True)
                deadline += time.monotonic() - start  # the time is for training
                process = subprocess.Popen([*command, "--only", task], env=variables)
                if not ended(process, deadline):
                    print(f"{task}: the time is up")
                    break
                failed += process.returncode != 0
                bring(options.scale, [task], options.out, silent=True)
        finally:
            if options.out:
                bring(options.scale, tasks, options.out)
    except (UserError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
