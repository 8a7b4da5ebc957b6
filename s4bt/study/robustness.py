"""Whether a model still answers when its input is longer, or its numbers are not quite the same.

Twice as long, with the same answer:
listops                     [MAX x x], the expression twice
text, retrieval             the text, followed by itself
image, pathfinder, pathx    the picture, with as much background below it
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from s4bt.nn.s4 import S4Model
from s4bt.study.train import evaluate
from s4bt.tasks import SPLITS, TASKS, Dataset, Split
from s4bt.tasks.listops import CODE

NUDGE = 0.01  # relative size of the perturbation
ENOUGH = 500  # examples of a split that are asked, at most
COPIES = 3  # perturbed copies whose accuracies are averaged, where something is chosen by them


def _repeated(x: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (n, L), each followed by itself, and their lengths (n,)."""
    new = np.zeros((len(x), 2 * x.shape[1]), x.dtype)
    for row, tokens, length in zip(new, x, lengths, strict=True):
        row[: 2 * length] = np.tile(tokens[:length], 2)
    return new, 2 * lengths


def _nested(x: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[MAX x x] of expressions x; an end token stays at the end."""
    new, longer = np.zeros((len(x), 2 * x.shape[1] + 2), x.dtype), np.zeros_like(lengths)
    for i, (tokens, length) in enumerate(zip(x, lengths, strict=True)):
        ends = tokens[length - 1] == CODE["<end>"]
        once, end = tokens[: length - ends], tokens[length - ends : length]
        row = [CODE["[MAX"], *once, *once, CODE["]"], *end]
        new[i, : len(row)], longer[i] = row, len(row)
    return new, longer


def twice_as_long(task: str, split: Split, size: int = ENOUGH) -> Split:
    """The first `size` examples of a split, twice as long, with the same answers."""
    x, lengths, y = (np.asarray(part[:size]) for part in (split.x, split.lengths, split.y))
    if task in ("image", "pathfinder", "pathx"):
        return Split(np.concatenate([x, np.zeros_like(x)], -1), 2 * lengths, y)
    make = _nested if task == "listops" else _repeated
    new, longer = make(x.reshape(-1, x.shape[-1]), lengths.flatten())
    return Split(new.reshape(*x.shape[:-1], -1), longer.reshape(lengths.shape), y)


@torch.no_grad()
def perturbed(model: S4Model, seed: Sequence[int], size: float = NUDGE) -> S4Model:
    """A copy with every parameter of its DSS layers multiplied by 1 + size z, z standard normal.

    As they are stored, so a step dt, whose logarithm is stored, moves by size |log dt|.
    """
    new, rng = copy.deepcopy(model), np.random.default_rng([*seed, 3])
    for layer in new.dss_layers():
        for p in layer.parameters():
            z = torch.from_numpy(rng.standard_normal(p.shape)).to(p)
            p.mul_(1 + size * z)
    return new


def robustness(
    model: S4Model, task: str, dataset: Dataset, name: str, seed: int, copies: int = 1
) -> dict[str, float]:
    """Accuracy on a split's first examples: as_is, longer (twice as long), perturbed copies.

    Every task, split, seed and copy draws a perturbation of its own; models of one shape share it.
    """
    split, own = dataset[name], (seed, TASKS.index(task), SPLITS.index(name))
    parts = {
        "as_is": Split(split.x[:ENOUGH], split.lengths[:ENOUGH], split.y[:ENOUGH]),
        "longer": twice_as_long(task, split),
    }
    data = replace(dataset, splits=parts)
    nudged = [
        evaluate(perturbed(model, (*own, number)), data, "as_is")["accuracy"]
        for number in range(copies)
    ]
    return {
        "as_is": evaluate(model, data, "as_is")["accuracy"],
        "longer": evaluate(model, data, "longer")["accuracy"],
        "perturbed": float(np.mean(nudged)),
    }
