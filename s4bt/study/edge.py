"""What a truncated model costs on a small device, and how few bits its numbers need.

Rows of edge.csv: one per method, rank, bits of the weights, and how poles are kept; one per share
of the mixing matrices that is pruned; one per bits of the state. Accuracies are those of the first
ENOUGH test examples.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from s4bt.deploy.bits import bytes_of, pruned, quantised
from s4bt.deploy.c_source import bytes_of_state
from s4bt.deploy.cell import Cell, multiply_adds
from s4bt.deploy.header import Header
from s4bt.deploy.models import header_of
from s4bt.deploy.sequences import Sequences
from s4bt.nn.s4 import S4Model
from s4bt.nn.storage import load_model
from s4bt.study.config import load_task
from s4bt.study.experiments import flat_rows, pretrained_path, run_of
from s4bt.study.grid import Grid
from s4bt.study.places import existing, scratch_dir, task_dir
from s4bt.study.train import evaluate
from s4bt.study.truncation import quietly, start_of
from s4bt.tasks import Dataset, Split
from s4bt.tasks.listops import TOKENS

ENOUGH, FEW = 500, 100  # test examples that are asked; with rounded states, which go step by step
WORDS = ["", *TOKENS[1:]]  # of listops, by their codes
STEPS, NEAR = 10_000, 1e-5  # how far streams are compared, and how near they have to be
WHOLE, EXAMPLE = "untruncated", "weighted"  # no method; that of the models that are deployed
METHODS, RANKS = ("bt-discrete", "h2", EXAMPLE), (16, 8, 4)
BITS, STATE_BITS, SHARES = (16, 8, 6, 5, 4), (16, 8, 6), (0.25, 0.5, 0.75, 0.9)
TOGETHER = ((8, 8, 0.0), (8, 6, 0.0), (8, 8, 0.5), (4, 8, 0.5))  # rank, bits, share


def first(dataset: Dataset, count: int) -> Dataset:
    """The first examples of the test split."""
    split = dataset["test"]
    some = Split(*(part[:count] for part in (split.x, split.lengths, split.y)))
    return replace(dataset, splits={"test": some})


def waiting(scale: str, task: str) -> Path:
    """Where finished runs wait until all are done."""
    folder = task_dir(scale, task)
    inputs = [
        existing(folder / name, scale, f"{stage}@{task}")
        for name, stage in (("arrays", "prepare"), ("pretrained", "pretrain"))
    ]
    return scratch_dir(scale, task, "deploy", [*load_task(scale, task)], *inputs)


def pretrained(scale: str, task: str, grid: Grid) -> S4Model:
    """The untruncated model of the first seed."""
    return load_model(pretrained_path(scale, task, grid.seeds[0])).eval()


def source(scale: str, task: str, grid: Grid) -> str:
    """The file that the deployed model is made from, and the start of its sha256."""
    path = pretrained_path(scale, task, grid.seeds[0])
    shown = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"results/{scale}/{task}/pretrained/{path.name} sha256 {shown}"


def example(scale: str, task: str, grid: Grid) -> tuple[S4Model, Dataset, int]:
    """The first seed's model, truncated by EXAMPLE to 8 modes, or half of what it has."""
    run = run_of("edge", scale, task, 1, arm="edge", method=EXAMPLE, seed=grid.seeds[0])
    model, dataset, sequences, _ = start_of(run)
    rank = min(8, model.dss_layers()[0].state // 2)
    return quietly(model, rank, EXAMPLE, sequences)[0].eval(), dataset, rank


def header(
    scale: str, task: str, grid: Grid, small: S4Model, dataset: Dataset, method: str = EXAMPLE
) -> Header:
    """What the files say of the model."""
    length = dataset["train"].x.shape[-1]
    words = WORDS[: small.vocabulary] if task == "listops" else []
    return header_of(small, task, dataset.info, words, length, method, source(scale, task, grid))


def _samples(dataset: Dataset, count: int) -> torch.Tensor:
    """Test examples one behind the other, as a model reads them, (documents, count)."""
    split, info = dataset["test"], dataset.info
    x = split.x.reshape(len(split), info.documents, -1)
    lengths = split.lengths.reshape(len(split), info.documents)
    rows = []
    for document in range(info.documents):
        parts = [x[i, document, : lengths[i, document]] for i in range(min(len(x), count))]
        row = np.concatenate([*parts, *parts])
        rows.append(np.resize(row, count))
    codes = torch.from_numpy(np.stack(rows))
    return codes.long() if info.vocabulary else (codes.float() - info.mean) / info.std


@torch.no_grad()
def far_apart(model: S4Model, cell: Cell, folder: Path, dataset: Dataset) -> dict[str, float]:
    """Largest difference of probabilities from PyTorch's after STEPS samples: ONNX, and C.

    The C program is left out where there is no gcc.
    """
    x = _samples(dataset, STEPS)
    given = x[None] if cell.documents == 2 else x
    wanted = torch.softmax(model(given), -1)[0].numpy()
    found = {"onnx_agrees": _onnx_probabilities(cell, folder / "step.onnx", x)}
    if shutil.which("gcc"):
        found["c_agrees"] = _c_probabilities(folder / "model.c", x, dataset)
    return {name: float(np.abs(p - wanted).max()) for name, p in found.items()}


def _onnx_probabilities(cell: Cell, path: Path, x: torch.Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state = [part.numpy() for part in cell.start(len(x))]
    for column in x.mT.numpy():
        out, *state = session.run(
            None, {"x": column} | dict(zip(("state", "pooled", "count"), state, strict=True))
        )
    if cell.documents == 1:
        logits = torch.from_numpy(out)
    else:
        logits = cell.answer(*torch.from_numpy(out)[:, None])
    return torch.softmax(logits, -1)[0].numpy()


def _c_probabilities(path: Path, x: torch.Tensor, dataset: Dataset) -> np.ndarray:
    info, words = dataset.info, WORDS
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "model"
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O3"]
        subprocess.run(["gcc", *flags, str(path), "-lm", "-o", str(program)], check=True)
        files = []
        for number, row in enumerate(x.tolist()):
            if info.vocabulary > len(words):
                text = bytes(row)
            elif info.vocabulary:
                text = " ".join(words[code] for code in row).encode()
            else:
                text = " ".join(repr(value * info.std + info.mean) for value in row).encode()
            files.append(Path(folder) / f"{number}")
            files[-1].write_bytes(text)
        arguments = [str(file) for file in files] if len(files) == 2 else []
        with open(files[0], "rb") as file:
            done = subprocess.run(
                [str(program), *arguments], stdin=file, capture_output=True, check=True
            )
    return np.array([float(part.split()[-1]) for part in done.stdout.decode().split("\t")[1:]])


def rows_of(results: list[dict]) -> pd.DataFrame:
    """All rows, the untruncated model's first, in the order of METHODS."""
    return pd.DataFrame(flat_rows(results))


def edge_runs(scale: str, task: str, seeds: list[int]) -> list[dict]:
    """One run per seed and method, and one of the untruncated model."""
    return [
        run_of("edge", scale, task, 1, arm="edge", method=method, seed=seed)
        for method in (WHOLE, *METHODS)
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
            size = {"bytes": bytes_of(cell, bits, poles=poles)}
            own = {"what": "weights", "bits": bits, "poles": poles} | size
            found.append(row | own | {"accuracy": accuracy(Sequences(small), dataset)})
        for poles in ("logarithm", "uniform"):
            small = quantised(cell, bits, poles, only_poles=True)
            size = {"bytes": bytes_of(cell, bits, poles=poles, only_poles=True)}
            own = {"what": "poles", "bits": bits, "poles": poles} | size
            found.append(row | own | {"accuracy": accuracy(Sequences(small), dataset)})
    return found


def _states(cell: Cell, dataset: Dataset, row: dict, known: tuple) -> list[dict]:
    """The state in few bits, over what it reaches on training sequences `known`."""
    found = []
    for bits in (None, *STATE_BITS):
        for feedback in (False, True) if bits else (False,):
            with torch.no_grad():
                model = Sequences(cell, bits, feedback, known)
            own = {"what": "state", "bits": bits or 32, "feedback": feedback}
            found.append(row | own | {"accuracy": accuracy(model, dataset)})
    return found


def edge_run(run: dict, folder: Path, progress, _: Path) -> dict[str, Any]:
    """Rows of edge.csv of one seed's model, truncated by one method."""
    model, dataset, sequences, _grid = start_of(run)
    few, dataset = first(dataset, FEW), first(dataset, ENOUGH)
    method, rows = run["method"], []
    references: dict = {}
    exact = float("nan")
    whole = model.dss_layers()[0].state
    for rank in (whole,) if method == WHOLE else [r for r in RANKS if r < whole]:
        small = model
        if method != WHOLE:
            small, _ = quietly(model, rank, method, sequences, references)
        cell = Cell(small)
        row = {"method": method, "rank": rank, "seed": run["seed"]}
        cost = {"bytes": bytes_of(cell), "state": bytes_of_state(cell), "macs": multiply_adds(cell)}
        exact = accuracy(Sequences(cell), dataset)
        rows.append(row | cost | {"what": "floats", "bits": 32, "accuracy": exact})
        rows += _weights(cell, dataset, row)
        some = tuple(None if part is None else part[:FEW] for part in sequences)
        rows += _states(cell, few, row, some)
        for share in SHARES if method == WHOLE else ():
            own = {"what": "pruned", "bits": 32, "share": share, "bytes": bytes_of(cell, 32, share)}
            rows.append(row | own | {"accuracy": accuracy(Sequences(pruned(cell, share)), dataset)})
        for r, bits, share in TOGETHER if method == EXAMPLE else ():
            if r == rank:
                both = quantised(pruned(cell, share), bits)
                own = {"what": "together", "bits": bits, "share": share}
                own |= {"bytes": bytes_of(cell, bits, share)}
                rows.append(row | own | {"accuracy": accuracy(Sequences(both), dataset)})
    progress(1, exact)
    return {"rows": rows}
