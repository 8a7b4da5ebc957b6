"""Exercises of lesson 4."""

import numpy as np

from s4bt.course.exercise import exercise
from s4bt.course.physics import balance, chain, gramians, modes

OMEGA = np.geomspace(0.02, 4, 400)


def _cut(A, b, c, r):
    A, b, c, _ = balance(A, b, c)
    return A[:r, :r], b[:r], c[:r]


@exercise(
    "4.1",
    [chain(8), chain(3, damping=0.3), chain(5, sensor=0), (*chain(4)[:2], -chain(4)[2])],
    "truncate(A, b, c, 1) is a system with one state; exercise 0.2 has its gain at rest.",
    minutes=6,
    level=2,
)
def gain_of_one_state(A, b, c):
    A1, b1, c1 = _cut(A, b, c, 1)
    return -c1[0] * b1[0] / A1[0, 0]


@gain_of_one_state.mistake("That is the gain of the whole system at rest. Truncate it first.")
def _(A, b, c):
    return -c @ np.linalg.solve(A, b)


@gain_of_one_state.mistake("That is c b; divide by the pole.")
def _(A, b, c):
    _, b1, c1 = _cut(A, b, c, 1)
    return c1 @ b1


@gain_of_one_state.mistake("That is the size of the gain. It has a sign, too.")
def _(A, b, c):
    return 2 * balance(A, b, c)[3][0]


def _by_size(poles):
    """Sorted by real part, then by imaginary part; conjugates have the same, up to rounding."""
    poles = np.ravel(poles)
    return poles[np.lexsort((poles.imag, np.round(poles.real, 6)))]


def _backwards(system):
    """Balanced, with the smallest value first."""
    A, _, _, sigma = balance(*system)
    return A[::-1, ::-1], np.diag(sigma[::-1]), np.diag(sigma[::-1]), 4


@exercise(
    "4.2",
    [
        (chain(8)[0], *gramians(*chain(8)), 6),
        (chain(4)[0], *gramians(*chain(4)), 4),
        (chain(3, damping=0.5)[0], *gramians(*chain(3, damping=0.5)), 2),
        _backwards(chain(3)),
    ],
    "np.linalg.eig(P @ Q) gives the columns of T, in no particular order: sort by eigenvalue.",
    "Then (np.linalg.inv(T) @ A @ T)[:r, :r] is A11.",
    minutes=12,
    level=3,
    tolerance=1e-4,
    up_to=_by_size,
    of="your sorted poles",
)
def poles_by_eigenvectors(A, P, Q, r):
    Lp, Lq = np.linalg.cholesky(P), np.linalg.cholesky(Q)
    U, s, Vt = np.linalg.svd(Lq.T @ Lp)
    T, Z = Lp @ Vt.T / np.sqrt(s), Lq @ U / np.sqrt(s)
    return np.linalg.eigvals(Z[:, :r].T @ A @ T[:, :r])


def _by_order(A, product, r, sign):
    values, T = np.linalg.eig(product)
    T = T[:, np.argsort(sign * values.real)].real
    return np.linalg.eigvals((np.linalg.inv(T) @ A @ T)[:r, :r])


@poles_by_eigenvectors.mistake("You kept the states with the smallest values. Sort descending.")
def _(A, P, Q, r):
    return _by_order(A, P @ Q, r, 1)


@poles_by_eigenvectors.mistake("np.linalg.eig sorts nothing: put the largest eigenvalues first.")
def _(A, P, Q, r):
    T = np.linalg.eig(P @ Q)[1].real
    return np.linalg.eigvals((np.linalg.inv(T) @ A @ T)[:r, :r])


@poles_by_eigenvectors.mistake("The columns of T are eigenvectors of P Q, not of Q P.")
def _(A, P, Q, r):
    return _by_order(A, Q @ P, r, -1)


@poles_by_eigenvectors.mistake("These are some of the old poles. The new ones are those of A11.")
def _(A, P, Q, r):
    values = np.linalg.eigvals(A)
    return values[np.argsort(-values.real)][:r]


# the loudest of these, which stand last, are not those with the largest residues or the slowest
INVENTED = np.array([-1.0 + 0.5j, -0.02 + 3j, -0.1 + 1j, -0.5 + 2j])


@exercise(
    "4.3",
    [
        (*modes(*chain(8)), OMEGA, 3),
        (*modes(*chain(5)), OMEGA, 2),
        (*modes(*chain(6, damping=0.4)), OMEGA, 1),
        (INVENTED, np.array([3.0, 0.1, 1.0, 6j]), OMEGA, 2),
    ],
    "np.argsort(…)[::-1][:count] are the loudest; what is left out is the error.",
    "The response of modes is in exercise 1.5, for one frequency. Let the modes be a column:"
    " poles[:, None].",
    minutes=10,
    level=2,
)
def modal_error(poles, residues, omega, count):
    order = np.argsort(-np.abs(residues) / -poles.real, kind="stable")
    return np.abs(_response(poles, residues, omega, order[count:])).max()


def _response(poles, residues, omega, which):
    p, w = poles[which, None], residues[which, None]
    return (w / (1j * omega - p) + w.conj() / (1j * omega - p.conj())).sum(0) / 2


@modal_error.mistake("The conjugate poles are missing in the response (exercise 1.5).")
def _(poles, residues, omega, count):
    order = np.argsort(-np.abs(residues) / -poles.real)[count:]
    return np.abs((residues[order, None] / (1j * omega - poles[order, None])).sum(0)).max() / 2


@modal_error.mistake(
    "Half of the poles, with twice their residues: each pair is w/2 and conj(w)/2."
)
def _(poles, residues, omega, count):
    order = np.argsort(-np.abs(residues) / -poles.real)[count:]
    return np.abs((residues[order, None] / (1j * omega - poles[order, None])).sum(0)).max()


@modal_error.mistake("You kept the first modes as they come. Sort them first.")
def _(poles, residues, omega, count):
    return np.abs(_response(poles, residues, omega, np.arange(count, len(poles)))).max()


def _ranked(poles, residues, omega, count, by):
    return np.abs(_response(poles, residues, omega, np.argsort(-by)[count:])).max()


@modal_error.mistake("You ranked by |w| alone. Divide by the damping.")
def _(poles, residues, omega, count):
    return _ranked(poles, residues, omega, count, np.abs(residues))


@modal_error.mistake("You kept the slowest modes. How loud they are counts, too.")
def _(poles, residues, omega, count):
    return _ranked(poles, residues, omega, count, poles.real)


@modal_error.mistake("You kept the modes with the smallest |w| / damping. Sort descending.")
def _(poles, residues, omega, count):
    order = np.argsort(np.abs(residues) / -poles.real)
    return np.abs(_response(poles, residues, omega, order[count:])).max()


@modal_error.mistake("That is the largest gain of what is kept. The error is what is left out.")
def _(poles, residues, omega, count):
    order = np.argsort(-np.abs(residues) / -poles.real)
    return np.abs(_response(poles, residues, omega, order[:count])).max()


@modal_error.mistake("That is the difference of the two largest gains, at two frequencies.")
def _(poles, residues, omega, count):
    order = np.argsort(-np.abs(residues) / -poles.real)
    whole, kept = (
        np.abs(_response(poles, residues, omega, k)).max() for k in (order, order[:count])
    )
    return abs(whole - kept)


@exercise(
    "4.4",
    [(*chain(8), 6), (*chain(4), 3), (*chain(5, sensor=0), 4)],
    "gramians and truncate are defined above: put one into the other.",
    minutes=4,
)
def both_gramians(A, b, c, r):
    sigma = balance(A, b, c)[3]
    return [np.diag(sigma[:r])] * 2


@both_gramians.mistake("These are corners of the old Gramians. Compute those of the small system.")
def _(A, b, c, r):
    P, Q = gramians(A, b, c)
    return P[:r, :r], Q[:r, :r]


@both_gramians.mistake("These are the Gramians of the system you did not truncate.")
def _(A, b, c, r):
    return gramians(A, b, c)
