"""Exercises of lesson 5."""

import numpy as np

from s4bt.course.exercise import exercise
from s4bt.course.physics import balance, chain, rod

OMEGA = np.concatenate([[0], np.geomspace(0.01, 10, 400)])


def _signs(system):
    _, b, c, sigma = balance(*system)
    return sigma, np.sign(b * c).astype(int)


@exercise(
    "5.1",
    [(*_signs(chain(8)), 4), (*_signs(chain(8)), 3), (*_signs(rod(8)), 2)],
    "Step k costs sign times 2 sigma at rest; those from number r + 1 on are taken.",
    "The sum of (signs * sigma)[r:], twice.",
    minutes=5,
    up_to=np.abs,
)
def error_at_rest(sigma, signs, r):
    return 2 * sum(s * v for s, v in zip(signs[r:], sigma[r:]))


@error_at_rest.mistake("That is the bound: all steps with one sign. Use the signs.")
def _(sigma, signs, r):
    return 2 * sigma[r:].sum()


@error_at_rest.mistake("Number r + 1 is signs[r] and sigma[r]: from there on.")
def _(sigma, signs, r):
    return 2 * (signs * sigma)[r - 1 :].sum()


@error_at_rest.mistake("These are the steps of the states that are kept.")
def _(sigma, signs, r):
    return 2 * (signs * sigma)[:r].sum()


@exercise(
    "5.2",
    [
        (balance(*chain(8))[3], 0.133),
        (balance(*rod(8))[3], 0.02),
        (0.8 ** np.arange(1.0, 60.0), 1e-3),
        (balance(*rod(6))[3], 50.0),
    ],
    "Try r = 1, 2, 3, … until 2 * sigma[r:].sum() is small enough.",
    minutes=5,
)
def smallest_rank(sigma, allowed):
    tails = 2 * np.cumsum(sigma[::-1])[::-1]
    return max(1, int((tails > allowed).sum()))


@smallest_rank.mistake("The bound is twice the tail: the factor 2 is missing.")
def _(sigma, allowed):
    return max(1, int((np.cumsum(sigma[::-1])[::-1] > allowed).sum()))


@smallest_rank.mistake("That is the limit, of one value. The bound sums the tail, twice.")
def _(sigma, allowed):
    return max(1, int((sigma > allowed).sum()))


@smallest_rank.mistake("That is one step, twice one value. The bound sums all that are left out.")
def _(sigma, allowed):
    return max(1, int((2 * sigma > allowed).sum()))


@smallest_rank.mistake("At least one state is asked, also if none would do.")
def _(sigma, allowed):
    return int((2 * np.cumsum(sigma[::-1])[::-1] > allowed).sum())


@smallest_rank.mistake("One too many: sigma[r:] are the values that r states leave out.")
def _(sigma, allowed):
    return smallest_rank.reference(sigma, allowed) + 1


def _responses():
    cases = []
    for system, r in ((chain(8), 4), (chain(8), 2), (chain(5, sensor=0), 4)):
        A, b, c, _ = balance(*system)
        cases.append((OMEGA, *(_response(A[:k, :k], b[:k], c[:k]) for k in (len(b), r))))
    return cases


def _response(A, b, c):
    return np.array([c @ np.linalg.solve(1j * w * np.eye(len(b)) - A, b) for w in OMEGA])


@exercise(
    "5.3",
    _responses,
    "np.argmax gives the index of the largest entry.",
    "The error is a difference of complex numbers: subtract first, then take abs.",
    minutes=5,
)
def worst_frequency(omega, whole, small):
    return max(zip(np.abs(whole - small), omega))[1]


@worst_frequency.mistake("Subtract the complex responses first: phases differ, too.")
def _(omega, whole, small):
    return omega[np.abs(np.abs(whole) - np.abs(small)).argmax()]


@worst_frequency.mistake("That is where the whole chain responds most.")
def _(omega, whole, small):
    return omega[np.abs(whole).argmax()]


@worst_frequency.mistake("That is an index. Which frequency stands there?")
def _(omega, whole, small):
    return np.abs(whole - small).argmax()


@worst_frequency.mistake("That is the size of the error. At which frequency is it?")
def _(omega, whole, small):
    return np.abs(whole - small).max()


@exercise(
    "5.4",
    [(balance(*rod(8))[3], 1), (balance(*rod(8))[3], 2), (3 * balance(*rod(6))[3], 1)],
    "The gain at rest is twice the sum of all values (exercise 3.5).",
    minutes=5,
    level=2,
)
def percent(sigma, r):
    return 100 * (1 - sigma[:r].sum() / sigma.sum())


@percent.mistake("That is a share. Percent are a hundred times that.")
def _(sigma, r):
    return sigma[r:].sum() / sigma.sum()


@percent.mistake("That is what is kept, in percent. The error is the rest.")
def _(sigma, r):
    return 100 * sigma[:r].sum() / sigma.sum()


@percent.mistake("That is the error itself, times 100. Divide by the gain at rest.")
def _(sigma, r):
    return 200 * sigma[r:].sum()


@percent.mistake("The gain at rest is twice the sum, as the error is: both or neither.")
def _(sigma, r):
    return 200 * sigma[r:].sum() / sigma.sum()


@exercise(
    "5.5",
    [
        (balance(*chain(8))[0][:8, :8], 0.3),
        (balance(*chain(8))[0], 1.1),
        (balance(*rod(6))[0], 2.0),
    ],
    "A has blocks: A[:-1, :-1] is A11, A[:-1, -1] is a12. Phi is the inverse of iω - A11.",
    "The column z is Phi a12 with a 1 below it (np.append). Then A z.",
    minutes=12,
    level=3,
)
def column_times(A, w):
    n = len(A)
    x = np.linalg.solve(1j * w * np.eye(n - 1) - A[:-1, :-1], A[:-1, -1])
    last = A[-1, -1] + A[-1, :-1] @ x
    return np.append(1j * w * x, last)


@column_times.mistake("That is the row of the proof, v A. Here it is the column, A z.")
def _(A, w):
    n = len(A)
    v = np.append(A[-1, :-1] @ np.linalg.inv(1j * w * np.eye(n - 1) - A[:-1, :-1]), 1)
    return v @ A


@column_times.mistake("Phi is the inverse of iω - A11; yours has the other sign.")
def _(A, w):
    n = len(A)
    return A @ np.append(np.linalg.solve(A[:-1, :-1] - 1j * w * np.eye(n - 1), A[:-1, -1]), 1)


@column_times.mistake("The column ends with 1, and you left it out or put 0.")
def _(A, w):
    n = len(A)
    return A @ np.append(np.linalg.solve(1j * w * np.eye(n - 1) - A[:-1, :-1], A[:-1, -1]), 0)


@column_times.mistake("That is the column itself. Multiply it by A.")
def _(A, w):
    n = len(A)
    return np.append(np.linalg.solve(1j * w * np.eye(n - 1) - A[:-1, :-1], A[:-1, -1]), 1)
