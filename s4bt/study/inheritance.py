"""The second claim of Ezoe & Sato 2024: a better original gives a better compressed model.

Originals differ in the share of the steps that they were pretrained for. Accuracies are compared
within tasks: their means are subtracted. Intervals and verdicts are those of `claims`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from s4bt.study.claims import quantiles, two_families, verdicts


def _tasks(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each task, numbered by their place in the table."""
    return [part for _, part in table.reset_index(drop=True).groupby("task", sort=False)]


def _drawn(rng: np.random.Generator, groups: list[np.ndarray]) -> list[np.ndarray]:
    """As many of the groups as there are, drawn with replacement."""
    return [groups[k] for k in rng.integers(len(groups), size=len(groups))]


def _within(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Columns minus their means over each task."""
    return table[columns] - table.groupby("task")[columns].transform("mean")


def _partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Pearson's correlation of what is left of x and y after a line in z."""
    A = np.stack([np.ones_like(z), z], 1)
    left = [v - A @ np.linalg.lstsq(A, v, rcond=None)[0] for v in (x, y)]
    flat = any(np.ptp(v) < 1e-9 for v in left)
    return float("nan") if flat else float(np.corrcoef(*left)[0, 1])


UNKNOWN = dict.fromkeys(
    ["pearson", "low", "high", "spearman", "spearman_low", "spearman_high", "slope", "partial"],
    np.nan,
)


def inheritance(table: pd.DataFrame, draws: int = 2000) -> pd.DataFrame:
    """Claim 2: does accuracy after compression and retraining follow that of the original?

    table: columns task, seed, original, start (one shot) and accuracy (retrained), a row for every
    original. A row for every task, and one for "all", within tasks: their means are subtracted.
    pearson and spearman with bootstrap intervals over originals; slope, points of the retrained
    model for a point of the original; p of a permutation test of Pearson's r; partial: Pearson's r
    given `start`. Originals of one seed share their batches, and so do their heirs: seeds are drawn
    as a whole, and retrained accuracies are shuffled within their task and seed, where a seed has
    several originals.
    Where all originals or all retrained models are equal nothing can be said: p is 1.
    """
    rng, found = np.random.default_rng(0), []
    columns = ["original", "accuracy", "start"]
    parts = dict(list(table.groupby("task", sort=False)))
    centred = pd.concat([part.assign(**_within(part, columns)) for part in parts.values()])
    for task, part in {**parts, "all": centred}.items():
        x, y, z = (part[name].to_numpy() for name in columns)
        seeds = [
            [same.index.to_numpy() for _, same in of_task.groupby("seed")]
            for of_task in _tasks(part)
        ]
        several = max(len(same) for of_task in seeds for same in of_task) > 1
        blocks = [
            block
            for of_task in seeds
            for block in (of_task if several else [np.concatenate(of_task)])
        ]
        if not (np.ptp(x) and np.ptp(y)):
            found.append({"task": task, "originals": len(part), **UNKNOWN, "p": 1.0})
            continue
        r, rho = np.corrcoef(x, y)[0, 1], stats.spearmanr(x, y).statistic
        again = []
        for _ in range(draws):
            index = np.concatenate([x for of_task in seeds for x in _drawn(rng, of_task)])
            if np.ptp(x[index]) and np.ptp(y[index]):
                here = np.corrcoef(x[index], y[index])[0, 1]
                again.append((here, stats.spearmanr(x[index], y[index]).statistic))
        shuffled = np.empty(draws)
        for k in range(draws):
            mixed = y.copy()
            for block in blocks:
                mixed[block] = y[rng.permutation(block)]
            shuffled[k] = np.corrcoef(x, mixed)[0, 1]
        count = len(seeds) if len(seeds) > 1 else len(seeds[0])
        (low, high), (rho_low, rho_high) = (quantiles(v, count) for v in np.array(again).T)
        row = {"task": task, "originals": len(part), "pearson": r, "low": low, "high": high}
        row |= {"spearman": rho, "spearman_low": rho_low, "spearman_high": rho_high}
        row |= {"slope": np.polyfit(x, y, 1)[0], "partial": _partial(x, y, z)}
        # the observed order is one of those that could have been drawn
        row["p"] = (1 + int((abs(shuffled) >= abs(r)).sum())) / (1 + draws)
        found.append(row)
    out = pd.DataFrame(found)
    return verdicts(out.assign(mean=out.pearson)).drop(columns="mean")


def said_of_claim2(table: pd.DataFrame) -> str:
    """The second claim in a paragraph, within tasks."""
    if table.empty:
        return "This scale has no poorer originals."
    lines = []
    for row in table[table.task == "all"].itertuples():
        lines.append(
            f"{row.method}, {row.transfer}, r = {row.rank}: {row.verdict} (r = {row.pearson:.2f}, "
            f"{row.low:.2f} to {row.high:.2f}; a point of the original is {row.slope:.2f} points "
            f"of the retrained model; given the truncated one's accuracy r = {row.partial:.2f})"
        )
    return "\n".join(lines)


def claim2(originals: pd.DataFrame) -> pd.DataFrame:
    """`inheritance` for every method, transfer and rank; empty without poorer originals.

    originals: of `qualities.table_of`, with a column task.
    """
    by = ["method", "transfer", "rank"]
    found = [
        inheritance(part).assign(**dict(zip(by, key, strict=True)))
        for key, part in originals.groupby(by, sort=False)
    ]
    if not found:
        return pd.DataFrame()
    table = pd.concat(found, ignore_index=True).drop(columns=["holm", "verdict"])
    return two_families(table.assign(mean=table.pearson)).drop(columns="mean")
