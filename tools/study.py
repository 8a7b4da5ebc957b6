"""Tables about the cheapest rules, which models should beat: data/README.md, docs/results.md."""

from __future__ import annotations

import functools

import pandas as pd

from s4bt.files import ROOT
from s4bt.study.answers import PAPER
from s4bt.study.places import task_dir
from s4bt.study.statistics import half_width
from s4bt.tasks import TASKS
from tools.results import markdown, read


def _rules(scale: str, task: str) -> tuple[float, float, str]:
    """Chance, accuracy of the best rule (percent), and its name; chance and "none" without one."""
    found = pd.read_csv(ROOT / "results" / "bench" / "shortcuts.csv")
    own = found[(found.scale == scale) & (found.task == task)].set_index("rule").accuracy
    chance, others = 100 * own["chance"], 100 * own.drop("chance")
    if others.empty or others.max() <= chance:
        return chance, chance, "none"
    return chance, others.max(), str(others.idxmax())


def shortcuts_table(scale: str) -> str:
    """A row for each task that is pretrained: chance, best rule, model with interval, distance."""
    lines = []
    for task in TASKS:
        path = task_dir(scale, task) / "pretrain.csv"
        if not path.exists():
            continue
        accuracy, (chance, best, name) = 100 * pd.read_csv(path).accuracy, _rules(scale, task)
        model = f"{accuracy.mean():.1f} ± {half_width(accuracy):.1f}"
        above = f"{accuracy.mean() - best:+.1f}".replace("-", "−")
        row = [task, f"{chance:.1f}", f"{name}, {best:.1f}", model, f"{len(accuracy)}", above]
        lines.append(row)
    if not lines:
        return "Still to come: no task is pretrained yet."
    head = ["task", "chance", "best rule", "pretrained models, mean ± 95 %", "seeds"]
    return markdown([*head, "above the rule"], lines)


study_shortcuts = functools.partial(shortcuts_table, "study")
laptop_shortcuts = functools.partial(shortcuts_table, "laptop")


def beaten_words() -> str:
    """How many retrained models get more than the best rule of their task, by arm and rank."""
    rows, lines = read("summary.csv"), []
    best = {task: _rules("laptop", task)[1] for task in TASKS}
    tied = rows[(rows.sharing == "tied")]
    arms = {
        f"`{PAPER}`, *DSS only*": tied[(tied["transfer"] == "dss") & (tied.method == PAPER)],
        "(a), tied": tied[tied.arm == "skew-hippo"],
        f"`{PAPER}`, *whole*": tied[
            (tied.arm == "truncated") & (tied["transfer"] == "whole") & (tied.method == PAPER)
        ],
        "(e), tied": tied[tied.arm == "skew-hippo-rest"],
    }
    ranks = sorted(arms["(a), tied"]["rank"].unique())
    for name, part in arms.items():
        mean = 100 * part.groupby(["rank", "task"]).accuracy.mean()
        cells = []
        for rank in ranks:
            above = [task for task in TASKS if mean[rank][task] > best[task]]
            cells.append(f"{len(above)} of {len(TASKS)}" + (f": {', '.join(above)}" * bool(above)))
        lines.append([name, *cells])
    return markdown(["tasks on which the mean beats the rule", *(f"r = {r}" for r in ranks)], lines)
