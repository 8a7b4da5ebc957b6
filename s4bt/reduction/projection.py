"""Balanced coordinates of diagonal systems.

poles      (..., N)     lambda
sigma      (..., N)     Hankel singular values, descending
Lp, Lq     (..., N, n)  factors of the Gramians, P = Lp Lp^H, Q = Lq Lq^H
mu                      lambda, or lambda - 1 of a discrete system, which keeps its digits near 1
A, b, c    (B, k, k), (B, k), (B, k)   a realisation in balanced coordinates; A - I if discrete
rank       r            complex modes that are kept
order      k            states that are kept: r, or up to 2 r of a real system

A method is a kind of `Balanced`, whose `reduced` makes small realisations; `diagonalisation` does
the rest.  (balancing in general: Antoulas 2005, ch. 7)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s4bt.reduction.checks import warn, whole_number
from s4bt.reduction.gramians import symmetric_factor
from s4bt.reduction.systems import DiagonalLTI

# Directions with a smaller share of the largest Hankel singular value are rounding: left out.
ROUNDING = 1e-13
LOOKS_DISCRETE = 0.5  # a largest modulus from here to 1 is taken for that of discrete poles


def check_rank(rank: int, largest: int) -> int:
    """The rank as an int.  Raises ValueError unless it is a whole number in 1..largest."""
    return whole_number(rank, "rank", 1, largest, "N = ")


def check_kind(system: DiagonalLTI) -> None:
    """Warn if the poles of a continuous system look like those of a discrete one.

    Those of a layer lie inside the unit circle, and the slowest are near it.
    """
    if system.dt is None and LOOKS_DISCRETE < float(system.poles.detach().abs().max()) < 1:
        warn(
            "all poles lie inside the unit circle and no step is given, so they are reduced as "
            "poles of a continuous system; if they are those of a discrete one, say so with dt=1",
            DomainWarning,
        )


class DomainWarning(UserWarning):
    """A continuous system has the poles of a discrete one."""


@dataclass(frozen=True)
class Realisation:
    """Reduced realisations of some members of a batch: x' = A x + b u, y = c x + d u.

    A (B, m, m) (A - I if discrete), b, c (B, m), d (B); allowed (B): which members have one.
    """

    A: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    allowed: Tensor


@dataclass(frozen=True)
class Balanced:
    """A flat batch in balanced coordinates: x' = A x + b u, y = c x, P = Q = diag(sigma).

    sigma: (B, N or 2N), all of them; A, b, c: the k largest, real if the system is; live (B,): how
    many of the k are above ROUNDING; discrete: whether A is A - I.
    """

    sigma: Tensor
    A: Tensor
    b: Tensor
    c: Tensor
    live: Tensor
    discrete: bool

    @property
    def splits(self) -> bool:
        """Whether an order may lie between equal singular values.

        A truncated continuous system can then have poles on the axis, or any distance from it that
        rounding makes; a discrete one is a contraction, and keeps its bound.
        """
        return self.discrete

    def reduced(self, index: Tensor, order: int) -> Realisation:
        """The members `index`, reduced to `order` states: here, truncated to the leading ones."""
        A, b, c = self.A[index, :order, :order], self.b[index, :order], self.c[index, :order]
        everyone = torch.ones(len(index), dtype=torch.bool, device=index.device)
        return Realisation(A, b, c, self.b.new_zeros(len(index)), everyone)


def shifted_poles(system: DiagonalLTI) -> Tensor:
    """mu, (..., N)."""
    if system.dt is None:
        return system.poles
    return torch.expm1(system.logs)


def states_of(system: DiagonalLTI, rank: int) -> int:
    """Balanced states that `rank` modes can take."""
    return rank * (2 if system.real else 1)


def project(
    Lq: Tensor, Lp: Tensor, U: Tensor, sigma: Tensor, V: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Z^H and T with Z^H T = I, and how many directions are not rounding.

    T = Lp V S^(-1/2) and Z = Lq U S^(-1/2), (..., N, k). (square-root method: Antoulas 2005, ch. 7)
    U and V of small singular values are singular vectors of a matrix nearby, so Z^H T is not quite
    I; Z is corrected, which makes the projection an exact one.
    """
    live = sigma > ROUNDING * sigma[..., :1]
    scale = torch.where(live, sigma, torch.inf).rsqrt()[..., None, :]
    T, Zh = Lp @ (V * scale), (Lq @ (U * scale)).mH
    return torch.linalg.solve(Zh @ T + torch.diag_embed((~live).to(Zh.dtype)), Zh), T, live.sum(-1)


def real_coordinates(top: Tensor) -> Tensor:
    """Vectors (x, conj x), given by their upper halves (..., N, k), in a real basis (..., 2N, k).

    sqrt(2) (Re x, Im x): a unitary change of basis.
    """
    return 2**0.5 * torch.cat([top.real, top.imag], -2)


def factors(system: DiagonalLTI) -> tuple[Tensor, Tensor, Tensor]:
    """Weights s, the factor Lp that `coordinates` takes, real if the system is, and sigma.

    A real system is the conjugate-closed one in the basis of `real_coordinates`, so that reduced
    poles are exactly conjugate.
    """
    s, L = symmetric_factor(system.with_conjugates())
    sigma = torch.linalg.svdvals(L.mT @ L)
    if not system.real:
        return s, L, sigma
    N = system.modes
    upper, lower = L[..., :N, :], L[..., N:, :]
    L = torch.cat([upper + lower, -1j * (upper - lower)], -2) / 2**0.5
    rows = torch.stack([L.real, L.imag], -1).flatten(-2).mT  # (B, 4N, 2N), graded rows
    return s[..., :N], torch.linalg.qr(rows).R.mT, sigma


def dual_factor(Lp: Tensor) -> Tensor:
    """The factor of the observability Gramian.

    Q = conj(P) in the basis where b = c, and Q = J P J with J = diag(1, -1) in the real one.
    """
    if Lp.is_complex():
        return Lp.conj()
    J = torch.ones(Lp.shape[-2], dtype=Lp.dtype, device=Lp.device)
    J[Lp.shape[-2] // 2 :] = -1
    return J[:, None] * Lp


def _singular_vectors(
    Lq: Tensor, Lp: Tensor, k: int, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The k leading U, sigma, V of Lq^H Lp = U S V^H; symmetric: if that is real and symmetric."""
    M = Lq.mH @ Lp
    if Lp.is_complex() or not symmetric:
        U, sigma, Vh = torch.linalg.svd(M)
        return U[..., :k], sigma[..., :k], Vh.mH[..., :k]
    # one set of vectors, faster
    values, V = torch.linalg.eigh(M)
    best = values.abs().sort(-1, descending=True).indices[..., :k]
    values = values.gather(-1, best)
    V = V.gather(-1, best[..., None, :].expand(*V.shape[:-1], k))
    return V * values.sign()[..., None, :], values.abs(), V


def coordinates(
    system: DiagonalLTI, s: Tensor, Lp: Tensor, k: int, Lq: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, b, c and live of `Balanced`, from factors of two Gramians.

    Lq: the dual of Lp unless given.
    """
    symmetric = Lq is None
    Lq = dual_factor(Lp) if Lq is None else Lq
    U, sigma, V = _singular_vectors(Lq, Lp, k, symmetric)
    Zh, T, live = project(Lq, Lp, U, sigma, V)
    mu = shifted_poles(system)[..., None]
    if not system.real:
        b, c = (Zh @ s[..., None])[..., 0], (s[..., None, :] @ T)[..., 0, :]
        return Zh @ (mu * T), b, c, live
    upper, lower = T[..., : system.modes, :], T[..., system.modes :, :]
    A_T = torch.cat([mu.real * upper - mu.imag * lower, mu.imag * upper + mu.real * lower], -2)
    weights = real_coordinates(s[..., None])
    b, c = (Zh @ weights)[..., 0], (dual_factor(weights).mT @ T)[..., 0, :]
    return Zh @ A_T, b, c, live


def balanced_coordinates(system: DiagonalLTI, k: int) -> Balanced:
    """The k largest balanced states of a flat batch of stable systems in complex128."""
    s, Lp, sigma = factors(system)
    return Balanced(sigma, *coordinates(system, s, Lp, k), system.dt is not None)
