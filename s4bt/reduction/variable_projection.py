"""Small systems by least squares in poles and residues: variable projection.

B, r     systems in a flat batch, modes
a        (B, r)  log poles of a discrete system, poles of a continuous one:
                 a = -exp(alpha) + i omega, stable by construction
E_n      exp(a_n t), the basis; h = Re sum_n v_n E_n is linear in v, and its derivative with respect
         to a_n is v_n t E_n

For fixed poles the best residues are a linear least-squares problem; eliminating them leaves a
problem in the poles alone, whose Jacobian is the derivative of the basis, projected off the basis.
(Golub & Pereyra 1973; the simplified Jacobian: Kaufman 1975) Its steps are Levenberg-Marquardt's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from s4bt.reduction.balanced import balanced_truncation
from s4bt.reduction.gramians import flattened, normalised, promoted, restored
from s4bt.reduction.projection import check_kind, check_rank
from s4bt.reduction.systems import DiagonalLTI

# A real pole has no imaginary part to fit: what is shorter than this share of it is rounding.
FAINT = 1e-6
# |Im a / Re a| is kept above it: nearer to 0 residues cancel, and real poles cost a mode each.
NEARLY_REAL = 1e-3
GRADIENT = 1e-10  # relative size of the gradient at which a system counts as optimal
AT_THE_AXIS = 1.001  # times NEARLY_REAL, or less, is at that bound
OPENED = 0.5  # of its damping, at most of 1: so far a real pole is moved aside to open it
LONGEST_STEP = 2.0  # in alpha, and in omega / |a|

# Levenberg-Marquardt: mu is the share of the diagonal that is added. It falls to a fifth after a
# success and grows fourfold after a failure; beyond GIVEN_UP no downhill step is found any more.
FIRST_MU = 1e-3
AFTER_SUCCESS, AFTER_FAILURE = 0.2, 4.0
LEAST_MU, MOST_MU, GIVEN_UP = 1e-12, 1e12, 1e8
RIDGE = 1e-12  # of the largest diagonal entry, for directions that nothing depends on

MEMORIES = 20  # a mode may be so many times slower or faster than all modes of the system
IMPULSE = 40.0  # damping per step: exp(-40) is an impulse
CONSTANT = 1e-3  # decay over the whole sequence: a constant


@dataclass(frozen=True)
class Problem:
    """What is fitted.

    table(a) -> M (B, m, 4 r + extra + 1): columns Re E, Im E, the extra ones, t Re E, t Im E and
    the target, in any orthonormal coordinates. extra: basis functions that do not depend on the
    poles. rounding = eps adds sum_n eps^2 |v_n|^2 (||E_n||^2 + |a_n|^2 ||t E_n||^2): the expected
    squared error when residues and exponents are stored with that relative error. It keeps large
    terms that cancel out of the fit. damping_range: of -Re a. Combinations of the basis that are
    shorter than rtol are taken for rounding.
    """

    table: Callable[[Tensor], Tensor]
    extra: int
    rounding: float
    damping_range: tuple[float, float]
    rtol: float


@dataclass(frozen=True)
class Point:
    """Poles of a batch, their best residues, and where the squared residual falls from there.

    x (B, 2 r + extra), with v = x_re - i x_im; f (B), the squared residual; descent (B, 2 r), minus
    half its gradient with respect to (alpha, omega / |a|); H, the Gauss-Newton matrix.
    """

    alpha: Tensor
    omega: Tensor
    x: Tensor
    f: Tensor
    descent: Tensor
    H: Tensor

    @property
    def a(self) -> Tensor:
        """The exponents (B, r)."""
        return torch.complex(-torch.exp(self.alpha), self.omega)


def _price_rows(M: Tensor, a: Tensor, problem: Problem) -> Tensor:
    """Rows below M whose squares are the expected error of rounded residues and exponents."""
    r = a.shape[-1]

    def mean_square(columns: Tensor) -> Tensor:
        return columns.square().sum(-2).unflatten(-1, (2, r)).mean(-2)

    slopes = M[..., 2 * r + problem.extra : -1]
    price = mean_square(M[..., : 2 * r]) + a.abs().square() * mean_square(slopes)
    price = price.sqrt() * problem.rounding
    rows = torch.zeros(*M.shape[:-2], 2 * r, M.shape[-1], dtype=M.dtype, device=M.device)
    rows.diagonal(dim1=-2, dim2=-1)[..., :] = torch.cat([price, price], -1)
    return rows


def evaluate(problem: Problem, alpha: Tensor, omega: Tensor) -> Point:
    """Eliminate the residues at these poles."""
    a = torch.complex(-torch.exp(alpha), omega)
    r, M = a.shape[-1], problem.table(a)
    if problem.rounding:
        M = torch.cat([M, _price_rows(M, a, problem)], -2)
    width = 2 * r + problem.extra
    basis, slopes, y = M[..., :width], M[..., width:-1], M[..., -1:]
    size = basis.norm(dim=-2, keepdim=True)
    faint = size[..., r : 2 * r] < FAINT * size[..., :r]
    imaginary = basis[..., r : 2 * r].masked_fill(faint, 0)
    basis = torch.cat([basis[..., :r], imaginary, basis[..., 2 * r :]], -1)
    size = torch.where(size > 0, size, 1)
    pinv = torch.linalg.pinv(basis / size, rtol=problem.rtol)
    x = pinv @ y
    rest = y - basis / size @ x
    x = (x / size.mT)[..., 0]
    re, im = slopes[..., :r], slopes[..., r:]
    # a real pole stays real: the symmetry is not left by rounding
    im = torch.where(faint, 0, im)
    x_re, x_im = x[:, None, :r], x[:, None, r : 2 * r]
    by_alpha = (x_re * re + x_im * im) * a.real[:, None]
    by_omega = (x_im * re - x_re * im) * a.abs()[:, None]
    J = torch.cat([by_alpha, by_omega], -1)  # (B, m, 2 r)
    J = J - basis / size @ (pinv @ J)
    return Point(alpha, omega, x, rest.square().sum((-1, -2)), (J.mT @ rest)[..., 0], J.mT @ J)


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


def minimise(problem: Problem, a: Tensor, iterations: int) -> Point:
    """At most so many Levenberg-Marquardt steps from a (B, r); every step taken is downhill."""
    low, high = (math.log(x) for x in problem.damping_range)
    point = evaluate(problem, torch.log(-a.real).clamp(low, high), a.imag)
    mu, tiny = torch.full_like(point.f, FIRST_MU), torch.finfo(point.f.dtype).tiny
    for _ in range(iterations):
        stuck = _stuck(point, low, high)
        g = point.descent.masked_fill(stuck, 0)
        H = point.H.masked_fill(stuck[:, :, None] | stuck[:, None, :], 0)
        diagonal = H.diagonal(dim1=-2, dim2=-1)
        largest = diagonal.amax(-1, keepdim=True)
        scaled = g / torch.where(diagonal > 0, diagonal, 1).sqrt()
        steepness = scaled.norm(dim=-1) / point.f.clamp_min(tiny).sqrt()
        # nothing to fit: no step
        diagonal = torch.where(largest > 0, diagonal + RIDGE * largest, 1)
        damped = H + torch.diag_embed(mu[:, None] * diagonal)
        step = torch.linalg.solve(damped, g[..., None])[..., 0]
        trial = evaluate(problem, *_moved(point, step, low, high))
        before = point.f
        point, better = _better(trial, point)
        gain = ((before - trial.f) / before.clamp_min(tiny)).masked_fill(~better, 0)
        factor = torch.where(better, AFTER_SUCCESS, AFTER_FAILURE)
        mu = (mu * factor).clamp(LEAST_MU, MOST_MU)
        given_up = (mu > GIVEN_UP) & (gain == 0)
        if bool(((steepness < GRADIENT) | given_up).all()):
            break
    return point


def damping_range(system: DiagonalLTI, length: int | None = None) -> tuple[float, float]:
    """Dampings beyond which a mode is a constant over `length` steps, or an impulse.

    Without a length: beyond MEMORIES times the memory of the slowest mode.
    """
    damping = -system.exponents.real
    slowest = float(damping.min())
    slowest = slowest / MEMORIES if length is None else min(CONSTANT / length, slowest)
    return slowest, float(damping.max()) * MEMORIES if system.dt is None else IMPULSE


def system_at(
    like: DiagonalLTI, a: Tensor, x: Tensor, feedthrough: Tensor | None = None
) -> DiagonalLTI:
    """The system of the kind of `like` with exponents a and the residues that x holds."""
    r, discrete = a.shape[-1], like.dt is not None
    v = torch.complex(x[:, :r], -x[:, r : 2 * r])
    return replace(
        like,
        poles=torch.exp(a) if discrete else a,
        residues=v,
        log_poles=a if discrete else None,
        feedthrough=feedthrough,
    )


def _opened(start: DiagonalLTI) -> tuple[DiagonalLTI, Tensor]:
    """The start with its real poles opened into conjugate pairs, and which members had any."""
    real = (start.poles.imag == 0) & (start.residues != 0)
    a = start.poles if start.dt is None else start.log_poles
    assert a is not None
    aside = torch.where(a.imag == 0, OPENED, -OPENED) * a.real.abs().clamp(max=1)
    turned = torch.complex(a.real, torch.where(real, a.imag + aside, a.imag))
    discrete = start.dt is not None
    new = replace(
        start,
        poles=torch.exp(turned) if discrete else turned,
        log_poles=turned if discrete else None,
    )
    return new, real.any(-1).nonzero()[:, 0]


def _from_every_start(
    improve: Callable[[Tensor, DiagonalLTI], DiagonalLTI], starts: list[DiagonalLTI]
) -> list[DiagonalLTI]:
    """The starts, and improve(index, start) of each of them.

    Where the first has real poles, also of the first with those opened into conjugate pairs: a fit
    keeps a real pole real, because to both sides of the real axis the error is the same.
    """
    every = torch.arange(len(starts[0].poles), device=starts[0].poles.device)
    found = [*starts, *(improve(every, start) for start in starts)]
    start = starts[0]
    if not start.real:
        return found
    opened, index = _opened(start)
    if len(index):
        new = improve(index, opened.select(index))
        logs = start.log_poles
        if logs is not None:
            assert new.log_poles is not None
            logs = logs.index_copy(0, index, new.log_poles)
        direct = start.feedthrough.index_copy(0, index, new.feedthrough)
        poles = start.poles.index_copy(0, index, new.poles)
        residues = start.residues.index_copy(0, index, new.residues)
        found.append(
            replace(start, poles=poles, residues=residues, log_poles=logs, feedthrough=direct)
        )
    return found


def _best_of(candidates: list[DiagonalLTI], error: Callable[[DiagonalLTI], Tensor]) -> DiagonalLTI:
    """Of flat batches of one shape, the candidate with the least error for every member."""
    errors = torch.stack([error(candidate) for candidate in candidates])
    first = errors.nan_to_num(nan=torch.inf).argmin(0)
    members = torch.arange(len(first), device=first.device)

    def pick(name: str) -> Any:
        tensors = [getattr(candidate, name) for candidate in candidates]
        return None if tensors[0] is None else torch.stack(tensors)[first, members]

    return replace(
        candidates[0],
        poles=pick("poles"),
        residues=pick("residues"),
        log_poles=pick("log_poles"),
        feedthrough=pick("feedthrough"),
    )


def best_fit(
    improve: Callable[[Tensor, DiagonalLTI], DiagonalLTI],
    starts: list[DiagonalLTI],
    error: Callable[[DiagonalLTI], Tensor],
) -> DiagonalLTI:
    """Of the starts and what improve(members, start) makes of them, the best of each member."""
    return _best_of(_from_every_start(improve, starts), error)


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
