"""Balanced truncation of diagonal systems, to full relative accuracy.

poles      (..., N)     lambda
g          (..., N, m)  generators: the input weights of each mode, m = 1 for a single input
P, Q       (..., N, N)  controllability and observability Gramians; P = L L^H is never formed
sigma      (..., N)     Hankel singular values, descending
rank       r            complex modes that are kept

P_ij = g_i . conj(g_j) / D_ij,  D_ij = -(lambda_i + conj lambda_j)  or  1 - lambda_i conj(lambda_j): a Cauchy-like matrix.
Its Cholesky factor is computed on the generators, without a Schur complement: Demmel 1999 (SIAM J. Matrix Anal. 21) for
the accuracy, Haut & Beylkin 2012 (ibid. 33) for rational functions. Bounds: Enns 1984, Glover 1984; balancing in
general: Antoulas 2005, ch. 7.
"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from s4bt.lti import DiagonalLTI, UnstableSystem, expm1

TINY = torch.finfo(torch.float64).tiny


def _displacements(system: DiagonalLTI) -> tuple[Tensor, Tensor]:
    """D_ij (see the glossary) and the Blaschke factors F_ij = (lambda_i - lambda_j) / D_ij, both (..., N, N).

    A discrete system that knows log lambda takes both differences from it, so nothing cancels however small dt is.
    """
    p = system.poles
    if system.dt is None:
        D = -(p[..., :, None] + p[..., None, :].conj())
        return D, (p[..., :, None] - p[..., None, :]) / D
    if system.log_poles is None:
        D = 1 - p[..., :, None] * p[..., None, :].conj()
        return D, (p[..., :, None] - p[..., None, :]) / D
    a = system.log_poles
    D = -expm1(a[..., :, None] + a[..., None, :].conj())
    return D, p[..., None, :] * expm1(a[..., :, None] - a[..., None, :]) / D


def cauchy_cholesky(D: Tensor, F: Tensor, g: Tensor) -> Tensor:
    """L (..., N, N) with L L^H = P, P_ij = g_i . conj(g_j) / D_ij; rows in the order of the modes, columns in pivot order.

    Complete diagonal pivoting. With the pivot p: L_i = P_ip / sqrt(P_pp), and the Schur complement is again Cauchy-like
    with generators g_i <- g_i - (1 - F_ip) proj_{g_p} g_i. For one input this is g_i <- F_ip g_i, a product, which is why
    the smallest pivots keep their digits. A mode that contributes nothing gives a zero column.
    """
    *batch, N, m = g.shape
    damping = D.diagonal(dim1=-2, dim2=-1).real
    done = torch.zeros(*batch, N, dtype=torch.bool, device=g.device)
    columns = []
    for _ in range(N):
        weight = ((g.abs() ** 2).sum(-1) / damping).masked_fill(done, -1.0)              # (..., N), the diagonal of P
        p = weight.argmax(-1, keepdim=True)
        d = weight.gather(-1, p).clamp_min(TINY)
        take = lambda M: M.gather(-1, p[..., None].expand(*batch, N, 1))[..., 0]         # noqa: E731  column p
        g_p = g.gather(-2, p[..., None].expand(*batch, 1, m))
        overlap = (g * g_p.conj()).sum(-1)                                               # (..., N)  g_i . conj(g_p)
        columns.append((overlap / (take(D) * d.sqrt())).masked_fill(done, 0))
        if m == 1:
            g = g * take(F)[..., None]
        else:
            norm = (g_p.abs() ** 2).sum(-1).clamp_min(TINY)
            g = g - ((1 - take(F)) * overlap / norm)[..., None] * g_p
        done = done.scatter(-1, p, True)
        g = g.masked_fill(done[..., None], 0)
    return torch.stack(columns, -1)


def check_rank(rank: int, order: int) -> None:
    """Raise ValueError unless rank is a whole number in 1..order."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= order:
        raise ValueError(f"rank must be a whole number from 1 to the order of the system, {order}; got {rank!r}")


def _symmetric_factor(system: DiagonalLTI) -> tuple[Tensor, Tensor]:
    """Weights s = sqrt(w) and the factor L of P in the coordinates where b = c = s, so that Q = conj(P)."""
    s = system.residues.sqrt()
    return s, cauchy_cholesky(*_displacements(system), s[..., None])


def hankel_singular_values(system: DiagonalLTI) -> Tensor:
    """Hankel singular values, the roots of the eigenvalues of P Q: float64 (..., N), or (..., 2N) if system.real, descending.

    With b = c the observability Gramian is Q = conj(P) = conj(L) L^T, so they are the singular values of L^T L, which is
    graded from its first row and column on: the SVD keeps the relative accuracy of the smallest (Demmel 1999).
    Same units as the gain of the system.  Raises UnstableSystem.
    """
    system.require_stable("balancing")
    _, L = _symmetric_factor(system.with_conjugates().to(torch.complex128))
    return torch.linalg.svdvals(L.mT @ L)


def error_bound(sigma: Tensor, rank: int) -> Tensor:
    """H-infinity bound on the truncation error, 2 * sum(sigma[rank:]).  (Enns 1984; Glover 1984)

    sigma: (..., N) Hankel singular values, descending; rank: order that is kept.  Returns (...), in units of the gain.
    Raises ValueError if rank is not in 1..N.
    """
    check_rank(rank, sigma.shape[-1])
    return 2 * sigma[..., rank:].sum(-1)


def _balance(Lp: Tensor, Lq: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """sigma (..., N), left and right projections Z, T (..., N, k) with Z^H T = I and balanced Gramians.

    SVD of Lq^H Lp = U S V^H, T = Lp V S^(-1/2), Z = Lq U S^(-1/2).  (Antoulas 2005, ch. 7; square-root method)
    Directions whose sigma is zero are replaced by zeros.
    """
    U, sigma, Vh = torch.linalg.svd(Lq.mH @ Lp)
    kept = sigma[..., :k]
    scale = torch.where(kept > 1e-200 * sigma[..., :1], kept, torch.inf).rsqrt()[..., None, :]
    return sigma, Lq @ U[..., :k] * scale, Lp @ Vh.mH[..., :k] * scale


def _shifted_poles(system: DiagonalLTI) -> Tensor:
    """What is projected instead of A: lambda, or lambda - 1 of a discrete system, which keeps its digits near 1."""
    if system.dt is None:
        return system.poles
    return system.poles - 1 if system.log_poles is None else expm1(system.log_poles)


def _assemble(system: DiagonalLTI, mu: Tensor, residues: Tensor) -> DiagonalLTI:
    """The reduced system from the eigenvalues of the projected (shifted) A."""
    poles, log_poles = mu, None
    if system.dt is not None:
        poles = mu + 1
        re = torch.log1p(2 * mu.real + mu.abs() ** 2) / 2                                # log |1 + mu|
        log_poles = torch.complex(re, torch.angle(poles))
    reduced = replace(system, poles=poles, residues=residues, log_poles=log_poles)
    try:
        reduced.require_stable("the reduced system")
    except UnstableSystem as error:
        raise UnstableSystem(f"rounding made the reduced system unstable: its rank is larger than the number of modes "
                             f"that matter; ask for a smaller one. {error}") from error
    return reduced


def _pad(poles: Tensor, residues: Tensor, rank: int, spare: Tensor) -> tuple[Tensor, Tensor]:
    """Silence modes that are not there: pole `spare` (...), residue 0."""
    missing = rank - poles.shape[-1]
    if missing > 0:
        poles = torch.cat([poles, spare[..., None].expand(*spare.shape, missing)], -1)
        residues = torch.nn.functional.pad(residues, (0, missing))
    dead = residues == 0
    return torch.where(dead, spare[..., None], poles), residues


def _truncate_complex(system: DiagonalLTI, rank: int) -> tuple[DiagonalLTI, Tensor]:
    s, L = _symmetric_factor(system)
    sigma, Z, T = _balance(L, L.conj(), rank)
    mu = _shifted_poles(system)
    values, X = torch.linalg.eig(Z.mH @ (mu[..., None] * T))
    b, c = Z.mH @ s[..., None], s[..., None, :] @ T
    residues = (c @ X)[..., 0, :] * torch.linalg.solve(X, b)[..., 0]
    values, residues = _pad(values, residues, rank, mu[..., 0])
    return _assemble(system, values, residues), sigma


def _truncate_real(system: DiagonalLTI, rank: int) -> tuple[DiagonalLTI, Tensor]:
    """Conjugate-closed system of real order 2N, in real arithmetic, so that the reduced poles are exactly conjugate.

    Unitary change of basis (x, conj x) -> sqrt(2) (Re x, Im x); there Q = J P J with J = diag(1, -1). Keeps the largest
    real order whose modes, one a conjugate pair and one a real pole, number at most `rank`.
    """
    N, closed = system.order, system.with_conjugates()
    s, L = _symmetric_factor(closed)
    L = torch.cat([L[..., :N, :] + L[..., N:, :], -1j * (L[..., :N, :] - L[..., N:, :])], -2) / 2 ** 0.5
    rows = torch.stack([L.real, L.imag], -1).flatten(-2).mT                              # (..., 4N, 2N), graded rows
    Lp = torch.linalg.qr(rows).R.mT                                                      # Lp Lp^T = P, real
    J = torch.cat([Lp.new_ones(N), -Lp.new_ones(N)])
    k = min(2 * rank, 2 * N)
    _, Z, T = _balance(Lp, J[:, None] * Lp, k)
    mu = _shifted_poles(system)[..., None]
    A_T = torch.cat([mu.real * T[..., :N, :] - mu.imag * T[..., N:, :], mu.imag * T[..., :N, :] + mu.real * T[..., N:, :]], -2)
    A = Z.mT @ A_T
    b_full = 2 ** 0.5 * torch.cat([s[..., :N].real, s[..., :N].imag], -1)
    b, c = Z.mT @ b_full[..., None], (J * b_full)[..., None, :] @ T
    batch = A.shape[:-2]
    poles = system.poles.new_zeros(*batch, rank).reshape(-1, rank)
    residues = torch.zeros_like(poles)
    A, b, c = A.reshape(-1, k, k), b.reshape(-1, k, 1), c.reshape(-1, 1, k)
    open_ = torch.ones(len(A), dtype=torch.bool, device=A.device)
    for order in range(k, 0, -1):                                    # truncations are nested: leading blocks of A
        index = open_.nonzero()[:, 0]
        if not len(index):
            break
        values, X = torch.linalg.eig(A[index, :order, :order])
        modes = (values.imag >= 0).sum(-1)
        fits = modes <= rank
        index, values, X = index[fits], values[fits], X[fits]
        if not len(index):
            continue
        w = (c[index, :, :order].to(X.dtype) @ X)[:, 0] * torch.linalg.solve(X, b[index, :order].to(X.dtype))[..., 0]
        w = w * torch.where(values.imag > 0, 2.0, 1.0).masked_fill(values.imag < 0, 0.0)
        first = (values.imag < 0).to(torch.int8).argsort(dim=-1, stable=True)[:, :rank]
        values, w = _pad(values.gather(-1, first), w.gather(-1, first), rank, _shifted_poles(system)[..., 0].reshape(-1)[index])
        poles[index], residues[index] = values, w
        open_[index] = False
    return _assemble(system, poles.reshape(*batch, rank), residues.reshape(*batch, rank)), hankel_singular_values(system)


def balanced_truncation(system: DiagonalLTI, rank: int) -> tuple[DiagonalLTI, Tensor]:
    """Truncate each system of the batch to `rank` modes in balanced coordinates, and diagonalise the result.

    Returns (reduced DiagonalLTI with poles and residues (..., rank), complex128; hankel singular values, float64
    (..., N), or (..., 2N) if system.real). The H-infinity error is at most error_bound(sigma, k), where k is the order kept:
    rank, or for a real system the number of poles counted with their conjugates.
    (Moore 1981; Glover 1984; Antoulas 2005, ch. 7)
    Raises ValueError if rank is not in 1..N, UnstableSystem if a pole is not strictly stable.
    """
    check_rank(rank, system.order)
    system.require_stable("balanced truncation")
    system = system.to(torch.complex128)
    return (_truncate_real if system.real else _truncate_complex)(system, rank)


def shared_balanced_truncation(system: DiagonalLTI, rank: int) -> tuple[DiagonalLTI, Tensor]:
    """One truncation for all H rows of a layer that share their poles: x' = Lambda x + 1 u, y = W x with H outputs.

    system: poles equal in all rows, residues W (H, N), taken as complex.  Returns (reduced system, poles (H, r) again equal
    in all rows; the Hankel singular values of the one-input H-output system, (N,)).
    (Ezoe & Sato 2024, for the layer; square-root method as in `balanced_truncation`)
    Raises ValueError if rank is not in 1..N or the poles differ between rows, UnstableSystem as above.
    """
    check_rank(rank, system.order)
    if system.residues.dim() != 2:
        raise ValueError(f"one layer at a time: residues must have shape (H, N), not {tuple(system.residues.shape)}")
    if not torch.equal(system.poles, system.poles[:1].expand_as(system.poles)):
        raise ValueError("the rows do not share their poles, so one truncation cannot serve them all; use bt-channel")
    system.require_stable("balanced truncation")
    system = system.to(torch.complex128)
    row = replace(system, poles=system.poles[0], residues=system.residues[0],
                  log_poles=None if system.log_poles is None else system.log_poles[0])
    D, F = _displacements(row)
    gain = system.residues.abs().square().sum(0).sqrt().sqrt()                           # (N,)  |b_n| = |c_n| = gain_n
    gain = torch.where(gain > 0, gain, 1.0)
    b, C = gain.to(D.dtype)[:, None], system.residues / gain                             # (N, 1), (H, N)
    Lp = cauchy_cholesky(D, F, b)
    Lq = cauchy_cholesky(D.conj(), F.conj(), C.mH)
    sigma, Z, T = _balance(Lp, Lq, rank)
    values, X = torch.linalg.eig(Z.mH @ (_shifted_poles(row)[:, None] * T))
    W = (C @ T @ X) * torch.linalg.solve(X, Z.mH @ b)[:, 0]                              # (H, r)
    dead = (W == 0).all(0)
    values = torch.where(dead, _shifted_poles(row)[0], values)
    return _assemble(system, values.expand_as(W), W), sigma
