"""Gramian factors of diagonal systems, and Hankel singular values to full relative accuracy.

poles      (..., N)     lambda
g          (..., N, m)  generators: the input weights of each mode, m = 1 for a single input
P, Q       (..., N, N)  controllability and observability Gramians; P = L L^H is never formed
sigma      (..., N)     Hankel singular values, descending

P_ij = g_i . conj(g_j) / D_ij  with  D_ij = -(lambda_i + conj lambda_j), or
1 - lambda_i conj(lambda_j) of a discrete system: a Cauchy-like matrix. Its Cholesky factor is
computed on the generators, without a Schur complement: Demmel 1999 (SIAM J. Matrix Anal. 21) for
the accuracy, Haut & Beylkin 2012 (ibid. 33) for rational functions.

All of it is done in float64 and complex128: single precision is promoted, with a PrecisionWarning.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from s4bt.reduction.checks import warn
from s4bt.reduction.diagonal import power_of_four
from s4bt.reduction.systems import DiagonalLTI

TINY = torch.finfo(torch.float64).tiny
CHUNK = 2**18  # entries of the N x N matrices that are worked on at a time: what fits into a cache


class PrecisionWarning(UserWarning):
    """Single precision was promoted to double."""


def promoted(system: DiagonalLTI) -> DiagonalLTI:
    """The system in complex128; says so if it was not."""
    if system.poles.dtype != torch.complex128:
        warn(
            f"{system.poles.dtype} was promoted to complex128; its poles and residues keep their "
            "seven digits",
            PrecisionWarning,
        )
    return system.to(torch.complex128)


def normalised(flat: DiagonalLTI) -> tuple[DiagonalLTI, Tensor, Tensor]:
    """A flat batch with residues near 1 and, if continuous, poles near 1; gain (B) and rate.

    `restored` is the inverse. Powers of four, so that no digit changes.
    """
    rate = flat.poles.real.new_ones(())
    if flat.dt is None:
        rate = power_of_four(flat.poles.abs().max())
        flat = flat.map(lambda x: x / rate)
    gain = flat.unit()
    return flat.times(1 / gain), gain, rate


def restored(flat: DiagonalLTI, gain: Tensor, rate: Tensor) -> DiagonalLTI:
    """The inverse of `normalised`."""
    louder = flat.times(gain)
    return louder if flat.dt is not None else louder.map(lambda x: x * rate)


def flattened(system: DiagonalLTI) -> DiagonalLTI:
    """The same systems in one batch dimension, without their feedthrough.

    A real pole's residue counts with its real part only, if the system is real.
    """
    flat = replace(system, feedthrough=None).flatten()
    if not system.real:
        return flat
    w = torch.where(flat.poles.imag == 0, flat.residues.real.to(flat.poles.dtype), flat.residues)
    return replace(flat, residues=w)


def chunks(system: DiagonalLTI) -> tuple[Tensor, ...]:
    """Index ranges of a flat batch whose members are worked on together."""
    members = torch.arange(system.poles.shape[0], device=system.poles.device)
    return members.split(max(1, CHUNK // system.order**2))


def _differences(p: Tensor, a: Tensor | None, k: Tensor) -> tuple[Tensor, Tensor]:
    """lambda_i - lambda_k and D_ik of the pivot k (..., 1), both (..., N).

    a: log lambda of a discrete system, with which nothing cancels, however small a step is.
    """
    pk = p.gather(-1, k)
    if a is None:
        return p - pk, -(p + pk.conj())
    ak = a.gather(-1, k)
    ahead = a.real > ak.real
    # the larger of the two poles outside
    gap = torch.where(ahead, -p, pk) * torch.expm1(torch.where(ahead, ak - a, a - ak))
    return gap, -torch.expm1(a + ak.conj())


def cauchy_cholesky(system: DiagonalLTI, g: Tensor, dual: bool = False) -> Tensor:
    """L (..., N, N) with L L^H = P; rows in the order of the modes, columns in that of the pivots.

    P_ij = g_i . conj(g_j) / D_ij, by complete diagonal pivoting. With the pivot p the new column is
    L_i = P_ip / sqrt(P_pp), and the Schur complement is again Cauchy-like, with the generators
    g_i <- g_i - (1 - F_ip) proj_{g_p} g_i, F_ij = (lambda_i - lambda_j) / D_ij. For one input this
    is g_i <- F_ip g_i, a product, which is why the smallest pivots keep their digits. A mode that
    contributes nothing gives a zero column.

    g: (..., N, m).  dual: for the conjugate poles.  (Demmel 1999; Haut & Beylkin 2012)
    """
    *batch, N, m = g.shape
    p, a = system.poles, None if system.dt is None else system.logs
    if dual:
        p = p.conj().resolve_conj()
        a = None if a is None else a.conj().resolve_conj()
    damping = -2 * p.real if a is None else -torch.expm1(2 * a.real)
    done = torch.zeros(*batch, N, dtype=torch.bool, device=g.device)
    columns = []
    for _ in range(N):
        # the diagonal of P
        weight = torch.view_as_real(g).square().sum((-1, -2)) / damping  # (..., N)
        d, k = weight.masked_fill(done, -1.0).max(-1, keepdim=True)
        d = d.clamp_min(TINY)
        gap, D = _differences(p, a, k)
        F = gap / D
        done = done.scatter(-1, k, True)
        g_k = g.gather(-2, k[..., None].expand(*batch, 1, m))
        # g_i . conj(g_k), (..., N)
        overlap = (g * g_k.conj()).sum(-1) if m > 1 else (g * g_k.conj())[..., 0]
        columns.append(overlap / (D * d.sqrt()))
        if m == 1:
            g = g * F[..., None]
        else:
            norm = (g_k.abs() ** 2).sum(-1).clamp_min(TINY)
            g = g - ((1 - F) * overlap / norm)[..., None] * g_k
        # rows that are done have no part in what is left
        g = g.masked_fill(done[..., None], 0)
    return torch.stack(columns, -1)


def symmetric_factor(system: DiagonalLTI) -> tuple[Tensor, Tensor]:
    """Weights s = sqrt(w), and the factor L of P in the coordinates where b = c = s.

    Q = conj(P).
    """
    silent = system.residues == 0
    # the root has no derivative at zero
    s = torch.where(silent, 0, torch.where(silent, 1, system.residues).sqrt())
    return s, cauchy_cholesky(system, s[..., None])


def _values(flat: DiagonalLTI) -> Tensor:
    L = symmetric_factor(flat.with_conjugates())[1]
    return torch.linalg.svdvals(L.mT @ L)


def hankel_singular_values(system: DiagonalLTI) -> Tensor:
    """Hankel singular values, the roots of the eigenvalues of P Q.

    With b = c the observability Gramian is Q = conj(P) = conj(L) L^T, so they are the singular
    values of L^T L, which is graded from its first row and column on: the SVD keeps the relative
    accuracy of the smallest (Demmel 1999).

    Parameters
    ----------
    system : DiagonalLTI
        Its feedthrough does not count.

    Returns
    -------
    float64 tensor (..., N), or (..., 2N) if system.real
        Descending, in units of the gain. Their sum is differentiable with respect to poles and
        residues; single values are where they are distinct.

    Raises
    ------
    UnstableSystem
        If a pole is not strictly stable.

    Examples
    --------
    >>> poles = torch.tensor([-1.0, -2.0], dtype=torch.complex128)
    >>> hankel_singular_values(DiagonalLTI(poles, torch.ones(2), real=False)).round(decimals=4)
    tensor([0.7310, 0.0190], dtype=torch.float64)
    """
    system.require_stable("balancing")
    flat = flattened(promoted(system))
    unit = flat.unit()
    flat = flat.times(1 / unit)
    tracked = flat.poles.requires_grad or flat.residues.requires_grad
    if tracked and torch.is_grad_enabled():
        sigma = _values(flat)
    else:
        sigma = torch.cat([_values(flat.select(i)) for i in chunks(flat)])
    sigma = sigma * unit[:, None]
    return sigma.unflatten(0, system.batch) if system.batch else sigma[0]
