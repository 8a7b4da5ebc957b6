"""Exercises of lesson 1."""

import numpy as np

from s4bt.course.exercise import exercise
from s4bt.course.models import layer
from s4bt.course.physics import chain, modes

TIME = np.linspace(0, 20, 200)


def _sampled(poles, residues, step):
    z = np.exp(poles * step)
    return z, residues * (z - 1) / poles


@exercise(
    "1.1",
    [(0.1, 2.0, 1.5, 0.3, TIME), (0.5, 1.0, 2.0, -1.2, TIME), (0.2, 3.0, 1.0, 0.0, TIME)],
    "Multiply the exponentials: |w| exp(i phase) exp(-gamma t) exp(i omega t).",
    "The real part of exp(i x) is cos x.",
    minutes=5,
)
def one_mode(gamma, omega, size, phase, t):
    return (size * np.exp(1j * phase) * np.exp((-gamma + 1j * omega) * t)).real


@one_mode.mistake("The real part of exp(ix) is the cosine; the sine is the imaginary part.")
def _(gamma, omega, size, phase, t):
    return size * np.exp(-gamma * t) * np.sin(omega * t + phase)


@one_mode.mistake("The phase is missing.")
def _(gamma, omega, size, phase, t):
    return size * np.exp(-gamma * t) * np.cos(omega * t)


@one_mode.mistake("The mode grows: the real part of the pole is -gamma.")
def _(gamma, omega, size, phase, t):
    return size * np.exp(gamma * t) * np.cos(omega * t + phase)


@one_mode.mistake("The phase is in radians, as np.cos takes it.")
def _(gamma, omega, size, phase, t):
    return size * np.exp(-gamma * t) * np.cos(omega * t + np.deg2rad(phase))


@one_mode.mistake("The phase has the wrong sign.")
def _(gamma, omega, size, phase, t):
    return size * np.exp(-gamma * t) * np.cos(omega * t - phase)


def _channels():
    Lambda, _, dt = layer("image", 0)
    damped = np.array([-6.0 + 1j, -0.1 + 2j, -0.5 + 7j])  # the first is damped more than it turns
    return [(Lambda, dt[12]), (Lambda, dt.max()), (Lambda, dt.min()), (damped, 0.6)]


@exercise(
    "1.2",
    _channels,
    "In one step the mode turns by omega times the step, in radians.",
    "Comparing an array with a number gives an array of True and False; np.sum counts True.",
    minutes=5,
)
def aliased(poles, step):
    turned = poles.imag * step
    return np.sum(np.abs(np.angle(np.exp(1j * turned)) - turned) > 1e-9)


@aliased.mistake("Half a circle is π, a whole one 2π.")
def _(poles, step):
    return np.sum(poles.imag * step > 2 * np.pi)


@aliased.mistake("How far a mode turns says the imaginary part; you took the modulus.")
def _(poles, step):
    return np.sum(np.abs(poles) * step > np.pi)


@aliased.mistake("That says which modes alias. How many are they? np.sum counts True.")
def _(poles, step):
    return poles.imag * step > np.pi


@aliased.mistake("You counted the modes that do not alias.")
def _(poles, step):
    return np.sum(poles.imag * step <= np.pi)


@aliased.mistake("The angle is omega times the step; you compared omega alone.")
def _(poles, step):
    return np.sum(poles.imag > np.pi)


@aliased.mistake("Half a circle is 180 degrees, but the angle is in radians.")
def _(poles, step):
    return np.sum(poles.imag * step > 180)


def _discrete():
    Lambda, W, dt = layer("image", 0)
    return [
        _sampled(*modes(*chain(8)), 0.5),
        _sampled(*modes(*chain(5, stiffness=2.0)), 1.0),
        _sampled(Lambda, W[12], dt[12]),
    ]


@exercise(
    "1.3",
    _discrete,
    "With u = 1 the output is K_0 + K_1 + K_2 + …, and K_l is a sum of powers.",
    "1 + z + z² + … = 1/(1 - z). And the output is a real part.",
    minutes=8,
    level=2,
)
def settles_at(poles, residues):
    return np.sum(residues / (1 - poles)).real


@settles_at.mistake("Your sum begins with z. The first sample K_0 counts, too: z⁰ = 1.")
def _(poles, residues):
    return np.sum(residues * poles / (1 - poles)).real


@settles_at.mistake("That is the formula of a continuous system. These poles are discrete.")
def _(poles, residues):
    return np.sum(residues / -poles).real


@settles_at.mistake("Each mode has its own residue; the sum must weigh by it.")
def _(poles, residues):
    return np.sum(1 / (1 - poles)).real


@exercise(
    "1.4",
    [(*modes(*chain(8)), 0.1), (*modes(*chain(8)), 2.0), (*modes(*chain(5, stiffness=2.0)), 0.5)],
    "Sample with discretize, then use your answer to 1.3.",
    minutes=5,
)
def settled(poles, residues, step):
    return np.sum(residues / -poles).real


@settled.mistake("The residues change when a mode is sampled: (z - 1)/λ. Use discretize.")
def _(poles, residues, step):
    return np.sum(residues / (1 - np.exp(poles * step))).real


@settled.mistake("These are the modes of the continuous system. Sample them: discretize.")
def _(poles, residues, step):
    return np.sum(residues / (1 - poles)).real


@settled.mistake("The factor is (z - 1)/λ, not the step: that is right only for short steps.")
def _(poles, residues, step):
    return np.sum(step * residues / (1 - np.exp(poles * step))).real


@settled.mistake("That is right for the chain of the lesson only. Compute it from the modes.")
def _(poles, residues, step):
    return 8.0


@exercise(
    "1.5",
    [(*modes(*chain(8)), 0.55), (*modes(*chain(5)), 1.2), (*modes(*chain(3)), 0.0)],
    "In coordinates of the modes A is diagonal, and so is the inverse of iω - A.",
    "A pair is w/2 at λ and conj(w)/2 at conj(λ): our residues are twice those of a pair.",
    minutes=10,
    level=2,
)
def response(poles, residues, omega):
    return 0.5 * np.sum(
        residues / (1j * omega - poles) + residues.conj() / (1j * omega - poles.conj())
    )


@response.mistake("These are the poles above the real axis only. Their conjugates answer, too.")
def _(poles, residues, omega):
    return np.sum(residues / (1j * omega - poles))


@response.mistake("Half of the poles, with half of the residues: add the conjugates.")
def _(poles, residues, omega):
    return 0.5 * np.sum(residues / (1j * omega - poles))


@response.mistake("The real part of that is not the response: the conjugate poles add more.")
def _(poles, residues, omega):
    return np.sum(residues / (1j * omega - poles)).real


@response.mistake("The residues of the conjugate poles are conjugate, too.")
def _(poles, residues, omega):
    return 0.5 * np.sum(residues / (1j * omega - poles) + residues / (1j * omega - poles.conj()))
