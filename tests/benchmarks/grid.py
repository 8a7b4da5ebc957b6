"""A grid of training runs on one worker and on two, and with a worker killed in the middle: `make
bench` writes results/bench/grid.csv and grid.png. Start of the workers included; weights are
compared bit by bit.
"""

import os
import tempfile
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import psutil
import torch

from s4bt.files import ROOT, digest
from s4bt.nn.s4 import S4Model
from s4bt.nn.storage import save_model
from s4bt.study.config import TrainConfig
from s4bt.study.devices import seed_everything
from s4bt.study.runner import Runner
from s4bt.study.styles import save, use_style
from s4bt.study.train import train
from s4bt.tasks import load
from s4bt.tasks.options import ListOpsData
from s4bt.tasks.prepare import prepare
from tests.benchmarks.common import OUT, finish, row  # first, because it sets the number of threads

RUNS, STEPS = 20, 500


def one_run(run: dict, folder: Path, progress, checkpoint: Path) -> dict:
    """One run: a small classifier of ListOps; its weights stay in the folder."""
    data = load("listops", Path(run["arrays"]))
    seed_everything(run["seed"])
    model = S4Model(
        data.info.vocabulary, data.info.classes, layers=2, width=32, state=16, norm="batch"
    )
    train(
        model,
        data,
        TrainConfig(steps=STEPS, lr=[0.01], evaluations=5, bucket=8),
        0.01,
        run["seed"],
        progress,
        checkpoint,
    )
    save_model(model, folder / "model.safetensors")
    return {"pid": os.getpid()}


def grid(
    folder: Path, workers: int, arrays: Path, kill_after: float | None = None
) -> tuple[float, dict[str, str], list[dict]]:
    """Seconds, digests of the weights and results of the whole grid;
    one worker is killed after some seconds.
    """
    os.environ["S4BT_WORKERS"] = str(workers)
    runs = [
        {"name": f"run{i:02d}", "steps": STEPS, "seed": i, "arrays": str(arrays)}
        for i in range(RUNS)
    ]
    killed: list[int] = []

    def kill() -> None:
        time.sleep(kill_after)
        workers = [
            p
            for p in psutil.Process().children(recursive=True)
            if "spawn_main" in " ".join(p.cmdline()) and not p.children()
        ]
        busy = max(workers, key=lambda p: p.cpu_times().user)
        busy.kill()
        killed.append(busy.pid)

    if kill_after:
        threading.Thread(target=kill, daemon=True).start()
    start = time.perf_counter()
    with Runner(folder, f"{workers} workers", RUNS * STEPS) as runner:
        results = runner.run(one_run, runs)
        took = time.perf_counter() - start
    if bool(kill_after) != bool(killed):
        raise SystemExit("no worker was killed where one should have been")
    return (
        took,
        {run["name"]: digest(folder / run["name"] / "model.safetensors") for run in runs},
        results,
    )


def main() -> None:
    rows: list[dict] = []
    (ROOT / ".scratch").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".scratch") as name:
        folder = Path(name)
        prepare(
            "listops",
            ListOpsData(
                train=4000,
                val=300,
                test=100,
                min_length=8,
                max_length=64,
                max_depth=5,
                max_arguments=5,
            ),
            folder / "arrays",
        )
        one, first, alone = grid(folder / "one", 1, folder / "arrays")
        two, second, _ = grid(folder / "two", 2, folder / "arrays")
        killed, third, _ = grid(folder / "killed", 2, folder / "arrays", kill_after=two / 2)
    longest = max(result["seconds"] for result in alone)
    rows += [
        row(f"{RUNS} runs of {STEPS} steps: one worker", one, "s"),
        row(f"{RUNS} runs of {STEPS} steps: two workers", two, "s"),
        row("time with two workers over that with one", two / one, "ratio", 1 / 1.7),
        row(
            "runs whose weights differ between one worker and two",
            sum(first[n] != second[n] for n in first),
            "runs",
            0,
        ),
        row("with a worker killed in the middle", killed, "s"),
        row(
            "time that the killed worker cost, over that of the longest run",
            (killed - two) / longest,
            "ratio",
            1.5,
        ),
        row(
            "runs whose weights differ after the death",
            sum(first[n] != third[n] for n in first),
            "runs",
            0,
        ),
    ]
    use_style()
    figure, ax = plt.subplots(figsize=(5, 1.8))
    ax.barh(["two, one killed", "two workers", "one worker"], [killed, two, one], color="0.4")
    ax.set(xlabel=f"seconds, {RUNS} runs of {STEPS} steps, start of the workers included")
    save(figure, OUT / "grid.png")
    finish("grid", rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
