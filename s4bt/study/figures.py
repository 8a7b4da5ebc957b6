"""The study's figures: functions of (ax, arrays) that load nothing.

The style is that of `s4bt.study.styles`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from s4bt.reduction.methods import METHODS
from s4bt.study.styles import method_style, style_of
from s4bt.tasks import TASKS

DODGE = 0.6  # octaves over which the arms at one rank are spread: bars do not hide each other
NARROW = 0.07  # octaves from one of a few curves to the next
LINES = ("-", "--", "-.", ":")
PERCENT = 100.0


def _bars(cells: pd.DataFrame) -> pd.Series:
    """Half-widths in percent, only where the variance has more than one degree of freedom."""
    return PERCENT * cells.half.where(cells.df > 1)


def _arms(cells: pd.DataFrame) -> list[pd.DataFrame]:
    by = ["arm", "method", "transfer", "sharing"]
    return [part for _, part in cells.groupby(by, dropna=False, sort=False)]


def _chance(ax, chance: float | None) -> None:
    if chance is not None:
        line = (0, (1, 3))
        ax.axhline(PERCENT * chance, color="0.6", ls=line, label="most frequent label")


def accuracy_against_rank(ax, cells: pd.DataFrame, chance: float | None = None) -> None:
    """cells: output of `intervals`; an untruncated model is a line across."""
    arms, ranks = _arms(cells), set()
    for k, part in enumerate(arms):
        part, style = part.sort_values("rank"), style_of(next(part.itertuples()))
        if part.arm.iloc[0] in ("pretrained", "untruncated"):
            label = f"{style.label}, N = {part['rank'].iloc[0]}"
            level = PERCENT * part["mean"].iloc[0]
            ax.axhline(level, color=style.colour, ls=style.line, lw=1, label=label)
            continue
        ranks |= set(part["rank"])
        aside = 2 ** (DODGE * (k / max(1, len(arms) - 1) - 0.5))
        ax.errorbar(
            aside * part["rank"],
            PERCENT * part["mean"],
            _bars(part),
            ls=style.line,
            ms=4,
            lw=1,
            elinewidth=0.8,
            capsize=2,
            label=style.label,
            **style.options(),
        )
    _chance(ax, chance)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="modes kept, r", ylabel="test accuracy, %")
    ax.set_xticks(sorted(ranks), sorted(ranks))


def pareto(ax, cells: pd.DataFrame, x: str, label: str) -> None:
    """Accuracy against a cost, column x of the cells; the line joins those that nothing beats."""
    for part in _arms(cells):
        part, style = part.sort_values(x), style_of(next(part.itertuples()))
        size = 8 if style.marker == "*" else 5
        mean = PERCENT * part["mean"]
        ax.plot(part[x], mean, ls="", ms=size, label=style.label, **style.options())
    ordered = cells.sort_values([x, "mean"], ascending=[True, False])
    best = ordered[ordered["mean"] > ordered["mean"].cummax().shift(fill_value=-1)]
    ax.step(best[x], PERCENT * best["mean"], where="post", color="0.5", lw=0.8, zorder=0)
    ax.set(xlabel=label, ylabel="test accuracy, %", xscale="log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())


def one_shot(ax, cells: pd.DataFrame, chance: float | None = None) -> None:
    """Accuracy without retraining, a curve for each method, and the pretrained model's.

    cells: of one task.
    """
    truncated = cells[cells.arm == "one-shot"]
    for name, method in METHODS.items():
        part = truncated[truncated.method == name].sort_values("rank")
        line = "-" if method.needs_data else ":"
        if len(part):
            mean = PERCENT * part["mean"]
            ax.plot(part["rank"], mean, ls=line, lw=1.1, ms=5, **method_style(name))
    before = cells[cells.arm == "pretrained"].iloc[0]
    label = f"pretrained, N = {before['rank']}"
    ax.axhline(PERCENT * before["mean"], color="0.2", lw=1, label=label)
    _chance(ax, chance)
    ranks = sorted(set(truncated["rank"]))
    ax.set_xscale("log", base=2)
    ax.set_xticks(ranks, ranks)
    ax.set(xlabel="modes kept, r", ylabel="test accuracy, %")


def kept_accuracy(ax, losses: pd.DataFrame, methods: dict[str, str], state: int) -> None:
    """Change of accuracy without retraining, mean over the tasks; labels stand at the curves.

    losses: rows of `one_shot_losses` of task "all", bars half; methods: what a method is called in
    the picture.
    """
    for k, (name, words) in enumerate(methods.items()):
        part, style = losses[losses.method == name].sort_values("rank"), method_style(name)
        x, change = 2 ** (k * NARROW) * part["rank"], -PERCENT * part.loss
        ax.errorbar(
            x, change, PERCENT * part.half, lw=1.6, ms=6, elinewidth=0.8, capsize=2, **style
        )
        place = part["rank"].iloc[0], change.iloc[0]
        options = {"textcoords": "offset points", "ha": "right", "va": "center"}
        ax.annotate(words, place, xytext=(-8, 0), color=style["color"], **options)
    ax.axhline(0, color="0.2", lw=1)
    ranks = sorted(set(losses["rank"]))
    ax.set_xscale("log", base=2)
    ax.set_xlim(ranks[0] / 3.4, ranks[-1] * 1.15)
    ax.set_xticks(ranks, [f"{rank} of {state}" for rank in ranks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="modes kept per channel", ylabel="change in test accuracy, points")


def one_shot_and_retrained(axes, cells: pd.DataFrame, chance: float | None = None) -> None:
    """`one_shot` on the left; on the right the retrained whole networks, (d) and (e)."""
    one_shot(axes[0], cells, chance)
    whole = (cells.arm == "truncated") & (cells["transfer"] == "whole")
    rest = (cells.arm == "skew-hippo-rest") & (cells.sharing == "tied")
    accuracy_against_rank(axes[1], cells[whole | rest | (cells.arm == "untruncated")], chance)
    axes[1].set_ylabel("")


def learning_curves(ax, curves: pd.DataFrame, chance: float | None = None) -> None:
    """curves: columns step, val_accuracy and seed."""
    for (seed, part), line in zip(curves.groupby("seed"), LINES * 8):
        accuracy = PERCENT * part.val_accuracy
        ax.plot(part.step, accuracy, ls=line, marker=".", lw=1, label=f"seed {seed}")
    _chance(ax, chance)
    ax.set(xlabel="step", ylabel="validation accuracy, %")
    ax.legend(fontsize=7)


def hankel_values(ax, values: pd.DataFrame) -> None:
    """values: columns method, layer, index (from 1), sigma, each curve relative to its largest."""
    for (name, layer), part in values.groupby(["method", "layer"], sort=False):
        line = LINES[int(layer) % len(LINES)]
        share = part.sigma / part.sigma.max()
        label = f"{name}, layer {layer}"
        ax.semilogy(part["index"], share, ls=line, lw=1.2, color=METHODS[name].colour, label=label)
    ax.set(xlabel="index", ylabel="Hankel singular value / largest")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def error_against_accuracy(axes, errors: pd.DataFrame, columns: dict[str, str]) -> None:
    """Accuracy against each column of errors, one panel for each of `columns` (name: label)."""
    for ax, (column, label) in zip(axes, columns.items()):
        for name in filter(set(errors.method).__contains__, METHODS):
            part = errors[errors.method == name]
            accuracy = PERCENT * part.accuracy
            ax.semilogx(part[column], accuracy, ls="", ms=4, **method_style(name))
        ax.set_xlabel(label)
    axes[0].set_ylabel("test accuracy, %")
    axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _before_and_after(ax, before: np.ndarray, after: dict[str, np.ndarray]) -> None:
    """A sequence before truncation, and after it by method."""
    ax.plot(before, color="0.2", lw=1.6, label="before")
    for (name, values), line in zip(after.items(), LINES[1:]):
        ax.plot(values, lw=1.1, ls=line, color=METHODS[name].colour, label=name)
    ax.legend(fontsize=7)


def kernels(ax, before: np.ndarray, after: dict[str, np.ndarray], steps: int = 64) -> None:
    """before (L,): kernel of one channel; after: kernels of the truncated layer by method."""
    _before_and_after(ax, before[:steps], {name: K[:steps] for name, K in after.items()})
    ax.set(xlabel="lag, steps", ylabel="kernel K")


def poles(ax, before: np.ndarray, after: dict[str, np.ndarray]) -> None:
    """Poles in the left half-plane, logarithmic damping: before (N,), after by method."""
    ax.scatter(-before.real, before.imag, s=9, color="0.5", marker=".", label="before")
    for name, values in after.items():
        method = METHODS[name]
        ax.scatter(
            -values.real,
            values.imag,
            s=18,
            marker=method.marker,
            facecolors="none",
            edgecolors=method.colour,
            linewidths=0.8,
            label=name,
        )
    ax.set(xlabel="damping, -Re lambda (1 / time)", ylabel="frequency, Im lambda (rad / time)")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=4))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_yscale("symlog", linthresh=1)
    ax.yaxis.set_major_locator(FixedLocator([-100, -10, -1, 0, 1, 10, 100]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend(fontsize=7)


def channel_values(ax, sigma: np.ndarray, order: int) -> None:
    """Hankel singular values of one channel's kernel, and which of them `order` states keep."""
    index = np.arange(1, len(sigma) + 1)
    ax.semilogy(index, sigma, ".", ms=3, color="0.5", label="discarded")
    ax.semilogy(index[:order], sigma[:order], "o", ms=4, color="0.2", label="kept")
    ax.set(xlabel="index", ylabel="Hankel singular value")
    ax.legend(fontsize=7)


def modes(ax, single: np.ndarray, whole: np.ndarray, steps: int = 64) -> None:
    """single (r, L): kernels of the single modes; whole (L,): their sum."""
    ax.plot(single[:, :steps].T, lw=0.8, color="0.6")
    ax.plot(whole[:steps], lw=1.4, color="0.1", label=f"sum of the {len(single)} modes")
    ax.set(xlabel="lag, steps", ylabel="kernels of single modes")
    ax.legend(fontsize=7)


def output(ax, before: np.ndarray, after: dict[str, np.ndarray], steps: int = 100) -> None:
    """Output of one channel on one sequence: before (L,), after by method."""
    _before_and_after(ax, before[:steps], {name: y[:steps] for name, y in after.items()})
    ax.set(xlabel="step", ylabel="output of the channel")


def accuracy_against_accuracy(ax, rows: pd.DataFrame, x: str, label: str) -> None:
    """Accuracy after retraining against another accuracy of the run, a column of rows."""
    for part in _arms(rows):
        style = style_of(next(part.itertuples()))
        points = PERCENT * part[x], PERCENT * part.accuracy
        ax.plot(*points, ls="", ms=5, alpha=0.8, label=style.label, **style.options())
    both = rows[[x, "accuracy"]]
    ends = [PERCENT * both.min().min(), PERCENT * both.max().max()]
    ax.plot(ends, ends, color="0.6", lw=0.8, ls=(0, (1, 3)), label="equal")
    ax.set(xlabel=label, ylabel="accuracy after retraining, %")


def gains_by_task(ax, cells: pd.DataFrame) -> None:
    """cells: intervals of the paired gains of one method and transfer, by task and rank.

    Bars only where the variance has more than one degree of freedom.
    """
    if cells.empty:
        ax.text(0.5, 0.5, "not run", ha="center", va="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    tasks = [task for task in TASKS if task in set(cells.task)]
    ranks = sorted(cells["rank"].unique())
    style = style_of(cells.assign(arm="truncated").iloc[0])
    places = np.arange(len(tasks))
    for j, rank in enumerate(ranks):
        rows = cells[cells["rank"] == rank].set_index("task").reindex(tasks)
        x = places + (j - (len(ranks) - 1) / 2) * 0.25
        ax.errorbar(
            x,
            PERCENT * rows["mean"],
            _bars(rows),
            ls="",
            ms=4,
            capsize=2,
            lw=0.8,
            **style.options(),
        )
    ax.axhline(0, color="0.3", lw=0.8)
    ax.margins(x=0.02)
    at = ", ".join(map(str, ranks))
    ax.set_xticks(places, [f"{task}\nr = {at}" for task in tasks], fontsize=7)
    ax.set_ylabel("gain, points")
    ax.grid(axis="x", visible=False)
