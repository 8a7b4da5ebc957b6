"""Exercises of lesson 3."""

import numpy as np
from scipy import linalg

from s4bt.course.exercise import exercise
from s4bt.course.models import layer, lti
from s4bt.course.physics import balance, chain, gramians, modes, rod

K = np.arange(40)


def _hankel(h, rows):
    return h[np.add.outer(np.arange(rows), np.arange(rows))]


@exercise(
    "3.1",
    [
        (0.9**K + 0.5**K - (-0.3) ** K, 20),
        (0.8**K - 0.2 * 0.8**K, 15),
        (0.9**K * np.cos(0.7 * K), 20),
        (1e-9 * (0.9**K + 1e-4 * 0.5**K), 15),
    ],
    "linalg.hankel(first column, last row) builds the matrix.",
    "linalg.hankel(h[:rows], h[rows - 1 : 2 * rows - 1]), then np.linalg.svd.",
    minutes=6,
)
def numerical_rank(h, rows):
    s = np.linalg.svd(_hankel(h, rows), compute_uv=False)
    return int((s > 1e-12 * s[0]).sum())


@numerical_rank.mistake(
    "All values count. Count those above 1e-12 of σ₁; the matrix is Hankel to its last row."
)
def _(h, rows):
    return rows


@numerical_rank.mistake("That is right for three exponentials only. Count singular values.")
def _(h, rows):
    return 3


@numerical_rank.mistake("The threshold is 1e-12 of the largest value, not 1e-12.")
def _(h, rows):
    return int((np.linalg.svd(_hankel(h, rows), compute_uv=False) > 1e-12).sum())


@numerical_rank.mistake("You counted what is below the threshold.")
def _(h, rows):
    return rows - numerical_rank.reference(h, rows)


@exercise(
    "3.2",
    [(2.0, 3.0, -5.0), (0.5, 1.0, 1.0), (1.5, -2.0, 0.25)],
    "With one state the equations are -2 a P + b² = 0 and -2 a Q + c² = 0.",
    "σ is the root of P Q, and never negative.",
    minutes=5,
)
def sigma_of_one_state(a, b, c):
    return np.sqrt(b**2 / (2 * a) * c**2 / (2 * a))


@sigma_of_one_state.mistake("A singular value is never negative: take the modulus.")
def _(a, b, c):
    return b * c / (2 * a)


@sigma_of_one_state.mistake("That is the gain at rest. σ is half of it.")
def _(a, b, c):
    return abs(b * c) / a


@sigma_of_one_state.mistake("That is P Q. σ is its root.")
def _(a, b, c):
    return b**2 * c**2 / (4 * a**2)


@exercise(
    "3.3",
    [gramians(*chain(8)), gramians(*chain(10, damping=0.3)), gramians(*chain(3))],
    "np.linalg.cholesky gives the lower factor: P = Lp Lp^T.",
    "np.linalg.svd(Lq.T @ Lp, compute_uv=False).",
    minutes=6,
    tolerance=1e-9,
)
def by_square_roots(P, Q):
    U, V = (np.linalg.cholesky(M[::-1, ::-1])[::-1, ::-1] for M in (P, Q))
    return linalg.svdvals(V.T @ U)


@by_square_roots.mistake("These are the squares. The singular values of Lq^T Lp are σ itself.")
def _(P, Q):
    return by_square_roots.reference(P, Q) ** 2


@by_square_roots.mistake("The transpose goes to Lq: the matrix is Lq^T Lp.")
def _(P, Q):
    return linalg.svdvals(np.linalg.cholesky(Q) @ np.linalg.cholesky(P))


@by_square_roots.mistake(
    "Roots of the eigenvalues of P Q: half of the digits of small values are lost."
)
def _(P, Q):
    return np.sqrt(np.abs(np.sort(np.linalg.eigvals(P @ Q).real)[::-1]))


@by_square_roots.mistake(
    "That is Lq Lp^T of lower factors. Lq^T Lp is right: NumPy's factor is the lower one, SciPy's"
    " the upper one."
)
def _(P, Q):
    return linalg.svdvals(linalg.cholesky(Q).T @ linalg.cholesky(P))


@by_square_roots.mistake("Descending, please, as everywhere.")
def _(P, Q):
    return by_square_roots.reference(P, Q)[::-1]


def _values():
    from s4bt.reduction.gramians import hankel_singular_values

    Lambda, W, dt = layer("image", 0)
    channel = lti(Lambda, W[12]).discretize(dt[12])
    return [
        (hankel_singular_values(channel).numpy(),),
        (hankel_singular_values(lti(*modes(*chain(12, damping=0.6)))).numpy(),),
        (0.5 ** np.arange(1.0, 40.0),),
    ]


@exercise(
    "3.4",
    _values,
    "With r states the limit is sigma[r], and the bound 2 * sigma[r:].sum().",
    "next(r for r in range(…) if …) is the first r for which something holds.",
    minutes=8,
    level=2,
)
def needed(sigma):
    tails = 2 * np.cumsum(sigma[::-1])[::-1]
    small = 0.001 * sigma[0]
    return int((sigma >= small).sum()), int((tails >= small).sum())


@needed.mistake("With r states kept the first discarded value is sigma[r], not sigma[r - 1].")
def _(sigma):
    limit, bound = needed.reference(sigma)
    return limit + 1, bound + 1


@needed.mistake("The bound is twice the tail: the factor 2 is missing.")
def _(sigma):
    tails = np.cumsum(sigma[::-1])[::-1]
    return needed.reference(sigma)[0], int((tails >= 0.001 * sigma[0]).sum())


@needed.mistake("First the limit, then the bound.")
def _(sigma):
    return needed.reference(sigma)[::-1]


@exercise(
    "3.5",
    [rod()[:2], rod(8)[:2], rod(10, 0.3)[:2]],
    "P solves A P + P A^T + b b^T = 0, as in lesson 2.",
    "2 * np.trace(P).",
    minutes=15,
    level=3,
)
def twice_the_sum(A, b):
    return -b @ np.linalg.solve(A, b)


@twice_the_sum.mistake("The sign of b b^T: SciPy's solver wants the right-hand side.")
def _(A, b):
    return b @ np.linalg.solve(A, b)


@twice_the_sum.mistake("That is the trace, the sum of the σ. Twice that is asked.")
def _(A, b):
    return twice_the_sum.reference(A, b) / 2


@twice_the_sum.mistake("That is twice the largest σ. The trace is the sum of all.")
def _(A, b):
    return 2 * balance(A, b, b)[3][0]
