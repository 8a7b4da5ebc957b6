"""From the tables of the stages to summary.csv, intervals and paired gains.

cell   one task, arm, reducer, transfer, kind of poles and rank: what the seeds of a configuration share
"""
from __future__ import annotations

import json

import numpy as np
import pandas as pd
from scipy import stats

from s4bt.config import load_task
from s4bt.files import task_dir

CELL = ["task", "arm", "reducer", "transfer", "poles", "rank"]          # what identifies a configuration, up to the seed
COLUMNS = [*CELL, "seed", "lr", "accuracy", "val_accuracy", "start_accuracy", "pretrained_accuracy", "parameters",
           "state_space_parameters", "steps", "steps_total", "seconds"]


def summary(scale: str, task: str) -> pd.DataFrame:
    """One row per arm, rank and seed of a task, with the columns COLUMNS.

    pretrained_accuracy is that of the large model of the same seed; start_accuracy that of the model right before post-training,
    where it starts as a whole network that was measured (one-shot or pretrained).
    """
    folder = task_dir(scale, task)
    config, _ = load_task(scale, task)
    pre = pd.read_csv(folder / "pretrain.csv").assign(arm="pretrained", rank=config.model.state, poles="tied")
    one = pd.read_csv(folder / "truncate.csv").assign(transfer="whole", steps=0)
    post = pd.read_csv(folder / "retrain.csv")
    before = post.arm.isin(["truncated", "untruncated", "skew-hippo-rest"])
    frames = [pre.assign(steps_total=pre.steps), one.assign(steps_total=config.pretrain.steps),
              post.assign(steps_total=post.steps + before * config.pretrain.steps)]
    rows = pd.concat(frames, ignore_index=True).assign(task=task)
    rows["pretrained_accuracy"] = rows.seed.map(pre.set_index("seed").accuracy)
    start = ["transfer", "reducer", "rank", "seed"]
    rows = rows.merge(one[[*start, "accuracy"]].rename(columns={"accuracy": "start_accuracy"}).assign(arm="truncated"), "left")
    rows.loc[rows.arm == "untruncated", "start_accuracy"] = rows.pretrained_accuracy
    seconds = {}
    for phase in ("pretrain", "truncate", "retrain"):
        seconds |= {name: entry["seconds"] for name, entry in json.loads((folder / f"seconds-{phase}.json").read_text()).items()}
    rows["seconds"] = rows.name.map(seconds)
    tied = rows.reducer.map(lambda name: "tied" if name == "bt-shared" else "per-channel", na_action="ignore")
    rows["poles"] = rows.poles.fillna(tied).fillna("tied")
    return rows[COLUMNS].sort_values([*CELL, "seed"], ignore_index=True, na_position="first")


def intervals(rows: pd.DataFrame, value: str = "accuracy", level: float = 0.95) -> pd.DataFrame:
    """Mean and half-width of its t interval for every cell: columns mean, half, seeds, df.

    Seed-to-seed variance is pooled over the ranks of an arm of a task (one-way analysis of variance), because a variance from
    two or three seeds alone says little: half = t(level, df) s / sqrt(seeds), df = sum over ranks of (seeds - 1), a column, too.
    The level is nominal: seeds that are lucky at one rank and at the others, too, make the intervals of two seeds cover less
    (docs/decisions/0003).
    """
    by = [c for c in CELL if c in rows]
    cells = rows.groupby(by, dropna=False)[value].agg(mean="mean", var="var", seeds="size").reset_index()
    pools = cells.assign(df=cells.seeds - 1, ss=cells["var"].fillna(0) * (cells.seeds - 1))
    sums = pools.groupby([c for c in by if c != "rank"], dropna=False)[["ss", "df"]].transform("sum")
    cells["df"] = sums.df
    s = np.sqrt(sums.ss / sums.df.where(sums.df > 0))
    cells["half"] = stats.t.ppf(0.5 + level / 2, sums.df.where(sums.df > 0)) * s / np.sqrt(cells.seeds)
    return cells.drop(columns="var")


def gains(rows: pd.DataFrame, against: str = "skew-hippo") -> pd.DataFrame:
    """Accuracy of the retrained truncated models minus that of a baseline of the same task, rank, seed and kind of poles.

    Columns of CELL, seed and gain; only where that baseline was run. Control (e), "skew-hippo-rest", starts from a pretrained
    rest of the network, so only the whole truncated network is compared with it.
    """
    base = rows[rows.arm == against][["task", "rank", "seed", "poles", "accuracy"]]
    truncated = rows[(rows.arm == "truncated") & ((rows.transfer == "whole") | (against != "skew-hippo-rest"))]
    merged = truncated.merge(base, on=["task", "rank", "seed", "poles"], suffixes=("", "_base"))
    return merged.assign(gain=merged.accuracy - merged.accuracy_base, arm=against)[[*CELL, "seed", "gain"]]


def across_tasks(gain: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Mean gain per reducer, transfer and rank with a t interval over tasks, and the number of tasks with a positive mean.

    gain: output of `gains`. Runs of one task are averaged first, so that n is the number of tasks. Six tasks, two of them
    alike, are no random sample: the interval describes their spread.
    """
    by = ["reducer", "transfer", "rank"]
    tasks = gain.groupby([*by, "task"]).gain.mean().reset_index()
    out = tasks.groupby(by).gain.agg(mean="mean", sd="std", tasks="size", wins=lambda g: int((g > 0).sum()))
    out["half"] = stats.t.ppf(0.5 + level / 2, out.tasks - 1) * out.sd / np.sqrt(out.tasks)
    return out.drop(columns="sd").reset_index()


def one_shot_losses(rows: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Accuracy of the pretrained model minus that of the truncated one without retraining, by reducer and rank: columns task, loss, half, runs.

    Per task the mean over seeds, with a t interval over them; task "all": the mean over tasks of those means, with a t interval over
    tasks.
    """
    part = rows[rows.arm == "one-shot"].assign(loss=lambda r: r.pretrained_accuracy - r.accuracy)
    half = lambda g: stats.t.ppf(0.5 + level / 2, g.size - 1) * g.std() / np.sqrt(g.size) if g.size > 1 else np.nan  # noqa: E731
    tasks = part.groupby(["reducer", "rank", "task"], sort=False).loss.agg(loss="mean", half=half, runs="size").reset_index()
    overall = tasks.groupby(["reducer", "rank"], sort=False).loss.agg(loss="mean", half=half, runs="size").reset_index().assign(task="all")
    return pd.concat([overall, tasks], ignore_index=True)[["task", "reducer", "rank", "loss", "half", "runs"]]


def correlations(rows: pd.DataFrame) -> dict[str, float]:
    """Pearson's correlation of retrained with pretrained accuracy, truncated models: over all tasks, and inside them.

    Inside: both accuracies minus their means over the seeds of a cell, so that easy and hard tasks do not count.
    """
    part = rows[rows.arm == "truncated"]
    both = ["pretrained_accuracy", "accuracy"]
    inside = part[both] - part.groupby(CELL, dropna=False)[both].transform("mean")
    pick = lambda f: round(float(f.pretrained_accuracy.corr(f.accuracy)), 6)  # noqa: E731
    return {"over_tasks": pick(part), "inside_tasks": pick(inside)}
