"""Exercises of lesson 9."""

import numpy as np

from s4bt.course.exercise import exercise
from s4bt.course.models import network


def _sigma():
    """Hankel singular values (H, 128) of four layers, as they run."""
    from s4bt.reduction.gramians import hankel_singular_values

    layers = [
        network(task).dss_layers()[k] for task, k in (("image", 0), ("pathx", 2), ("text", 1))
    ]
    return [hankel_singular_values(x.to_lti().discretize(x.dt())).detach().numpy() for x in layers]


def _energies():
    return [(s, share) for s in _sigma()[:2] for share in (0.8, 0.95)]


@exercise(
    "9.1",
    _energies,
    "Square, add over the channels (axis 0), accumulate, and divide by the total.",
    "With r modes 2r values are kept: look at entries 1, 3, 5, … of the sum, [1::2].",
    minutes=10,
    level=2,
)
def rank_by_energy(s, share):
    energy = np.sum(s**2, axis=0)
    r = 1
    while energy[: 2 * r].sum() < share * energy.sum():
        r += 1
    return r


@rank_by_energy.mistake("Energy is the square of σ.")
def _(s, share):
    kept = s.sum(0).cumsum()[1::2] / s.sum()
    return 1 + np.argmax(kept >= share)


@rank_by_energy.mistake("You counted values. A complex mode takes two.")
def _(s, share):
    energy = (s**2).sum(0)
    return 1 + np.argmax(energy.cumsum() / energy.sum() >= share)


@rank_by_energy.mistake("One too few: the first entry is one mode, not none.")
def _(s, share):
    return rank_by_energy.reference(s, share) - 1


@exercise(
    "9.2",
    [(32, 4, 12), (32, 8, 8), (10, 3, 5)],
    "Each channel of a layer with r modes stores r poles and r residues, all complex.",
    minutes=3,
)
def stored(H, r0, r1):
    return sum(2 * H * r + 2 * H * r for r in (r0, r1))


@stored.mistake("A complex number counts as two.")
def _(H, r0, r1):
    return 2 * H * (r0 + r1)


@stored.mistake("With per-channel poles every channel has its own: H r of them.")
def _(H, r0, r1):
    return 2 * H * (r0 + r1) + 2 * (r0 + r1)


CURVES = (
    [
        np.array([1.0, 0.5, 0.3, 0.2, 0.15]),
        np.array([0.8, 0.6, 0.45, 0.35, 0.3]),
        np.array([0.3, 0.05, 0.04, 0.03, 0.02]),
    ],
    [np.array([2.0, 1.0, 0.4, 0.1, 0.05, 0.04]), np.array([3.0, 0.5, 0.3, 0.2, 0.15, 0.12])],
)


@exercise(
    "9.3",
    [(CURVES[0], 8), (CURVES[0], 5), (CURVES[1], 7)],
    "Every layer begins with one state; curve[r - 1] is the error with r states.",
    "The next state saves curve[r - 1] - curve[r]. np.argmax finds the layer.",
    minutes=12,
    level=2,
)
def spend(curves, total):
    savings = sorted(
        ((c[k] - c[k + 1], layer) for layer, c in enumerate(curves) for k in range(len(c) - 1)),
        reverse=True,
    )[: total - len(curves)]
    return [1 + sum(layer == k for _, layer in savings) for k in range(len(curves))]


def _greedy(curves, total, value):
    ranks = np.ones(len(curves), int)
    while ranks.sum() < total:
        ranks[np.argmax([value(c, r) if r < len(c) else -1 for c, r in zip(curves, ranks)])] += 1
    return ranks


@spend.mistake("You give to the layer with the largest error. Give where most is *saved*.")
def _(curves, total):
    return _greedy(curves, total, lambda c, r: c[r - 1])


@spend.mistake("You look one state too far: the next one saves curve[r - 1] - curve[r].")
def _(curves, total):
    return _greedy(curves, total, lambda c, r: c[r] - c[r + 1] if r + 1 < len(c) else -1)


@spend.mistake("That spreads the states evenly.")
def _(curves, total):
    return _greedy(curves, total, lambda c, r: 100 - r)


@spend.mistake("The first state of each layer is part of the total.")
def _(curves, total):
    return spend.reference(curves, total + len(curves))


@exercise(
    "9.4",
    lambda: [(s,) for s in _sigma()],
    "s / s[:, :1] divides each channel by its largest value.",
    "np.median(…, axis=0), then count entries of at least 0.1.",
    minutes=8,
)
def loud_values(s):
    relative = np.sort(s / s.max(axis=1, keepdims=True), axis=0)
    middle = (relative[(len(s) - 1) // 2] + relative[len(s) // 2]) / 2
    return int((middle >= 0.1).sum())


@loud_values.mistake("The median over channels was asked, and this is the mean.")
def _(s):
    return int((np.mean(s / s[:, :1], 0) >= 0.1).sum())


@loud_values.mistake("Divide every channel by its own largest value, not by that of the layer.")
def _(s):
    return int((np.median(s / s.max(), 0) >= 0.1).sum())


@loud_values.mistake("First divide, then take the median: the other order gives other counts.")
def _(s):
    middle = np.median(s, 0)
    return int((middle / middle[0] >= 0.1).sum())


@loud_values.mistake("You counted the values below a tenth.")
def _(s):
    return int((np.median(s / s[:, :1], 0) < 0.1).sum())
