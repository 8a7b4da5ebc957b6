"""One style for all figures.

A method has the colour and marker of the registry in every figure. What is retrained in a random
network has open markers, what keeps the pretrained network has filled ones. Lines are full for the
whole network, dashed for DSS parameters only, dotted without retraining; baselines have lines of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns

from s4bt.reduction.methods import METHODS


@dataclass(frozen=True)
class Style:
    """How an arm is drawn; filled: its markers."""

    label: str
    colour: str
    marker: str
    line: str
    filled: bool = True

    def options(self) -> dict[str, Any]:
        """Of plot and errorbar, without the line."""
        face = self.colour if self.filled else "white"
        return {"color": self.colour, "marker": self.marker, "markerfacecolor": face}


# By arm and kind of poles.
_BASELINES = {
    ("skew-hippo", "tied"): Style("(a) Skew-HiPPO, retraining steps", "#de8f05", "<", "-", False),
    ("skew-hippo", "per-channel"): Style("(a) Skew-HiPPO per channel", "#de8f05", "d", "--", False),
    ("skew-hippo-long", "tied"): Style("(b) Skew-HiPPO, all steps", "#56b4e9", "^", "-.", False),
    ("untruncated", "tied"): Style("(d) untruncated, trained on", "#333333", "+", "--"),
    ("skew-hippo-rest", "tied"): Style("(e) Skew-HiPPO, pretrained rest", "#666666", ">", "-."),
    ("skew-hippo-rest", "per-channel"): Style(
        "(e) Skew-HiPPO per channel, pretrained rest", "#666666", "8", ":"
    ),
    ("skew-hippo-steps", "tied"): Style(
        "(f) Skew-HiPPO, trained steps and D", "#de8f05", ">", ":", False
    ),
    ("pretrained", "tied"): Style("pretrained", "#333333", "x", "-"),
}


def use_style() -> None:
    """Seaborn's ticks on white, and the study's style sheet, s4bt.mplstyle."""
    sns.set_theme(context="paper", style="ticks")
    plt.style.use("s4bt.study.s4bt")


def style_of(row: Any) -> Style:
    """The style of a row of the summary."""
    arm, name = row.arm, row.method
    if not isinstance(name, str):
        return _BASELINES[arm, row.sharing]
    method = METHODS[name]
    if arm == "one-shot":
        return Style(f"(c) {name}, no retraining", method.colour, method.marker, ":")
    if row.transfer == "whole":
        return Style(f"{name}, whole network", method.colour, method.marker, "-")
    return Style(f"{name}, DSS parameters only", method.colour, method.marker, "--", False)


def method_style(name: str) -> dict[str, Any]:
    """Options of plot for a method."""
    method = METHODS[name]
    return {"color": method.colour, "marker": method.marker, "label": name}


def save(figure, path) -> None:
    """Write a PNG without metadata that would change from one execution to the next."""
    figure.savefig(path, metadata={"Software": None})
    plt.show()
