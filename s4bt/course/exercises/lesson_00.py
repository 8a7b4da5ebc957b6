"""Exercises of lesson 0."""

import numpy as np

from s4bt.course.exercise import exercise
from s4bt.course.physics import balance, chain


def _sigma(masses):
    return balance(*chain(masses))[3]


@exercise(
    "0.1",
    [(_sigma(8), 6), (_sigma(5), 1), (np.array([3.0, 2.0, 1.0, 0.5]), 2)],
    "The values that are kept are the first r. Which part of the array is left?",
    "In NumPy, x[k:] is x without its first k entries, and x.sum() adds them up.",
    minutes=3,
)
def bound(sigma, r):
    return 2 * np.sort(sigma)[: len(sigma) - r].sum()


@bound.mistake("You added the values that are kept. The bound adds those that are dropped.")
def _(sigma, r):
    return 2 * sigma[:r].sum()


@bound.mistake("sigma[r] is value number r + 1, the first that is dropped: it counts, too.")
def _(sigma, r):
    return 2 * sigma[r + 1 :].sum()


@bound.mistake("One too many: with r states kept, sigma[r - 1] is kept.")
def _(sigma, r):
    return 2 * sigma[r - 1 :].sum()


@bound.mistake("That is twice the first value that is dropped. All of them count.")
def _(sigma, r):
    return 2 * sigma[r]


@exercise(
    "0.2",
    [chain(8), chain(5, stiffness=2.0), chain(4, sensor=0)],
    "At rest the state does not change: 0 = A x + b u with u = 1. Solve for x.",
    "Then y = c x. np.linalg.solve(A, b) is A⁻¹b.",
    minutes=5,
)
def rest(A, b, c):
    return -(c @ np.linalg.inv(A) @ b)


@rest.mistake("0 = A x + b gives x = -A⁻¹ b. You lost the minus sign.")
def _(A, b, c):
    return c @ np.linalg.solve(A, b)


@rest.mistake("That is right for the eight springs of this chain only. Compute it from A, b, c.")
def _(A, b, c):
    return 8.0


@rest.mistake("That is the whole state at rest. What is asked is y = c x.")
def _(A, b, c):
    return -np.linalg.solve(A, b)


@exercise(
    "0.3",
    [(2,), (1,), (5,)],
    "rest(A, b, c) from exercise 0.2 works for any system, and reduce(r) is one.",
    "The star unpacks: rest(*reduce(r)).",
    minutes=5,
    level=2,
    up_to=np.abs,
)
def error_at_rest(r):
    A, b, c, _ = balance(*chain(8))
    return rest.reference(A, b, c) - rest.reference(A[:r, :r], b[:r], c[:r])


@error_at_rest.mistake("That is the bound. The error itself is asked.")
def _(r):
    return bound.reference(_sigma(8), r)


@error_at_rest.mistake("That is where the small chain comes to rest. How far is it from 8 m?")
def _(r):
    A, b, c, _ = balance(*chain(8))
    return rest.reference(A[:r, :r], b[:r], c[:r])
