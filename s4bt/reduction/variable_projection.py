"""Small systems with the least expected error: Levenberg-Marquardt steps in the poles.

B, r     systems in a flat batch, modes
a        (B, r)  log poles of a discrete system, poles of a continuous one:
                 a = -exp(alpha) + i omega, stable by construction

The residues are eliminated, the gradient is exact, the matrix Gauss and Newton's
(`expected_error`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from s4bt.reduction.balanced import balanced_truncation
from s4bt.reduction.expected_error import Point, Problem, evaluate
from s4bt.reduction.gramians import flattened, normalised, promoted, restored
from s4bt.reduction.projection import check_kind, check_rank
from s4bt.reduction.systems import DiagonalLTI

# |Im a / Re a| is kept above it: nearer to 0 residues cancel, and real poles cost a mode each.
NEARLY_REAL = 1e-3
GRADIENT = 1e-10  # relative size of the gradient at which a system counts as optimal
AT_THE_AXIS = 1.001  # times NEARLY_REAL, or less, is at that bound
OPENED = 0.5  # of its damping, at most of 1: so far a real pole is moved aside to open it
LONGEST_STEP = 2.0  # in alpha, and in omega / |a|

# Levenberg-Marquardt: mu is the share of the diagonal that is added. It falls to a fifth after a
# success and grows fourfold after a failure; beyond GIVEN_UP no downhill step is found any more.
ITERATIONS = 20  # Levenberg-Marquardt steps of the best start, after HEAT of every start
HEAT = 10
FIRST_MU = 1e-3
AFTER_SUCCESS, AFTER_FAILURE = 0.2, 4.0
LEAST_MU, MOST_MU, GIVEN_UP = 1e-12, 1e12, 1e8
PATIENCE, ENOUGH = 5, 0.01
RIDGE = 1e-12  # of the largest diagonal entry, for directions that nothing depends on

AT_ONCE = 2**20  # inner products that are worked on together


def _stuck(point: Point, low: float, high: float) -> Tensor:
    """Which coordinates (B, 2 r) are at a bound and pushed outwards: they stay, the others move."""
    g_alpha, g_omega = point.descent.chunk(2, -1)
    alpha, omega = point.alpha, point.omega
    at_damping = (alpha <= low) & (g_alpha < 0) | (alpha >= high) & (g_alpha > 0)
    at_axis = (omega.abs() <= AT_THE_AXIS * NEARLY_REAL * torch.exp(alpha)) & (omega * g_omega < 0)
    return torch.cat([at_damping, at_axis], -1)


def _moved(point: Point, step: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """alpha and omega after a step, inside their bounds."""
    alpha, omega = point.alpha, point.omega
    step_alpha, step_omega = step.chunk(2, -1)
    size = torch.hypot(torch.exp(alpha), omega)
    new_alpha = (alpha + step_alpha.clamp(-LONGEST_STEP, LONGEST_STEP)).clamp(low, high)
    new_omega = omega + step_omega.clamp(-LONGEST_STEP, LONGEST_STEP) * size
    least = NEARLY_REAL * torch.exp(new_alpha)
    crossed = (omega != 0) & (new_omega.abs() < least)
    return new_alpha, torch.where(crossed, torch.where(omega > 0, least, -least), new_omega)


def _better(new: Point, old: Point) -> tuple[Point, Tensor]:
    """Of each member the point with the smaller residual, and where that is the new one (B)."""
    better = new.f < old.f

    def pick(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(better.reshape(-1, *[1] * (y.dim() - 1)), x, y)

    return Point(*map(pick, vars(new).values(), vars(old).values())), better


def _bounds(problem: Problem) -> tuple[float, float]:
    """Least and largest alpha."""
    low, high = (math.log(x) for x in problem.damping_range)
    if problem.steps is None:
        return low, high
    return low - math.log(problem.steps.max()), high - math.log(problem.steps.min())


def _step(point: Point, mu: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """A Levenberg-Marquardt step (B, 2 r), and the relative size of the gradient (B)."""
    stuck = _stuck(point, low, high)
    g = point.descent.masked_fill(stuck, 0)
    H = point.H.masked_fill(stuck[:, :, None] | stuck[:, None, :], 0)
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    largest = diagonal.amax(-1, keepdim=True)
    scaled = g / torch.where(diagonal > 0, diagonal, 1).sqrt()
    tiny = torch.finfo(point.f.dtype).tiny
    steepness = scaled.norm(dim=-1) / point.f.clamp_min(tiny).sqrt()
    # nothing to fit: no step
    diagonal = torch.where(largest > 0, diagonal + RIDGE * largest, 1)
    damped = H + torch.diag_embed(mu[:, None] * diagonal)
    return torch.linalg.solve(damped, g[..., None])[..., 0], steepness


def _members(point: Point, index: Tensor) -> Point:
    """Some members of the batch."""
    return Point(*(x[index] for x in vars(point).values()))


def _replaced(point: Point, index: Tensor, new: Point) -> Point:
    """The batch with the members `index` in place of those that it had."""
    pairs = zip(vars(point).values(), vars(new).values(), strict=True)
    return Point(*(old.index_copy(0, index, x) for old, x in pairs))


def minimise(problem: Problem, a: Tensor, iterations: int) -> Point:
    """At most so many Levenberg-Marquardt steps from a (B, r); every step taken is downhill.

    A member ends when its gradient vanishes, or when all steps that are left, at the pace of the
    last PATIENCE, would gain less than a share ENOUGH.
    """
    low, high = _bounds(problem)
    point = evaluate(problem, torch.log(-a.real).clamp(low, high), a.imag)
    mu = torch.full_like(point.f, FIRST_MU)
    before, active = point.f, torch.arange(len(point.f), device=a.device)
    for count in range(1, iterations + 1):
        here = point if problem.shared else _members(point, active)
        some = problem if problem.shared else problem.select(active)
        step, steepness = _step(here, mu[active], low, high)
        trial = evaluate(some, *_moved(here, step, low, high))
        new, better = _better(trial, here)
        point = new if problem.shared else _replaced(point, active, new)
        factor = torch.where(better, AFTER_SUCCESS, AFTER_FAILURE)
        mu[active] = (mu[active] * factor).clamp(LEAST_MU, MOST_MU)
        going = (steepness > GRADIENT) & ((mu[active] < GIVEN_UP) | better)
        if count % PATIENCE == 0:
            gained = (before - point.f)[active]
            hope = gained * ((iterations - count) / PATIENCE)
            before = point.f
            going = going & ((hope > ENOUGH * point.f[active]) | (gained == 0))
        active = active[going]
        if not len(active):
            break
    return point


def system_at(like: DiagonalLTI, a: Tensor, x: Tensor) -> DiagonalLTI:
    """The system of the kind of `like` with exponents a, and the residues and feedthrough in x."""
    r, discrete = a.shape[-1], like.dt is not None
    return replace(
        like,
        poles=torch.exp(a) if discrete else a,
        residues=torch.complex(x[:, :r], -x[:, r : 2 * r]),
        log_poles=a if discrete else None,
        feedthrough=x[:, -1] if x.shape[-1] > 2 * r else None,
    )


def _opened(a: Tensor) -> Tensor:
    """Exponents with the real ones turned into conjugate pairs."""
    aside = OPENED * a.real.abs().clamp(max=1)
    return torch.complex(a.real, torch.where(a.imag == 0, aside, a.imag))


def _chunks(problem: Problem, modes: int) -> tuple[Tensor, ...]:
    """Members whose tables fit into memory together; systems that share their poles stay one."""
    members = torch.arange(len(problem.target.energy), device=problem.target.energy.device)
    entries = modes * (modes + problem.target.poles.shape[-1])
    return members.split(len(members) if problem.shared else max(1, AT_ONCE // entries))


def best_fit(problem: Problem, starts: list[Tensor], iterations: int) -> Point:
    """From all starting exponents (B, r) a few steps; what is best then, for each member, goes on.

    Real poles also start opened into conjugate pairs: a fit keeps a real pole real, because to both
    sides of the real axis the error is the same.
    """
    if problem.target.real:
        starts = starts + [_opened(a) for a in starts if bool((a.imag == 0).any())]
    found = []
    for index in _chunks(problem, starts[0].shape[-1]):
        some = problem if problem.shared else problem.select(index)
        begin = starts if problem.shared else [a[index] for a in starts]
        point = minimise(some, begin[0], min(iterations, HEAT))
        for a in begin[1:]:
            point, _ = _better(minimise(some, a, min(iterations, HEAT)), point)
        found.append(minimise(some, point.a, iterations))
    return Point(*(torch.cat(x) for x in zip(*(vars(p).values() for p in found), strict=True)))


def fitted(
    system: DiagonalLTI, rank: int, fit: Callable[[DiagonalLTI, DiagonalLTI], DiagonalLTI]
) -> DiagonalLTI:
    """fit(flat batch, a balanced truncation of it) -> flat batch, in the shape of `system`.

    Full rank: the system itself. Raises as `balanced_truncation`.
    """
    rank = check_rank(rank, system.modes)
    if rank == system.modes:
        system.require_stable("balancing")
        return promoted(system)
    check_kind(system)
    flat, gain, rate = normalised(flattened(promoted(system)))
    start, _ = balanced_truncation(flat, rank)
    with torch.no_grad():
        reduced = fit(flat, start)
    shaped = restored(reduced, gain, rate).unflatten(system.batch)
    return replace(shaped, dt=system.dt, feedthrough=shaped.feedthrough + system.feedthrough)
