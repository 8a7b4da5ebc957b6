"""The study's figures: functions of (ax, arrays) that load nothing. One style, one colour per arm, readable in grey."""
from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import LogLocator, NullLocator

from s4bt.config import TASK_NAMES

_PALETTE = sns.color_palette("colorblind")
# colour and marker of every reducer; grey prints keep marker and line style apart
REDUCERS = {"bt-shared": (_PALETTE[0], "o"), "bt-channel": (_PALETTE[2], "s"), "bt-discrete": (_PALETTE[4], "D"),
            "bt-limited": (_PALETTE[6], "h"), "singular-perturbation": (_PALETTE[7], "x"), "modal": ((0.55, 0.35, 0.0), "v"),
            "h2": (_PALETTE[5], "p"), "hankel": (_PALETTE[8], "+"), "weighted": (_PALETTE[3], "*")}
# label, colour, marker, line style
STYLES = {
    ("skew-hippo", "", "tied"): ("(a) Skew-HiPPO, retraining steps", _PALETTE[1], "<", "-"),
    ("skew-hippo", "", "per-channel"): ("(a) Skew-HiPPO per channel", _PALETTE[1], "<", "--"),
    ("skew-hippo-long", "", "tied"): ("(b) Skew-HiPPO, all steps", _PALETTE[9], "^", "-."),
    ("untruncated", "", "tied"): ("(d) untruncated, trained on", "0.2", "D", "--"),
    ("skew-hippo-rest", "", "tied"): ("(e) Skew-HiPPO, pretrained rest", "0.4", "P", "-."),
    ("skew-hippo-rest", "", "per-channel"): ("(e) Skew-HiPPO per channel, pretrained rest", "0.4", "P", ":"),
    ("pretrained", "", "tied"): ("pretrained", "0.2", "*", "-"),
    **{("truncated", name, "whole"): (f"{name}, whole network", *look, "-") for name, look in REDUCERS.items()},
    **{("truncated", name, "dss"): (f"{name}, DSS parameters only", *look, "--") for name, look in REDUCERS.items()},
    **{("one-shot", name, "whole"): (f"(c) {name}, no retraining", *look, ":") for name, look in REDUCERS.items()},
}


def _of_method(label: str):
    """Colour of the reducer that a label begins with."""
    return REDUCERS[label.split(",")[0]][0]


def use_style() -> None:
    """The study's style sheet."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", rc={
        "figure.dpi": 80, "savefig.dpi": 110, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3,
        "legend.frameon": False, "font.size": 9, "axes.titlesize": 10})


def style_of(row) -> tuple:
    """Label, colour, marker and line style of a row of the summary."""
    text = lambda x: x if isinstance(x, str) else ""  # noqa: E731
    arm, reducer, transfer, poles = (text(getattr(row, c)) for c in ("arm", "reducer", "transfer", "poles"))
    return STYLES[(arm, reducer, transfer if reducer else poles)]


def _curves(ax, cells: pd.DataFrame, x: str, chance: float | None) -> None:
    curves = list(cells.groupby(["arm", "reducer", "transfer", "poles"], dropna=False, sort=False))
    for k, (_, part) in enumerate(curves):
        part = part.sort_values(x)
        label, colour, marker, line = style_of(next(part.itertuples()))
        if part.arm.iloc[0] in ("pretrained", "untruncated") and x == "rank":
            ax.axhline(100 * part["mean"].iloc[0], color=colour, ls=line, lw=1, label=f"{label}, N = {part['rank'].iloc[0]}")
            continue
        aside = 2 ** (0.3 * (k / len(curves) - 0.5)) if x == "rank" else 1       # so that bars do not hide each other
        ax.errorbar(aside * part[x], 100 * part["mean"], 100 * part.half.where(part.df > 1), color=colour, marker=marker, ls=line, ms=4,
                    lw=1, capsize=2, label=label)
    if chance is not None:
        ax.axhline(100 * chance, color="0.6", ls=(0, (1, 3)), label="most frequent label")
    ax.set_ylabel("test accuracy, %")


def accuracy_against_rank(ax, cells: pd.DataFrame, chance: float | None = None) -> None:
    """cells: output of s4bt.summary.intervals; its intervals are drawn where the variance has more than one degree of freedom."""
    _curves(ax, cells, "rank", chance)
    ax.set_xscale("log", base=2)
    ax.set_xlabel("modes kept, r")
    ranks = sorted(set(cells["rank"]) - set(cells[cells.arm.isin(["pretrained", "untruncated"])]["rank"]))
    ax.set_xticks(ranks, ranks)


def accuracy_against_parameters(ax, cells: pd.DataFrame, chance: float | None = None) -> None:
    """cells as above, with a column parameters."""
    _curves(ax, cells, "parameters", chance)
    ax.set_xscale("log")
    ax.set_xlabel("parameters")


def one_shot(ax, cells: pd.DataFrame, chance: float | None = None) -> None:
    """cells as above: the truncated models without retraining, one line per reducer, beside the pretrained one."""
    for name, (colour, marker) in REDUCERS.items():
        part = cells[(cells.arm == "one-shot") & (cells.reducer == name)].sort_values("rank")
        if len(part):
            ax.plot(part["rank"], 100 * part["mean"], color=colour, marker=marker, ls="-" if name == "weighted" else ":", ms=5, lw=1.1,
                    label=name)
    before = cells[cells.arm == "pretrained"]
    if len(before):
        ax.axhline(100 * before["mean"].iloc[0], color="0.2", lw=1, label=f"pretrained, N = {before['rank'].iloc[0]}")
    if chance is not None:
        ax.axhline(100 * chance, color="0.6", ls=(0, (1, 3)), label="most frequent label")
    ranks = sorted(cells[cells.arm == "one-shot"]["rank"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(ranks, ranks)
    ax.set(xlabel="modes kept, r", ylabel="test accuracy, %")


def one_shot_and_retrained(axes, cells: pd.DataFrame, chance: float | None = None) -> None:
    """Two axes: `one_shot` on the left; on the right the whole networks after retraining, and their baselines (d) and (e)."""
    one_shot(axes[0], cells, chance)
    whole = (cells.arm == "truncated") & (cells["transfer"] == "whole")
    accuracy_against_rank(axes[1], cells[whole | (cells.arm == "untruncated") | ((cells.arm == "skew-hippo-rest") & (cells.poles == "tied"))],
                          chance)
    axes[1].set_ylabel("")


def learning_curves(ax, curves: pd.DataFrame, chance: float | None = None) -> None:
    """curves: columns step, val_accuracy, seed."""
    for seed, part in curves.groupby("seed"):
        ax.plot(part.step, 100 * part.val_accuracy, marker=".", lw=1, label=f"seed {seed}")
    if chance is not None:
        ax.axhline(100 * chance, color="0.6", ls=(0, (1, 3)), label="most frequent label")
    ax.set(xlabel="step", ylabel="validation accuracy, %")
    ax.legend(fontsize=7)


def hankel_singular_values(ax, values: pd.DataFrame) -> None:
    """values: columns layer, index (from 1), sigma; relative to the largest of the layer."""
    for (layer, part), line in zip(values.groupby("layer"), ("-", "--", "-.", ":") * 8):
        ax.semilogy(part["index"], part.sigma / part.sigma.max(), ls=line, lw=1.2, label=f"layer {layer}")
    ax.set(xlabel="index", ylabel="Hankel singular value / largest")
    ax.legend(fontsize=7)


def kernels(ax, before: np.ndarray, after: dict[str, np.ndarray], steps: int = 64) -> None:
    """before (L,): kernel of one channel; after: kernels of the truncated layer by label."""
    ax.plot(before[:steps], color="0.2", lw=1.6, label="before")
    for (label, kernel), line in zip(after.items(), ("--", ":", "-.")):
        ax.plot(kernel[:steps], lw=1.1, ls=line, color=_of_method(label), label=label)
    ax.set(xlabel="lag, steps", ylabel="kernel K")
    ax.legend(fontsize=7)


def poles(ax, before: np.ndarray, after: dict[str, np.ndarray]) -> None:
    """Poles in the left half-plane, logarithmic damping: before (N,), after by label."""
    ax.scatter(-before.real, before.imag, s=9, color="0.5", marker=".", label="before")
    for (label, values), marker in zip(after.items(), ("o", "s", "^")):
        ax.scatter(-values.real, values.imag, s=16, marker=marker, facecolors="none", edgecolors=_of_method(label), linewidths=0.8,
                   label=label)
    ax.set(xlabel="damping, -Re lambda (1 / time)", ylabel="frequency, Im lambda (rad / time)", xscale="log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_yscale("symlog", linthresh=1)
    ax.legend(fontsize=7)


def accuracy_against_accuracy(ax, rows: pd.DataFrame, x: str, label: str) -> None:
    """Accuracy after post-training against another accuracy of the same run, column x of the summary."""
    for _, part in rows.groupby(["arm", "reducer", "transfer", "poles"], dropna=False, sort=False):
        name, colour, marker, _ = style_of(next(part.itertuples()))
        ax.scatter(100 * part[x], 100 * part.accuracy, s=18, color=colour, marker=marker, label=name, alpha=0.8)
    low, high = 100 * rows[[x, "accuracy"]].min().min(), 100 * rows[[x, "accuracy"]].max().max()
    ax.plot([low, high], [low, high], color="0.6", lw=0.8, ls=(0, (1, 3)), label="equal")
    ax.set(xlabel=label, ylabel="accuracy after post-training, %")


def gains_by_task(ax, cells: pd.DataFrame) -> None:
    """cells: intervals of the paired gains, columns task, reducer, transfer, rank, mean, half, df; one dodge per configuration.

    Bars only where the variance has more than one degree of freedom.
    """
    tasks, ranks = [task for task in TASK_NAMES if task in set(cells.task)], sorted(cells["rank"].unique())
    groups = list(cells.groupby(["reducer", "transfer"], sort=True))
    for k, ((reducer, transfer), part) in enumerate(groups):
        label, colour, marker, _ = STYLES[("truncated", reducer, transfer)]
        for j, rank in enumerate(ranks):
            rows = part[part["rank"] == rank].set_index("task").reindex(tasks)
            x = np.arange(len(tasks)) + (j - (len(ranks) - 1) / 2) * 0.28 + (k - (len(groups) - 1) / 2) * 0.055
            ax.errorbar(x, 100 * rows["mean"], 100 * rows.half.where(rows.df > 1), ls="", marker=marker, ms=4, capsize=1.5, lw=0.8, color=colour,
                        markerfacecolor=colour if transfer == "whole" else "none", label=label if j == 0 else None)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.margins(x=0.02)
    ax.set_xticks(np.arange(len(tasks)), [f"{t}\nr = {', '.join(map(str, ranks))}" for t in tasks])
    ax.set_ylabel("gain in test accuracy, points")
    ax.grid(axis="x", visible=False)


def save(figure, path) -> None:
    """Write a PNG without metadata that would change from one execution to the next."""
    figure.savefig(path, metadata={"Software": None})
    plt.show()
