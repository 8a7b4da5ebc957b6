"""What the cheapest rules get on the tasks of scale `study`, which a model should beat:
results/bench/shortcuts.csv.  A task whose arrays are not there is left out.

chance     always the most frequent training label
listops    the root's operator, or that and its value for the digits that are its own arguments
text, retrieval   counts of bytes, by least squares; for pairs, how much the counts differ
image      mean grey level of 4 x 4 blocks, by least squares
pathfinder, pathx   distance of the nearest paddle from the middle between the discs, best threshold

Rules are fitted on training examples and tried on the test split; those of the path tasks on two
halves of 4,000 fresh scenes of the same kind, because an image does not name its discs.
"""

import numpy as np

from s4bt.study.config import load_task
from s4bt.study.places import task_dir
from s4bt.tasks import TASKS, Dataset, load
from tests.benchmarks.common import OUT, write  # first, because it sets the number of threads
from tests.shortcuts import below_the_root, between_the_discs

SCALE, SCENES = "study", 4000


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


def blocks(split) -> np.ndarray:
    side = int(split.x.shape[1] ** 0.5)
    return (
        split.x.reshape(len(split.x), side // 4, 4, side // 4, 4)
        .mean((2, 4))
        .reshape(len(split.x), -1)
    )


def rules(task: str) -> dict[str, float]:
    """Accuracy of each rule for a task."""
    data, options = load(task, task_dir(SCALE, task) / "arrays"), load_task(SCALE, task)[0].data
    found = {"chance": data.chance}
    if task == "listops":
        found["the root's operator"] = below_the_root(data, 1)
        found["the root and its own digits"] = below_the_root(data, 2)
    elif task == "text":
        found["counts of bytes"] = least_squares(data, lambda split: counts(split.x))
    elif task == "retrieval":
        found["counts of bytes"] = least_squares(data, of_pairs)
    elif task == "image":
        found["blocks of 4 x 4"] = least_squares(data, blocks)
    else:
        found["a paddle between the discs"] = between_the_discs(options, SCENES)
    return found


if __name__ == "__main__":
    lines = []
    for task in TASKS:
        if not (task_dir(SCALE, task) / "arrays").exists():
            print(f"{task} is left out. Prepare it: dvc --cd results/{SCALE} repro prepare@{task}")
            continue
        for rule, accuracy in rules(task).items():
            lines.append(
                {"scale": SCALE, "task": task, "rule": rule, "accuracy": round(accuracy, 4)}
            )
            print(lines[-1], flush=True)
    write(OUT / "shortcuts.csv", lines)
