"""How well truncated models keep their answers when inputs are longer or numbers move: tables.

Columns as_is, longer, perturbed: accuracy under these conditions (`robustness`); dss, whole: at the
end of retraining the DSS parameters in a random network, and the whole network.
"""

from __future__ import annotations

import pandas as pd

CONDITIONS = ("as_is", "longer", "perturbed")
RETRAINED = ("dss", "whole")
ROBUST = ["arm", "method", "rank", "seed", *CONDITIONS, "cancellation", "feedthrough"]


def robust_losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Points lost against the untruncated model under the same conditions, by method and rank.

    rows: with the columns ROBUST, of one task, or of several with a column task. Mean over the runs
    of a task, then over the tasks; of cancellation and feedthrough the largest.
    """
    by = [name for name in ("task", "seed") if name in rows]
    full = rows[rows.arm == "untruncated"].set_index(by)[list(CONDITIONS)]
    cut = rows[rows.arm != "untruncated"].reset_index(drop=True)
    own = cut[by].merge(full.reset_index(), on=by, how="left", validate="many_to_one")
    lost = 100 * (own[list(CONDITIONS)] - cut[list(CONDITIONS)])
    cells = ["method", "rank"]
    largest = cut.groupby(cells, sort=False)[["cancellation", "feedthrough"]].max()
    groups = [*cells, *(name for name in by if name == "task")]
    mean = lost.groupby([cut[name] for name in groups], sort=False).mean()
    return mean.groupby(cells, sort=False).mean().join(largest)


def of_untruncated(rows: pd.DataFrame) -> str:
    """Accuracy of the untruncated models under the same conditions, in words."""
    mean = rows[rows.arm == "untruncated"][list(CONDITIONS)].mean()
    return (
        f"Untruncated: {mean.as_is:.1%} as it is, {mean.longer:.1%} on inputs twice as long, "
        f"{mean.perturbed:.1%} perturbed."
    )


def losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy lost against the untruncated model under the same conditions, a row a fit.

    rows: of choose.csv, with a column task. Retrained models are compared with the untruncated
    one as it is.
    """
    full = rows[rows.arm == "untruncated"].set_index("task")
    fits = rows[rows.arm != "untruncated"].copy()
    for name in (*CONDITIONS, *RETRAINED):
        known = full["as_is" if name in RETRAINED else name]
        fits[name] = fits.task.map(known) - fits[name]
    return fits


def best(lost: pd.DataFrame, column: str) -> float:
    """The value of a column, eps or mu, with the smallest loss where it loses most.

    The rule: losses are averaged over the tasks; of the three conditions, as it is, twice as long
    and perturbed, the one with the largest mean loss counts; the smallest of these wins.
    """
    worst = lost.groupby(column)[list(CONDITIONS)].mean().max(axis=1)
    return float(worst.idxmin())


def star(lost: pd.DataFrame, method: str, column: str, defaults: dict[str, float]) -> pd.DataFrame:
    """The fits of a method with several values of a column, the other option at its default."""
    (other,) = {"perturbation", "white"} - {column}
    return lost[(lost.method == method) & (lost[other] == defaults[other])]


def of_choice(lost: pd.DataFrame, chosen: dict[str, dict[str, float]]) -> str:
    """What the rule picks for every method, beside its defaults, in words."""
    said = []
    for method, defaults in chosen.items():
        picked = {name: best(star(lost, method, name, defaults), name) for name in defaults}
        words = [f"{name} {picked[name]:g} (default {defaults[name]:g})" for name in defaults]
        said.append(f"{' and '.join(words)} for {method}")
    return f"The rule picks {'; '.join(said)}."
