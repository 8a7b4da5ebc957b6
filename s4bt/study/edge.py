"""What a truncated model costs on a small device, and how few bits its numbers need.

Rows of edge.csv: one per method, rank, bits of the weights, and how poles are kept; one per share
of the mixing matrices that is pruned; one per bits of the state. Accuracies are those of the first
ENOUGH test examples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s4bt.deploy.bits import bytes_of, pruned, quantised
from s4bt.deploy.c_source import bytes_of_state
from s4bt.deploy.cell import Cell, multiply_adds
from s4bt.deploy.sequences import Sequences
from s4bt.study.experiments import run_of
from s4bt.study.train import evaluate
from s4bt.study.truncation import quietly, start_of
from s4bt.tasks import Dataset, Split

ENOUGH, FEW = 500, 100  # test examples that are asked; with rounded states, which go step by step
METHODS, RANKS = ("bt-discrete", "h2", "weighted"), (16, 8, 4)
BITS, STATE_BITS, SHARES = (16, 8, 6, 5, 4), (16, 8, 6), (0.25, 0.5, 0.75, 0.9)
TOGETHER = ((8, 8, 0.0), (8, 6, 0.0), (8, 8, 0.5), (4, 8, 0.5))  # rank, bits, share


def first(dataset: Dataset, count: int) -> Dataset:
    """The first examples of the test split."""
    split = dataset["test"]
    some = Split(*(part[:count] for part in (split.x, split.lengths, split.y)))
    return replace(dataset, splits={"test": some})


def edge_runs(scale: str, task: str, seeds: list[int]) -> list[dict]:
    """One run per seed and method, and one of the untruncated model."""
    return [
        run_of("edge", scale, task, 1, arm="edge", method=method, seed=seed)
        for method in ("untruncated", *METHODS)
        for seed in seeds
    ]


def accuracy(model: nn.Module, dataset: Dataset) -> float:
    """On the test split."""
    with torch.no_grad():
        return evaluate(model, dataset, "test")["accuracy"]  # type: ignore[arg-type]


def _weights(cell: Cell, dataset: Dataset, row: dict) -> list[dict]:
    """All weights, or the poles alone, in few bits, the poles in both ways."""
    found = []
    for bits in BITS:
        for poles in ("logarithm", "uniform", "exact"):
            small = quantised(cell, bits, poles)
            size = {"bytes": bytes_of(cell, bits)}
            own = {"what": "weights", "bits": bits, "poles": poles} | size
            found.append(row | own | {"accuracy": accuracy(Sequences(small), dataset)})
        for poles in ("logarithm", "uniform"):
            small = quantised(cell, bits, poles, only_poles=True)
            own = {"what": "poles", "bits": bits, "poles": poles}
            found.append(row | own | {"accuracy": accuracy(Sequences(small), dataset)})
    return found


def _states(cell: Cell, dataset: Dataset, row: dict) -> list[dict]:
    found = []
    for bits in (None, *STATE_BITS):
        for feedback in (False, True) if bits else (False,):
            model = Sequences(cell, bits, feedback)
            own = {"what": "state", "bits": bits or 32, "feedback": feedback}
            found.append(row | own | {"accuracy": accuracy(model, dataset)})
    return found


def edge_run(run: dict, folder: Path, progress, _: Path) -> dict[str, Any]:
    """Rows of edge.csv of one seed's model, truncated by one method."""
    model, dataset, sequences, _grid = start_of(run)
    few, dataset = first(dataset, FEW), first(dataset, ENOUGH)
    method, rows = run["method"], []
    references: dict = {}
    for rank in (model.dss_layers()[0].state,) if method == "untruncated" else RANKS:
        small = model
        if method != "untruncated":
            small, _ = quietly(model, rank, method, sequences, references)
        cell = Cell(small)
        row = {"method": method, "rank": rank, "seed": run["seed"]}
        cost = {"bytes": bytes_of(cell), "state": bytes_of_state(cell), "macs": multiply_adds(cell)}
        exact = accuracy(Sequences(cell), dataset)
        rows.append(row | cost | {"what": "floats", "bits": 32, "accuracy": exact})
        rows += _weights(cell, dataset, row)
        rows += _states(cell, few, row)
        for share in SHARES if method == "untruncated" else ():
            own = {"what": "pruned", "bits": 32, "share": share, "bytes": bytes_of(cell, 32, share)}
            rows.append(row | own | {"accuracy": accuracy(Sequences(pruned(cell, share)), dataset)})
        for r, bits, share in TOGETHER if method == "weighted" else ():
            if r == rank:
                both = quantised(pruned(cell, share), bits)
                own = {"what": "together", "bits": bits, "share": share}
                own |= {"bytes": bytes_of(cell, bits, share)}
                rows.append(row | own | {"accuracy": accuracy(Sequences(both), dataset)})
    progress(1, exact)
    return {"rows": rows}
