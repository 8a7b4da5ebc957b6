"""Exercises of lesson 10."""

import numpy as np
from scipy import integrate, stats

from s4bt.course.exercise import exercise


def _pairs():
    rng = np.random.default_rng(3)
    cases = []
    for seeds in (3, 3, 5):
        luck = rng.normal(0, 2, seeds)  # what a pair has in common
        ours, theirs = (70 + luck + rng.normal(0, 1, seeds) + shift for shift in (2, 0))
        cases.append((ours, theirs))
    return cases


@exercise(
    "10.1",
    _pairs,
    "Take the differences first. Their standard error is std(ddof=1) / sqrt(n).",
    "stats.t.ppf(0.975, n - 1) is the factor, n the number of seeds.",
    minutes=6,
)
def paired_half_width(ours, theirs):
    gain = ours - theirs
    return np.ptp(stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))) / 2


def _paired(ours, theirs, factor=None, ddof=1, root=True):
    gain, n = ours - theirs, len(ours)
    factor = factor or stats.t.ppf(0.975, n - 1)
    return factor * gain.std(ddof=ddof) / (np.sqrt(n) if root else 1)


@paired_half_width.mistake("1.96 is the factor of many seeds. For few it is Student's t.")
def _(ours, theirs):
    return _paired(ours, theirs, stats.norm.ppf(0.975))


@paired_half_width.mistake("np.std divides by n; an estimate divides by n - 1: ddof=1.")
def _(ours, theirs):
    return _paired(ours, theirs, ddof=0)


@paired_half_width.mistake("That is the spread of one difference. The mean's is smaller by √n.")
def _(ours, theirs):
    return _paired(ours, theirs, root=False)


@paired_half_width.mistake("Degrees of freedom are seeds minus one; here it is not always 2.")
def _(ours, theirs):
    return _paired(ours, theirs, stats.t.ppf(0.975, 2))


@exercise(
    "10.2",
    _pairs,
    "The pooled variance is the mean of the two; degrees of freedom are 2n - 2.",
    "The factor times the root of (pooled variance) · 2/n.",
    minutes=8,
    level=2,
)
def unpaired_half_width(ours, theirs):
    interval = stats.ttest_ind(ours, theirs).confidence_interval(0.95)
    return (interval.high - interval.low) / 2


def _unpaired(ours, theirs, freedom):
    variance = (ours.var(ddof=1) + theirs.var(ddof=1)) / 2
    return stats.t.ppf(0.975, freedom) * np.sqrt(variance * 2 / len(ours))


@unpaired_half_width.mistake("That is the paired interval of 10.1.")
def _(ours, theirs):
    return _paired(ours, theirs)


@unpaired_half_width.mistake("Two samples of n have 2n - 2 degrees of freedom.")
def _(ours, theirs):
    return _unpaired(ours, theirs, len(ours) - 1)


@unpaired_half_width.mistake("Degrees of freedom depend on the number of seeds; not always 4.")
def _(ours, theirs):
    return _unpaired(ours, theirs, 4)


def _races():
    rng = np.random.default_rng(11)
    cases = [
        (rng.normal(70 + shift, 1, n), rng.normal(70, 1, n))
        for n, shift in ((6, 1.5), (6, -2), (8, 0.5))
    ]
    theirs = rng.normal(70, 1, 6)
    return [*cases, (theirs + np.array([1, -1, 2, 1, -2, -1]), theirs)]  # as many wins as losses


@exercise(
    "10.3",
    _races,
    "np.sum(ours > theirs) counts the wins.",
    "stats.binomtest(wins, n).pvalue is two-sided; or add up the binomial probabilities.",
    minutes=6,
)
def coins(ours, theirs):
    n, wins = len(ours), int(np.sum(ours > theirs))
    uneven = [abs(k - n / 2) >= abs(wins - n / 2) for k in range(n + 1)]
    return wins, stats.binom.pmf(np.arange(n + 1), n, 0.5)[uneven].sum()


@coins.mistake("Uneven in *either* direction: both tails count.")
def _(ours, theirs):
    n, wins = len(ours), int(np.sum(ours > theirs))
    return wins, stats.binom.sf(max(wins, n - wins) - 1, n, 0.5)


@coins.mistake(
    "That is the probability of so many wins or more; with few wins it is the other tail."
)
def _(ours, theirs):
    n, wins = len(ours), int(np.sum(ours > theirs))
    return wins, stats.binom.sf(wins - 1, n, 0.5)


@coins.mistake("With as many wins as losses the two tails overlap; p is 1 at most.")
def _(ours, theirs):
    n, wins = len(ours), int(np.sum(ours > theirs))
    return wins, 2 * stats.binom.sf(max(wins, n - wins) - 1, n, 0.5)


@coins.mistake("That is the probability of just this result. *At least* as uneven was asked.")
def _(ours, theirs):
    n, wins = len(ours), int(np.sum(ours > theirs))
    return wins, stats.binom.pmf(wins, n, 0.5)


@coins.mistake("The number of tasks is not always six: len(ours).")
def _(ours, theirs):
    wins = int(np.sum(ours > theirs))
    return wins, stats.binomtest(min(wins, 6), 6).pvalue


def _largest_of(n):
    return integrate.quad(
        lambda z: z * n * stats.norm.pdf(z) * stats.norm.cdf(z) ** (n - 1), -9, 9
    )[0]


@exercise(
    "10.4",
    [(20, 4), (10, 2), (6, 2)],
    "rng.standard_normal((20000, tries)).max(axis=1) is the best of every repetition.",
    "The mean of the one minus the mean of the other.",
    minutes=8,
    level=2,
    tolerance=0.04,
)
def free_lunch(theirs, yours):
    return _largest_of(theirs) - _largest_of(yours)


@free_lunch.mistake("That is how high the best of their tries is. Yours has an advantage, too.")
def _(theirs, yours):
    return _largest_of(theirs)


@free_lunch.mistake("The best of each repetition, axis 1; you took the best of all repetitions.")
def _(theirs, yours):
    return 0.0
