"""Exercises of lesson 6."""

import numpy as np

from s4bt.course.exercise import NotNumbers, exercise, numbers
from s4bt.course.models import layer


def _gramian_cases():
    Lambda = layer("image", 0)[0]
    b = np.ones(64)
    P = np.outer(b, b) / -(Lambda[:, None] + Lambda.conj())
    wrong = np.outer(b, b) / -(Lambda[:, None] + Lambda)
    two, c = np.array([-1.0 + 1j, -2.0]), np.array([1.0, 2j])
    other = np.outer(c, c.conj()) / -(two[:, None] + two.conj())
    small = 1e-6  # the same system in other units is as good
    return [
        (P, Lambda, b),
        (wrong, Lambda, b),
        (P + 1e-9 * np.eye(64), Lambda, b),
        (other, two, c),
        (other.conj(), two, c),
        (small**2 * P, Lambda, small * b),
        (small**2 * (P + 1e-6 * np.eye(64)), Lambda, small * b),
    ]


@exercise(
    "6.1",
    _gramian_cases,
    "Multiplying a row of P by a pole is Lambda[:, None] * P; a column, P * Lambda.conj().",
    "np.allclose(P, P.conj().T), and the largest entry of the residual against 1e-10 times the"
    " largest of b b^H.",
    minutes=10,
    level=2,
)
def is_gramian(P, Lambda, b):
    right = np.outer(b, b.conj())
    residual = np.diag(Lambda) @ P + P @ np.diag(Lambda).conj() + right
    scale = np.abs(right).max()
    return (
        np.abs(residual).max() <= 1e-10 * scale
        and np.abs(P - P.conj().T).max() <= 1e-8 * np.abs(P).max()
    )


@is_gramian.mistake("You test only whether P is Hermitian. Test the equation, too.")
def _(P, Lambda, b):
    return np.allclose(P, P.conj().T)


@is_gramian.mistake("Your tolerance is absolute: in other units it means something else.")
def _(P, Lambda, b):
    right = np.outer(b, b.conj())
    return np.abs(Lambda[:, None] * P + P * Lambda.conj() + right).max() < 1e-10


@is_gramian.mistake("The second pole is conjugated, as b is: P Λ^H and b b^H.")
def _(P, Lambda, b):
    right = np.outer(b, b)
    return np.abs(Lambda[:, None] * P + P * Lambda + right).max() <= 1e-10 * np.abs(right).max()


@is_gramian.mistake("It says True to everything.")
def _(P, Lambda, b):
    return True


@is_gramian.mistake("It says False to everything: is the tolerance too small, or a sign wrong?")
def _(P, Lambda, b):
    return False


OMEGA = np.array([0.0, 0.7, 2.1])


def _response(system):
    A, b, c = (numbers(x) for x in system)
    if any(np.abs(x.imag).max() > 0 for x in (A, b, c)):
        raise NotNumbers("A real system is asked, and yours has an imaginary part")
    A, b, c = A.real, b.real.ravel(), c.real.ravel()  # columns and rows do, too
    return np.array([c @ np.linalg.solve(1j * w * np.eye(2) - A, b) for w in OMEGA])


@exercise(
    "6.2",
    [
        (-0.1 + 2j, 1.0 + 0.5j, 0.3 - 1j),
        (-0.5 - 1j, 1.0 + 0j, 2.0 + 0j),
        (-0.2 + 0.7j, 2j, 1.0 + 1j),
    ],
    "Write x = p + iq, multiply out, and collect real and imaginary parts.",
    "Multiplying by α + iβ is the matrix [[α, -β], [β, α]].",
    minutes=10,
    level=2,
    up_to=_response,
    of="the frequency response of your system",
)
def embed(lam, b, c):
    turn = np.array([[lam.real, -lam.imag], [lam.imag, lam.real]])
    return turn, np.array([b.real, b.imag]), np.array([c.real, -c.imag])


@embed.mistake("Re(c x) = Re c Re x - Im c Im x: there is a minus in c.")
def _(lam, b, c):
    return embed.reference(lam, b, c)[0], [b.real, b.imag], [c.real, c.imag]


@embed.mistake(
    "The rotation turns the other way, or b and c are exchanged: α + iβ is [[α, -β], [β, α]]."
)
def _(lam, b, c):
    return embed.reference(lam, b, c)[0].T, [b.real, b.imag], [c.real, -c.imag]


@embed.mistake("The push has an imaginary part, too: b has two entries.")
def _(lam, b, c):
    return embed.reference(lam, b, c)[0], [b.real, 0], [c.real, -c.imag]


@exercise(
    "6.3",
    [
        (np.array([0.9, 0.5 + 0.3j]), np.array([1.0 + 0j, 2.0 - 1j])),
        (np.array([-0.5, 0.2j, 0.99]), np.array([1j, 1.0, -0.5])),
    ],
    "Put z = (1 + s)/(1 - s) into v/(z - z_n) and multiply by 1 - s above and below.",
    "v(1 - s) / ((1 + z_n)(s - s_n)): the residue is the numerator at s = s_n, divided by 1 + z_n.",
    minutes=12,
    level=3,
)
def bilinear(z, v):
    s = (z - 1) / (z + 1)
    return s, v * (1 - s) / (1 + z)


@bilinear.mistake("The sign: at s = s_n the numerator is 1 - s_n, which is 2/(z_n + 1).")
def _(z, v):
    return (z - 1) / (z + 1), -2 * v / (z + 1) ** 2


@bilinear.mistake("The factor 2 is missing: 1 - s_n = 2/(z_n + 1).")
def _(z, v):
    return (z - 1) / (z + 1), v / (z + 1) ** 2


@bilinear.mistake("One factor 2/(z_n + 1) comes from 1 - s; dividing by 1 + z_n is another.")
def _(z, v):
    return (z - 1) / (z + 1), 2 * v / (z + 1)


@bilinear.mistake("That is the residue as it was. The map changes it.")
def _(z, v):
    return (z - 1) / (z + 1), v


@exercise(
    "6.4",
    [
        (np.array([0.9, 0.5 + 0.3j, -0.2]), np.array([1.0, 2.0, 1 - 1j])),
        (np.array([0.3 - 0.8j, 0.5, 0.1j, -0.7]), np.array([1j, 1.0, 0.5 + 0.5j, 2.0])),
    ],
    "The new numerators are b (λ - λ_p)/(1 - λ conj(λ_p)) with p = 0; drop the first.",
    "np.outer(x, x.conj()) / (1 - np.outer(y, y.conj())), x new numerators and y poles.",
    minutes=10,
    level=2,
)
def remaining(poles, b):
    P = np.outer(b, b.conj()) / (1 - np.outer(poles, poles.conj()))
    return P[1:, 1:] - np.outer(P[1:, 0], P[0, 1:]) / P[0, 0]


@remaining.mistake("The denominator has the conjugate of the pivot's pole: 1 - λ conj(λ_p).")
def _(poles, b):
    new = (b * (poles - poles[0]) / (1 - poles * poles[0]))[1:]
    return np.outer(new, new.conj()) / (1 - np.outer(poles[1:], poles[1:].conj()))


@remaining.mistake("That is the corner of the old matrix. One step of elimination is missing.")
def _(poles, b):
    return (np.outer(b, b.conj()) / (1 - np.outer(poles, poles.conj())))[1:, 1:]


@remaining.mistake("The second factor is conjugated, as in every Gramian.")
def _(poles, b):
    new = (b * (poles - poles[0]) / (1 - poles * poles[0].conj()))[1:]
    return np.outer(new, new) / (1 - np.outer(poles[1:], poles[1:]))
