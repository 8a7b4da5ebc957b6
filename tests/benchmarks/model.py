"""Time of a whole model's forward pass against the modes kept: results/bench/model.csv.

Models of scale laptop, a batch of 32 sequences of full length, one thread, evaluation mode, median
of several runs. `60_compare` draws accuracy against these times.
"""

from __future__ import annotations

import statistics
import time

import pandas as pd
import torch

from s4bt.files import ROOT
from s4bt.nn.s4 import S4Model, with_skew_hippo
from s4bt.nn.storage import load_model
from s4bt.progress import progress_bar
from s4bt.study.config import load_scale
from s4bt.study.experiments import pretrained_path
from s4bt.tasks import TASKS

SCALE, BATCH, RUNS = "laptop", 32, 15


def milliseconds(model: S4Model, x: torch.Tensor) -> float:
    """Median time of a forward pass."""
    took = []
    with torch.no_grad():
        model(x)
        for _ in range(RUNS):
            start = time.perf_counter()
            model(x)
            took.append(time.perf_counter() - start)
    return 1000 * statistics.median(took)


def sequences(model: S4Model, length: int) -> torch.Tensor:
    """A batch of full length."""
    shape = (BATCH, length) if model.documents == 1 else (BATCH, 2, length)
    if model.vocabulary:
        return torch.randint(1, model.vocabulary, shape)
    return torch.randn(shape)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    grid, rows = load_scale(SCALE).grid, []
    ranks = sorted({*grid.one_shot.ranks, *grid.ranks})
    with progress_bar(len(TASKS) * (2 * len(ranks) + 1), "models") as bar:
        for task in TASKS:
            whole = load_model(pretrained_path(SCALE, task, grid.seeds[0])).eval()
            about = pd.read_json(ROOT / "results" / SCALE / task / "data.json", typ="series")
            x = sequences(whole, int(about.length))
            N = whole.dss_layers()[0].state
            models = {("tied", N): whole} | {
                (kind, rank): with_skew_hippo(whole, rank, kind).eval()
                for kind in ("tied", "per-channel")
                for rank in ranks
            }
            for (kind, rank), model in models.items():
                row = {"scale": SCALE, "task": task, "sharing": kind, "rank": rank}
                rows.append(row | {"milliseconds": round(milliseconds(model, x), 3)})
                bar.update()
    path = ROOT / "results" / "bench" / "model.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    print(pd.read_csv(path).pivot_table(index="rank", columns="task", values="milliseconds"))


if __name__ == "__main__":
    main()
