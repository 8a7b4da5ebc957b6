"""Reduction of systems with several inputs and outputs, on their generators.

Lp, Lq   (N, N)   factors of the Gramians, P = Lp Lp^H, Q = Lq Lq^H; real ones of a real system,
                  (2 N, 2 N), in the basis sqrt(2) (Re x, Im x)
sigma    (N,)     Hankel singular values, or (2 N,) of a real system

P_ij = B_i . conj(B_j) / D_ij is Cauchy-like with m generators, Q with the p rows of C^H: the same
elimination as for one input and output (`gramians.cauchy_cholesky`), in O(N^2 (m + p)).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4bt.reduction.diagonalisation import APART, MATTERS, inside
from s4bt.reduction.gramians import cauchy_cholesky
from s4bt.reduction.projection import check_kind, check_rank, project, shifted_poles
from s4bt.reduction.state_space import StateSpace
from s4bt.reduction.systems import UnstableSystem


def _real_rows(L: Tensor) -> Tensor:
    """The real factor of J L L^H J^H, J the unitary map to (Re, Im), of a conjugate-closed L."""
    N = L.shape[0] // 2
    upper, lower = L[:N], L[N:]
    rows = torch.cat([upper + lower, -1j * (upper - lower)], 0) / 2**0.5
    rows = torch.stack([rows.real, rows.imag], -1).flatten(-2).mT  # graded
    return torch.linalg.qr(rows).R.mT


def gramian_factors(system: StateSpace) -> tuple[Tensor, Tensor]:
    """Lp and Lq of a stable system in complex128."""
    full = system.with_conjugates()
    Lp = cauchy_cholesky(full.spectrum, full.B)
    Lq = cauchy_cholesky(full.spectrum, full.C.mH.resolve_conj(), dual=True)
    return (_real_rows(Lp), _real_rows(Lq)) if system.real else (Lp, Lq)


def _prepared(system: StateSpace, what: str) -> StateSpace:
    system.spectrum.require_stable(what)
    check_kind(system.spectrum)
    return system.to(torch.complex128).balanced_weights()


def multi_hankel_singular_values(system: StateSpace) -> Tensor:
    """sigma, descending: the singular values of Lq^H Lp.  Raises UnstableSystem."""
    Lp, Lq = gramian_factors(_prepared(system, "balancing"))
    return torch.linalg.svdvals(Lq.mH @ Lp)


@dataclass(frozen=True)
class BalancedSpace:
    """The k largest balanced states: A (A - I if discrete), B, C; sigma: all of them; live: k."""

    A: Tensor
    B: Tensor
    C: Tensor
    sigma: Tensor
    live: int


def balance(system: StateSpace, k: int) -> BalancedSpace:
    """Coordinates with P = Q = diag(sigma), of a prepared system."""
    Lp, Lq = gramian_factors(system)
    U, sigma, Vh = torch.linalg.svd(Lq.mH @ Lp)
    Zh, T, live = project(Lq, Lp, U[:, :k], sigma[:k], Vh.mH[:, :k])
    mu = shifted_poles(system.spectrum)[:, None]
    if not system.real:
        return BalancedSpace(Zh @ (mu * T), Zh @ system.B, system.C @ T, sigma, int(live))
    upper, lower = T[: system.modes], T[system.modes :]
    A_T = torch.cat([mu.real * upper - mu.imag * lower, mu.imag * upper + mu.real * lower])
    B = 2**0.5 * torch.cat([system.B.real, system.B.imag])
    C = torch.cat([system.C.real, -system.C.imag], -1) / 2**0.5
    return BalancedSpace(Zh @ A_T, Zh @ B, C @ T, sigma, int(live))


def _apart(sigma: Tensor, order: int) -> bool:
    after = float(sigma[order]) if order < len(sigma) else 0.0
    return after < float(sigma[order - 1]) * (1 - APART)


def _diagonal(system: StateSpace, space: BalancedSpace, rank: int) -> StateSpace:
    """The largest truncation of a balanced system that `rank` modes can hold, diagonalised."""
    discrete = system.dt is not None
    for order in range(min(space.live, space.A.shape[0]), 0, -1):
        if not (discrete or _apart(space.sigma, order)):
            continue
        values, X = torch.linalg.eig(space.A[:order, :order])
        if not bool(inside(values, discrete).all()):
            if _apart(space.sigma, order) and space.sigma[order - 1] > MATTERS * space.sigma[0]:
                raise UnstableSystem(
                    f"rounding made a reduced system of order {order} unstable: its poles are too "
                    "close to the boundary of the stable region for double precision; ask for "
                    "another rank"
                )
            continue
        keep = values.imag >= 0 if system.real else torch.ones_like(values.real, dtype=torch.bool)
        if int(keep.sum()) > rank:
            continue
        C = space.C[:, :order].to(X.dtype) @ X
        B = torch.linalg.solve(X, space.B[:order].to(X.dtype))
        if system.real:
            C = C * torch.where(values.imag > 0, 2.0, 1.0)
        return _assembled(system, values[keep], B[keep], C[:, keep])
    raise ValueError(
        f"there is no reduced system of at most {rank} modes: the Hankel singular values are equal "
        "there; ask for another rank"
    )


def _assembled(like: StateSpace, mu: Tensor, B: Tensor, C: Tensor) -> StateSpace:
    """The system of the kind of `like` with (shifted) eigenvalues mu."""
    if like.dt is None:
        return replace(like, poles=mu, B=B, C=C, log_poles=None)
    logs = torch.complex(torch.log1p(2 * mu.real + mu.abs() ** 2) / 2, torch.angle(1 + mu))
    return replace(like, poles=1 + mu, B=B, C=C, log_poles=logs)


def multi_balanced_truncation(system: StateSpace, rank: int) -> tuple[StateSpace, Tensor]:
    """Truncate to `rank` modes in balanced coordinates, and diagonalise.

    The H-infinity error, the largest over frequencies of the largest singular value of the error,
    is at most 2 * sum(sigma[k:]), k the order kept. A reduced system of a lower order is returned
    where the Hankel singular values end.
    Returns (reduced system, sigma).
    Raises ValueError if rank is not in 1..N, UnstableSystem if a pole is not strictly stable.
    """
    rank = check_rank(rank, system.modes)
    ready = _prepared(system, "balanced truncation")
    if rank == system.modes:
        return system.to(torch.complex128), multi_hankel_singular_values(system)
    with torch.no_grad():
        space = balance(ready, rank * (2 if system.real else 1))
        return _diagonal(ready, space, rank), space.sigma


def multi_modal(system: StateSpace, rank: int) -> StateSpace:
    """The modes with the largest H-infinity norm alone: |C_n| |B_n| over the damping if complex.

    A mode of a real system is a pair of conjugate poles, whose norm is measured.
    Raises ValueError if rank is not in 1..N, UnstableSystem if a pole is not strictly stable.
    """
    rank, ready = check_rank(rank, system.modes), _prepared(system, "modal truncation")
    poles = ready.spectrum
    damping = -poles.poles.real if system.dt is None else -torch.expm1(poles.logs.real)
    scores = ready.B.norm(dim=1) * ready.C.norm(dim=0) / damping
    if system.real:
        without = replace(ready, D=torch.zeros_like(ready.D))
        alone = [without.take(torch.tensor([n])).hinf_norm() for n in range(system.modes)]
        scores = torch.stack(alone)
    return system.to(torch.complex128).take(scores.topk(rank).indices)


def multi_energy(system: StateSpace, rank: int) -> StateSpace:
    """The modes with the largest H2 norm alone, |C_n| |B_n| / sqrt(1 - |lambda_n|^2).

    Raises as `multi_modal`.
    """
    rank, ready = check_rank(rank, system.modes), _prepared(system, "modal truncation")
    poles = ready.spectrum
    damping = -2 * poles.poles.real if system.dt is None else -torch.expm1(2 * poles.logs.real)
    scores = ready.B.norm(dim=1) * ready.C.norm(dim=0) / damping.sqrt()
    return system.to(torch.complex128).take(scores.topk(rank).indices)


def _residualised(space: BalancedSpace, order: int) -> tuple[BalancedSpace, Tensor]:
    """The leading `order` states, the others following at once, and the feedthrough they leave."""
    n, m = space.live, order
    A, B, C = space.A[:n, :n], space.B[:n], space.C[:, :n]
    solved = torch.linalg.solve(A[m:, m:], torch.cat([A[m:, :m], B[m:]], -1))
    of_state, of_input = solved[:, :m], solved[:, m:]
    small = BalancedSpace(
        A[:m, :m] - A[:m, m:] @ of_state,
        B[:m] - A[:m, m:] @ of_input,
        C[:, :m] - C[:, m:] @ of_state,
        space.sigma,
        m,
    )
    return small, -C[:, m:] @ of_input


def multi_singular_perturbation(system: StateSpace, rank: int) -> StateSpace:
    """Balanced residualisation: exact gain at zero frequency; the bound of the truncation holds.

    A discrete system is balanced as h[0] + (h[1], h[2], …).  (Liu & Anderson 1989)
    Raises as `multi_balanced_truncation`.
    """
    rank, ready = check_rank(rank, system.modes), _prepared(system, "balanced residualisation")
    if rank == system.modes:
        return system.to(torch.complex128)
    later = ready if system.dt is None else replace(ready, C=ready.C * ready.poles)
    space = balance(later, system.order)
    for order in range(min(space.live, rank * (2 if system.real else 1)), 0, -1):
        if order < space.live and not _apart(space.sigma, order):
            continue
        part, direct = _residualised(space, order)
        try:
            small = _diagonal(later, part, rank)
        except ValueError:
            continue
        full_order = (
            int(torch.where(small.poles.imag == 0, 1, 2).sum()) if system.real else small.modes
        )
        if full_order == order:
            break
    else:
        raise ValueError(
            f"there is no reduced system of at most {rank} modes: the Hankel singular values are "
            "equal there; ask for another rank"
        )
    if system.dt is None:
        return replace(small, D=ready.D + direct)
    C = small.C / small.poles
    first, left = ready.C @ ready.B, C @ small.B
    first, left = (first.real, left.real) if system.real else (first, left)
    return replace(small, C=C, D=ready.D + direct + first - left)
