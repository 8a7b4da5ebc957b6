"""The tables and sentences of docs/report.md, from the tasks of scale `study` that are complete.

    python -m tools.report        draws its figure; `make table` writes the rest

A task is complete when its models are retrained. The second claim waits for `45_inherit`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from textwrap import fill

import matplotlib.pyplot as plt
import pandas as pd

from s4bt.reduction.methods import METHODS
from s4bt.study import claims, figures, inheritance, smallest
from s4bt.study.answers import PAPER, points
from s4bt.study.config import load_scale, load_task
from s4bt.study.places import task_dir
from s4bt.study.statistics import cells_of, chance_of, half_width, sharing_of, summary
from s4bt.study.styles import save, use_style
from s4bt.tasks import TASKS
from tools.results import WORDS, listed, markdown

SCALE = "study"
# What is reported of the first claim: start, transfer, and the baseline it is compared with.
COMPARED = [
    (PAPER, "dss", "skew-hippo"),
    ("weighted-shared", "dss", "skew-hippo"),
    (PAPER, "whole", "skew-hippo-rest"),
    ("weighted-shared", "whole", "skew-hippo-rest"),
    (PAPER, "whole", "skew-hippo-long"),
    ("weighted-shared", "whole", "skew-hippo-long"),
]
STAGES = {
    "Pretrained": "pretrain.csv",
    "truncated": "truncate.csv",
    "retrained": "retrain.csv",
    "poorer originals": "originals.csv",
}
MANY = 4  # tasks, from which on a mean over them says something


def complete(name: str = "retrain.csv") -> list[str]:
    """The tasks that have a table."""
    return [task for task in TASKS if (task_dir(SCALE, task) / name).exists()]


def rows() -> pd.DataFrame:
    """`summary` of the complete tasks."""
    return pd.concat([summary(SCALE, task) for task in complete()], ignore_index=True)


def _entry(row: pd.Series, task: str) -> str:
    interval = f"{points(row['low'], sign=True)} to {points(row['high'], sign=True)}"
    said = str(row["verdict_here"])
    if task == "all":
        said += f" here, {row['verdict']} beyond"
    return f"{points(row['mean'], sign=True)} ({interval}), {said}"


def later(stage: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """A decorator: the function, or, where no task has come to a stage, a sentence that says so."""

    def decorate(function: Callable[[], str]) -> Callable[[], str]:
        @functools.wraps(function)
        def instead() -> str:
            missing = f"Still to come: no task is {stage.lower()} yet."
            return function() if complete(STAGES[stage]) else missing

        return instead

    return decorate


def state() -> str:
    """What is measured so far."""
    seeds, said = len(load_scale(SCALE).grid.seeds), []
    for words, name in STAGES.items():
        done = complete(name)
        said.append(f"{words}: {'all' if done == list(TASKS) else listed(done or ['none'])}")
    return fill(f"Measured so far, with {seeds} seeds. {'; '.join(said)}.", 100)


@later("Pretrained")
def originals_table() -> str:
    """The pretrained models."""
    lines = []
    for task in complete("pretrain.csv"):
        found = pd.read_csv(task_dir(SCALE, task) / "pretrain.csv")
        about = json.loads((task_dir(SCALE, task) / "data.json").read_text())
        batch = load_task(SCALE, task)[0].pretrain.batch
        lines.append(
            [
                task,
                f"{about['length']:,}",
                f"{about['train']:,}",
                f"{found.steps[0]:,} of {batch}",
                f"{found.parameters[0]:,}",
                f"{100 * chance_of(SCALE, task):.1f}",
                f"{100 * found.accuracy.mean():.1f} ± {100 * half_width(found.accuracy):.1f}",
            ]
        )
    head = ["task", "length", "examples", "steps", "parameters", "chance, %", "accuracy, %"]
    return markdown(head, lines)


@later("truncated")
def oneshot_table() -> str:
    """Points lost by truncation alone: a table for each task, or their mean where they are many."""
    frames = []
    for task in complete("truncate.csv"):
        best = pd.read_csv(task_dir(SCALE, task) / "pretrain.csv").set_index("seed").accuracy
        cut = pd.read_csv(task_dir(SCALE, task) / "truncate.csv")
        frames.append(cut.assign(task=task, lost=cut.seed.map(best) - cut.accuracy))
    if len(frames) < MANY:
        return "\n\n".join(_losses(frame, f"points lost, {frame.task[0]}") for frame in frames)
    means = pd.concat(frames).groupby(["method", "rank", "task"]).lost.mean().reset_index()
    return _losses(means, f"points lost, mean over {len(frames)} tasks, ± over tasks")


def _losses(lost: pd.DataFrame, head: str) -> str:
    cells = lost.groupby(["method", "rank"]).lost.agg(lambda x: points(x.mean(), half_width(x)))
    ranks = sorted(lost["rank"].unique())
    lines = [
        [f"`{name}`", *(cells[name, rank] for rank in ranks)]
        for name in METHODS
        if name in set(lost.method)
    ]
    return markdown([head, *(f"r = {rank}" for rank in ranks)], lines)


def _shown() -> list[str]:
    """What a table of decisions shows: the mean over tasks, or each of them while they are few."""
    done = complete()
    return ["all"] if len(done) >= MANY else done


def _heading(task: str) -> str:
    return f"mean over {len(complete())} tasks" if task == "all" else task


@later("retrained")
def claim1_table() -> str:
    """Differences with their intervals; what is shown is one family for Holm's correction."""
    table = rows()
    ranks, found = load_scale(SCALE).grid.ranks, []
    for method, transfer, against in COMPARED:
        for rank in ranks:
            same = table[table["rank"] == rank]
            ours = same[
                (same.arm == "truncated") & (same.method == method) & (same["transfer"] == transfer)
            ]
            theirs = same[(same.arm == against) & (same.sharing == sharing_of(method))]
            pairs = claims.differences(ours, theirs)
            if pairs.empty:
                continue
            letter = claims.LETTERS[against]
            key = {"comparison": f"`{method}`, {WORDS[transfer]}, minus ({letter})", "rank": rank}
            found += [key | row for row in claims.decided(pairs)]
    decided, tables = claims.two_families(pd.DataFrame(found)), []
    for task in _shown():
        lines = []
        for name, part in decided[decided.task == task].groupby("comparison", sort=False):
            cells = part.set_index("rank")
            entries = [_entry(cells.loc[r], task) if r in cells.index else "" for r in ranks]
            lines.append([str(name), *entries])
        head = [f"points of accuracy, {_heading(task)}", *(f"r = {rank}" for rank in ranks)]
        tables.append(markdown(head, lines))
    return "\n\n".join(tables)


@later("retrained")
def fewer_words() -> str:
    """Which tied Skew-HiPPO models a smaller truncated one beats, task by task."""
    table = rows()
    bases = table.arm.isin(claims.AT_ANY_SIZE.values())
    table = claims.fewer_parameters(table[~bases | (table.sharing == "tied")])
    table = table[table.compared > 0]
    many, lines = len(complete()) >= MANY, []
    for (task, transfer), part in table.groupby(["task", "transfer"], sort=False):
        if task == "all" and not many:
            continue
        beaten = part[part.method.notna()]
        each = [
            f"r = {row.rank} by `{row.method}` with r = {row.small_rank:.0f} "
            f"({points(row.mean, sign=True)})"
            for row in beaten.itertuples()
        ]
        said = f": {'; '.join(each)}" if each else ""
        lines.append(
            f"- {'over all tasks' if task == 'all' else task}, {WORDS[transfer]} minus "
            f"({claims.LETTERS[claims.AT_ANY_SIZE[transfer]]}): {len(beaten)} of {len(part)}{said}."
        )
    return "\n".join(
        fill(line, 100, subsequent_indent="  ", break_on_hyphens=False) for line in lines
    )


@later("retrained")
def parts_table() -> str:
    """What the gain of the paper's method is made of."""
    rank, found = load_scale(SCALE).grid.lr_rank, rows()
    made, shown = claims.parts(found, PAPER, rank), _shown()
    lines = []
    for name, part in made.groupby("part", sort=False):
        cells = part.set_index("task")
        lines.append([str(name), *(_entry(cells.loc[t], t) for t in shown)])
    return markdown([f"points, `{PAPER}`, r = {rank}", *map(_heading, shown)], lines)


@later("retrained")
def claim2_table() -> str:
    """Correlation and slope, within tasks."""
    paths = {task: task_dir(SCALE, task) / "originals.csv" for task in complete("originals.csv")}
    frames = [pd.read_csv(path).assign(task=task) for task, path in paths.items()]
    found = inheritance.claim2(pd.concat(frames, ignore_index=True)) if frames else pd.DataFrame()
    if found.empty:
        return "Poorer originals are still to come (`45_inherit`)."
    lines = [
        [
            f"`{row.method}`, {WORDS[row.transfer]}, r = {row.rank}",
            f"{row.pearson:.2f} ({row.low:.2f} to {row.high:.2f})",
            f"{row.spearman:.2f}",
            f"{row.slope:.2f}",
            f"{row.partial:.2f}",
            row.verdict,
        ]
        for row in found[found.task == "all"].itertuples()
    ]
    head = [
        "compressed and retrained",
        "Pearson",
        "Spearman",
        "slope",
        "given the start",
        "verdict",
    ]
    return markdown(head, lines)


@later("retrained")
def smallest_table() -> str:
    """The smallest rank without a loss."""
    found = smallest.smallest_ranks(rows())
    tasks = [*complete(), *(["all"] if len(complete()) >= MANY else [])]
    lines = []
    for (arm, method), part in found.groupby(["arm", "method"], sort=False):
        equal = part.set_index("task").equal
        cells = [f"{equal[t]:.0f}" if equal[t] == equal[t] else "none" for t in tasks]
        kind = "one shot" if arm == "one-shot" else "retrained"
        lines.append([f"`{method}`, {kind}", *cells])
    return markdown(["smallest r within a point", *tasks], lines)


def picture() -> str:
    """The line that shows the figure."""
    if not complete():
        return ""
    return "![Accuracy against the modes that are kept, tied poles](../results/study/report.png)"


def figure() -> None:
    """Accuracy against modes for the complete tasks: results/study/report.png."""
    if not complete():
        return
    cells = cells_of(rows())
    drawn = cells.method.isna() | cells.method.isin([PAPER, "weighted-shared"])
    shown = cells[(cells.arm != "one-shot") & drawn & (cells.sharing == "tied")]
    done = complete()
    use_style()
    drawing, axes = plt.subplots(
        1, len(done), figsize=(1.5 + 3.2 * len(done), 3.2), squeeze=False, layout="constrained"
    )
    for ax, task in zip(axes.flat, done):
        figures.accuracy_against_rank(ax, shown[shown.task == task], chance_of(SCALE, task))
        ax.set_title(task)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside right center", fontsize=7)
    save(drawing, task_dir(SCALE) / "report.png")


if __name__ == "__main__":
    figure()
