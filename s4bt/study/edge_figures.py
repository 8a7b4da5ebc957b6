"""Figures of the stage deploy: accuracy against bits and bytes, poles on a grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from s4bt.deploy.bits import quantised
from s4bt.deploy.cell import Cell
from s4bt.reduction.methods import METHODS
from s4bt.study.styles import method_style

EXAMPLE = ("weighted",)  # the method whose models are deployed
LINES = {"logarithm": "-", "uniform": ":"}


def bits(axes, rows: pd.DataFrame, what: str = "weights") -> None:
    """Accuracy lost against bits, one panel a rank; poles as logarithm and angle, or uniform."""
    exact = rows[rows.what == "floats"].set_index(["method", "rank", "seed"]).accuracy
    some = rows[(rows.what == what) & rows.poles.isin(LINES)]
    lost = some.assign(
        lost=[
            100 * (exact[key] - value)
            for *key, value in some[["method", "rank", "seed", "accuracy"]].itertuples(index=False)
            for key in [tuple(key)]
        ]
    )
    for ax, (rank, part) in zip(axes, lost.groupby("rank", sort=False)):
        for (method, poles), line in part.groupby(["method", "poles"], sort=False):
            known = method_style(method) if method in METHODS else {"color": "#333333"}
            mean = line.groupby("bits").lost.mean()
            name = f"{method}, {poles}"
            ax.plot(mean.index, mean, **(known | {"ls": LINES[poles], "ms": 4, "label": name}))
        ax.set(title=f"r = {rank}", xlabel="bits", xticks=sorted(lost.bits.unique()))
        ax.invert_xaxis()
    axes[0].set_ylabel("points lost by rounding")


def pareto(ax, rows: pd.DataFrame) -> None:
    """Accuracy against bytes of weights: truncation, rounding and pruning alone, and together."""
    whole = rows.method == "untruncated"
    log = rows.poles.isin(["logarithm"]) | rows.poles.isna()
    kinds = {
        "truncation alone": (rows.what == "floats") & (rows.method.isin(EXAMPLE) | whole),
        "rounding alone": whole & (rows.what.isin(["floats", "weights"])) & log,
        "pruning alone": whole & rows.what.isin(["floats", "pruned"]),
        "all together": rows.what == "together",
    }
    for (name, chosen), marker in zip(kinds.items(), "os^D"):
        points = rows[chosen].groupby("bytes").accuracy.mean()
        ax.plot(points.index / 1000, 100 * points, marker=marker, ms=5, lw=1, label=name)
    ax.set(xlabel="weights, kB", ylabel="accuracy, %", xscale="log")
    ax.legend(fontsize=7)


def poles_on_a_grid(axes, cell: Cell, bits: int = 8) -> None:
    """The poles of the first layer's slowest channel, as they are and rounded both ways."""
    layer = cell.layers[0]
    channel = int((-layer.log_decay).amin(1).argmin())

    def of(some: Cell) -> np.ndarray:
        part = some.layers[0]
        return torch.complex(part.decay_re, part.decay_im)[channel].numpy()

    exact = of(cell)
    angle = np.linspace(-np.pi, np.pi, 400)
    for ax, kind in zip(axes, ("uniform", "logarithm")):
        moved = of(quantised(cell, bits, kind, only_poles=True))
        ax.plot(np.cos(angle), np.sin(angle), color="0.7", lw=0.8)
        ax.plot(exact.real, exact.imag, "o", mfc="none", color="k", ms=5, label="as it is")
        ax.plot(moved.real, moved.imag, "x", color="#d55e00", ms=5, label=f"{bits} bits")
        outside = int((abs(moved) >= 1).sum())
        ax.set(title=f"{kind}: {outside} of {len(moved)} outside", xlabel="Re", aspect="equal")
    axes[0].set_ylabel("Im")
    axes[0].legend(fontsize=7)
