"""Reduction of systems with several inputs and outputs.

P, Q     (N, N)   Gramians; of a real system (2 N, 2 N), in the basis sqrt(2) (Re x, Im x)
Lp, Lq            factors of them, P = Lp Lp^H, Q = Lq Lq^H
sigma    (N,)     Hankel singular values, or (2 N,) of a real system

P_ij = B_i . conj(B_j) / D_ij is Cauchy-like with m generators, Q with the p rows of C^H. With one
generator such a matrix is next to singular, and its factor is computed by elimination on the
generators (`gramians.cauchy_cholesky`), in O(N^2 (m + p)). With many it often is not: where P,
scaled to a unit diagonal, is well conditioned, its Cholesky factor has the same relative accuracy
(Demmel & Veselic 1992, SIAM J. Matrix Anal. 13), and LAPACK is quicker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4bt.reduction.diagonal import power_of_four
from s4bt.reduction.diagonalisation import APART, MATTERS, assemble, inside
from s4bt.reduction.gramians import cauchy_cholesky
from s4bt.reduction.projection import check_kind, check_rank, project, shifted_poles
from s4bt.reduction.state_space import StateSpace
from s4bt.reduction.systems import UnstableSystem

# Largest mean of the inverse eigenvalues of a scaled Gramian at which its Cholesky factor is taken.
CONDITION = 10.0
NEAR = 1e-4  # squared values closer than this are those of the matrix's square to twelve digits


def _real_rows(L: Tensor) -> Tensor:
    """The real factor of J L L^H J^H, J the unitary map to (Re, Im), of a conjugate-closed L."""
    N = L.shape[0] // 2
    upper, lower = L[:N], L[N:]
    rows = torch.cat([upper + lower, -1j * (upper - lower)], 0) / 2**0.5
    rows = torch.stack([rows.real, rows.imag], -1).flatten(-2).mT  # graded
    return torch.linalg.qr(rows).R.mT


def _closed_form(a: Tensor, g: Tensor, system: StateSpace) -> Tensor:
    """The Gramian of exponents a and generators g (N, m); the two states of a real mode in turn."""

    def gramian(b: Tensor, h: Tensor) -> Tensor:
        x = a[:, None] + b
        return (g @ -h.mT).div_(x if system.dt is None else x.expm1_())

    P = gramian(a.conj(), g.conj())
    if not system.real:
        return P
    M = gramian(a, g)
    rows = [[(P + M).real, (M - P).imag], [(P + M).imag, (P - M).real]]
    return torch.stack([torch.stack(row, -1) for row in rows], 1).flatten(2).flatten(0, 1)


def _well_conditioned(a: Tensor, g: Tensor, system: StateSpace) -> Tensor | None:
    """L by LAPACK, rows in the order of the states, graded columns; None if digits would be lost.

    Modes are sorted by their energy, and scaled by it. The two states of a real mode are, too, and
    not by their own: where that is a difference, the state is faint and the matrix near singular.
    """
    damping = -2 * a.real if system.dt is None else -torch.expm1(2 * a.real)
    d = g.norm(dim=1) / damping.sqrt()
    order = d.argsort(descending=True, stable=True)
    if not bool(d[order[-1]] > 0) or not bool(torch.isfinite(d[order[0]])):
        return None
    d = d[order]
    L, failed = torch.linalg.cholesky_ex(_closed_form(a[order], g[order] / d[:, None], system))
    if int(failed):
        return None
    inverse = torch.linalg.solve_triangular(L, torch.eye(len(L)).to(L), upper=False)
    if not float(inverse.abs().square().sum()) < CONDITION * len(L):
        return None
    if system.real:
        L = torch.cat([d[:, None] * L[0::2], d[:, None] * L[1::2]])
        return L[torch.cat([order.argsort(), len(d) + order.argsort()])]
    return (d[:, None] * L)[order.argsort()]


def _factor(system: StateSpace, g: Tensor, dual: bool) -> Tensor:
    """L of the Gramian with generators g (N, m); dual: with the conjugate poles."""
    a = system.spectrum.exponents
    if g.shape[1] > 1:
        L = _well_conditioned(a.conj().resolve_conj() if dual else a, g, system)
        if L is not None:
            return L
    if not system.real:
        return cauchy_cholesky(system.spectrum, g, dual)
    poles = system.with_conjugates().spectrum
    return _real_rows(cauchy_cholesky(poles, torch.cat([g, g.conj()]), dual))


def gramian_factors(system: StateSpace) -> tuple[Tensor, Tensor]:
    """Lp and Lq of a stable system in complex128, with `balanced_weights`."""
    C = system.C / 2 if system.real else system.C
    return _factor(system, system.B, False), _factor(system, C.mH.resolve_conj(), True)


def _prepared(system: StateSpace, what: str) -> StateSpace:
    """Checked, in complex128, with logarithms that are computed once and `balanced_weights`."""
    system.spectrum.require_stable(what)
    system = system.to(torch.complex128)
    logs = None if system.dt is None else system.spectrum.logs
    return replace(system, log_poles=logs).balanced_weights()


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


def _singular(M: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """U and V (N, k) and all sigma of graded M.

    By the eigenvalues of M^H M, which is quicker, where they are near each other.
    """
    size = power_of_four(M.abs().max())
    M = M / size
    if M[:, -1].norm() > NEAR**0.5 * M[:, 0].norm():
        values, V = torch.linalg.eigh(M.mH @ M)
        if values[0] > NEAR * values[-1]:
            sigma, V = values.flip(0).sqrt(), V[:, -k:].flip(1)
            return M @ V / sigma[:k], sigma * size, V
    U, sigma, Vh = torch.linalg.svd(M)
    return U[:, :k], sigma * size, Vh[:k].mH


def balance(system: StateSpace, k: int) -> BalancedSpace:
    """Coordinates with P = Q = diag(sigma), of a prepared system."""
    Lp, Lq = gramian_factors(system)
    U, sigma, V = _singular(Lq.mH @ Lp, k)
    Zh, T, live = project(Lq, Lp, U, sigma[:k], V)
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
    if not space.live:  # nothing comes in, or nothing goes out
        quickest = shifted_poles(system.spectrum).real.argmin()
        still = system.take(quickest[None])
        return replace(still, B=torch.zeros_like(still.B), C=torch.zeros_like(still.C))
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
    spectrum = assemble(replace(like.spectrum, feedthrough=None), mu, torch.ones_like(mu))
    return replace(like, poles=spectrum.poles, B=B, C=C, log_poles=spectrum.log_poles)


def multi_balanced_truncation(system: StateSpace, rank: int) -> tuple[StateSpace, Tensor]:
    """Truncate to `rank` modes in balanced coordinates, and diagonalise.

    The H-infinity error, the largest over frequencies of the largest singular value of the error,
    is at most 2 * sum(sigma[k:]), k the order kept. A reduced system of a lower order is returned
    where the Hankel singular values end.
    Returns (reduced system, sigma).
    Raises ValueError if rank is not in 1..N, UnstableSystem if a pole is not strictly stable.
    """
    rank = check_rank(rank, system.modes)
    check_kind(system.spectrum)
    ready = _prepared(system, "balanced truncation")
    if rank == system.modes:
        return system.to(torch.complex128), multi_hankel_singular_values(system)
    with torch.no_grad():
        space = balance(ready, rank * (2 if system.real else 1))
        return _diagonal(ready, space, rank), space.sigma


def _turned(system: StateSpace) -> StateSpace:
    """A real system of one mode with two inputs and outputs at most, and the same norm."""

    def corner(x: Tensor) -> Tensor:
        R = torch.linalg.qr(torch.stack([x.real, x.imag], -1)).R
        return torch.complex(R[:, 0], R[:, 1])

    return replace(system, B=corner(system.B[0])[None], C=corner(system.C[:, 0])[:, None], D=None)


def multi_modal(system: StateSpace, rank: int) -> StateSpace:
    """The modes with the largest H-infinity norm alone: |C_n| |B_n| over the damping if complex.

    A mode of a real system is a pair of conjugate poles, whose norm is measured.
    Raises ValueError if rank is not in 1..N, UnstableSystem if a pole is not strictly stable.
    """
    rank, ready = check_rank(rank, system.modes), _prepared(system, "modal truncation")
    check_kind(system.spectrum)
    poles = ready.spectrum
    damping = -poles.poles.real if system.dt is None else -torch.expm1(poles.logs.real)
    scores = ready.B.norm(dim=1) * ready.C.norm(dim=0) / damping
    if system.real:
        one = torch.arange(system.modes)[:, None]
        scores = torch.stack([_turned(ready.take(n)).hinf_norm() for n in one])
    return system.to(torch.complex128).take(scores.topk(rank).indices)


def multi_energy(system: StateSpace, rank: int) -> StateSpace:
    """The modes with the largest H2 norm alone, |C_n| |B_n| / sqrt(1 - |lambda_n|^2).

    Of a real pole of a real system the real part of C_n B_n counts.  Raises as `multi_modal`.
    """
    rank, ready = check_rank(rank, system.modes), _prepared(system, "modal truncation")
    check_kind(system.spectrum)
    poles, B, C = ready.spectrum, ready.B, ready.C
    damping = -2 * poles.poles.real if system.dt is None else -torch.expm1(2 * poles.logs.real)
    size = B.norm(dim=1).square() * C.norm(dim=0).square()
    if system.real:
        seen = (size + ((B * B).sum(1) * (C * C).sum(0)).real) / 2
        size = torch.where(poles.poles.imag == 0, seen.clamp_min(0), size)
    return system.to(torch.complex128).take((size / damping).topk(rank).indices)


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


@torch.no_grad()
def multi_singular_perturbation(system: StateSpace, rank: int) -> StateSpace:
    """Balanced residualisation: exact gain at zero frequency; the bound of the truncation holds.

    A discrete system is balanced as h[0] + (h[1], h[2], …).  (Liu & Anderson 1989)
    Raises as `multi_balanced_truncation`.
    """
    rank, ready = check_rank(rank, system.modes), _prepared(system, "balanced residualisation")
    check_kind(system.spectrum)
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
