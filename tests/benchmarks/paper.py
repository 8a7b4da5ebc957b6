"""The stages of a task at scale `paper`: seconds of a core and memory in results/bench/paper.csv.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \\
        python -m tests.benchmarks.paper [task ...]

A task takes the place of its own row and leaves the others.

Models, batches and sequences are untouched. Examples, steps, seeds and ranks are cut (CUT below),
so that a CPU comes to the end: do shapes and memory hold, and what does a step take? A copy of the
project is used, and thrown away. Seconds are those that processors spent, so that other work on the
machine does not count. Memory is the peak over all processes of a stage, pages that are shared
counted once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from s4bt.files import ROOT
from s4bt.progress import progress_bar
from s4bt.tasks import TASKS
from tests.benchmarks.common import OUT, write
from tests.copies import ENVIRONMENT, copy_project, good

STAGES = ("prepare", "pretrain", "choose", "truncate", "retrain", "inherit", "analyse", "deploy")
RANK, STEPS = 8, 3
CUT = {
    "data": {"train": 300, "val": 128, "test": 128},
    "pretrain": {"steps": 4, "evaluations": 1},
    "retrain": {"steps": 2, "evaluations": 1},
}
GRID = {
    "seeds": [0],
    "ranks": [RANK],
    "lr_rank": RANK,
    "baseline_ranks": [RANK],
    "methods": ["bt-shared", "weighted"],
    "choice": {"rank": RANK, "perturbations": [0.002], "whites": [0.1]},
}


def cut(path: Path) -> None:
    """Shorten scale `paper` in a params.yaml."""
    yaml = YAML()
    params = yaml.load(path)
    scale = params["paper"]
    scale["grid"].update(GRID)
    scale["grid"]["one_shot"]["ranks"] = [RANK]
    for task in scale["tasks"].values():
        for section, values in CUT.items():
            task[section].update(values)
        task["retrain"]["lr"] = task["retrain"]["lr"][:1]
    with open(path, "w") as file:
        yaml.dump(params, file)


def memory(parent: int) -> float:
    """Memory of a process and all below it, in MB, what they share counted once."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):  # a process may end at any moment
        found = [psutil.Process(parent), *psutil.Process(parent).children(recursive=True)]
        for process in found:
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total / 1e6


def spent() -> float:
    """Seconds that processors spent on the processes begun here that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(command: list[str], folder: Path) -> tuple[str, float, float]:
    """(output, seconds, peak MB) of a command in the copy.  Ends the program if it fails."""
    start, peak = spent(), [0.0]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(folder), "S4BT_WORKERS": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], memory(process.pid))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0].decode()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output[-4000:]}")
    return output, spent() - start, peak[0]


def steps(task: str) -> None:
    """Print shapes, parameters and a core's seconds for a training step, as JSON."""
    import numpy as np
    import torch

    from s4bt.nn.s4 import count_parameters
    from s4bt.study.batches import batch, shuffled
    from s4bt.study.config import load_task
    from s4bt.study.devices import seed_everything
    from s4bt.study.experiments import fresh
    from s4bt.study.places import task_dir
    from s4bt.study.train import loss_of, optimizer, update
    from s4bt.tasks import load

    seed_everything(0)
    config, _ = load_task("paper", task)
    data = load(task, task_dir("paper", task) / "arrays")
    model, settings, train = fresh(config, data), config.pretrain, data["train"]
    opt = optimizer(model, settings, settings.lr[0])
    longest = np.array(train.lengths).reshape(len(train), -1).max(1)
    numbers = shuffled(np.random.default_rng(0), longest, settings.batch, settings.bucket)
    took, length = [], 0
    for _ in range(1 + STEPS):
        start = time.process_time()
        examples = batch(data.info, train, next(numbers), torch.device("cpu"))
        length = max(length, examples[0].shape[-1])
        update(model, opt, loss_of(model, settings, examples))
        took.append(time.process_time() - start)
    about = {
        "layers": config.model.layers,
        "width": config.model.width,
        "length": length,
        "sequences": settings.batch * model.documents,
        "parameters": count_parameters(model)["total"],
        "seconds": float(np.median(took[1:])),
    }
    print(json.dumps(about))


def main(tasks: list[str]) -> None:
    if not (ROOT / "data" / "raw").exists():
        raise SystemExit("data/raw is not there. Make it with: dvc repro data/dvc.yaml")
    (ROOT / ".scratch").mkdir(exist_ok=True)
    path = OUT / "paper.csv"
    with (
        tempfile.TemporaryDirectory(dir=ROOT / ".scratch") as name,
        progress_bar(len(tasks) * (1 + len(STAGES)), "stages") as bar,
    ):
        folder = copy_project(Path(name))
        cut(folder / "params.yaml")
        good("python -m tools.scales paper", folder)
        for task in tasks:
            row: dict = {"task": task}
            for stage in STAGES:
                command = ["dvc", "--cd", "results/paper", "repro", "--single-item"]
                _, took, peak = measured([*command, f"{stage}@{task}"], folder)
                row |= {f"{stage}, s": round(took, 1), f"{stage}, MB": round(peak)}
                bar.update()
                if stage == "prepare":
                    step = [sys.executable, "-m", "tests.benchmarks.paper", "--step", task]
                    output, _, peak = measured(step, folder)
                    row |= json.loads(output.splitlines()[-1]) | {"MB": round(peak)}
                    bar.update()
            print(row, flush=True)
            known = pd.read_csv(path).to_dict("records") if path.exists() else []
            write(path, [*(old for old in known if old["task"] != task), row])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--step", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps(options.step) if options.step else main(list(options.tasks))
