"""Locally H2-optimal reduction: the nearest kernel in the sum of squares.

At a minimum G_r(-conj mu) = G(-conj mu), and the derivatives agree, too, for every pole mu of G_r
(Meier & Luenberger 1967; Gugercin, Antoulas & Beattie 2008); for a discrete system at 1 / conj mu.
It is the fit of `variable_projection` with white inputs.
"""

from __future__ import annotations

from s4bt.reduction.balanced import require_discrete
from s4bt.reduction.checks import not_negative, whole_number
from s4bt.reduction.expected_error import Problem
from s4bt.reduction.methods import PERTURBATION
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.variable_projection import (
    ITERATIONS,
    best_fit,
    fitted,
    system_at,
)


def h2(
    system: DiagonalLTI,
    rank: int,
    length: int | None = None,
    iterations: int = ITERATIONS,
    perturbation: float = PERTURBATION,
) -> DiagonalLTI:
    """Locally H2-optimal: least ||G - G_r||_H2 near balanced truncation.

    (Meier & Luenberger 1967) For diagonal layers: Sakamoto & Sato 2025. perturbation: the relative
    error of residues, exponents and steps that the fit allows for. length: of the sequences, if
    what comes much later need not count; of discrete systems only.
    Raises as `balanced_truncation`, and ValueError for options that are no such numbers.
    """
    iterations = whole_number(iterations, "iterations", 0)
    perturbation = not_negative(perturbation, "perturbation")
    if length is not None:
        require_discrete(system, "the length counts its steps")
        length = whole_number(length, "length", 1)

    def fit(full: DiagonalLTI, start: DiagonalLTI) -> DiagonalLTI:
        problem = Problem.of(full, perturbation, length)
        point = best_fit(problem, [start.exponents], iterations)
        return system_at(full, point.a, point.x)

    return fitted(system, rank, fit)
