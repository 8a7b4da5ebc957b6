"""Balanced coordinates of diagonal systems, and the way back from a reduced realisation to modes.

poles      (..., N)     lambda
sigma      (..., N)     Hankel singular values, descending
Lp, Lq     (..., N, n)  factors of the Gramians, P = Lp Lp^H, Q = Lq Lq^H
mu                      lambda, or lambda - 1 of a discrete system, which keeps its digits near 1
A, b, c    (B, k, k), (B, k), (B, k)   a realisation in balanced coordinates; A - I if discrete
rank       r            complex modes that are kept
order      k            states that are kept: r, or up to 2 r of a real system

A method is a kind of `Balanced`: its `reduced` makes small realisations, `reduce_batch` does the
rest.  (balancing in general: Antoulas 2005, ch. 7)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4bt.reduction.checks import warn, whole_number
from s4bt.reduction.gramians import (
    chunks,
    flattened,
    hankel_singular_values,
    normalised,
    promoted,
    restored,
    symmetric_factor,
)
from s4bt.reduction.systems import DiagonalLTI, UnstableSystem

# Directions with a smaller share of the largest Hankel singular value are rounding: left out.
ROUNDING = 1e-13
# Hankel singular values that differ by less than this share are one value.
SAME = 1e-9
LOOKS_DISCRETE = 0.5  # a largest modulus from here to 1 is taken for that of discrete poles
# A direction with at least this share matters: that it turned unstable is an error, not rounding.
MATTERS = 1e-8
# Below this modulus log |1 + mu| is taken from |1 + mu| itself: only near 1 does that cancel.
FAR_FROM_ONE = 0.5
SMALLEST_MODULUS = 1e-300


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


def inside(mu: Tensor, discrete: bool) -> Tensor:
    """Which (shifted) eigenvalues are strictly stable."""
    return 2 * mu.real + mu.abs() ** 2 < 0 if discrete else mu.real < 0


def assemble(
    like: DiagonalLTI, mu: Tensor, residues: Tensor, feedthrough: Tensor | None = None
) -> DiagonalLTI:
    """The system of the kind of `like` with (shifted) eigenvalues mu."""
    if like.dt is None:
        return replace(like, poles=mu, residues=residues, log_poles=None, feedthrough=feedthrough)
    poles = mu + 1
    modulus = poles.abs()
    # log |1 + mu|, which cancels where 1 + mu does
    near = torch.log1p(2 * mu.real + mu.abs() ** 2) / 2
    far = modulus.clamp_min(SMALLEST_MODULUS).log()
    damping = torch.where(modulus < FAR_FROM_ONE, far, near)
    logs = torch.complex(damping, torch.angle(poles))
    return replace(like, poles=poles, residues=residues, log_poles=logs, feedthrough=feedthrough)


def _around(sigma: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """The last value kept and the first discarded one, 0 if there is none, (B) each."""
    padded = torch.nn.functional.pad(sigma, (0, 1))
    return padded[:, order - 1], padded[:, order]


def _modes(small: Realisation) -> tuple[Tensor, Tensor]:
    """Eigenvalues of A, and the residues of c (sI - A)^-1 b, (B, m) each."""
    values, X = torch.linalg.eig(small.A)
    c_X = (small.c[:, None, :].to(X.dtype) @ X)[:, 0]
    X_b = torch.linalg.solve(X, small.b[..., None].to(X.dtype))[..., 0]
    return values, c_X * X_b


def diagonalise(system: DiagonalLTI, balanced: Balanced, rank: int) -> DiagonalLTI:
    """The reduced system of each member as `rank` modes, a mode being a pole or a conjugate pair.

    Of each member the largest order is taken whose modes fit; modes that are not needed get the
    fastest pole and residue 0.
    Raises UnstableSystem if rounding made directions unstable that matter, ValueError if a member
    has no reduced system of any order.
    """
    B, kind = system.poles.shape[0], system.poles
    mu = shifted_poles(system)
    poles = mu.gather(-1, mu.real.argmin(-1, keepdim=True)).expand(B, rank).clone()
    residues = kind.new_zeros(B, rank)
    direct = (kind.real if system.real else kind).new_zeros(B)
    waiting = torch.ones(B, dtype=torch.bool, device=kind.device)
    for order in range(states_of(system, rank), 0, -1):
        index = (waiting & (balanced.live >= order)).nonzero()[:, 0]
        if not len(index):
            continue
        small = balanced.reduced(index, order)
        values, w = _modes(small)
        stable = inside(values, balanced.discrete)
        broken = (stable.sum(-1) != order) & small.allowed
        last, after = _around(balanced.sigma[index], order)
        matters = (last > MATTERS * balanced.sigma[index, 0]) & (after < last * (1 - SAME))
        # between equal singular values a truncation need not be stable: a lower order is taken
        if (broken & matters).any():
            raise UnstableSystem(
                f"rounding made a reduced system of order {order} unstable: its poles are too "
                "close to the boundary of the stable region for double precision; ask for another "
                "rank"
            )
        # one of each conjugate pair, with twice its residue
        upper = stable & (values.imag >= 0) if system.real else stable
        if system.real:
            w = w * torch.where(values.imag > 0, 2.0, 1.0)
        fits = ~broken & (upper.sum(-1) <= rank) & small.allowed
        done = index[fits]
        # those that stay, in front
        front = (~upper).to(torch.int8).argsort(dim=-1, stable=True)[fits, :rank]
        stays, count = upper[fits].gather(-1, front), front.shape[-1]
        for target, new in ((poles, values), (residues, w)):
            target[done, :count] = torch.where(
                stays, new[fits].gather(-1, front), target[done, :count]
            )
        direct[done] = small.d[fits]
        waiting[done] = False
    if (left := waiting & (balanced.live > 0)).any():
        raise ValueError(
            f"channel {int(left.nonzero()[0, 0])} of the batch has no reduced system of at most "
            f"{rank} modes: its Hankel singular values are equal there; ask for another rank"
        )
    return assemble(system, poles, residues, direct)


def reduce_batch(
    system: DiagonalLTI,
    rank: int,
    what: str,
    balance: Callable[[DiagonalLTI, int], Balanced] = balanced_coordinates,
    states: int | None = None,
) -> tuple[DiagonalLTI, Tensor]:
    """Check, balance and reduce a batch, a few systems at a time.

    what: the name for error messages; balance(part, k): k states of a flat batch in coordinates
    whose `reduced` is the method; states: k, all of them if None.
    Returns (reduced system, Hankel singular values). Full rank: the system itself.
    """
    rank = check_rank(rank, system.modes)
    system.require_stable(what)
    check_kind(system)
    if rank == system.modes:
        return promoted(system), hankel_singular_values(system)
    with torch.no_grad():
        flat, gain, rate = normalised(flattened(promoted(system)))
        reduced, sigma = [], []
        for index in chunks(flat):
            part = flat.select(index)
            balanced = balance(part, states or part.order)
            reduced.append(diagonalise(part, balanced, rank))
            sigma.append(balanced.sigma)
    whole = restored(joined(reduced), gain, rate).unflatten(system.batch)
    values = torch.cat(sigma) * gain[:, None]
    shaped = replace(whole, dt=system.dt, feedthrough=system.feedthrough + whole.feedthrough)
    return shaped, values.reshape(*system.batch, values.shape[-1])


def joined(parts: list[DiagonalLTI]) -> DiagonalLTI:
    """Flat batches of one kind, one behind the other."""
    logs = [part.log_poles for part in parts if part.log_poles is not None]
    dt = parts[0].dt
    if isinstance(dt, Tensor) and dt.dim():
        dt = torch.cat([part.dt for part in parts])
    return replace(
        parts[0],
        poles=torch.cat([part.poles for part in parts]),
        residues=torch.cat([part.residues for part in parts]),
        feedthrough=torch.cat([part.feedthrough for part in parts]),
        log_poles=torch.cat(logs) if len(logs) == len(parts) else None,
        dt=dt,
    )
