"""Exercises of lesson 11."""

import numpy as np

from s4bt.course.exercise import exercise


@exercise(
    "11.1",
    [(4, 24), (4, 8), (7, 3)],
    'The cell under "Three kinds of layers" prints the shapes.',
    "Three logarithms a state, two complex matrices, and D.",
    minutes=4,
)
def stored(width, states):
    return 3 * states + 2 * (states * width + width * states) + width


@stored.mistake("A complex number counts as two: B and C are complex.")
def _(width, states):
    return 3 * states + 2 * states * width + width


@stored.mistake("D is stored, too.")
def _(width, states):
    return 3 * states + 4 * states * width


@stored.mistake("There are three real numbers for each state: ν, θ and γ.")
def _(width, states):
    return 2 * states + 4 * states * width + width


def _rings():
    rng = np.random.default_rng(4)
    return [
        (np.sqrt(rng.uniform(0.5, 0.99, n)) * np.exp(1j * rng.uniform(0, np.pi, n)),)
        for n in (32, 20, 9)
    ]


@exercise(
    "11.2",
    _rings,
    "A continuous mode exp(λt) grows if Re λ > 0.",
    minutes=3,
)
def growing(poles):
    return int(np.sum(np.abs(np.exp(poles)) > 1))


@growing.mistake(
    "|λ| > 1 is the condition of a *discrete* mode. Somebody reads them as continuous."
)
def _(poles):
    return int(np.sum(np.abs(poles) > 1))


@growing.mistake("You counted those that decay.")
def _(poles):
    return int(np.sum(poles.real < 0))


@growing.mistake("The imaginary part says how fast a mode turns. The real part decides.")
def _(poles):
    return int(np.sum(poles.imag > 0))


def _averages():
    import torch

    from s4bt.reduction.state_space import StateSpace

    cases = []
    for seed, n, r in ((0, 12, 4), (1, 10, 3)):
        made = torch.Generator().manual_seed(seed)
        B = torch.randn(n, 2, generator=made, dtype=torch.float64)
        C = torch.randn(2, n, generator=made, dtype=torch.float64)
        decay = torch.sigmoid(torch.linspace(-2, 5, n, dtype=torch.float64))
        cases.append((StateSpace(decay, B, C, dt=1.0), r))
    return cases


def _reduced(system, r):
    from s4bt.reduction.layers import reduce_layer
    from s4bt.reduction.state_space import StateSpace

    small = reduce_layer(system.poles, system.B, system.C, domain="discrete", rank=r)
    return StateSpace(small.poles, small.B, small.C, small.D, dt=1.0)


@exercise(
    "11.3",
    _averages,
    'reduce_layer(system.poles, system.B, system.C, domain="discrete", rank=r)',
    "StateSpace(small.poles, small.B, small.C, small.D, dt=1.0), subtract, .hinf_norm().",
    minutes=10,
    level=2,
    tolerance=1e-4,
)
def reduced_averages(system, r):
    small = _reduced(system, r)
    share = (system - small).hinf_norm() / system.hinf_norm()
    return float(small.poles.imag.abs().max()), float(share)


@reduced_averages.mistake("Divide the error by the gain of the whole system.")
def _(system, r):
    small = _reduced(system, r)
    return float(small.poles.imag.abs().max()), float((system - small).hinf_norm())


@reduced_averages.mistake("That is the difference of two gains, not the gain of the difference.")
def _(system, r):
    small, gain = _reduced(system, r), system.hinf_norm()
    return float(small.poles.imag.abs().max()), float((gain - small.hinf_norm()).abs() / gain)


@reduced_averages.mistake("That is the bound, over the gain. The error itself was asked.")
def _(system, r):
    from s4bt.reduction.multi import multi_hankel_singular_values

    sigma = multi_hankel_singular_values(system)
    small = _reduced(system, r)
    return float(small.poles.imag.abs().max()), float(2 * sigma[r:].sum() / system.hinf_norm())


def _layers():
    rng = np.random.default_rng(8)
    cases = []
    for n, r in ((32, 12), (24, 6)):
        poles = np.sqrt(rng.uniform(0.8, 0.99, n)) * np.exp(1j * rng.uniform(0, np.pi, n))
        B = rng.normal(size=(n, 4)) + 1j * rng.normal(size=(n, 4))
        C = rng.normal(size=(3, n)) + 1j * rng.normal(size=(3, n))
        cases.append((poles, B, C, r))
    return cases


@exercise(
    "11.4",
    _layers,
    "A complex mode of a real system is two states; a real pole one.",
    "Look at the poles of the small layer: are all of them complex?",
    minutes=6,
    level=2,
)
def first_discarded(poles, B, C, r):
    from s4bt.reduction.layers import reduce_layer

    small = reduce_layer(poles, B, C, domain="discrete", rank=r, real=True)
    return int(np.where(np.abs(small.poles.imag) > 1e-12, 2, 1).sum())


@first_discarded.mistake("That is the number of modes. Each complex one takes two values.")
def _(poles, B, C, r):
    return r


@first_discarded.mistake(
    "Twice the number of modes is right where all are complex. Real poles count once."
)
def _(poles, B, C, r):
    return 2 * r


@first_discarded.mistake("From 0, the first that is dropped has the index of how many are kept.")
def _(poles, B, C, r):
    return first_discarded.reference(poles, B, C, r) + 1
