"""The answers of the notebooks in words, written from the numbers.

points   of test accuracy, in percent
"""

from __future__ import annotations

import pandas as pd

from s4bt.reduction.methods import METHODS

WITHIN = 0.01  # "as good as": at most a point of accuracy less
PAPER = "bt-shared"  # the method of Ezoe & Sato 2024


def points(value: float, half: float = float("nan"), sign: bool = False) -> str:
    """A share as points, with its half-width if there is one."""
    text = f"{100 * value:{'+' if sign else ''}.1f}"
    text = text.replace("-0.0", "+0.0" if sign else "0.0")
    text += f" ± {100 * half:.1f}" if half == half else ""
    return text.replace("-", "−")


def verdict(mean: float, half: float) -> str:
    """What an interval says about a difference."""
    if half != half:
        return "too few runs for an interval"
    if abs(mean) <= half:
        return "not told from zero"
    return "clearly above zero" if mean > 0 else "clearly below zero"


def enough_ranks(losses: pd.DataFrame) -> dict[str, int]:
    """The smallest rank of each method from which on it loses at most a point, if any."""
    found = {}
    for name, part in losses.groupby("method", sort=False):
        part = part.sort_values("rank", ascending=False)
        good = part[(part.loss <= WITHIN).cummin()]
        if len(good):
            found[str(name)] = int(good["rank"].iloc[-1])
    return found


def of_truncation(losses: pd.DataFrame, state: int) -> str:
    """How many modes each method needs.

    losses: columns method, rank, loss of one task or the mean.
    """
    known = enough_ranks(losses)
    by_rank: dict[int, list[str]] = {}
    for name in METHODS:
        if name in known:
            by_rank.setdefault(known[name], []).append(name)
    parts = [f"{', '.join(names)} with r = {r}" for r, names in sorted(by_rank.items())]
    left = [name for name in METHODS if name in set(losses.method) and name not in known]
    said = f"Without retraining, all but a point of accuracy is kept by {'; '.join(parts)}."
    if not parts:
        said = "Without retraining, every method loses more than a point at every rank tried."
    elif left:
        said += f" Not at any rank tried: {', '.join(left)}."
    return f"{said} The untruncated model has N = {state}."


def _phrase(row: pd.Series) -> str:
    wins = f", {row.wins:.0f} of {row.tasks:.0f} tasks" if "wins" in row else ""
    return f"r = {row['rank']:.0f}: {points(row['mean'], row.half, True)}{wins}"


def of_gains(cells: pd.DataFrame, method: str, transfer: str, against: str, name: str) -> str:
    """One comparison, rank by rank.

    cells: columns method, transfer, arm or against, rank, mean, half.
    """
    arm = cells["against"] if "against" in cells else cells["arm"]
    part = cells[(cells.method == method) & (cells["transfer"] == transfer) & (arm == against)]
    if part.empty:
        return ""
    said = [
        f"{_phrase(row)}, {verdict(row['mean'], row.half)}"
        for _, row in part.sort_values("rank").iterrows()
    ]
    return f"{name}, in points: {'; '.join(said)}."


def of_task(losses: pd.DataFrame, gained: pd.DataFrame, state: int, before: float) -> str:
    """The answer of `50_analyse`: one task.

    losses: rows of `one_shot_losses`; gained: intervals of `gains` against (a) and (e).
    """
    comparisons = (
        ("dss", "skew-hippo", "The comparison of the paper, DSS parameters only minus (a)"),
        ("whole", "skew-hippo-rest", "In the same pretrained network, whole minus (e)"),
    )
    said = [f"The untruncated model gets {points(before)} %.", of_truncation(losses, state)]
    said += [
        of_gains(gained, PAPER, transfer, arm, f"{name} with {PAPER}")
        for transfer, arm, name in comparisons
    ]
    return "\n".join(filter(None, said))


def of_all(losses: pd.DataFrame, answer: pd.DataFrame, found: dict[str, float], state: int) -> str:
    """The answer of `60_compare`: the mean over the tasks.

    losses: rows of task "all"; answer: rows of `across_tasks` with a column against; found:
    `correlations`.
    """
    comparisons = (
        ("dss", "skew-hippo", "DSS parameters only minus (a), the comparison of the paper"),
        ("whole", "skew-hippo-rest", "whole minus (e), the same pretrained network"),
        ("whole", "skew-hippo-long", "whole minus (b), Skew-HiPPO with all the steps"),
        ("dss", "skew-hippo-long", "DSS parameters only minus (b)"),
    )
    said = [of_truncation(losses, state)]
    said += [
        of_gains(answer, PAPER, transfer, against, f"{PAPER}, {name}")
        for transfer, against, name in comparisons
    ]
    said.append(
        "Accuracy after retraining correlates with that of the pretrained model by "
        f"{found['over_tasks']:.2f} over all runs and by {found['inside_tasks']:.2f} inside the "
        "tasks."
    )
    return "\n".join(filter(None, said))
