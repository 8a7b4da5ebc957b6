"""Tables and sentences about the study, from results/<scale>, rounded once, here."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import fill

import pandas as pd

from s4bt.files import ROOT, UserError
from s4bt.reduction.methods import CHOSEN, METHODS
from s4bt.study import care
from s4bt.study.answers import PAPER, points
from s4bt.study.claims import LETTERS, of_fewer
from s4bt.study.config import load_scale
from s4bt.study.statistics import intervals, sharing_of
from s4bt.study.truncation import error_shares
from s4bt.tasks import TASKS

SCALE = "laptop"
WORDS = {"dss": "DSS only", "whole": "whole"}
FOLDER = ROOT / "results" / SCALE
UNSETTLED = 0.02 + 1e-9  # a run that ends further below its start was unsettled by retraining


def read(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """A table of a scale.  Raises UserError if it is missing."""
    if not (folder / name).exists():
        remedy = "dvc repro" if folder == FOLDER else f"make {folder.name}"
        raise UserError(f"{folder / name}: no such file. Make it: {remedy}")
    return pd.read_csv(folder / name)


def every(name: str) -> pd.DataFrame:
    """The tables of that name of all tasks, with a column task."""
    return pd.concat(
        [read(f"{task}/{name}").assign(task=task) for task in TASKS], ignore_index=True
    )


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def lost(losses: pd.DataFrame, method: str, rank: int) -> str:
    row = losses[(losses.method == method) & (losses["rank"] == rank)].iloc[0]
    return points(row.loss, row.half)


def gain(answer: pd.DataFrame, method: str, against: str, transfer: str, rank: int) -> str:
    rows = answer[(answer.method == method) & (answer.against == against)]
    rows = rows[(rows["transfer"] == transfer) & (rows["rank"] == rank)]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    return f"{points(row['mean'], row.half, True)} ({row.wins:.0f} of {row.tasks:.0f})"


def one_shot_table() -> str:
    """Points lost without retraining, mean over tasks ± half-width; `weighted` by task."""
    frame = read("oneshot.csv")
    overall, ranks = frame[frame.task == "all"], sorted(frame["rank"].unique())
    head = [f"r = {rank}" for rank in ranks]
    rows = [
        [f"`{name}`", *(lost(overall, name, rank) for rank in ranks)]
        for name in METHODS
        if name in set(overall.method)
    ]
    by_task = [
        [task, *(lost(frame[frame.task == task], "weighted", rank) for rank in ranks)]
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
    """How many learning rates were chosen; how many are the smallest, and the largest, listed."""
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
    comparisons = [
        (f"`{method}`, {name}", method, against, transfer)
        for name, against, transfer in (
            ("*DSS only* − (a)", "skew-hippo", "dss"),
            ("*whole* − (e)", "skew-hippo-rest", "whole"),
            ("*whole* − (b)", "skew-hippo-long", "whole"),
            ("*DSS only* − (b)", "skew-hippo-long", "dss"),
        )
        for method in load_scale(SCALE).grid.methods
        if METHODS[method].tied or against != "skew-hippo-long"
    ]
    rows = [
        [text, *(gain(answer, method, against, transfer, rank) for rank in ranks)]
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


def listed(values: list[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(values[:-1]), values[-1]]))


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
    """What retraining makes of the truncated models, method by method."""
    rows, methods = read("summary.csv"), load_scale(SCALE).grid.methods
    mean = rows.groupby(["arm", "method", "transfer", "rank", "task"]).accuracy.mean()
    ranks = sorted(rows[rows.arm == "truncated"]["rank"].unique())

    def accuracies(arm: str, transfer: str) -> list[str]:
        return [
            listed([points(mean[arm, method, transfer, r].mean()) for r in ranks])
            for method in methods
        ]

    base = rows[rows.arm == "skew-hippo"].groupby(["sharing", "rank", "task"]).accuracy.mean()
    bases = [
        listed([points(base[sharing_of(method), r].mean()) for r in ranks]) for method in methods
    ]
    sizes = rows.groupby(["arm", "method", "rank"]).state_space_parameters.mean()["one-shot"]
    stored = [listed([f"{sizes[method, r]:,.0f}" for r in ranks]) for method in methods]
    return "\n".join(
        [
            f"Mean over tasks and seeds, in percent, r = {listed([str(r) for r in ranks])}:",
            "",
            markdown(
                ["start", *(f"`{method}`" for method in methods)],
                [
                    ["whole network, retrained", *accuracies("truncated", "whole")],
                    ["whole network, as truncated", *accuracies("one-shot", "whole")],
                    ["DSS only, retrained", *accuracies("truncated", "dss")],
                    ["(a) with the same kind of poles", *bases],
                    ["numbers in the DSS layers", *stored],
                ],
            ),
            "",
            "Runs of the whole network that end more than 2 points of validation accuracy below",
            "their start, and runs that keep their start:",
            *(f"`{method}` {_unsettled(method)};" for method in methods[:-1]),
            f"`{methods[-1]}` {_unsettled(methods[-1])}.",
        ]
    )


def robust_table() -> str:
    """Points lost under three conditions, and the largest numbers of a layer."""
    lost, robust = read("robust.csv"), every("robustness.csv")
    ranks = sorted(lost["rank"].unique())
    rows = []
    for method in load_scale(SCALE).grid.one_shot.methods:
        part = lost[lost.method == method].set_index("rank")
        conditions = [
            ", ".join(points(part[name][r] / 100) for r in ranks) for name in care.CONDITIONS
        ]
        largest = [f"{part.cancellation.max():,.0f}", f"{part.feedthrough.max():,.1f}"]
        rows.append([f"`{method}`", *conditions, *largest])
    full = robust[robust.arm == "untruncated"]
    at = ", ".join(map(str, ranks))
    names = ["as it is", "twice as long", "off by 1 %", "terms / sum", "largest \\|D\\|"]
    return "\n".join(
        [
            f"Points lost against the untruncated model, under the same conditions, r = {at}:",
            "",
            markdown(["method", *names], rows),
            "",
            care.of_untruncated(robust),
            fill(f"Task by task, as it is and twice as long: {_as_it_is_and_longer(full)}.", 100),
            f"Its terms exceed their sum {full.cancellation.max():.0f} times at most, its largest "
            f"\\|D\\| is {full.feedthrough.max():.1f}.",
            "",
            fill(care.of_choice(care.losses(every("choose.csv")), CHOSEN), 100),
        ]
    )


def _as_it_is_and_longer(full: pd.DataFrame) -> str:
    """Accuracy of the untruncated models, task by task, in percent."""
    mean = 100 * full.groupby("task", sort=False)[["as_is", "longer"]].mean()
    return ", ".join(
        f"{row.Index} {row.as_is:.0f} and {row.longer:.0f}" for row in mean.itertuples()
    )


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


def decided_words() -> str:
    """The first claim at this size, as `60_compare` decides it."""
    table, smaller = read("claim1.csv"), read("fewer.csv")
    overall, lines = table[table.task == "all"], []
    ranks = sorted(overall["rank"].unique())
    for key, part in overall.groupby(["method", "transfer", "against"], sort=False):
        method, transfer, against = map(str, key)
        cells = part.set_index("rank")
        name = f"`{method}`, *{WORDS[transfer]}* − ({LETTERS[against]})"
        said = [
            f"{points(cells['mean'][r], sign=True)}, {cells.verdict_here[r]} / {cells.verdict[r]}"
            if r in cells.index
            else ""
            for r in ranks
        ]
        lines.append([name, *said])
    head = ["points; on these tasks / on tasks like them", *(f"r = {rank}" for rank in ranks)]
    beaten = of_fewer(smaller)
    return f"{markdown(head, lines)}\n\n{fill(beaten, 100)}"
