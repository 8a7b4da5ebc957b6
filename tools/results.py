"""Tables and sentences about the study, from results/<scale>, rounded once, here."""

from __future__ import annotations

import json

import pandas as pd

from s4bt.files import ROOT, UserError
from s4bt.reduction.methods import METHODS
from s4bt.study.answers import PAPER, enough_ranks, points
from s4bt.study.config import load_scale
from s4bt.study.statistics import half_width, intervals
from s4bt.study.truncation import error_shares
from s4bt.tasks import TASKS

SCALE = "laptop"
FOLDER = ROOT / "results" / SCALE
UNSETTLED = 0.05 + 1e-9  # a run that ends further below its start was unsettled by retraining


def read(name: str) -> pd.DataFrame:
    """A table of the scale.  Raises UserError if it is missing."""
    if not (FOLDER / name).exists():
        raise UserError(f"{FOLDER / name}: no such file. Make it: dvc repro")
    return pd.read_csv(FOLDER / name)


def every(name: str) -> pd.DataFrame:
    """The tables of that name of all tasks, with a column task."""
    return pd.concat(
        [read(f"{task}/{name}").assign(task=task) for task in TASKS], ignore_index=True
    )


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _lost(losses: pd.DataFrame, method: str, rank: int) -> str:
    row = losses[(losses.method == method) & (losses["rank"] == rank)].iloc[0]
    return points(row.loss, row.half)


def _gain(answer: pd.DataFrame, method: str, against: str, transfer: str, rank: int) -> str:
    rows = answer[(answer.method == method) & (answer.against == against)]
    rows = rows[(rows["transfer"] == transfer) & (rows["rank"] == rank)]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    return f"{points(row['mean'], row.half, True)} ({row.wins:.0f} of {row.tasks:.0f})"


def lengths() -> tuple[int, int]:
    """The shortest and the longest sequences of the six tasks, in steps."""
    known = [json.loads((FOLDER / task / "data.json").read_text())["length"] for task in TASKS]
    return min(known), max(known)


def modes() -> int:
    """N, the modes of the pretrained layers."""
    return int(read("summary.csv").query("arm == 'pretrained'")["rank"].max())


def headline() -> str:
    """The one sentence of the README's first screen."""
    losses = read("oneshot.csv").query("task == 'all'")
    shortest, longest = lengths()
    seeds, rank = len(load_scale(SCALE).grid.seeds), enough_ranks(losses).get("weighted")
    if rank is None:
        raise UserError("weighted loses more than a point at every rank: write another headline")
    return (
        f"**{rank} of {modes()} modes are enough, without any retraining: "
        f"{_lost(losses, 'weighted', rank)} points of test accuracy\nlost**, where the paper's "
        f"truncation loses {_lost(losses, PAPER, rank)} (mean over six tasks ± 95 %). "
        f"Measured on\nsequences of {shortest} to {longest} steps, with {seeds} seeds; on longer "
        "ones that fit is fragile ([limits](#limits))."
    )


def four_rows() -> str:
    """The README's results."""
    losses, answer = read("oneshot.csv").query("task == 'all'"), read("compare/answer.csv")
    ranks = sorted(losses["rank"].unique())
    words = {
        "weighted": "lost by `weighted`, fitted to a layer's inputs",
        "bt-discrete": "lost by balanced truncation of the discrete kernel",
        PAPER: "lost by balanced truncation as in the paper",
    }
    rows = [[text, *(_lost(losses, name, rank) for rank in ranks)] for name, text in words.items()]
    gained = [_gain(answer, PAPER, "skew-hippo", "dss", rank) for rank in ranks]
    rows.append(["gained, retrained, over Skew-HiPPO (the paper's comparison; tasks won)", *gained])
    head = ["points of test accuracy", *(f"{rank} of {modes()} modes" for rank in ranks)]
    return markdown(head, rows)


def one_shot_table() -> str:
    """Points lost without retraining, mean over tasks ± half-width; `weighted` by task."""
    frame = read("oneshot.csv")
    overall, ranks = frame[frame.task == "all"], sorted(frame["rank"].unique())
    head = [f"r = {rank}" for rank in ranks]
    rows = [
        [f"`{name}`", *(_lost(overall, name, rank) for rank in ranks)]
        for name in METHODS
        if name in set(overall.method)
    ]
    by_task = [
        [task, *(_lost(frame[frame.task == task], "weighted", rank) for rank in ranks)]
        for task in TASKS
    ]
    return "\n".join(
        [
            markdown(["points lost", *head], rows),
            "",
            "`weighted`, task by task (± over seeds):",
            "",
            markdown(["", *head], by_task),
        ]
    )


def _ends_of_the_list() -> tuple[int, int, int]:
    """How many learning rates were chosen, and how many are at an end of the list.

    (all, the smallest, the largest)
    """
    arms = ["task", "arm", "method", "transfer", "sharing"]
    chosen = every("retrain.csv").groupby(arms, dropna=False).lr.first()
    lists = every("learning-rates.csv").groupby("task").lr
    task = chosen.index.get_level_values("task")
    smallest, largest = (chosen == task.map(ends) for ends in (lists.min(), lists.max()))
    return len(chosen), int(smallest.sum()), int(largest.sum())


def gains_table() -> str:
    """Gains over the baselines, and a paragraph of counts."""
    answer = read("compare/answer.csv")
    ranks = sorted(answer["rank"].unique())
    per_channel = "both with poles per channel"
    comparisons = (
        ("*DSS only* − (a), the comparison of the paper", PAPER, "skew-hippo", "dss"),
        ("*whole* − (e)", PAPER, "skew-hippo-rest", "whole"),
        ("*whole* − (b)", PAPER, "skew-hippo-long", "whole"),
        ("*DSS only* − (b)", PAPER, "skew-hippo-long", "dss"),
        (f"`weighted`, *DSS only* − (a), {per_channel}", "weighted", "skew-hippo", "dss"),
        (f"`weighted`, *whole* − (e), {per_channel}", "weighted", "skew-hippo-rest", "whole"),
    )
    rows = [
        [text, *(_gain(answer, method, against, transfer, rank) for rank in ranks)]
        for text, method, against, transfer in comparisons
    ]
    head = ["truncated start minus Skew-HiPPO", *(f"r = {rank}" for rank in ranks)]
    chosen, smallest, largest = _ends_of_the_list()
    found = json.loads((FOLDER / "compare" / "compare.json").read_text())
    return "\n".join(
        [
            markdown(head, rows),
            "",
            f"Of {chosen} learning rates that were chosen {smallest} are the smallest on the list "
            f"and {largest} the largest.",
            "Accuracy after retraining correlates with that of the pretrained model by "
            f"{found['correlation over_tasks']:.2f} over all",
            f"runs, and by {found['correlation inside_tasks']:.2f} inside the tasks.",
        ]
    )


def _listed(values: list[str]) -> str:
    return f"{', '.join(values[:-1])} and {values[-1]}"


def _unsettled(method: str) -> str:
    """How many runs of the whole network end below their start, and how many kept it, by rank."""
    curves = every("curves-retrain.csv").query("method == @method and transfer == 'whole'")
    runs = curves.groupby(["rank", "task", "seed"]).val_accuracy
    drop = (runs.first() - runs.last()).groupby("rank")
    kept = (runs.max() <= runs.first()).groupby("rank").sum()
    said = [
        f"r = {rank}: {int((values > UNSETTLED).sum())} and {kept[rank]} of {len(values)}"
        for rank, values in drop
    ]
    return "; ".join(said)


def retrained_words() -> str:
    """What retraining makes of `weighted` and of `bt-shared`."""
    rows = read("summary.csv")
    mean = rows.groupby(["arm", "method", "transfer", "rank", "task"]).accuracy.mean()
    ranks = sorted(rows[rows.arm == "truncated"]["rank"].unique())

    def accuracies(arm: str, method: str, transfer: str) -> str:
        return _listed([points(mean[arm, method, transfer, r].mean()) for r in ranks])

    apart = [mean["truncated", "weighted", "whole", r] for r in ranks]
    apart = [a - mean["truncated", PAPER, "whole", r] for a, r in zip(apart, ranks)]
    parameters = rows.groupby(["arm", "method", "rank"]).state_space_parameters.mean()["one-shot"]
    ratio = [parameters["weighted", r] / parameters[PAPER, r] for r in ranks]
    at = _listed([str(r) for r in ranks])
    return "\n".join(
        [
            f"Mean over tasks and seeds, in percent, with {at} modes:",
            "",
            markdown(
                ["start", "`weighted`", f"`{PAPER}`"],
                [
                    ["whole network, retrained", *_both(accuracies, "truncated", "whole")],
                    ["whole network, as truncated", *_both(accuracies, "one-shot", "whole")],
                    [
                        "DSS only, retrained in a random network",
                        *_both(accuracies, "truncated", "dss"),
                    ],
                ],
            ),
            "",
            "Whole networks, `weighted` minus `bt-shared`: "
            + _listed([points(d.mean(), half_width(d), True) for d in apart])
            + "\npoints (± over tasks).",
            f"`weighted` stores {min(ratio):.1f} to {max(ratio):.1f} times as many numbers in its "
            "layers.",
            "Runs that end more than 5 points of validation accuracy below their start, and runs",
            "that keep their start:",
            f"`weighted` {_unsettled('weighted')};",
            f"`{PAPER}` {_unsettled(PAPER)}.",
        ]
    )


def _both(entry, arm: str, transfer: str) -> list[str]:
    return [entry(arm, method, transfer) for method in ("weighted", PAPER)]


def accuracy_table() -> str:
    """Test accuracy in percent, mean ± 95 % half-width.

    Where there are too few runs for an interval, the seeds' values stand in brackets instead.
    """
    rows = read("summary.csv")
    cells = intervals(rows)

    def entry(task: str, rank: int | None = None, **where: str) -> str:
        wanted = {"task": task} | ({"rank": rank} if rank else {}) | where

        def pick(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[(frame[list(wanted)] == pd.Series(wanted)).all(axis=1)]

        if pick(cells).empty:
            return ""
        cell = pick(cells).iloc[0]
        if cell.df > 1:
            return points(cell["mean"], cell.half)
        seeds = ", ".join(points(value) for value in pick(rows).accuracy)
        return f"{points(cell['mean'])} ({seeds})"

    columns = {
        "(c) `weighted`": {"arm": "one-shot", "method": "weighted"},
        "`weighted`, whole": {"arm": "truncated", "transfer": "whole", "method": "weighted"},
        "(c) one-shot": {"arm": "one-shot", "method": PAPER},
        "**truncated, whole**": {"arm": "truncated", "transfer": "whole", "method": PAPER},
        "(e)": {"arm": "skew-hippo-rest", "sharing": "tied"},
        "(b)": {"arm": "skew-hippo-long"},
        "**truncated, DSS only**": {"arm": "truncated", "transfer": "dss", "method": PAPER},
        "(a)": {"arm": "skew-hippo", "sharing": "tied"},
    }
    ranks = sorted(rows[rows.arm == "truncated"]["rank"].unique())
    lines = []
    for task in TASKS:
        chance = json.loads((FOLDER / task / "data.json").read_text())["chance"]
        for rank in ranks:
            first = [task, points(chance), entry(task, arm="untruncated")]
            head = first if rank == ranks[0] else [""] * 3
            lines.append([*head, str(rank), *(entry(task, rank, **c) for c in columns.values())])
    return markdown(["task", "chance", "(d) N = 64", "r", *columns], lines)


def claims() -> str:
    """How many truncated layers keep limit and bound."""
    _, said = error_shares(every("layers.csv"))
    return "Over all tasks: " + said.replace("; ", ";\n") + "."
