"""The cheapest rules for listops, pathfinder and pathx; for the data card and its tests."""

import numpy as np

from s4bt.tasks import Dataset, Split, listops, pathfinder
from s4bt.tasks.options import PathfinderData
from tests.conftest import evaluate_with_a_stack


def below_the_root(data: Dataset, parts: int) -> float:
    """Test accuracy of a table of the root's operator (parts = 1), or of that and its value for the
    digits that are its own arguments (2): the most frequent answer among training examples.
    """
    names = {number: token for token, number in listops.CODE.items()}

    def seen(split: Split):
        for row, length in zip(split.x, split.lengths, strict=True):
            depth, own = 0, []
            for token in (names[number] for number in row[:length]):
                depth += token.startswith("[") - (token == "]")
                if depth == 1 and token.isdigit():
                    own.append(token)
            root = names[row[0]]
            yield (root, evaluate_with_a_stack([root, *own, "]"]) if own else None)[:parts]

    known: dict = {}
    for rule, y in zip(seen(data["train"]), data["train"].y, strict=True):
        known.setdefault(rule, []).append(y)
    best = {rule: np.bincount(answers).argmax() for rule, answers in known.items()}
    test = data["test"]
    return float(np.mean([best.get(r) == y for r, y in zip(seen(test), test.y, strict=True)]))


def scenes(options: PathfinderData, count: int, seed: int) -> list[tuple]:
    """The first `count` scenes of a seed: list of (contours, discs, label)."""
    found, chunk = [], 0
    while len(found) < count:
        s = pathfinder.scenes(options.model_copy(update={"seed": seed}), chunk)
        found += [
            ([c[i] for c in s.contours], s.discs[i], int(s.labels[i])) for i in range(len(s.labels))
        ]
        chunk += 1
    return found[:count]


def between_the_discs(options: PathfinderData, count: int) -> float:
    """Accuracy of the best threshold on the distance of the nearest paddle from the middle between
    the discs; found on half of the scenes, tried on the other half.
    """
    found, half = scenes(options, count, 7), count // 2
    near, y = np.empty(count), np.array([label for _, _, label in found])
    for i, (contours, discs, _) in enumerate(found):
        a, d = (paddles := np.concatenate(contours))[:, 0], paddles[:, 1] - paddles[:, 0]
        t = np.clip(((discs.mean(0) - a) * d).sum(-1) / (d**2).sum(-1), 0, 1)
        near[i] = np.linalg.norm(discs.mean(0) - a - t[:, None] * d, axis=-1).min()
    threshold = max(
        np.quantile(near[:half], np.linspace(0, 1, 40)),
        key=lambda q: ((near[:half] < q) == y[:half]).mean(),
    )
    return float(((near[half:] < threshold) == y[half:]).mean())
