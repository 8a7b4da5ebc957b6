"""One run of the study on several devices, data parallel.

For models or batches that one device is too slow or too small for.

    torchrun --standalone --nproc-per-node 8 -m s4bt.study.multi_device \\
        --scale paper pretrain-pathx-s0-lr0.0005

The batch is the one of params.yaml, split over the processes; batch norm sees all of it. The result
waits where the stage looks for the runs it has finished, so `dvc repro` then goes on without it.
Names of runs: --list pretrain-pathx.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import distributed

from s4bt.files import UserError
from s4bt.progress import progress_bar, progress_stream
from s4bt.study.config import SCALES, load_task
from s4bt.study.experiments import scratch as scratch_of
from s4bt.study.locks import sole_writer
from s4bt.study.pretraining import pretrain_run, pretrain_runs
from s4bt.study.retraining import arms, retrain_run, retrain_runs
from s4bt.study.workers import execute
from s4bt.tasks import TASKS

PHASES = {"pretrain": pretrain_run, "retrain": retrain_run}


def candidates(scale: str, name: str) -> tuple[str, str, dict[str, dict]]:
    """Phase, task and, by name, the runs that the name may mean.

    Raises UserError if it begins with no phase and task.
    """
    phase, task = (name.split("-") + [""])[:2]
    if phase not in PHASES or task not in TASKS:
        raise UserError(
            f"{name!r} does not begin with pretrain or retrain and a task: pretrain-{TASKS[0]}, ..."
        )
    config, grid = load_task(scale, task)
    if phase == "pretrain":
        runs = pretrain_runs(scale, task, config, grid.seeds, config.pretrain.lr)
    else:
        runs = [
            run
            for arm in arms(grid, config)
            for run in retrain_runs(scale, task, arm, arm["ranks"], grid.seeds, config.retrain.lr)
        ]
    return phase, task, {run["name"]: run for run in runs}


def train(scale: str, name: str) -> None:
    """Do the run; every process of the group calls this.

    Raises UserError if there is no such run, or it is being done already.
    """
    phase, task, runs = candidates(scale, name)
    if name not in runs:
        raise UserError(
            f"scale {scale} has no run {name}. Its names: python -m s4bt.study.multi_device "
            f"--scale {scale} --list {phase}-{task}"
        )
    scratch, run, first = scratch_of(scale, task, phase), runs[name], not distributed.get_rank()
    done = [(scratch / name).exists()]
    distributed.broadcast_object_list(done)  # the first process looks for all
    if done[0]:
        if first:
            print(f"{name} is done already: {scratch / name}")
        return
    checkpoint = scratch / f"{name}.checkpoint"
    if not first:
        with tempfile.TemporaryDirectory() as folder:
            PHASES[phase](run, Path(folder), lambda *_: None, checkpoint)
        return
    stream = progress_stream()
    with sole_writer(f"{scale}-{name}"), progress_bar(run["steps"], name, stream) as bar:

        def function(run: dict, folder: Path, progress, checkpoint: Path) -> dict:
            start: list[int] = []  # the step that it goes on from

            def shown(step: int, accuracy: float) -> None:
                progress(step, accuracy)
                start.append(step)
                bar.set_postfix_str(f"val_accuracy {accuracy:.3f}", refresh=False)
                bar.update(step - bar.n)
                if bar.fp is not stream:
                    took = bar.format_dict["elapsed"]
                    print(
                        f"{name}: step {step} of {run['steps']}  val_accuracy {accuracy:.3f}  ETA "
                        + (
                            bar.format_interval(took / (step - start[0]) * (run["steps"] - step))
                            if step > start[0]
                            else "?"
                        ),
                        file=stream,
                        flush=True,
                    )

            return PHASES[phase](run, folder, shown, checkpoint)

        result = execute(function, run, scratch / name)
    print(
        f"{name}: accuracy {result['accuracy']:.3f}, {result['seconds']} s on "
        f"{distributed.get_world_size()} processes"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the run, as the stage's progress and its tables name it")
    parser.add_argument("--scale", required=True, choices=SCALES)
    parser.add_argument(
        "--list", action="store_true", help="print the names of the runs that begin so"
    )
    options = parser.parse_args()
    try:
        if options.list:
            names = [
                n for n in candidates(options.scale, options.name)[2] if n.startswith(options.name)
            ]
            if not names:
                raise UserError(
                    f"scale {options.scale} has no run whose name begins with {options.name}"
                )
            print("\n".join(names))
            return 0
        if "LOCAL_RANK" not in os.environ:
            raise UserError(
                "start it with torchrun: torchrun --standalone --nproc-per-node 2 -m "
                "s4bt.study.multi_device ..."
            )
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        train(options.scale, options.name)
    except UserError as error:
        if not int(os.environ.get("RANK", 0)):
            print(f"error: {error}", file=sys.stderr, flush=True)
        elif distributed.is_initialized():
            time.sleep(5)  # torchrun ends the others when one ends: the first speaks for all
        return 1
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
