"""Time of a whole model's forward pass against the modes kept: results/bench/model.csv.

Models of scale laptop, a batch of 32 sequences of full length, one thread, evaluation mode. The
models of a task take turns, so that a slow moment of the machine meets all of them; the best of
several turns counts. `60_compare` draws accuracy against these times.
"""

from __future__ import annotations

import functools

import pandas as pd
import torch

from s4bt.files import ROOT
from s4bt.nn.s4 import S4Model, with_skew_hippo
from s4bt.nn.storage import load_model
from s4bt.progress import progress_bar
from s4bt.study.config import load_scale
from s4bt.study.experiments import pretrained_path
from s4bt.tasks import TASKS
from tests.benchmarks.common import OUT, side_by_side, write

SCALE, BATCH, TURNS = "laptop", 32, 15


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
    with progress_bar(len(TASKS), "tasks") as bar, torch.no_grad():
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
            runs = {key: functools.partial(model, x) for key, model in models.items()}
            for (kind, rank), took in side_by_side(runs, TURNS).items():
                row = {"scale": SCALE, "task": task, "sharing": kind, "rank": rank}
                rows.append(row | {"milliseconds": round(1000 * took, 3)})
            bar.update()
    write(OUT / "model.csv", rows)
    table = pd.DataFrame(rows)
    print(table.pivot_table(index=["sharing", "rank"], columns="task", values="milliseconds"))


if __name__ == "__main__":
    main()
