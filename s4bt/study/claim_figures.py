"""Figures of the claims: functions of (ax, tables)."""

from __future__ import annotations

import pandas as pd

from s4bt.study.figures import PERCENT
from s4bt.study.styles import method_style


def heirs(ax, originals: pd.DataFrame) -> None:
    """Accuracy after retraining against that of the original, a mean over the seeds for each share.

    originals: of `qualities.table_of`, with a column task. Task means are subtracted, in points.
    """
    both = ["original", "accuracy"]
    by = ["method", "transfer", "rank"]
    for (method, transfer, rank), part in originals.groupby(by, sort=False):
        part = part.assign(**(part[both] - part.groupby("task")[both].transform("mean")))
        mean = PERCENT * part.groupby("share")[both].mean()
        style = method_style(method) | {"label": f"{method}, {transfer}, r = {rank}"}
        line = "-" if transfer == "whole" else "--"
        ax.plot(mean.original, mean.accuracy, ls=line, lw=1, ms=4, alpha=0.9, **style)
    ax.axline((0, 0), slope=1, color="0.6", lw=0.8, ls=(0, (1, 3)))
    ax.set(xlabel="accuracy of the original, points", ylabel="after retraining, points")
    if len(originals):
        ax.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
