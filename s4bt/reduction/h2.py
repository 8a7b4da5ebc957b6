"""Locally H2-optimal reduction: the nearest kernel in the sum of squares.

E_n      exp(a_n t); a and the fit as in `variable_projection`
G        inner products of the basis, its derivatives and the impulse response, in closed form

At a minimum G_r(-conj mu) = G(-conj mu), and the derivatives agree, too, for every pole mu of G_r
(Meier & Luenberger 1967; Gugercin, Antoulas & Beattie 2008); for a discrete system at 1 / conj mu.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s4bt.reduction.checks import not_negative, whole_number
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.variable_projection import (
    FAINT,
    Problem,
    best_fit,
    damping_range,
    fitted,
    minimise,
    system_at,
)

ITERATIONS = 60  # Levenberg-Marquardt steps; most fits end before
RTOL = 1e-6  # columns come from a Gram matrix, whose roots carry half the digits


def _moments(x: Tensor, discrete: bool) -> tuple[Tensor, Tensor, Tensor]:
    """sum (or integral) over t >= 0 of exp(x t), t exp(x t) and t^2 exp(x t)."""
    if not discrete:
        return -1 / x, 1 / x**2, -2 / x**3
    q, gap = torch.exp(x), -torch.expm1(x)
    return 1 / gap, q / gap**2, q * (1 + q) / gap**3


def _halves(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inner products of real and imaginary parts, from those with and without conjugation."""
    return (
        (one + two).real / 2,
        (two - one).imag / 2,
        (one + two).imag / 2,
        (one - two).real / 2,
    )


def gram_matrix(system: DiagonalLTI, a: Tensor) -> Tensor:
    """Real inner products (B, 4 r + 1, 4 r + 1) of Re E, Im E, t Re E, t Im E and the response.

    Of a complex system, of E, -i E, t E, -i t E and h, as real vectors.
    """
    discrete, lam, w = system.dt is not None, system.exponents, system.residues

    def own(b: Tensor) -> Tensor:
        e, te, tte = _moments(a[..., :, None] + b[..., None, :], discrete)
        return torch.cat([torch.cat([e, te], -1), torch.cat([te, tte], -1)], -2)

    def with_target(b: Tensor, weights: Tensor) -> Tensor:
        e, te, _ = _moments(a[..., :, None] + b[..., None, :], discrete)
        return torch.cat([e @ weights[..., None], te @ weights[..., None]], -2)

    one, y_one = own(a.conj()), with_target(lam.conj(), w.conj())
    two = own(a) if system.real else torch.zeros_like(one)
    y_two = with_target(lam, w) if system.real else torch.zeros_like(y_one)
    rr, ri, ir, ii = _halves(one, two)
    r, i = (y_one + y_two).real / 2, (y_one + y_two).imag / 2
    energy = system.h2_norm().square()[:, None, None] / (1 if system.real else 2)
    # from (Re E, t Re E, Im E, t Im E) to the order above
    n = a.shape[-1]
    numbers = torch.arange(n)
    index = torch.cat([numbers, numbers + 2 * n, numbers + n, numbers + 3 * n]).to(a.device)
    G = torch.cat([torch.cat([rr, ri], -1), torch.cat([ir, ii], -1)], -2)
    G = G[..., index[:, None], index[None]]
    y = torch.cat([r, i], -2)[..., index, :]
    return torch.cat([torch.cat([G, y], -1), torch.cat([y.mT, energy], -1)], -2)


def _root(G: Tensor, r: int) -> Tensor:
    """M with M^T M = G; columns that are rounding are set to zero."""
    size = G.diagonal(dim1=-2, dim2=-1)
    plain = size[..., :r] + size[..., r : 2 * r]
    slope = size[..., 2 * r : 3 * r] + size[..., 3 * r : 4 * r]
    whole = torch.cat([plain, plain, slope, slope, size[..., -1:]], -1)
    faint = size <= FAINT**2 * whole
    size = size.masked_fill(faint, 1).sqrt()
    G = G / size[..., :, None] / size[..., None, :]
    G = G.masked_fill(faint[..., :, None] | faint[..., None, :], 0)
    values, V = torch.linalg.eigh(G)
    return values.clamp(min=0).sqrt()[..., :, None] * V.mT * size[..., None, :]


def fit_h2(
    system: DiagonalLTI, start: DiagonalLTI, iterations: int = ITERATIONS, rounding: float = 0.0
) -> DiagonalLTI:
    """A local minimum of ||G - G_r||_H2 near `start`, both flat batches of stable systems."""

    def table(a: Tensor) -> Tensor:
        return _root(gram_matrix(system, a), a.shape[-1])

    problem = Problem(table, 0, rounding, damping_range(system), RTOL)
    point = minimise(problem, start.exponents, iterations)
    return system_at(system, point.a, point.x)


def h2(
    system: DiagonalLTI, rank: int, iterations: int = ITERATIONS, rounding: float = 0.0
) -> DiagonalLTI:
    """Locally H2-optimal: least ||G - G_r||_H2 near balanced truncation.

    (Meier & Luenberger 1967) For diagonal layers: Sakamoto & Sato 2025. rounding: the relative
    error of residues and exponents that the fit allows for.
    Raises as `balanced_truncation`, and ValueError for options that are no such numbers.
    """
    iterations = whole_number(iterations, "iterations", 0)
    rounding = not_negative(rounding, "rounding")

    def fit(full: DiagonalLTI, start: DiagonalLTI) -> DiagonalLTI:
        def improve(index: Tensor, begin: DiagonalLTI) -> DiagonalLTI:
            return fit_h2(full.select(index), begin, iterations, rounding)

        return best_fit(improve, [start], lambda small: (full - small).h2_norm())

    return fitted(system, rank, fit)
