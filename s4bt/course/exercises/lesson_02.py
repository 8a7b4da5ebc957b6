"""Exercises of lesson 2."""

import numpy as np
from scipy import linalg

from s4bt.course.exercise import exercise
from s4bt.course.physics import chain, gramians, modes

SMALL = 1e-9  # a coefficient below this is rounding


def _states(which):
    cases = []
    for masses, seed in ((8, None), (8, 1), (3, 2)):
        kick = np.zeros(2 * masses)
        kick[-1] = 1
        x = kick if seed is None else np.random.default_rng(seed).standard_normal(2 * masses)
        cases.append((gramians(*chain(masses))[which], x))
    return cases


@exercise(
    "2.1",
    _states(0),
    "The least effort is x^T P⁻¹ x.",
    "np.linalg.solve(P, x) is P⁻¹x, and @ multiplies.",
    minutes=4,
)
def effort(P, x):
    return np.sum(np.linalg.solve(np.linalg.cholesky(P), x) ** 2)


@effort.mistake("P itself says what is cheap; the effort has its inverse.")
def _(P, x):
    return x @ P @ x


@effort.mistake("That is P⁻¹x, a vector. Multiply by x from the left once more.")
def _(P, x):
    return np.linalg.solve(P, x)


@effort.mistake("Effort is ∫u² dt, without a root.")
def _(P, x):
    return np.sqrt(x @ np.linalg.solve(P, x))


@exercise(
    "2.2",
    _states(1),
    "What is seen of x is ∫y² dt after letting go.",
    "x^T Q x.",
    minutes=3,
    tolerance=1e-5,
)
def seen_at_output(Q, x):
    return np.sum((linalg.sqrtm(Q).real @ x) ** 2)


@seen_at_output.mistake("No inverse here: Q itself says what is seen.")
def _(Q, x):
    return x @ np.linalg.solve(Q, x)


@seen_at_output.mistake("What is seen is ∫y² dt, without a root.")
def _(Q, x):
    return np.sqrt(x @ Q @ x)


@seen_at_output.mistake("The diagonal alone is not enough: states interfere.")
def _(Q, x):
    return np.sum(np.diag(Q) * x**2)


@exercise(
    "2.3",
    [(7, 4), (7, 2), (7, 3), (4, 1), (7, 6)],
    "modes(*chain(masses, force=force)) has the residues: how strongly a mode is pushed times how"
    " strongly it is seen. The last mass sees all modes, so a zero is one that is not pushed.",
    "A residue of a mode that is not reached is rounding, below 1e-9 or so.",
    minutes=8,
    level=2,
)
def unreachable(masses, force):
    shapes = np.arange(1, 2 * masses, 2)[:, None] * (force + 1) % (2 * masses + 1)
    return int((shapes == 0).sum())


@unreachable.mistake("You counted the modes that are reached.")
def _(masses, force):
    return masses - unreachable.reference(masses, force)


@unreachable.mistake("You counted states: a mode has two. Count modes.")
def _(masses, force):
    return 2 * unreachable.reference(masses, force)


@unreachable.mistake("The place is counted from 0, as Python and chain do.")
def _(masses, force):
    return int((np.abs(modes(*chain(masses, force=force - 1))[1]) < SMALL).sum())


@exercise(
    "2.4",
    [
        (np.exp(modes(*chain(8))[0] * 0.5), np.ones(8)),
        (np.array([0.9, 0.5 + 0.3j, 0.3 - 0.2j]), np.array([1.0, 2.0 - 1j, 1j])),
    ],
    "Entry (i, j) is the sum over k of b_i z_i^k times the conjugate of b_j z_j^k.",
    "Again a geometric series: 1/(1 - q) with q = z_i conj(z_j).",
    minutes=8,
    level=2,
)
def discrete_gramian(poles, b):
    return linalg.solve_discrete_lyapunov(np.diag(poles), np.outer(b, b.conj()))


@discrete_gramian.mistake("The conjugates are missing: of the second pole and the second b.")
def _(poles, b):
    return np.outer(b, b) / (1 - np.outer(poles, poles))


@discrete_gramian.mistake("The second b is conjugated, too: b_i conj(b_j).")
def _(poles, b):
    return np.outer(b, b) / (1 - np.outer(poles, poles.conj()))


@discrete_gramian.mistake("The second pole is conjugated, too: 1 - z_i conj(z_j).")
def _(poles, b):
    return np.outer(b, b.conj()) / (1 - np.outer(poles, poles))


@discrete_gramian.mistake("That is the formula of a continuous system; here powers are summed.")
def _(poles, b):
    return np.outer(b, b.conj()) / -(poles[:, None] + poles.conj())


@discrete_gramian.mistake("Your sum begins with k = 1. The push of the last step counts, k = 0.")
def _(poles, b):
    q = np.outer(poles, poles.conj())
    return np.outer(b, b.conj()) * q / (1 - q)


def _units():
    cases = []
    for masses, seed in ((2, 0), (3, 1)):
        S = np.random.default_rng(seed).standard_normal((2 * masses, 2 * masses))
        cases.append((*gramians(*chain(masses)), S))
    return cases


@exercise(
    "2.5",
    _units,
    "The effort of a motion is the same in all units: x^T P⁻¹ x = z^T Pz⁻¹ z with x = S z.",
    "Pz = S⁻¹ P S⁻ᵀ and Qz = Sᵀ Q S. np.linalg.inv gives S⁻¹.",
    minutes=6,
    level=2,
)
def in_other_units(P, Q, S):
    left = np.linalg.solve(S, P)
    return np.linalg.solve(S, left.T).T, S.T @ Q @ S


@in_other_units.mistake("P and Q change in opposite ways: what gets cheaper gets less visible.")
def _(P, Q, S):
    return S.T @ P @ S, S.T @ Q @ S


@in_other_units.mistake("Nothing has changed. P and Q have units, and x = S z.")
def _(P, Q, S):
    return P, Q


@in_other_units.mistake("That is the way back, from z to x. Here x = S z.")
def _(P, Q, S):
    inverse = np.linalg.inv(S)
    return S @ P @ S.T, inverse.T @ Q @ inverse


@in_other_units.mistake("P maps from both sides: S⁻¹ P S⁻ᵀ, and it stays symmetric.")
def _(P, Q, S):
    return np.linalg.inv(S) @ P @ S, S.T @ Q @ S
