"""Exercises of lesson 12."""

import math

import numpy as np

from s4bt.course.exercise import exercise


@exercise(
    "12.1",
    [(4, 128, 64), (4, 128, 8), (2, 32, 5)],
    "Every channel of every layer keeps one complex number for each mode.",
    "A complex number is two floats of four bytes.",
    minutes=3,
)
def bytes_of_state(layers, width, modes):
    return np.zeros((layers, width, modes), np.complex64).nbytes


@bytes_of_state.mistake("A complex number is two floats.")
def _(layers, width, modes):
    return 4 * layers * width * modes


@bytes_of_state.mistake("These are numbers. How many bytes has a float?")
def _(layers, width, modes):
    return 2 * layers * width * modes


@bytes_of_state.mistake("Double precision has 8 bytes; these are floats of 4.")
def _(layers, width, modes):
    return 16 * layers * width * modes


@exercise(
    "12.2",
    [(32,), (128,), (60,)],
    "Per layer it is H (6N + 1 + H): when is 6N as large as H?",
    minutes=4,
)
def modes_at_half(width):
    return width / 6


@modes_at_half.mistake("A complex multiplication is four real ones, an output weight two: 6.")
def _(width):
    return width / 4


@modes_at_half.mistake("H² is the mixing of all channels, 6 H N their modes: the H cancels once.")
def _(width):
    return width**2 / 6


@modes_at_half.mistake("That is right for one width. Let it depend on `width`.")
def _(width):
    return 32 / 6


@exercise(
    "12.3",
    [(0.999, 0.1), (0.99, 0.1), (0.9999, 0.05), (0.95, 0.157)],
    "2^(b-1) numbers from 0 to 1 have 2^(b-1) - 1 distances; rounding moves by half of one.",
    "Try b = 2, 3, … until half a distance is at most share · (1 - modulus).",
    minutes=8,
    level=2,
)
def smallest_bits(modulus, share):
    return next(
        b for b in range(2, 60) if 0.5 / (2 ** (b - 1) - 1) <= share * (1 - modulus) * (1 + 1e-12)
    )


@smallest_bits.mistake("Rounding moves by at most *half* a distance.")
def _(modulus, share):
    return next(b for b in range(2, 60) if 1 / (2 ** (b - 1) - 1) <= share * (1 - modulus))


@smallest_bits.mistake("2^(b-1) numbers from 0 to 1 have one distance less than that.")
def _(modulus, share):
    return next(b for b in range(2, 60) if 0.5 / 2 ** (b - 1) <= share * (1 - modulus))


@smallest_bits.mistake("One bit is spent on the sign: 2^(b-1) numbers, not 2^b.")
def _(modulus, share):
    return next(b for b in range(2, 60) if 0.5 / (2**b - 1) <= share * (1 - modulus))


@smallest_bits.mistake("The distance to the circle, 1 - |λ|, is to be right, not |λ|.")
def _(modulus, share):
    return next(b for b in range(2, 60) if 0.5 / (2 ** (b - 1) - 1) <= share * modulus)


LARGEST = 3.4e38


@exercise(
    "12.4",
    [(1.002,), (1.01,), (1.1,)],
    "z_k = λ z_{k-1} + 1 with z_{-1} = 0: run it, or sum the geometric series.",
    minutes=6,
)
def overflows_at(growth):
    return math.ceil(math.log(LARGEST * (growth - 1) + 1) / math.log(growth)) - 1


@overflows_at.mistake("That is when λ^k alone overflows. The sum does earlier.")
def _(growth):
    return math.ceil(math.log(LARGEST) / math.log(growth))


@overflows_at.mistake("Count from 0: z_0 = 1 is the first.")
def _(growth):
    return overflows_at.reference(growth) + 1


@overflows_at.mistake("That is right for one pole. Let it depend on `growth`.")
def _(growth):
    return overflows_at.reference(1.002)
