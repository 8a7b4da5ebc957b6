"""Tables about deployment, from edge.csv of every task, rounded once, here."""

from __future__ import annotations

import pandas as pd

from tools.results import every, markdown

SHOWN = (8, 6, 5)  # bits


def _lost() -> pd.DataFrame:
    """Points of accuracy lost when poles alone are rounded, a mean over seeds, by task."""
    rows = every("edge.csv")
    key = ["task", "method", "rank", "seed"]
    exact = rows[rows.what == "floats"].set_index(key).accuracy
    poles = rows[rows.what == "poles"].copy()
    poles["lost"] = 100 * (exact.loc[list(map(tuple, poles[key].values))].values - poles.accuracy)
    return poles.groupby(["method", "rank", "poles", "bits", "task"], as_index=False).lost.mean()


def bits_table() -> str:
    """How many points a model loses when its poles, and nothing else, are rounded to a few bits."""
    lost = _lost()
    means = lost.groupby(["method", "rank", "poles", "bits"]).lost.mean()

    def cell(method: str, rank: int, bits: int) -> str:
        each = [means[method, rank, poles, bits] for poles in ("logarithm", "uniform")]
        return " / ".join(f"{x:.1f}".replace("-0.0", "0.0").replace("-", "−") for x in each)

    whole = int(lost[lost.method == "untruncated"]["rank"].iloc[0])
    cases = [("untruncated", whole)] + [
        (method, rank)
        for method in ("bt-discrete", "h2", "weighted")
        for rank in sorted(lost[lost.method == method]["rank"].unique(), reverse=True)
    ]
    head = ["poles of", "r", *(f"{bits} bits" for bits in SHOWN)]
    table = [
        [f"`{method}`" if method != "untruncated" else "the untruncated model", str(rank)]
        + [cell(method, rank, bits) for bits in SHOWN]
        for method, rank in cases
    ]
    few = SHOWN[1]
    base = means["untruncated", whole, "logarithm", few]
    worse = sum(means[m, r, "logarithm", few] > base for m, r in cases[1:])
    said = (
        f"With {few} bits and logarithms {worse} of the {len(cases) - 1} truncated kinds lose more "
        "than the untruncated model does."
    )
    return f"{markdown(head, table)}\n\n{said}"
