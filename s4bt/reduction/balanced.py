"""Balanced truncation of diagonal systems, and its bound.

poles      (..., N)   lambda
residues   (..., N)   w, output weight times input weight; W (H, N) of a layer
sigma      (..., N)   Hankel singular values, descending
rank       r          complex modes that are kept

What is balanced
    bt-shared    the complex continuous layer x' = Lambda x + 1 u, y = W x with all its H outputs
    bt-channel   the complex continuous system of every channel by itself
    bt-discrete  the discrete real kernel that a layer convolves with, channel by channel
    bt-limited   the same, with what the steps of a sequence can reach

Bounds: Enns 1984, Glover 1984. Single precision is promoted, with a warning.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from s4bt.reduction.checks import whole_number
from s4bt.reduction.diagonalisation import assemble, reduce_batch
from s4bt.reduction.gramians import promoted
from s4bt.reduction.multi import multi_balanced_truncation
from s4bt.reduction.projection import (
    Balanced,
    check_kind,
    check_rank,
    coordinates,
    dual_factor,
    factors,
    real_coordinates,
    shifted_poles,
    states_of,
)
from s4bt.reduction.state_space import StateSpace
from s4bt.reduction.systems import DiagonalLTI

REAL = 1e-12  # share of its modulus below which the imaginary part of a discrete pole is rounding


def error_bound(sigma: Tensor, rank: int) -> Tensor:
    """H-infinity bound on the truncation error, 2 * sum(sigma[rank:]).

    Parameters
    ----------
    sigma : (..., N)
        Hankel singular values, descending.
    rank : int
        Order that is kept.

    Returns
    -------
    Tensor (...), in units of the gain.

    Raises
    ------
    ValueError
        If rank is not in 1..N.

    References
    ----------
    Enns 1984; Glover 1984.

    Examples
    --------
    >>> float(error_bound(torch.tensor([3.0, 1.0, 0.5]), 1))
    3.0
    """
    rank = check_rank(rank, sigma.shape[-1])
    return 2 * sigma[..., rank:].sum(-1)


def error_bounds(sigma: Tensor) -> Tensor:
    """`error_bound` of every rank 0 .. N - 1 at once, (..., N)."""
    return 2 * sigma.flip(-1).cumsum(-1).flip(-1)


def balanced_truncation(system: DiagonalLTI, rank: int) -> tuple[DiagonalLTI, Tensor]:
    """Truncate each system of the batch to `rank` modes in balanced coordinates, and diagonalise.

    In coordinates with P = Q = diag(sigma) the r leading states are kept. The H-infinity error is
    at most error_bound(sigma, k), where k is the order kept: rank, or for a real system the number
    of poles counted with their conjugates. A feedthrough stays as it is.

    Parameters
    ----------
    system : DiagonalLTI
        (..., N), strictly stable.
    rank : int
        Modes to keep.

    Returns
    -------
    reduced : DiagonalLTI
        Poles and residues (..., rank), complex128.
    sigma : float64 tensor
        Hankel singular values (..., N), or (..., 2N) if system.real.

    Raises
    ------
    ValueError
        If rank is not in 1..N.
    UnstableSystem
        If a pole is not strictly stable.

    References
    ----------
    Moore 1981; Glover 1984; Antoulas 2005, ch. 7.

    Examples
    --------
    >>> poles = torch.tensor([-0.1 + 2j, -0.2 + 5j, -3.0 + 1j], dtype=torch.complex128)
    >>> system = DiagonalLTI(poles, torch.tensor([1.0, 0.5, 0.1]), real=False)
    >>> small, sigma = balanced_truncation(system, 1)
    >>> bool(sigma[1] <= (system - small).hinf_norm() <= error_bound(sigma, 1))
    True
    """
    rank = check_rank(rank, system.modes)
    return reduce_batch(system, rank, "balanced truncation", states=states_of(system, rank))


def order_kept(reduced: DiagonalLTI) -> Tensor:
    """Order (...) of a reduced system: its modes with a residue.

    A real system's complex count twice.
    """
    alive = (reduced.residues != 0).to(torch.int64)
    if not reduced.real:
        return alive.sum(-1)
    if reduced.dt is None:
        real_pole = reduced.poles.imag == 0
    else:
        real_pole = reduced.poles.imag.abs() <= REAL * reduced.poles.abs()
    return (alive * torch.where(real_pole, 1, 2)).sum(-1)


def shared_balanced_truncation(system: DiagonalLTI, rank: int) -> tuple[DiagonalLTI, Tensor]:
    """One truncation for all H rows of a layer that share their poles.

    x' = Lambda x + 1 u, y = W x with H outputs, balanced as one system.

    system: poles equal in all rows, residues W (H, N), taken as complex.  Returns (reduced system,
    poles (H, r) again equal in all rows; the Hankel singular values of the system, (N,)).
    (Ezoe & Sato 2024, for the layer; square-root method as in `balanced_truncation`)
    Raises ValueError if rank is not in 1..N or the poles differ between rows, UnstableSystem.
    """
    rank = check_rank(rank, system.modes)
    if len(system.batch) != 1:
        raise ValueError(
            "one layer at a time: residues must have shape (H, N), not "
            f"{tuple(system.residues.shape)}"
        )
    if not torch.equal(system.poles, system.poles[:1].expand_as(system.poles)):
        raise ValueError(
            "the rows do not share their poles (per-channel poles, or separate steps for their "
            "real and imaginary parts), so one truncation cannot serve them all; reduce every "
            "channel by itself, with bt-channel"
        )
    system.require_stable("balanced truncation")
    check_kind(system)
    with torch.no_grad():
        system = promoted(system)
        unit = system.unit().max()
        system = system.times(1 / unit)
        row = system.select(0)
        ones = torch.ones_like(row.poles)[:, None]
        whole = StateSpace(row.poles, ones, system.residues, None, row.dt, False, row.log_poles)
        small, sigma = multi_balanced_truncation(whole, rank)
        if rank == system.modes:
            return system.times(unit), sigma * unit
        mu = shifted_poles(row)
        spare = rank - small.modes
        poles = torch.cat([shifted_poles(small.spectrum), mu[mu.real.argmin()].expand(spare)])
        W = torch.nn.functional.pad(small.C * small.B[:, 0], (0, spare))
        poles = poles.expand(len(W), rank)
        return assemble(system, poles, W, system.feedthrough).times(unit), sigma * unit


def require_discrete(system: DiagonalLTI, what: str) -> None:
    """Raise ValueError if the system is continuous."""
    if system.dt is None:
        raise ValueError(
            f"{what}, and the system is continuous: discretize it, or give its steps as the option "
            "dt"
        )


def bt_shared(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced truncation of (Lambda, 1, W), all rows of W as outputs of one system.

    P, Q from Lambda P + P Lambda^H = -1 1^H, Lambda^H Q + Q Lambda = -W^H W; the r largest states
    of sqrt(eig(P Q)). The channels keep sharing Lambda.
    First reading of Ezoe & Sato 2024.  Raises as `shared_balanced_truncation`.
    """
    reduced, _ = shared_balanced_truncation(replace(system, real=False), rank)
    return replace(reduced, real=system.real)


def bt_channel(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced truncation of every channel's (Lambda, 1, W_h) by itself: each has poles of its own.

    As `bt_shared`, with one row W_h in place of W. Second reading of Ezoe & Sato 2024.
    Raises as `balanced_truncation`.
    """
    reduced, _ = balanced_truncation(replace(system, real=False), rank)
    return replace(reduced, real=system.real)


def bt_discrete(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced truncation of the discrete real kernel h[k] = Re sum_n w_n lambda_n^k.

    A P A^T - P = -b b^T, A^T Q A - Q = -c^T c in real coordinates, channel by channel;
    |G - G_r| <= 2 sum_{i > k} sigma_i, k the real order kept.  (Antoulas 2005, ch. 7)
    Raises as `balanced_truncation`, and ValueError for a continuous system.
    """
    require_discrete(system, "bt-discrete balances a discrete kernel")
    return balanced_truncation(system, rank)[0]


def _compressed(F: Tensor, real: bool) -> Tensor:
    """Factor with F F^H unchanged and no more columns than rows (twice as many planes, if real)."""
    X = torch.cat([F.real, F.imag], -2) if real else F
    if X.shape[-1] <= X.shape[-2]:
        return F
    R = torch.linalg.qr(X.mH, mode="r").R.mH
    N = F.shape[-2]
    return torch.complex(R[..., :N, :], R[..., N:, :]) if real else R


def limited_factor(system: DiagonalLTI, s: Tensor, length: int) -> Tensor:
    """Factor F of sum_{k < length} A^k b b^H A^kH, by doubling: P_2m = P_m + A^m P_m A^mH.

    In the coordinates of `coordinates`; the binary digits of `length` say when one step is added.
    """
    a = system.logs
    F, m = s[..., None], 1
    for bit in bin(length)[3:]:
        F = _compressed(torch.cat([F, torch.exp(a * m)[..., None] * F], -1), system.real)
        m = 2 * m
        if bit == "1":
            F = torch.cat([s[..., None], torch.exp(a)[..., None] * F], -1)
            F, m = _compressed(F, system.real), m + 1
    F = real_coordinates(F) if system.real else F
    return torch.nn.functional.pad(F, (0, max(0, F.shape[-2] - F.shape[-1])))


def bt_limited(system: DiagonalLTI, rank: int, length: int | None = None) -> DiagonalLTI:
    """Balanced truncation with what `length` steps can reach, and Q over all time.

    P_L = sum_{k < L} A^k b b^T A^kT. (time-limited balancing: Gawronski & Juang 1990, who limit
    both Gramians and may lose stability.) Since A^T Q A - Q = -c^T c, the projection is orthogonal
    in a norm in which A is a contraction, so the result is stable.
    Raises as `bt_discrete`, and ValueError without a length of 2 or more.
    """
    require_discrete(system, "bt-limited sums over steps")
    rank = check_rank(rank, system.modes)
    steps = whole_number(length, "the length that bt-limited needs", 2)

    def balance(part: DiagonalLTI, k: int) -> Balanced:
        s, Lp, sigma = factors(part)
        Lp_limited = limited_factor(part, s, steps)
        return Balanced(sigma, *coordinates(part, s, Lp_limited, k, dual_factor(Lp)), discrete=True)

    return reduce_batch(system, rank, "balancing", balance, states_of(system, rank))[0]
