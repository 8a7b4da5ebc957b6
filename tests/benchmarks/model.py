"""Time of a whole model's forward pass against the modes kept: results/bench/model.csv.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \\
        python -m tests.benchmarks.model [scale ...]

A task takes the place of its own rows. Tasks that are not pretrained are left out. A batch of 32
sequences of full length, one thread, evaluation mode. The models of a task take turns, so that a
slow moment of the machine meets all of them; the best of several turns counts. `60_compare` draws
accuracy against these times.
"""

from __future__ import annotations

import functools
import sys

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

SCALES, BATCH, TURNS = ("laptop", "study"), 32, 15


def sequences(model: S4Model, length: int) -> torch.Tensor:
    """A batch of full length."""
    shape = (BATCH, length) if model.documents == 1 else (BATCH, 2, length)
    if model.vocabulary:
        return torch.randint(1, model.vocabulary, shape)
    return torch.randn(shape)


def measured(scale: str) -> list[dict]:
    """The rows of a scale."""
    grid, rows = load_scale(scale).grid, []
    ranks = sorted({*grid.one_shot.ranks, *grid.ranks, *grid.more_ranks})
    tasks = [task for task in TASKS if pretrained_path(scale, task, grid.seeds[0]).exists()]
    with progress_bar(len(tasks), f"tasks of {scale}") as bar, torch.no_grad():
        for task in tasks:
            whole = load_model(pretrained_path(scale, task, grid.seeds[0])).eval()
            about = pd.read_json(ROOT / "results" / scale / task / "data.json", typ="series")
            x = sequences(whole, int(about.length))
            models = {
                (kind, rank): with_skew_hippo(whole, rank, kind).eval()
                for kind in ("tied", "per-channel")
                for rank in ranks
            } | {("tied", whole.dss_layers()[0].state): whole}
            runs = {key: functools.partial(model, x) for key, model in models.items()}
            for (kind, rank), took in side_by_side(runs, TURNS).items():
                row = {"scale": scale, "task": task, "sharing": kind, "rank": rank}
                rows.append(row | {"milliseconds": round(1000 * took, 3)})
            bar.update()
    return rows


def main(scales: list[str]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = OUT / "model.csv"
    for scale in scales:
        known = pd.read_csv(path).to_dict("records") if path.exists() else []
        rows = measured(scale)
        new = {(row["scale"], row["task"]) for row in rows}
        write(path, [*(old for old in known if (old["scale"], old["task"]) not in new), *rows])
    table = pd.read_csv(path)
    by = ["scale", "sharing", "rank"]
    print(table.pivot_table(index=by, columns="task", values="milliseconds"))


if __name__ == "__main__":
    main(sys.argv[1:] or list(SCALES))
