"""`h2`: the kernel with the least expected error for white inputs; with eps = 0 the H2-optimal.

With eps = 0, G_r(-conj mu) = G(-conj mu), and the derivatives agree, too, for every pole mu
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
    """Least expected ||G - G_r||_H2 near balanced truncation.

    (Meier & Luenberger 1967) For diagonal layers: Sakamoto & Sato 2025. perturbation: eps, the
    relative error of residues, exponents and steps that the fit allows for; 0: locally H2-optimal.
    length: of the sequences, if kernels count exp(-k / (4 length)) at lag k, so that modes which
    outlast the sequences do not rule the fit; of discrete systems only. iterations: at most so many
    steps of the best start, after a few of every start.
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
