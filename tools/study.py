"""The table of scale `study` in data/README.md: what models get, and the cheapest rules."""

from __future__ import annotations

import pandas as pd

from s4bt.files import ROOT
from s4bt.study.places import task_dir
from s4bt.study.statistics import half_width
from s4bt.tasks import TASKS


def shortcuts_table() -> str:
    """A row for each task that is pretrained: chance, best rule, model with interval, distance."""
    rules = pd.read_csv(ROOT / "results" / "bench" / "shortcuts.csv")
    lines = [
        "| task | chance | best rule | pretrained models, mean ± 95 % | seeds | above the rule |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task in TASKS:
        path = task_dir("study", task) / "pretrain.csv"
        own = rules[rules.task == task].set_index("rule").accuracy
        if not path.exists() or own.empty:
            continue
        accuracy = 100 * pd.read_csv(path).accuracy
        chance, others = 100 * own["chance"], 100 * own.drop("chance")
        best = max(others.max(), chance)
        name = f"{others.idxmax()}, {best:.1f}" if len(others) else f"none, {best:.1f}"
        lines.append(
            f"| {task} | {chance:.1f} | {name} | {accuracy.mean():.1f} ± "
            f"{half_width(accuracy):.1f} | {len(accuracy)} | {accuracy.mean() - best:+.1f} |"
        )
    return "\n".join(lines)
