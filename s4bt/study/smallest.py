"""How small a model can get without a loss, and what predicts the loss."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from s4bt.study.claims import KEYS, LEVEL, decided, differences


def smallest_ranks(rows: pd.DataFrame, margin: float = 0.01) -> pd.DataFrame:
    """The smallest rank without a loss, one shot and retrained, for every method and task.

    One shot against the pretrained model, the whole network retrained against the untruncated one
    that was retrained, too. `equal`: the smallest r from which on the interval of the mean
    difference (`claims.interval`) stays above -margin; `not_worse`: from which on the loss is not
    significant (p of the t test, 0.05), which says little with few seeds. Empty where no rank is.
    pruned: 1 - equal / N.
    """
    kinds = {"one-shot": ("pretrained", None), "truncated": ("untruncated", "whole")}
    found = []
    for arm, (against, transfer) in kinds.items():
        ours, theirs = rows[rows.arm == arm], rows[rows.arm == against]
        if transfer is not None and len(ours):
            ours = ours[ours.transfer == transfer]
        full = int(theirs["rank"].max()) if len(theirs) else 0
        for method, part in ours.groupby("method", sort=False):
            each = {r: differences(some, theirs) for r, some in part.groupby("rank")}
            at = {r: {x["task"]: x for x in decided(pairs)} for r, pairs in each.items()}
            for task in at[max(at)]:
                good = {r: x[task]["low"] > -margin for r, x in at.items()}
                worse = {r: x[task]["p"] < 1 - LEVEL and x[task]["mean"] < 0 for r, x in at.items()}
                equal = _from_on(good)
                row = {"arm": arm, "method": method, "task": task, "equal": equal}
                row |= {"not_worse": _from_on({r: not bad for r, bad in worse.items()})}
                found.append(row | {"pruned": 1 - equal / full if full else np.nan})
    return pd.DataFrame(found)


def _from_on(good: dict[int, bool]) -> float:
    """The smallest rank from which on all are good."""
    best = np.nan
    for rank in sorted(good, reverse=True):
        if not good[rank]:
            break
        best = rank
    return best


PREDICTORS = {
    "bound over the largest value": lambda x: x.bound / x.sigma_max,
    "first discarded over the largest": lambda x: x.limit / x.sigma_max,
    "H-infinity error over the gain": lambda x: x.hinf / x.gain,
    "H2 error": lambda x: x.h2_error,
    "output error": lambda x: x.output_error,
}


def predictors(rows: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Does what is known of the layers before any test predict the accuracy lost?

    Spearman's rho, for every method, of the largest value over the layers and the points lost one
    shot, within tasks over ranks and seeds, then the mean over tasks.
    layers: layers.csv of all tasks. Columns: method, and PREDICTORS.
    """
    keys = ["task", "method", "seed", "rank"]
    known = layers[[*keys]].assign(**{name: f(layers) for name, f in PREDICTORS.items()})
    known = known.groupby(keys, as_index=False).max()
    base = rows[rows.arm == "pretrained"].set_index(KEYS).accuracy
    one = rows[rows.arm == "one-shot"]
    lost = one.assign(lost=base.loc[list(zip(one.task, one.seed))].to_numpy() - one.accuracy)
    both = lost[[*keys, "lost"]].merge(known, on=keys)
    found = []
    for method, part in both.groupby("method", sort=False):
        row = {"method": method}
        for name in PREDICTORS:
            each = [
                stats.spearmanr(some[name], some.lost).statistic
                for _, some in part.groupby("task")
                if some[name].nunique() > 1 and some.lost.nunique() > 1
            ]
            row[name] = float(np.mean(each)) if each else np.nan
        found.append(row)
    return pd.DataFrame(found)
