"""From the tables of the stages to the summary, intervals and paired gains.

cell   one task, arm, method, transfer, kind of poles and rank: what the seeds of a configuration
       share
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from scipy import stats

from s4bt.files import ROOT
from s4bt.reduction.methods import METHODS
from s4bt.study.config import load_task
from s4bt.study.places import existing, task_dir
from s4bt.tasks import TASKS

# What identifies a configuration, up to the seed.
CELL = ["task", "arm", "method", "transfer", "sharing", "rank"]
COLUMNS = [
    *CELL,
    "seed",
    "lr",
    "accuracy",
    "val_accuracy",
    "start_accuracy",
    "pretrained_accuracy",
    "parameters",
    "state_space_parameters",
    "steps",
    "steps_total",
    "seconds",
]
LEVEL = 0.95  # of intervals, nominal
# Arms that retrain such a model, or parts of it.
FROM_PRETRAINED = ["truncated", "untruncated", "skew-hippo-rest", "skew-hippo-steps"]


def sharing_of(method: str) -> str:
    """Whether a method leaves poles "tied" or "per-channel"."""
    return "tied" if METHODS[method].tied else "per-channel"


def _seconds(scale: str, task: str) -> dict[str, float]:
    """Seconds of every run, by its name."""
    found = {}
    for phase in ("pretrain", "truncate", "retrain"):
        entries = json.loads((task_dir(scale, task) / f"seconds-{phase}.json").read_text())
        found |= {name: entry["seconds"] for name, entry in entries.items()}
    return found


def summary(scale: str, task: str) -> pd.DataFrame:
    """One row per arm, rank and seed of a task, with the columns COLUMNS.

    pretrained_accuracy is that of the large model of the same seed; start_accuracy that of the
    model right before retraining, where it starts as a whole network that was measured (one-shot or
    pretrained).
    """
    folder = task_dir(scale, task)
    config, _ = load_task(scale, task)
    pre = pd.read_csv(folder / "pretrain.csv")
    pre = pre.assign(arm="pretrained", rank=config.model.state, sharing="tied")
    one = pd.read_csv(folder / "truncate.csv").assign(transfer="whole", steps=0)
    post = pd.read_csv(folder / "retrain.csv")
    before = post.arm.isin(FROM_PRETRAINED) * config.pretrain.steps
    frames = [
        pre.assign(steps_total=pre.steps),
        one.assign(steps_total=config.pretrain.steps),
        post.assign(steps_total=post.steps + before),
    ]
    rows = pd.concat(frames, ignore_index=True).assign(task=task)
    rows["pretrained_accuracy"] = rows.seed.map(pre.set_index("seed").accuracy)
    start = one[["transfer", "method", "rank", "seed", "accuracy"]]
    start = start.rename(columns={"accuracy": "start_accuracy"}).assign(arm="truncated")
    rows = rows.merge(start, "left")
    rows.loc[rows.arm == "untruncated", "start_accuracy"] = rows.pretrained_accuracy
    rows["seconds"] = rows.name.map(_seconds(scale, task))
    sharing = rows.method.map(sharing_of, na_action="ignore")
    rows["sharing"] = rows.sharing.fillna(sharing).fillna("tied")
    return rows[COLUMNS].sort_values([*CELL, "seed"], ignore_index=True, na_position="first")


def half_width(values: pd.Series, level: float = LEVEL) -> float:
    """Half-width of the t interval of a mean, nan of a single value."""
    if values.size < 2:
        return float("nan")
    t = stats.t.ppf(0.5 + level / 2, values.size - 1)
    return t * values.std() / np.sqrt(values.size)


def intervals(rows: pd.DataFrame, value: str = "accuracy", level: float = LEVEL) -> pd.DataFrame:
    """Mean and half-width of its t interval for every cell: columns mean, half, seeds, df.

    Seed-to-seed variance is pooled over the ranks of an arm of a task (one-way analysis of
    variance), because a variance from two or three seeds alone says little: half = t(level, df) s /
    sqrt(seeds), df = sum over ranks of (seeds - 1), a column, too. The level is nominal: seeds that
    are lucky at one rank and at the others, too, make the intervals of two seeds cover less
    (docs/decisions/0003).
    """
    by = [c for c in CELL if c in rows]
    cells = rows.groupby(by, dropna=False)[value].agg(mean="mean", var="var", seeds="size")
    cells = cells.reset_index()
    pools = cells.assign(df=cells.seeds - 1, ss=cells["var"].fillna(0) * (cells.seeds - 1))
    arms = [c for c in by if c != "rank"]
    sums = pools.groupby(arms, dropna=False)[["ss", "df"]].transform("sum")
    cells["df"] = sums.df
    df = sums.df.where(sums.df > 0)
    s = np.sqrt(sums.ss / df)
    cells["half"] = stats.t.ppf(0.5 + level / 2, df) * s / np.sqrt(cells.seeds)
    return cells.drop(columns="var")


def gains(rows: pd.DataFrame, against: str = "skew-hippo") -> pd.DataFrame:
    """Accuracy of the retrained truncated models minus that of a baseline.

    Of the same task, rank, seed and kind of poles: columns of CELL, seed and gain; only where that
    baseline was run. Control (e), "skew-hippo-rest", starts from a pretrained rest of the network,
    so only the whole truncated network is compared with it.
    """
    same = ["task", "rank", "seed", "sharing"]
    base = rows[rows.arm == against][[*same, "accuracy"]]
    fair = (rows.transfer == "whole") | (against != "skew-hippo-rest")
    merged = rows[(rows.arm == "truncated") & fair].merge(base, on=same, suffixes=("", "_base"))
    gain = merged.accuracy - merged.accuracy_base
    return merged.assign(gain=gain, arm=against)[[*CELL, "seed", "gain"]]


def across_tasks(gain: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Mean gain per method, transfer and rank with a t interval over tasks; wins: tasks above zero.

    gain: output of `gains`. Runs of one task are averaged first, so that n is the number of tasks.
    Six tasks, two of them alike, are no random sample: the interval describes their spread.
    """
    by = ["method", "transfer", "rank"]
    tasks = gain.groupby([*by, "task"]).gain.mean().reset_index()

    def wins(g: pd.Series) -> int:
        return int((g > 0).sum())

    out = tasks.groupby(by).gain.agg(mean="mean", sd="std", tasks="size", wins=wins)
    t = stats.t.ppf(0.5 + level / 2, out.tasks - 1)
    out["half"] = t * out.sd / np.sqrt(out.tasks)
    return out.drop(columns="sd").reset_index()


def one_shot_losses(rows: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Accuracy of the pretrained model minus that of the truncated one without retraining.

    Columns task, method, rank, loss, half, runs. Per task the mean over seeds, with a t interval
    over them; task "all": the mean over tasks of those means, with a t interval over tasks.
    """
    part = rows[rows.arm == "one-shot"]
    part = part.assign(loss=part.pretrained_accuracy - part.accuracy)

    def half(values: pd.Series) -> float:
        return half_width(values, level)

    by, columns = ["method", "rank"], {"loss": "mean", "half": half, "runs": "size"}
    tasks = part.groupby([*by, "task"], sort=False).loss.agg(**columns).reset_index()
    overall = tasks.groupby(by, sort=False).loss.agg(**columns).reset_index()
    whole = pd.concat([overall.assign(task="all"), tasks], ignore_index=True)
    return whole[["task", *by, "loss", "half", "runs"]]


def correlations(rows: pd.DataFrame) -> dict[str, float]:
    """Pearson's correlation of retrained with pretrained accuracy, over all tasks and inside them.

    Of truncated models. Inside: both accuracies minus their means over the seeds of a cell, so that
    easy and hard tasks do not count.
    """
    part = rows[rows.arm == "truncated"]
    both = ["pretrained_accuracy", "accuracy"]
    inside = part[both] - part.groupby(CELL, dropna=False)[both].transform("mean")

    def pearson(frame: pd.DataFrame) -> float:
        return float(frame.pretrained_accuracy.corr(frame.accuracy))

    return {"over_tasks": pearson(part), "inside_tasks": pearson(inside)}


def with_milliseconds(cells: pd.DataFrame, scale: str) -> pd.DataFrame:
    """The cells with a column milliseconds: forward, 32 sequences, one thread (`make bench`).

    From results/bench/model.csv, by task, kind of poles and rank; nan where it was not measured.
    """
    times = pd.read_csv(ROOT / "results" / "bench" / "model.csv").query("scale == @scale")
    return cells.merge(times.drop(columns="scale"), on=["task", "sharing", "rank"], how="left")


def tables_of(scale: str, name: str, stage: str) -> pd.DataFrame:
    """results/<scale>/<task>/<name> of all six tasks, with a column task.

    Raises UserError, with the command of the stage, if one is missing.
    """
    paths = {t: existing(task_dir(scale, t) / name, scale, f"{stage}@{t}") for t in TASKS}
    frames = [pd.read_csv(path).assign(task=task) for task, path in paths.items()]
    return pd.concat(frames, ignore_index=True)


def all_tasks(scale: str) -> pd.DataFrame:
    """`summary` of all six tasks.

    Raises UserError, with the command, if a task was not retrained.
    """
    for task in TASKS:
        existing(task_dir(scale, task) / "retrain.csv", scale, f"retrain@{task}")
    return pd.concat([summary(scale, task) for task in TASKS], ignore_index=True)


def cells_of(rows: pd.DataFrame) -> pd.DataFrame:
    """`intervals` of a summary, with the sizes of the models."""
    sizes = rows.groupby(CELL, dropna=False)[["parameters", "state_space_parameters"]].first()
    return intervals(rows).merge(sizes.reset_index())


def chance_of(scale: str, task: str) -> float:
    """Accuracy of always answering the most frequent training label."""
    return json.loads((task_dir(scale, task) / "data.json").read_text())["chance"]
