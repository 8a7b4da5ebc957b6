"""Claims about runs, and the first of Ezoe & Sato 2024, decided.

A truncated start beats Skew-HiPPO, even with fewer parameters. The second is in `inheritance`.

difference   of two arms, paired by task and seed
interval     nominal 95 %, bootstrap: over seeds within a task; over tasks, and seeds within them,
             for "all". Percentiles are expanded for small samples (Hesterberg 2015). Of normal
             differences it covers 74 % with three seeds, 90 % with five, 96 % and more with six
             tasks: it cannot reach beyond the samples. So verdicts are by p
p            of the paired t test over seeds, two-sided. For "all" there are two questions: p of
             the means of the tasks asks about tasks like these, as if they were drawn at random;
             p_here asks about these tasks, where only seeds vary (Welch and Satterthwaite)
holm         p corrected for a family of rows that are decided together (Holm 1979). The rows of
             "all" are one family of a table, those of the tasks another
verdict      holds or fails if holm < 0.05, by the sign; else undecided. verdict_here is that of
             p_here, which is p in the row of a task
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

LEVEL, DRAWS = 0.95, 10_000
KEYS = ["task", "seed"]
# A truncated start is compared with Skew-HiPPO that had no more than it: where only the DSS layers
# are truncated with (a), whole networks with (e), the same pretrained rest, and (b), as many steps.
AGAINST = {"dss": ["skew-hippo"], "whole": ["skew-hippo-rest", "skew-hippo-long"]}
# The same for models of any size: (e) lives in the truncated model's own network.
AT_ANY_SIZE = {"dss": "skew-hippo", "whole": "skew-hippo-long"}
LETTERS = {"skew-hippo": "a", "skew-hippo-rest": "e", "skew-hippo-long": "b"}


def holm(p: Iterable[float]) -> np.ndarray:
    """Adjusted p values: the k-th smallest of n times n - k + 1, never falling, at most 1."""
    p = np.asarray(list(p), float)
    order = np.argsort(p)
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(scaled, 1.0)
    return out


def quantiles(draws: np.ndarray, count: int) -> tuple[float, float]:
    """Expanded percentiles of draws that were made from `count` independent things.

    Phi(-(n / (n - 1))^(1/2) t) takes the place of 2.5 %, t that of n - 1 degrees of freedom
    (Hesterberg 2015, doi 10.1080/00031305.2015.1089789).
    """
    t = stats.t.ppf(0.5 + LEVEL / 2, count - 1)
    share = stats.norm.cdf(-np.sqrt(count / (count - 1)) * t)
    low, high = np.quantile(draws, [share, 1 - share])
    return float(low), float(high)


def interval(groups: list[np.ndarray], draws: int = DRAWS) -> tuple[float, float]:
    """Bootstrap interval of the mean of group means; nan of a single value.

    One group: its values are drawn. Several: the groups are, and values in each of them.
    """
    count = len(groups) if len(groups) > 1 else len(groups[0])
    if count < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    means = np.stack([x[rng.integers(len(x), size=(draws, len(x)))].mean(1) for x in groups], 1)
    if len(groups) == 1:
        return quantiles(means[:, 0], count)
    chosen = rng.integers(len(groups), size=(draws, len(groups)))
    return quantiles(np.take_along_axis(means, chosen, 1).mean(1), count)


def _p(values: np.ndarray) -> float:
    if len(values) < 2:
        return float("nan")
    if np.ptp(values) == 0:
        return 1.0 if values[0] == 0 else 0.0
    return float(stats.ttest_1samp(values, 0).pvalue)


def _p_here(groups: list[np.ndarray]) -> float:
    """p of the mean of group means where only values within a group vary, two-sided."""
    if min(map(len, groups)) < 2:
        return float("nan")
    if len(groups) == 1:
        return _p(groups[0])
    variances = np.array([x.var(ddof=1) / len(x) for x in groups])
    freedom = np.array([len(x) - 1 for x in groups])
    mean = sum(x.mean() for x in groups)
    if not variances.sum():
        return 1.0 if mean == 0 else 0.0
    df = variances.sum() ** 2 / (variances**2 / freedom).sum()
    return float(2 * stats.t.sf(abs(mean) / np.sqrt(variances.sum()), df))


def differences(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """accuracy of ours minus theirs, paired by task and seed: KEYS and difference."""
    both = ours[[*KEYS, "accuracy"]].merge(theirs[[*KEYS, "accuracy"]], on=KEYS, suffixes=("", "_"))
    return both.assign(difference=both.accuracy - both.accuracy_)[[*KEYS, "difference"]]


def decided(pairs: pd.DataFrame) -> list[dict]:
    """A row for every task and one for "all": mean, low, high, p, p_here, seeds, wins."""
    by_task = {task: part.difference.to_numpy() for task, part in pairs.groupby("task", sort=False)}
    found = []
    for task, x in by_task.items():
        low, high = interval([x])
        row = {"task": task, "mean": x.mean(), "low": low, "high": high, "p": _p(x)}
        found.append(row | {"p_here": _p(x), "seeds": len(x), "wins": int((x > 0).sum())})
    means = np.array([x.mean() for x in by_task.values()])
    low, high = interval(list(by_task.values())) if len(means) > 1 else (np.nan, np.nan)
    row = {"task": "all", "mean": means.mean(), "low": low, "high": high, "p": _p(means)}
    row["p_here"] = _p_here(list(by_task.values()))
    return [*found, row | {"seeds": len(pairs), "wins": int((means > 0).sum())}]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns holm and verdict, and the same of p_here where there is one.

    Rows without a p value are undecided.
    """
    out = table.copy()
    for end in ("", "_here"):
        if f"p{end}" in table:
            known = table[f"p{end}"].notna()
            out[f"holm{end}"], out[f"verdict{end}"] = np.nan, "undecided"
            out.loc[known, f"holm{end}"] = holm(table.loc[known, f"p{end}"])
            sure = out[f"holm{end}"] < 1 - LEVEL
            out.loc[sure & (out["mean"] > 0), f"verdict{end}"] = "holds"
            out.loc[sure & (out["mean"] < 0), f"verdict{end}"] = "fails"
    return out


def two_families(table: pd.DataFrame) -> pd.DataFrame:
    """`verdicts`, corrected over the rows of "all", which come first, and over those of tasks."""
    of_all = table.task == "all"
    return pd.concat([verdicts(table[of_all]), verdicts(table[~of_all])], ignore_index=True)


def _arms(rows: pd.DataFrame, arm: str, by: list[str]) -> dict[tuple, pd.DataFrame]:
    return dict(list(rows[rows.arm == arm].groupby(by, sort=False)))


def claim1(rows: pd.DataFrame) -> pd.DataFrame:
    """Truncated minus Skew-HiPPO of the same rank and kind of poles, all methods and ranks.

    What is compared with what: AGAINST. Holm's correction is over the rows of "all", and over those
    of the tasks.
    rows: of `statistics.all_tasks`. Columns method, transfer, rank, sharing, against, then those of
    `decided` and `verdicts`.
    """
    base = {arm: _arms(rows, arm, ["rank", "sharing"]) for arm in LETTERS}
    found = []
    for key, ours in _arms(rows, "truncated", ["method", "transfer", "rank", "sharing"]).items():
        for against in AGAINST[key[1]]:
            theirs = base[against].get(key[2:])
            if theirs is not None:
                names = dict(zip(("method", "transfer", "rank", "sharing"), key, strict=True))
                names |= {"against": against}
                found += [names | row for row in decided(differences(ours, theirs))]
    return two_families(pd.DataFrame(found))


def fewer_parameters(rows: pd.DataFrame) -> pd.DataFrame:
    """For every Skew-HiPPO model the smallest truncated model that is significantly better.

    All truncated models with fewer parameters than the baseline are compared with it, for every
    task and for "all"; which baseline with which transfer: AT_ANY_SIZE. Holm's correction is over
    all comparisons of "all", and over those of the tasks. Columns task, sharing, rank, parameters
    (of the baseline), transfer, compared, then method, small_rank, small_parameters, mean, low,
    high and holm_here of the smallest that holds (verdict_here), empty if there is none.
    """
    cases, compared = [], []
    candidates = _arms(rows, "truncated", ["transfer", "method", "rank"])
    for transfer, against in AT_ANY_SIZE.items():
        for (sharing, rank), theirs in _arms(rows, against, ["sharing", "rank"]).items():
            sizes, key = _sizes(theirs), {"sharing": sharing, "rank": rank, "transfer": transfer}
            cases += [{"task": t, **key, "parameters": size} for t, size in sizes.items()]
            for (kind, method, small), ours in candidates.items():
                less = _sizes(ours)
                if kind == transfer and less["all"] < sizes["all"]:
                    own = {**key, "method": method, "small_rank": small}
                    compared += [
                        {**own, "small_parameters": less[row["task"]], **row}
                        for row in decided(differences(ours, theirs))
                    ]
    names = ["method", "small_rank", "small_parameters", "mean", "low", "high", "holm_here"]
    by, found = ["task", "sharing", "rank", "transfer"], pd.DataFrame(cases)
    if not compared:
        return found.assign(compared=0, **dict.fromkeys(names))
    table = two_families(pd.DataFrame(compared))
    count = table.groupby(by).size().rename("compared").reset_index()
    good = table[table.verdict_here == "holds"].sort_values(["small_parameters", "holm_here"])
    smallest = good.drop_duplicates(by)[[*by, *names]]
    found = found.merge(count, "left", on=by).merge(smallest, "left", on=by)
    return found.assign(compared=found.compared.fillna(0).astype(int))


def _sizes(rows: pd.DataFrame) -> dict[str, float]:
    """Parameters of a model by task; "all": their mean."""
    sizes = rows.groupby("task", sort=False).parameters.mean()
    return {**sizes.to_dict(), "all": float(sizes.mean())}


# What separates two arms, in the order of the parts: (ours, theirs), each arm and transfer.
PARTS = {
    "trained steps and D, (f) - (a)": (("skew-hippo-steps", None), ("skew-hippo", None)),
    "poles and output weights, DSS only - (f)": (("truncated", "dss"), ("skew-hippo-steps", None)),
    "the rest of the network, whole - DSS only": (("truncated", "whole"), ("truncated", "dss")),
    "as many steps more, (b) - (a)": (("skew-hippo-long", None), ("skew-hippo", None)),
}


def parts(rows: pd.DataFrame, method: str, rank: int) -> pd.DataFrame:
    """What the gain is made of: rows of "all" and of every task for each of PARTS.

    Poles are tied. method: one that leaves them so, as the baselines have them.
    """
    same = rows[(rows["rank"] == rank) & (rows.sharing == "tied")]
    same = same[same.method.isna() | (same.method == method)]

    def arm(name: str, transfer: str | None) -> pd.DataFrame:
        part = same[same.arm == name]
        return part if transfer is None else part[part.transfer == transfer]

    found = []
    for part, (ours, theirs) in PARTS.items():
        pairs = differences(arm(*ours), arm(*theirs))
        if len(pairs):
            found += [{"part": part, **row} for row in decided(pairs)]
    return two_families(pd.DataFrame(found)) if found else pd.DataFrame()


def _listed(part: pd.DataFrame) -> str:
    return f"r = {' and '.join(str(rank) for rank in sorted(part['rank'].unique()))}"


def of_fewer(smaller: pd.DataFrame) -> str:
    """What `fewer_parameters` found, a line for each transfer."""
    lines, known = [], smaller[smaller.compared > 0]
    for transfer, part in known.groupby("transfer", sort=False):
        beaten = part.method.notna().groupby(part.task, sort=False).sum()
        each = ", ".join(f"{task} {n}" for task, n in beaten.items() if task != "all")
        lines.append(
            f"With fewer parameters, {transfer} minus ({LETTERS[AT_ANY_SIZE[transfer]]}): "
            f"{beaten['all']} of {(part.task == 'all').sum()} Skew-HiPPO models are beaten by a "
            f"smaller truncated one in the mean over these tasks; task by task: {each}."
        )
    return "\n".join(lines)


def said_of_claim1(table: pd.DataFrame, smaller: pd.DataFrame) -> str:
    """The first claim in a paragraph, over all tasks."""
    overall, lines = table[table.task == "all"], []
    by = ["method", "transfer", "against"]
    for (method, transfer, against), part in overall.groupby(by, sort=False):
        said = []
        for column, where in (
            ("verdict_here", "on these tasks"),
            ("verdict", "on tasks like them"),
        ):
            each = {name: _listed(some) for name, some in part.groupby(column)}
            words = ", ".join(f"{name} at {ranks}" for name, ranks in sorted(each.items()))
            said.append(f"{where} {words}")
        lines.append(f"{method}, {transfer}, minus ({LETTERS[against]}): {'; '.join(said)}.")
    return "\n".join(filter(None, [*lines, of_fewer(smaller)]))
