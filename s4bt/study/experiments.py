"""What the runs of all phases have in common.

A run is a dict with a unique "name", its number of "steps" (for the ETA) and what it needs; a
function run(run, folder, progress, checkpoint) -> dict does it in a worker, and leaves files in the
folder. The phases are in `pretraining`, `truncation` and `retraining`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from s4bt.nn.s4 import S4Model, count_parameters
from s4bt.study.config import TaskConfig, load_task
from s4bt.study.devices import device
from s4bt.study.places import existing, scratch_dir, task_dir
from s4bt.study.train import evaluate
from s4bt.tasks import Dataset, load

# What a phase reads, by the names in results/<scale>/<task>.
INPUTS = {
    "pretrain": ("arrays",),
    "choose": ("arrays", "pretrained"),
    "truncate": ("arrays", "pretrained"),
    "retrain": ("arrays", "pretrained", "truncated"),
    "inherit": ("arrays", "pretrain.csv", "truncate.csv", "retrain.csv"),
}
# What tells the runs of a phase apart, in the order of their names.
KEYS = ("arm", "method", "transfer", "sharing", "rank", "seed", "lr")


def run_of(phase: str, scale: str, task: str, steps: int, **fields: Any) -> dict:
    """A run, with a name made of its fields."""
    shown = {"rank": "r{}", "seed": "s{}", "lr": "lr{:g}"}
    parts = [
        shown.get(key, "{}").format(fields[key]) for key in KEYS if fields.get(key) is not None
    ]
    name = "-".join([phase, task, *parts])
    return {"name": name, "scale": scale, "task": task, "steps": steps, **fields}


def configured(run: dict) -> tuple[TaskConfig, Dataset]:
    """Configuration and data of a run's task."""
    config, _ = load_task(run["scale"], run["task"])
    return config, load(run["task"], task_dir(run["scale"], run["task"]) / "arrays")


def fresh(config: TaskConfig, dataset: Dataset) -> S4Model:
    """A model of the task with random weights, N modes from Skew-HiPPO."""
    info = dataset.info
    options = config.model.model_dump()
    return S4Model(info.vocabulary, info.classes, info.documents, **options).to(device())


def scores(model: S4Model, dataset: Dataset, curve: list[dict] | None = None) -> dict:
    """Test and validation accuracy, and sizes.

    The weights that `train` leaves are those of the curve's best validation accuracy.
    """
    sizes = count_parameters(model)
    if curve:
        val = max(row["val_accuracy"] for row in curve)
    else:
        val = evaluate(model, dataset, "val")["accuracy"]
    return {
        "accuracy": evaluate(model, dataset, "test")["accuracy"],
        "val_accuracy": val,
        "parameters": sizes["total"],
        "state_space_parameters": sizes["state_space"],
    }


def scratch(scale: str, task: str, phase: str) -> Path:
    """Where the finished runs of a phase wait until all are done.

    Its name depends on code, parameters and inputs.
    Raises UserError, with the command that makes it, if an input is missing.
    """
    stages = {"arrays": "prepare", "pretrained": "pretrain", "truncated": "truncate"}
    stages |= {f"{name}.csv": name for name in ("pretrain", "truncate", "retrain")}
    folder = task_dir(scale, task)
    inputs = [existing(folder / name, scale, f"{stages[name]}@{task}") for name in INPUTS[phase]]
    return scratch_dir(scale, task, phase, [*load_task(scale, task)], *inputs)


def pretrained_path(scale: str, task: str, seed: int) -> Path:
    """The pretrained model of a seed."""
    return task_dir(scale, task) / "pretrained" / f"s{seed}.safetensors"


def truncated_path(run: dict) -> Path:
    """The truncated model of a run's method, rank and seed."""
    name = f"{run['method']}-r{run['rank']}-s{run['seed']}.safetensors"
    return task_dir(run["scale"], run["task"]) / "truncated" / name


def collect(results: list[dict], waiting: Path, file: str, folder: Path, name: Callable) -> None:
    """Copy one file of every run's scratch folder into `folder` under name(result)."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        shutil.copyfile(waiting / result["name"] / file, folder / name(result))


def flat_rows(results: list[dict]) -> list[dict]:
    """The rows of runs that measure several things."""
    return [row for result in results for row in result["rows"]]


def concatenate(results: list[dict], waiting: Path, file: str, keys: list[str]) -> pd.DataFrame:
    """The CSV tables that the runs left, with columns that say whose rows they are."""
    frames = []
    for result in results:
        frame = pd.read_csv(waiting / result["name"] / file)
        for i, key in enumerate(keys):
            frame.insert(i, key, result.get(key))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def without_seconds(result: dict) -> dict:
    """A result without its seconds, which differ from one execution to the next."""
    return {key: value for key, value in result.items() if key != "seconds"}


def table(results: list[dict]) -> pd.DataFrame:
    """Results as a table."""
    return pd.DataFrame([without_seconds(result) for result in results])


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of arms with a column that names their configuration."""
    names = ["arm", "method", "transfer", "sharing"]
    words = rows[names].fillna("").agg(" ".join, axis=1)
    return rows.assign(configuration=words.str.split().str.join(" "))


def record_seconds(results: list[dict], known: Path, out: Path) -> None:
    """Write {run: {"result": digest, "seconds"}}.

    A run whose result is the same to the bit keeps the seconds in `known`, so the file changes only
    when a result does, and a repetition on the same kind of machine leaves git clean.
    """
    old = json.loads(known.read_text()) if known.exists() else {}
    new = {}
    for result in results:
        content = json.dumps(without_seconds(result), sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        entry = {"result": key, "seconds": result["seconds"]}
        kept = old.get(result["name"], {})
        new[result["name"]] = kept if kept.get("result") == key else entry
    out.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
