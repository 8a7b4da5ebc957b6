"""What the fits minimise: the expected error of a small system, and where it falls.

B, r     systems in a flat batch, modes
a        (B, r)  log poles of a discrete system, poles of a continuous one:
                 a = -exp(alpha) + i omega, stable by construction
E_n      exp(a_n t), the basis; h = Re sum_n v_n E_n is linear in v, and its derivative with respect
         to a_n is v_n t E_n

For fixed poles the best residues are a linear least-squares problem; eliminating them leaves a
problem in the poles alone, whose Jacobian is the derivative of the basis, projected off the basis.
(Golub & Pereyra 1973; the simplified Jacobian: Kaufman 1975)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from s4bt.reduction.inner_products import Products, Target
from s4bt.reduction.systems import DiagonalLTI

# A real pole has no imaginary part to fit: what is shorter than this share of it is rounding.
FAINT = 1e-6
DIGITS = 1e-12  # of a Gram matrix, relative: smaller parts of it are taken for rounding
MORE = 10.0  # times as much, where that is not enough to factorise it
MEMORY = 4  # at so many sequences' lag the energy of an error counts 1/e^2
MEMORIES = 20  # a mode may be so many times slower or faster than all modes of the system
IMPULSE = 40.0  # damping per step: exp(-40) is an impulse
CONSTANT = 1e-3  # decay over the whole sequence: a constant


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


@dataclass(frozen=True)
class Problem:
    """What is fitted, for a flat batch of B systems.

    target: the systems `discounted`, and their inputs. damping_range: of -Re a. steps (B): the
    systems share one set of poles lambda, and a = lambda steps; None: each has its own.
    perturbation = eps adds the expected squared error when every number has a relative error of
    root mean square eps, complex for residues and exponents:

        eps^2 (sum_n |v_n|^2 (||E_n||^2 + |a_n|^2 ||t E_n||^2) / 2 + d^2 ||impulse||^2
               + ||Re sum_n v_n a_n t E_n||^2)

    of residues, exponents, the fitted feedthrough and the step, which moves all exponents together.
    (The 1/2: an error of any phase shows with half its energy in the real part. A real pole, whose
    error is real, is charged half of what it should be.)
    discount: of kernels at lag t, by exp(-discount t), so E_n = exp((a_n - discount) t).
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
        """To fit a flat batch; length: of sequences, at MEMORY of which an error counts 1/e^2."""
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
