"""Figures of how well truncated models keep their answers: functions of (axes, tables)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from s4bt.reduction.methods import METHODS
from s4bt.study.care import star
from s4bt.study.figures import PERCENT
from s4bt.study.styles import method_style

CONDITIONS = {  # of `robustness` and of retraining, with colour and marker
    "as_is": ("as it is", "#333333", "o"),
    "longer": ("inputs twice as long", "#0173b2", "s"),
    "perturbed": ("stored numbers off by 1 %", "#d55e00", "^"),
    "whole": ("retrained, whole", "#029e73", "D"),
    "dss": ("retrained, DSS only", "#cc78bc", "v"),
}


def careful(axes, lost: pd.DataFrame, chosen: dict[str, dict[str, float]]) -> None:
    """Points lost against eps and against mu, mean over the tasks, two panels for each method.

    lost: of `care.losses`; chosen: the defaults of each method, dotted lines.
    """
    labels = {"perturbation": "perturbation, eps", "white": "white input, mu"}
    panels = [(method, column) for method in chosen for column in labels]
    for ax, (method, column) in zip(axes, panels, strict=True):
        fits = star(lost, method, column, chosen[method])
        part = fits.groupby(column)[list(CONDITIONS)].mean()
        places = np.arange(len(part))
        for name, (label, colour, marker) in CONDITIONS.items():
            style = {"color": colour, "marker": marker, "ms": 4, "lw": 1.2}
            ax.plot(places, -PERCENT * part[name], label=label, **style)
        default = chosen[method][column]
        if default in part.index:
            ax.axvline(list(part.index).index(default), color="0.6", ls=":", lw=1)
        ax.axhline(0, color="0.2", lw=0.8)
        ax.set_xticks(places, [f"{value:g}" for value in part.index], fontsize=7)
        ax.set(xlabel=labels[column], title=method)
    axes[0].set_ylabel("change in accuracy, points")


def robust(axes, lost: pd.DataFrame) -> None:
    """Points lost by every method under three conditions, one panel for each rank.

    lost: of `care.robust_losses`, by method and rank.
    """
    ranks = sorted(set(lost.index.get_level_values("rank")))
    names = [name for name in METHODS if name in lost.index]
    for ax, rank in zip(axes, ranks):
        part = lost.xs(rank, level="rank").reindex(names)
        for name in ("as_is", "longer", "perturbed"):
            label, colour, marker = CONDITIONS[name]
            places = np.arange(len(names))
            ax.plot(-part[name], places, ls="", ms=5, color=colour, marker=marker, label=label)
        ax.axvline(0, color="0.2", lw=0.8)
        ax.set_yticks(np.arange(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set(xlabel="change in accuracy, points", title=f"r = {rank}")


def kinds_of_poles(axes, cells: dict[str, pd.DataFrame]) -> None:
    """Accuracy against the numbers that the DSS layers store, a panel for each of `cells`.

    cells: rows with columns method, mean and parameters. Full lines: poles that the channels share;
    dashed: poles of each channel's own.
    """
    for ax, (title, part) in zip(axes, cells.items()):
        for name in filter(set(part.method).__contains__, METHODS):
            rows = part[part.method == name].sort_values("parameters")
            line = "-" if METHODS[name].tied else "--"
            mean = PERCENT * rows["mean"]
            ax.plot(rows.parameters, mean, ls=line, lw=1.2, ms=5, **method_style(name))
        ax.set(xlabel="parameters of the DSS layers", xscale="log", title=title)
    axes[0].set_ylabel("accuracy, %, mean over the tasks")
