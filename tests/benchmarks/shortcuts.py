"""What the cheapest rules get on the tasks, which a model should beat: results/bench/shortcuts.csv.

Scales `laptop` and `study`. A task whose arrays are not there keeps the rows that it has.

chance     always the most frequent training label
listops    the root's operator, or that and its value for the digits that are its own arguments
text, retrieval   counts of bytes, by least squares; for pairs, how much the counts differ
image      mean grey level of blocks of 4 x 4, or of 2 x 2 where 4 do not fit, by least squares
pathfinder, pathx   distance of the nearest paddle from the middle between the discs, best threshold

Rules are fitted on training examples and tried on the test split; those of the path tasks on two
halves of 4,000 fresh scenes of the same kind, because an image does not name its discs.
"""

import numpy as np
import pandas as pd

from s4bt.study.config import load_task
from s4bt.study.places import task_dir
from s4bt.tasks import TASKS, Dataset, load
from tests.benchmarks.common import OUT, write
from tests.shortcuts import below_the_root, between_the_discs

SCALES, SCENES = ("laptop", "study"), 4000


def least_squares(data: Dataset, features) -> float:
    """Test accuracy of a linear rule on features of an example."""
    x, test = features(data["train"]), features(data["test"])
    mean, spread = x.mean(0), x.std(0) + 1e-9
    x, test = (np.c_[(f - mean) / spread, np.ones(len(f))] for f in (x, test))
    answers = np.eye(data["train"].y.max() + 1)[data["train"].y]
    weights = np.linalg.solve(x.T @ x + len(x) * 1e-3 * np.eye(x.shape[1]), x.T @ answers)
    return float(((test @ weights).argmax(1) == data["test"].y).mean())


def counts(tokens: np.ndarray) -> np.ndarray:
    """How often each byte occurs in a sequence: (n, 257)."""
    return np.stack([np.bincount(row.ravel(), minlength=257)[:257] for row in tokens]).astype(float)


def of_pairs(split) -> np.ndarray:
    first, second = counts(split.x[:, 0]), counts(split.x[:, 1])
    return np.c_[np.abs(first - second), first * second]


def blocks(split, size: int) -> np.ndarray:
    side = int(split.x.shape[1] ** 0.5) // size
    return split.x.reshape(-1, side, size, side, size).mean((2, 4)).reshape(len(split.x), -1)


def rules(scale: str, task: str) -> dict[str, float]:
    """Accuracy of each rule for a task."""
    data, options = load(task, task_dir(scale, task) / "arrays"), load_task(scale, task)[0].data
    found = {"chance": data.chance}
    if task == "listops":
        found["the root's operator"] = below_the_root(data, 1)
        found["the root and its own digits"] = below_the_root(data, 2)
    elif task == "text":
        found["counts of bytes"] = least_squares(data, lambda split: counts(split.x))
    elif task == "retrieval":
        found["counts of bytes"] = least_squares(data, of_pairs)
    elif task == "image":
        size = 2 if options.side % 4 else 4
        found[f"blocks of {size} x {size}"] = least_squares(data, lambda x: blocks(x, size))
    else:
        found["a paddle between the discs"] = between_the_discs(options, SCENES)
    return found


if __name__ == "__main__":
    path, lines = OUT / "shortcuts.csv", []
    known = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["scale", "task"])
    for scale in SCALES:
        for task in TASKS:
            if (task_dir(scale, task) / "arrays").exists():
                for rule, accuracy in rules(scale, task).items():
                    row = {"scale": scale, "task": task, "rule": rule}
                    lines.append(row | {"accuracy": round(accuracy, 4)})
                    print(lines[-1], flush=True)
            else:
                where = "" if scale == "laptop" else f"--cd results/{scale} "
                print(f"{task} is left out. Prepare it: dvc {where}repro prepare@{task}")
                before = known[(known.scale == scale) & (known.task == task)]
                lines += before.to_dict("records")
    write(path, lines)
