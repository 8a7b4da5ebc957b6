"""Balanced truncation of diagonal systems.

poles      (..., N)     lambda
sigma      (..., N)     Hankel singular values, descending
Lp, Lq     (..., N, n)  factors of the controllability and the observability Gramian, P = Lp Lp^H, Q = Lq Lq^H
A, b, c    (B, k, k), (B, k), (B, k)   a realisation in balanced coordinates, A - I instead of A for a discrete system
rank       r            complex modes that are kept

Bounds: Enns 1984, Glover 1984; balancing in general: Antoulas 2005, ch. 7. Single precision is promoted, with a warning.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4bt.gramian import cauchy_cholesky, chunks, flattened, hankel_singular_values, promoted, symmetric_factor
from s4bt.lti import DiagonalLTI, UnstableSystem
from s4bt.powers import expm1

__all__ = ["balanced_truncation", "error_bound", "hankel_singular_values", "shared_balanced_truncation"]

ROUNDING = 1e-13        # directions with a smaller share of the largest Hankel singular value are rounding; they are left out


def check_rank(rank: int, order: int) -> None:
    """Raise ValueError unless rank is a whole number in 1..order."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= order:
        raise ValueError(f"rank must be a whole number from 1 to the order of the system, {order}; got {rank!r}")


def error_bound(sigma: Tensor, rank: int) -> Tensor:
    """H-infinity bound on the truncation error, 2 * sum(sigma[rank:]).  (Enns 1984; Glover 1984)

    sigma: (..., N) Hankel singular values, descending; rank: order that is kept.  Returns (...), in units of the gain.
    Raises ValueError if rank is not in 1..N.
    """
    check_rank(rank, sigma.shape[-1])
    return 2 * sigma[..., rank:].sum(-1)


def error_bounds(sigma: Tensor) -> Tensor:
    """`error_bound` of every rank 0 .. N - 1 at once, (..., N)."""
    return 2 * sigma.flip(-1).cumsum(-1).flip(-1)


@dataclass(frozen=True)
class Balanced:
    """A flat batch of systems in balanced coordinates: x' = A x + b u, y = c x, P = Q = diag(sigma).

    sigma: (B, N or 2N), all of them; A, b, c: the k largest, real if the system is; order (B,): how many of the k are above ROUNDING.
    """

    sigma: Tensor
    A: Tensor
    b: Tensor
    c: Tensor
    order: Tensor


def _shifted_poles(system: DiagonalLTI) -> Tensor:
    """What is projected instead of A: lambda, or lambda - 1 of a discrete system, which keeps its digits near 1."""
    if system.dt is None:
        return system.poles
    return system.poles - 1 if system.log_poles is None else expm1(system.log_poles)


def _project(Lq: Tensor, Lp: Tensor, U: Tensor, sigma: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Z^H and T (..., N, k) with Z^H T = I, T = Lp V S^(-1/2), Z = Lq U S^(-1/2), and how many directions are not rounding.

    (square-root method: Antoulas 2005, ch. 7.) U and V of small singular values are singular vectors of a matrix nearby, so Z^H T
    is not quite I; Z is corrected, which makes the projection an exact one.
    """
    live = sigma > ROUNDING * sigma[..., :1]
    scale = torch.where(live, sigma, torch.inf).rsqrt()[..., None, :]
    T, Zh = Lp @ (V * scale), (Lq @ (U * scale)).mH
    return torch.linalg.solve(Zh @ T + torch.diag_embed((~live).to(Zh.dtype)), Zh), T, live.sum(-1)


def real_coordinates(top: Tensor) -> Tensor:
    """sqrt(2) (Re x, Im x), (..., 2 N, k), of vectors (x, conj x) given by their upper halves (..., N, k): a unitary change of basis."""
    return 2**0.5 * torch.cat([top.real, top.imag], -2)


def factors(system: DiagonalLTI) -> tuple[Tensor, Tensor, Tensor]:
    """Weights s, the factor Lp of the controllability Gramian that `coordinates` takes, real if the system is, and sigma.

    A real system is the conjugate-closed one in the basis of `real_coordinates`, so that reduced poles are exactly conjugate.
    """
    s, L = symmetric_factor(system.with_conjugates())
    sigma = torch.linalg.svdvals(L.mT @ L)
    if not system.real:
        return s, L, sigma
    N = system.order
    L = torch.cat([L[..., :N, :] + L[..., N:, :], -1j * (L[..., :N, :] - L[..., N:, :])], -2) / 2**0.5
    rows = torch.stack([L.real, L.imag], -1).flatten(-2).mT                              # (B, 4N, 2N), graded rows
    return s[..., :N], torch.linalg.qr(rows).R.mT, sigma                                 # Lp Lp^T = P, real


def dual_factor(Lp: Tensor) -> Tensor:
    """The factor of the observability Gramian: Q = conj(P) in the basis where b = c, and Q = J P J, J = diag(1, -1), in the real one."""
    if Lp.is_complex():
        return Lp.conj()
    J = torch.ones(Lp.shape[-2], dtype=Lp.dtype, device=Lp.device)
    J[Lp.shape[-2] // 2:] = -1
    return J[:, None] * Lp


def coordinates(system: DiagonalLTI, s: Tensor, Lp: Tensor, k: int, Lq: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, b, c and order of `Balanced`, from factors of two Gramians: Lq^H Lp = U S V^H gives the projection.

    Lq: the dual of Lp unless given.
    """
    symmetric, Lq = Lq is None, dual_factor(Lp) if Lq is None else Lq
    M = Lq.mH @ Lp
    if Lp.is_complex() or not symmetric:
        U, sigma, Vh = torch.linalg.svd(M)
        U, sigma, V = U[..., :k], sigma[..., :k], Vh.mH[..., :k]
    else:                                                                                # symmetric: one set of vectors, faster
        values, V = torch.linalg.eigh(M)
        best = values.abs().sort(-1, descending=True).indices[..., :k]
        values, V = values.gather(-1, best), V.gather(-1, best[..., None, :].expand(*V.shape[:-1], k))
        U, sigma = V * values.sign()[..., None, :], values.abs()
    Zh, T, order = _project(Lq, Lp, U, sigma, V)
    mu = _shifted_poles(system)[..., None]
    if not system.real:
        return Zh @ (mu * T), (Zh @ s[..., None])[..., 0], (s[..., None, :] @ T)[..., 0, :], order
    N, b = system.order, real_coordinates(s[..., None])
    A_T = torch.cat([mu.real * T[..., :N, :] - mu.imag * T[..., N:, :], mu.imag * T[..., :N, :] + mu.real * T[..., N:, :]], -2)
    return Zh @ A_T, (Zh @ b)[..., 0], (dual_factor(b).mT @ T)[..., 0, :], order


def balanced_coordinates(system: DiagonalLTI, k: int) -> Balanced:
    """The k largest balanced states of a flat batch of stable systems in complex128."""
    s, Lp, sigma = factors(system)
    return Balanced(sigma, *coordinates(system, s, Lp, k))


def inside(system: DiagonalLTI, mu: Tensor) -> Tensor:
    """Which (shifted) eigenvalues are strictly stable."""
    return mu.real < 0 if system.dt is None else 2 * mu.real + mu.abs() ** 2 < 0


def _assemble(system: DiagonalLTI, mu: Tensor, residues: Tensor, direct: Tensor | None = None) -> DiagonalLTI:
    """The system with (shifted) eigenvalues mu."""
    poles, log_poles = mu, None
    if system.dt is not None:
        poles = mu + 1
        near = torch.log1p(2 * mu.real + mu.abs() ** 2) / 2                              # log |1 + mu|, which cancels where 1 + mu does
        re = torch.where(poles.abs() < 0.5, poles.abs().clamp_min(1e-300).log(), near)
        log_poles = torch.complex(re, torch.angle(poles))
    return replace(system, poles=poles, residues=residues, log_poles=log_poles, feedthrough=direct)


def diagonalise(system: DiagonalLTI, balanced: Balanced, rank: int, block: Callable) -> DiagonalLTI:
    """The small system of each member as `rank` modes: the largest order whose modes, one a conjugate pair and one a real pole, fit.

    block(index, order) -> A, b, c, d, allowed: the reduced realisations of those members, of which those stable poles are kept that number
    `order`; allowed: None, or a mask of those that have one of that order. Modes that are not needed get the fastest pole and residue 0.
    Raises UnstableSystem if rounding made directions unstable that matter (1e-8 of the largest singular value), ValueError if
    a member has no reduced system of any order.
    """
    B, kind = system.poles.shape[0], system.poles
    mu = _shifted_poles(system)
    poles = mu.gather(-1, mu.real.argmin(-1, keepdim=True)).expand(B, rank).clone()
    residues, direct = kind.new_zeros(B, rank), (kind.real if system.real else kind).new_zeros(B)
    open_ = torch.ones(B, dtype=torch.bool, device=kind.device)
    for order in range(rank * (2 if system.real else 1), 0, -1):
        index = (open_ & (balanced.order >= order)).nonzero()[:, 0]
        if not len(index):
            continue
        A, b, c, d, allowed = block(index, order)
        values, X = torch.linalg.eig(A)
        w = (c[:, None, :].to(X.dtype) @ X)[:, 0] * torch.linalg.solve(X, b[..., None].to(X.dtype))[..., 0]
        stable = inside(system, values)
        upper = stable & (values.imag >= 0) if system.real else stable
        broken = stable.sum(-1) != order
        if allowed is not None:
            broken = broken & allowed
        if (broken & (balanced.sigma[index, order - 1] > 1e-8 * balanced.sigma[index, 0])).any():
            raise UnstableSystem(f"rounding made a reduced system of order {order} unstable: its poles are too close to the boundary "
                                 "of the stable region for double precision; ask for another rank")
        fits = ~broken & (upper.sum(-1) <= rank)
        fits = fits if allowed is None else fits & allowed
        w = w * torch.where(values.imag > 0, 2.0, 1.0) if system.real else w
        first = (~upper).to(torch.int8).argsort(dim=-1, stable=True)[fits, :rank]        # those that stay, in front
        put = lambda x, rest: torch.where(upper[fits].gather(-1, first), x[fits].gather(-1, first), rest[:, :first.shape[-1]])  # noqa: E731
        done = index[fits]
        poles[done, :first.shape[-1]] = put(values, poles[done])
        residues[done, :first.shape[-1]] = put(w, residues[done])
        direct[done] = d[fits]
        open_[done] = False
    if (left := open_ & (balanced.order > 0)).any():
        raise ValueError(f"channel {int(left.nonzero()[0, 0])} of the batch has no reduced system of at most {rank} modes: its Hankel "
                         "singular values are equal there; ask for another rank")
    return _assemble(system, poles, residues, direct if bool((direct != 0).any()) else None)


def reduce_flat(system: DiagonalLTI, rank: int, what: str, states: int | None, block: Callable) -> tuple[DiagonalLTI, Tensor]:
    """Check, balance and reduce a batch chunk by chunk; returns (reduced system, Hankel singular values). Full rank: the system itself.

    states: how many balanced states `block` needs, None for all; block(system, balanced) -> the block of `diagonalise`, or that
    and the orders that are not rounding, if they are other ones.
    """
    check_rank(rank, system.order)
    system.require_stable(what)
    if rank == system.order:                                         # nothing to discard
        return promoted(system), hankel_singular_values(system)
    total = system.order * (2 if system.real else 1)
    with torch.no_grad():
        flat, parts = flattened(promoted(system)), []
        for index in chunks(flat):
            part = flat.select(index)
            balanced = balanced_coordinates(part, min(states or total, total))
            make = block(part, balanced)
            make, order = make if isinstance(make, tuple) else (make, balanced.order)
            parts.append((diagonalise(part, replace(balanced, order=order), rank, make), balanced.sigma))
    batch = system.poles.shape[:-1]
    join = lambda xs: torch.cat(xs).reshape((*batch, *xs[0].shape[1:]))  # noqa: E731
    reduced = [r for r, _ in parts]
    direct = None
    if any(r.feedthrough is not None for r in reduced):
        direct = join([r.residues.real.new_zeros(len(r.poles)) if r.feedthrough is None else r.feedthrough for r in reduced])
    if system.feedthrough is not None:
        direct = system.feedthrough + (0 if direct is None else direct)
    out = replace(system, poles=join([r.poles for r in reduced]), residues=join([r.residues for r in reduced]), feedthrough=direct,
                  log_poles=None if system.dt is None else join([r.log_poles for r in reduced]))
    return out, join([sigma for _, sigma in parts])


def balanced_truncation(system: DiagonalLTI, rank: int) -> tuple[DiagonalLTI, Tensor]:
    """Truncate each system of the batch to `rank` modes in balanced coordinates, and diagonalise the result.

    Returns (reduced DiagonalLTI with poles and residues (..., rank), complex128; hankel singular values, float64
    (..., N), or (..., 2N) if system.real). The H-infinity error is at most error_bound(sigma, k), where k is the order kept:
    rank, or for a real system the number of poles counted with their conjugates. A feedthrough stays as it is.
    (Moore 1981; Glover 1984; Antoulas 2005, ch. 7)
    Raises ValueError if rank is not in 1..N, UnstableSystem if a pole is not strictly stable.
    """
    def block(_, balanced):
        return lambda i, m: (balanced.A[i, :m, :m], balanced.b[i, :m], balanced.c[i, :m], balanced.b.new_zeros(len(i)), None)

    return reduce_flat(system, rank, "balanced truncation", rank * (2 if system.real else 1), block)


def order_kept(reduced: DiagonalLTI) -> Tensor:
    """Order (...) of a reduced system: its modes that are not silent; a real system's complex ones count twice."""
    alive = (reduced.residues != 0).to(torch.int64)
    real_pole = reduced.poles.imag == 0 if reduced.dt is None else reduced.poles.imag.abs() <= 1e-12 * reduced.poles.abs()
    return (alive * torch.where(real_pole, 1, 2)).sum(-1) if reduced.real else alive.sum(-1)


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
        raise ValueError("the rows do not share their poles (per-channel poles, or separate steps for their real and imaginary parts), "
                         "so one truncation cannot serve them all; reduce every channel by itself, with bt-channel")
    system.require_stable("balanced truncation")
    with torch.no_grad():
        system = promoted(system)
        row = system.select(0)
        gain = system.residues.abs().square().sum(0).sqrt().sqrt()                       # (N,)  |b_n| = |c_n| = gain_n
        gain = torch.where(gain > 0, gain, 1.0)
        b, C = gain.to(row.poles.dtype)[:, None], system.residues / gain                 # (N, 1), (H, N)
        Lp, Lq = cauchy_cholesky(row, b), cauchy_cholesky(row, C.mH.resolve_conj(), dual=True)
        U, sigma, Vh = torch.linalg.svd(Lq.mH @ Lp)
        if rank == system.order:                                     # nothing to discard
            return system, sigma
        Zh, T, order = _project(Lq, Lp, U[:, :rank], sigma[:rank], Vh.mH[:, :rank])
        n, mu = int(order), _shifted_poles(row)
        values, X = torch.linalg.eig(Zh[:n] @ (mu[:, None] * T[:, :n]))
        W = (C @ T[:, :n] @ X) * torch.linalg.solve(X, Zh[:n] @ b)[:, 0]                 # (H, n)
        if not bool(inside(row, values).all()):
            raise UnstableSystem(f"rounding made the layer reduced to {n} modes unstable; ask for a smaller rank")
        spare = mu[mu.real.argmin()].expand(rank - n)
        return _assemble(system, torch.cat([values, spare]).expand(len(W), rank),
                         torch.nn.functional.pad(W, (0, rank - n)), system.feedthrough), sigma
