"""The six tasks of the Long Range Arena behind one interface.

`load(task, folder)` opens what `prepare.py` made, memory-mapped.

x         (n, L) or, for pairs of documents, (n, 2, L): token numbers with 0 for padding (uint8, or
          uint16 if there are more than 255), or grey levels (uint8)
lengths   (n,) or (n, 2), int32
y         (n,), int64
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from s4bt.files import UserError

TASKS = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Info:
    """What a model must know of a task, and its reader.

    vocabulary (0 for real samples), classes, documents per example, mean and std that normalise
    samples; for the reader: symbols, the characters behind the tokens, shared, whether the official
    splits share documents, notes on the source.
    """

    vocabulary: int
    classes: int
    documents: int = 1
    mean: float = 0.0
    std: float = 1.0
    symbols: str = ""
    shared: bool = False
    notes: list[str] = field(default_factory=list)


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


def load(task: str, folder: Path) -> Dataset:
    """Open a prepared task, memory-mapped.  Raises UserError if a file is missing or not whole."""
    folder = Path(folder)
    try:
        info = Info(**json.loads((folder / "info.json").read_text()))
        splits = {
            name: Split(
                *(
                    np.load(folder / f"{name}.{part}.npy", mmap_mode="r")
                    for part in ("x", "lengths", "y")
                )
            )
            for name in SPLITS
        }
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{task}: the arrays in {folder} are missing or not whole ({error}). Make them again: "
            f"dvc repro prepare@{task}"
        ) from error
    return Dataset(info, splits)
