"""From reduced realisations back to modes, and the frame of every method that balances.

mu         lambda, or lambda - 1 of a discrete system, which keeps its digits near 1
A, b, c    (B, m, m), (B, m), (B, m)   a reduced realisation; A - I if discrete
rank       r   complex modes that are kept
order      m   states that are kept: r, or up to 2 r of a real system
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from s4bt.reduction.gramians import (
    chunks,
    flattened,
    hankel_singular_values,
    normalised,
    promoted,
    restored,
)
from s4bt.reduction.projection import (
    Balanced,
    Realisation,
    balanced_coordinates,
    check_kind,
    check_rank,
    shifted_poles,
    states_of,
)
from s4bt.reduction.systems import DiagonalLTI, UnstableSystem

# Between singular values that differ by a smaller share than this no order is taken, where it
# would matter: the poles of the result have this share of their digits left.
APART = 1e-5
# A direction with at least this share matters: that it turned unstable is an error, not rounding.
MATTERS = 1e-8
# Below this modulus log |1 + mu| is taken from |1 + mu| itself: only near 1 does that cancel.
FAR_FROM_ONE = 0.5
SMALLEST_MODULUS = 1e-300


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

    Of each member the largest order is taken whose modes fit and which lies between different
    singular values, where that matters; modes that are not needed get the fastest pole and residue
    0.
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
        apart = after < last * (1 - APART)
        if (broken & apart & (last > MATTERS * balanced.sigma[index, 0])).any():
            raise UnstableSystem(
                f"rounding made a reduced system of order {order} unstable: its poles are too "
                "close to the boundary of the stable region for double precision; ask for another "
                "rank"
            )
        # one of each conjugate pair, with twice its residue
        upper = stable & (values.imag >= 0) if system.real else stable
        if system.real:
            w = w * torch.where(values.imag > 0, 2.0, 1.0)
        fits = ~broken & (upper.sum(-1) <= rank) & small.allowed & (apart | balanced.splits)
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
