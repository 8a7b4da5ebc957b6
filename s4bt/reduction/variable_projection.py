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

import torch
from torch import Tensor
from torch.nn.functional import pad

from s4bt.reduction.balanced import balanced_truncation
from s4bt.reduction.gramians import flattened, normalised, promoted, restored
from s4bt.reduction.inner_products import Products, Target
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
ITERATIONS = 40  # Levenberg-Marquardt steps of the best start, after HEAT of every start
HEAT = 8
FIRST_MU = 1e-3
AFTER_SUCCESS, AFTER_FAILURE = 0.2, 4.0
LEAST_MU, MOST_MU, GIVEN_UP = 1e-12, 1e12, 1e8
PATIENCE, ENOUGH = 5, 0.01
RIDGE = 1e-12  # of the largest diagonal entry, for directions that nothing depends on
DIGITS = 1e-12  # of a Gram matrix, relative: smaller parts of it are taken for rounding
MORE = 10.0  # times as much, where that is not enough to factorise it

MEMORY = 4  # sequences later an error counts 1/e^2
AT_ONCE = 2**20  # inner products that are worked on together
MEMORIES = 20  # a mode may be so many times slower or faster than all modes of the system
IMPULSE = 40.0  # damping per step: exp(-40) is an impulse
CONSTANT = 1e-3  # decay over the whole sequence: a constant


@dataclass(frozen=True)
class Problem:
    """What is fitted, for a flat batch of B systems.

    target: the systems `discounted`, and their inputs. damping_range: of -Re a. steps (B): the
    systems share one set of poles lambda, and a = lambda steps; None: each has its own.
    perturbation = eps adds the expected squared error when every number is stored with the relative
    error eps:

        eps^2 (sum_n |v_n|^2 (||E_n||^2 + |a_n|^2 ||t E_n||^2) + d^2 ||impulse||^2
               + ||Re sum_n v_n a_n t E_n||^2)

    of residues, exponents, the feedthrough and the step, which moves all exponents together.
    discount: what happens t later counts exp(-2 discount t), so E_n = exp((a_n - discount) t).
    """

    target: Target
    perturbation: float
    damping_range: tuple[float, float]
    steps: Tensor | None = None
    discount: float = 0.0

    @classmethod
    def of(
        cls,
        system: DiagonalLTI,
        perturbation: float,
        length: int | None = None,
        correlation: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Problem:
        """To fit a flat batch; length: of sequences, MEMORY of which later an error counts 1/e^2."""
        discount = 0.0 if length is None else 1 / (MEMORY * length)
        target = Target.of(discounted(system, discount), correlation)
        return cls(target, perturbation, damping_range(system, length), steps, discount)

    @property
    def extra(self) -> int:
        """1 if there is a feedthrough to fit, else 0."""
        return int(self.target.correlation is not None)

    @property
    def shared(self) -> bool:
        """Whether the systems share their poles."""
        return self.steps is not None

    def select(self, index: Tensor) -> Problem:
        """Some members of the batch."""
        return replace(self, target=self.target.select(index))


@dataclass(frozen=True)
class Point:
    """Poles of a batch, their best residues, and where the expected error falls from there.

    x (B, 2 r + extra), with v = x_re - i x_im; f (B), the expected squared error; descent (B, 2 r),
    minus half its gradient with respect to (alpha, omega / |a|); H, the Gauss-Newton matrix. If the
    systems share their poles, alpha, omega, f, descent and H are of the one set, (1, ...).
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


def _two_by_two(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The matrix of four diagonal blocks."""
    a, b, c, d = map(torch.diag_embed, (a, b, c, d))
    return torch.cat([torch.cat([a, b], -1), torch.cat([c, d], -1)], -2)


def _prices(G: Tensor, a: Tensor, problem: Problem) -> Tensor:
    """The expected squared error of a perturbation, as a quadratic form in x."""
    r, extra = a.shape[-1], problem.extra
    size, slopes = G.diagonal(dim1=-2, dim2=-1), slice(2 * r + extra, -1)

    def mean(columns: Tensor) -> Tensor:
        return columns.unflatten(-1, (2, r)).mean(-2)

    each = mean(size[..., : 2 * r]) + a.abs().square() * mean(size[..., slopes])
    each = torch.cat([each, each, size[..., 2 * r : 2 * r + extra]], -1)
    turn = _two_by_two(a.real, a.imag, -a.imag, a.real)
    together = turn.mT @ G[..., slopes, slopes] @ turn
    return problem.perturbation**2 * (torch.diag_embed(each) + pad(together, (0, extra, 0, extra)))


def _price_slopes(v: Tensor, a: Tensor, products: Products, eps: float) -> Tensor:
    """The derivative of `_prices` at fixed residues v (B, r): it changes by Re(slope da), complex.

    Of |v|^2 (||E||^2 + |a|^2 ||t E||^2), and of || Re sum_n c_n t E_n ||^2, c = v a.
    """
    r, c = a.shape[-1], v * a
    diagonal = {"dim1": -2, "dim2": -1}
    by_a = products.one[..., r:, :r].diagonal(**diagonal)
    size = products.one[..., r:, r:].diagonal(**diagonal).real
    third = products.third_one.diagonal(**diagonal)
    each = v.abs().square() * (by_a + a.abs().square() * third + size * a.conj())
    both = torch.stack([c.conj(), c], -1)  # with what the two kinds of products are multiplied

    def response(one: Tensor, two: Tensor) -> Tensor:
        return (one @ both[..., :1] + two @ both[..., 1:])[..., 0]

    together = v * response(products.one[..., r:, r:], products.two[..., r:, r:])
    together = together + c * response(products.third_one, products.third_two)
    return eps**2 * (each + together)


def evaluate(problem: Problem, alpha: Tensor, omega: Tensor) -> Point:
    """Eliminate the residues at these poles."""
    steps = problem.steps
    a = torch.complex(-torch.exp(alpha), omega)
    a = a if steps is None else a * steps[:, None]
    products, r = problem.target.products(a - problem.discount), a.shape[-1]
    G, width = products.gram, 2 * r + problem.extra
    normal = G[..., :width, :width]
    if problem.perturbation:
        normal = normal + _prices(G, a, problem)
    inverse = _inverse(normal, r)
    y, slopes = G[..., :width, -1:], slice(width, -1)
    x = inverse @ y
    x = x + inverse @ (y - normal @ x)  # what was added for stability, taken back
    f = (G[..., -1:, -1:] - 2 * y.mT @ x + x.mT @ normal @ x)[..., 0, 0]
    across = G[..., slopes, :width]
    x_re, x_im, size = x[:, :r, 0], x[:, r : 2 * r, 0], a.abs()
    K = _two_by_two(x_re * a.real, x_im * size, x_im * a.real, -x_re * size)
    # at the best x the derivative does not see that x moves
    descent = (K.mT @ (G[..., slopes, -1:] - across @ x))[..., 0]
    if problem.perturbation:
        slope = _price_slopes(torch.complex(x_re, -x_im), a, products, problem.perturbation)
        descent = descent - torch.cat([slope.real * a.real, -slope.imag * size], -1) / 2
    H = K.mT @ (G[..., slopes, slopes] - across @ inverse @ across.mT) @ K
    if steps is not None:
        f, H, descent = (z.sum(0, keepdim=True) for z in (f, H, descent))
    return Point(alpha, omega, x[..., 0], f, descent, H)


def _inverse(normal: Tensor, r: int) -> Tensor:
    """Of the normal equations; what is rounding, such as Im E of a real pole, stays out."""
    size = normal.diagonal(dim1=-2, dim2=-1)
    out = size <= 0
    out[..., r : 2 * r] |= size[..., r : 2 * r] < FAINT**2 * size[..., :r]
    scale = torch.where(out, 0, torch.where(out, 1, size).rsqrt())
    scaled = normal * scale[..., :, None] * scale[..., None, :]
    ridge, again = torch.where(out, 1.0, DIGITS), 1.0
    while True:
        C, failed = torch.linalg.cholesky_ex(scaled + torch.diag_embed(ridge))
        if not failed.any():
            break
        again *= MORE
        ridge = torch.where((failed > 0)[..., None] & ~out, again * DIGITS, ridge)
    return torch.cholesky_inverse(C) * scale[..., :, None] * scale[..., None, :]


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


def discounted(system: DiagonalLTI, discount: float) -> DiagonalLTI:
    """The system with h(t) exp(-discount t)."""
    if not discount:
        return system
    a = system.exponents - discount
    discrete = system.dt is not None
    return replace(system, poles=torch.exp(a) if discrete else a, log_poles=a if discrete else None)


def damping_range(system: DiagonalLTI, length: int | None = None) -> tuple[float, float]:
    """Dampings beyond which a mode is a constant over `length` steps, or an impulse.

    Without a length: beyond MEMORIES times the memory of the slowest mode.
    """
    damping = -system.exponents.real
    slowest = float(damping.min())
    slowest = slowest / MEMORIES if length is None else min(CONSTANT / length, slowest)
    return slowest, float(damping.max()) * MEMORIES if system.dt is None else IMPULSE


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
