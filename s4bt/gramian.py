"""Gramian factors of diagonal systems, and Hankel singular values to full relative accuracy.

poles      (..., N)     lambda
g          (..., N, m)  generators: the input weights of each mode, m = 1 for a single input
P, Q       (..., N, N)  controllability and observability Gramians; P = L L^H is never formed
sigma      (..., N)     Hankel singular values, descending

P_ij = g_i . conj(g_j) / D_ij,  D_ij = -(lambda_i + conj lambda_j)  or  1 - lambda_i conj(lambda_j): a Cauchy-like matrix.
Its Cholesky factor is computed on the generators, without a Schur complement: Demmel 1999 (SIAM J. Matrix Anal. 21) for
the accuracy, Haut & Beylkin 2012 (ibid. 33) for rational functions.

All of it is done in float64 and complex128: single precision is promoted, with a warning of the kind PrecisionWarning.
"""
from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from s4bt.lti import DiagonalLTI
from s4bt.powers import expm1

TINY = torch.finfo(torch.float64).tiny
CHUNK = 2**18           # entries of the N x N matrices that are worked on at a time: what fits into a cache


class PrecisionWarning(UserWarning):
    """Single precision was promoted to double."""


def promoted(system: DiagonalLTI) -> DiagonalLTI:
    """The system in complex128; says so if it was not."""
    if system.poles.dtype != torch.complex128:
        warnings.warn(f"{system.poles.dtype} was promoted to complex128; its poles and residues keep their seven digits",
                      PrecisionWarning, stacklevel=3)
    return system.to(torch.complex128)


def flattened(system: DiagonalLTI) -> DiagonalLTI:
    """The same systems in one batch dimension; a real pole's residue counts with its real part only."""
    batch, N = system.poles.shape[:-1], system.order
    flat = lambda x: x.expand(*batch, N).reshape(-1, N)  # noqa: E731
    dt = system.dt if not isinstance(system.dt, Tensor) or system.dt.dim() == 0 else system.dt.expand(batch).reshape(-1)
    w = system.residues
    if system.real:
        w = torch.where(system.poles.imag == 0, w.real.to(w.dtype), w)
    return replace(system, poles=flat(system.poles), residues=flat(w), dt=dt, feedthrough=None,
                   log_poles=None if system.log_poles is None else flat(system.log_poles))


def chunks(system: DiagonalLTI) -> list[Tensor]:
    """Index ranges of a flat batch whose members are worked on together."""
    order = system.order * (2 if system.real else 1)
    return torch.arange(system.poles.shape[0], device=system.poles.device).split(max(1, CHUNK // order**2))


def cauchy_cholesky(system: DiagonalLTI, g: Tensor, dual: bool = False) -> Tensor:
    """L (..., N, N) with L L^H = P, P_ij = g_i . conj(g_j) / D_ij; rows in the order of the modes, columns in pivot order.

    dual: for the conjugate poles. Complete diagonal pivoting. With the pivot p: L_i = P_ip / sqrt(P_pp), and the Schur complement is
    again Cauchy-like with generators g_i <- g_i - (1 - F_ip) proj_{g_p} g_i, F_ij = (lambda_i - lambda_j) / D_ij. For one input
    this is g_i <- F_ip g_i, a product, which is why the smallest pivots keep their digits (a discrete system that knows
    log lambda takes both differences from it, so nothing cancels however small dt is). A mode that contributes nothing gives a zero
    column.
    """
    *batch, N, m = g.shape
    p, a = system.poles, system.log_poles
    if dual:
        p, a = p.conj().resolve_conj(), None if a is None else a.conj().resolve_conj()
    damping = -2 * p.real if system.dt is None else -torch.expm1(2 * a.real) if a is not None else 1 - p.abs() ** 2
    done = torch.zeros(*batch, N, dtype=torch.bool, device=g.device)
    columns = []
    for _ in range(N):
        weight = (torch.view_as_real(g).square().sum((-1, -2)) / damping).masked_fill(done, -1.0)   # (..., N), the diagonal of P
        d, k = weight.max(-1, keepdim=True)
        d = d.clamp_min(TINY)
        pk = p.gather(-1, k)
        if system.dt is None:
            D, gap = -(p + pk.conj()), p - pk
        elif a is None:
            D, gap = 1 - p * pk.conj(), p - pk
        else:
            ak = a.gather(-1, k)
            D, ahead = -expm1(a + ak.conj()), a.real > ak.real                           # the larger of the two poles outside
            gap = torch.where(ahead, -p, pk) * expm1(torch.where(ahead, ak - a, a - ak))
        F = gap / D
        done = done.scatter(-1, k, True)
        g_k = g.gather(-2, k[..., None].expand(*batch, 1, m))
        overlap = (g * g_k.conj()).sum(-1) if m > 1 else (g * g_k.conj())[..., 0]        # (..., N)  g_i . conj(g_p)
        columns.append(overlap / (D * d.sqrt()))                                         # rows that are done have g = 0
        if m == 1:
            g = g * F[..., None]
        else:
            norm = (g_k.abs() ** 2).sum(-1).clamp_min(TINY)
            g = g - ((1 - F) * overlap / norm)[..., None] * g_k
        g = g.masked_fill(done[..., None], 0)
    return torch.stack(columns, -1)


def symmetric_factor(system: DiagonalLTI) -> tuple[Tensor, Tensor]:
    """Weights s = sqrt(w) and the factor L of P in the coordinates where b = c = s, so that Q = conj(P)."""
    silent = system.residues == 0                                    # the root has no derivative there
    s = torch.where(silent, 0, torch.where(silent, 1, system.residues).sqrt())
    return s, cauchy_cholesky(system, s[..., None])


def _values(flat: DiagonalLTI) -> Tensor:
    L = symmetric_factor(flat.with_conjugates())[1]
    return torch.linalg.svdvals(L.mT @ L)


def hankel_singular_values(system: DiagonalLTI) -> Tensor:
    """Hankel singular values, the roots of the eigenvalues of P Q: float64 (..., N), or (..., 2N) if system.real, descending.

    With b = c the observability Gramian is Q = conj(P) = conj(L) L^T, so they are the singular values of L^T L, which is
    graded from its first row and column on: the SVD keeps the relative accuracy of the smallest (Demmel 1999).
    Same units as the gain of the system, without its feedthrough. Their sum is differentiable with respect to poles and residues; single
    values are where they are distinct.  Raises UnstableSystem.
    """
    system.require_stable("balancing")
    flat = flattened(promoted(system))

    tracked = torch.is_grad_enabled() and (flat.poles.requires_grad or flat.residues.requires_grad)
    sigma = _values(flat) if tracked else torch.cat([_values(flat.select(i)) for i in chunks(flat)])
    return sigma.unflatten(0, system.poles.shape[:-1]) if system.poles.dim() > 1 else sigma[0]
