"""Inner products of the outputs of single modes, over all time, in closed form.

B, r     systems in a flat batch, modes
r[k]     (B, L)  autocorrelation of the inputs, k = 0 .. L - 1; without: white, r[0] = 1
E_n      exp(a_n t), a (B, r); continuous systems have white inputs only
T(a, b)  sum over s, t >= 0 of r[|s - t|] exp(a s) exp(b t), the inner product of two outputs

    T(a, b) = (phi(a) + phi(b)) / (1 - exp(a + b)),   phi(a) = sum_k r[k] exp(a k) - r[0] / 2

because s <= t gives sum_k r[k] exp(b k) times the geometric series of exp(a + b), s >= t the same
with a, and s = t is counted twice. Its derivatives are the inner products of t E_n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from s4bt.reduction.systems import DiagonalLTI


@dataclass(frozen=True)
class Half:
    """phi and its first two derivatives at exponents a (B, r)."""

    one: Tensor
    slope: Tensor
    bend: Tensor

    def conj(self) -> Half:
        """At the conjugate exponents."""
        return Half(self.one.conj(), self.slope.conj(), self.bend.conj())

    def select(self, index: Tensor) -> Half:
        """Some members of the batch."""
        return Half(self.one[index], self.slope[index], self.bend[index])


def half(a: Tensor, correlation: Tensor | None) -> Half:
    """phi at a (B, r).

    k = m i + j splits the sum into a product of matrices and a short sum: of every exponent only
    2 sqrt(L) exponentials are needed.
    """
    if correlation is None:
        none = torch.zeros_like(a)
        return Half(none + 0.5, none, none)
    m = math.isqrt(correlation.shape[-1] - 1) + 1
    k = torch.arange(m * m, dtype=correlation.dtype, device=a.device)
    r = pad(correlation, (0, m * m - correlation.shape[-1]))
    rows = torch.stack([r, k * r, k**2 * r], 1).unflatten(-1, (m, m))  # (B, 3, i, j)
    near, far = (torch.exp(a[..., None] * k[:m] * step) for step in (1, m))  # (B, r, m)
    inner = near @ rows.flatten(1, 2).mT.to(a.dtype)  # (B, r, 3 m)
    sums = (inner.unflatten(-1, (3, m)) * far[..., None, :]).sum(-1)
    return Half(sums[..., 0] - correlation[:, :1] / 2, sums[..., 1], sums[..., 2])


def _gap(x: Tensor, discrete: bool) -> Tensor:
    """1 - exp(x), or -x; with all digits, and faster than a complex expm1."""
    if not discrete:
        return -x
    shrinks = torch.expm1(x.real)
    sine, cosine = torch.sin(x.imag / 2), torch.cos(x.imag / 2)
    chord = 2 * (1 + shrinks) * sine
    return torch.complex(torch.addcmul(-shrinks, chord, sine), -chord * cosine)


def _series(x: Tensor, discrete: bool) -> tuple[Tensor, Tensor]:
    """sum (or integral) over t >= 0 of exp(x t), and of t exp(x t)."""
    g = 1 / _gap(x, discrete)
    return g, (g - 1) * g if discrete else g * g


def _higher(g: Tensor, g1: Tensor, discrete: bool) -> tuple[Tensor, Tensor]:
    """The same with t^2 and t^3."""
    steep = 2 * g - 1 if discrete else 2 * g
    return g1 * steep, g1 * (steep * steep + 2 * g1)


def _own(a: Tensor, at_a: Half, b: Tensor, at_b: Half, discrete: bool) -> tuple[Tensor, Tensor]:
    """T(a_n, b_m) and its derivatives by a, by b and by both, as blocks of (B, 2 r, 2 r).

    And the third derivative, twice by a and once by b, (B, r, r).
    """
    g, g1 = _series(a[..., :, None] + b[..., None, :], discrete)
    g2, g3 = _higher(g, g1, discrete)
    both = at_a.one[..., :, None] + at_b.one[..., None, :]
    by_a, by_b = at_a.slope[..., :, None], at_b.slope[..., None, :]
    steeper = both * g1
    top = torch.cat([both * g, by_b * g + steeper], -1)
    bottom = torch.cat([by_a * g + steeper, (by_a + by_b) * g1 + both * g2], -1)
    third = at_a.bend[..., :, None] * g1 + (2 * by_a + by_b) * g2 + both * g3
    return torch.cat([top, bottom], -2), third


def _halves(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inner products of real and imaginary parts, from those with and without conjugation."""
    return (
        (one + two).real / 2,
        (two - one).imag / 2,
        (one + two).imag / 2,
        (one - two).real / 2,
    )


@dataclass(frozen=True)
class Products:
    """Inner products of a basis and a target.

    gram: real, of Re E, Im E, (the impulse,) t Re E, t Im E and the response, (B, 4 r + 1,
    4 r + 1), or 4 r + 2 with the impulse, which is there if the inputs are not white. Of a complex
    system, of E, -i E, t E, -i t E and h, as real vectors. one, two (B, 2 r, 2 r): T and its
    derivatives at (a, conj a) and (a, a), the latter zero for complex systems; third_one, third_two
    (B, r, r): twice by the first exponent and once by the second.
    """

    gram: Tensor
    one: Tensor
    two: Tensor
    third_one: Tensor
    third_two: Tensor


@dataclass(frozen=True)
class Target:
    """What a basis is compared with: a flat batch of systems, and what does not change in a fit.

    poles, weights (B, M): conjugate exponents and residues, and of real systems those themselves,
    too; at: phi there; energy (B): of the output.
    """

    real: bool
    discrete: bool
    correlation: Tensor | None
    poles: Tensor
    weights: Tensor
    at: Half
    energy: Tensor

    @classmethod
    def of(cls, system: DiagonalLTI, correlation: Tensor | None = None) -> Target:
        """correlation (B, L) of the inputs of a discrete system; white ones without."""
        a, w, discrete = system.exponents, system.residues, system.dt is not None
        poles, weights = a.conj().resolve_conj(), w.conj().resolve_conj()
        if system.real:
            poles, weights = torch.cat([poles, a], -1), torch.cat([weights, w], -1)
        at = half(poles, correlation)
        new = cls(system.real, discrete, correlation, poles, weights, at, a.real[..., 0])
        with_itself = new._with(a, half(a, correlation))[0]
        return replace(new, energy=(w * with_itself).sum(-1).real / 2)

    def select(self, index: Tensor) -> Target:
        """Some members of the batch."""
        return replace(
            self,
            correlation=None if self.correlation is None else self.correlation[index],
            poles=self.poles[index],
            weights=self.weights[index],
            at=self.at.select(index),
            energy=self.energy[index],
        )

    def mode_energies(self) -> Tensor:
        """Energy of the output of every complex mode alone, (B, N); as `modal.mode_norms`."""
        N = self.poles.shape[-1] // (2 if self.real else 1)
        a, w, phi = self.poles[:, :N], self.weights[:, :N], self.at.one[:, :N]
        damping = -torch.expm1(2 * a.real) if self.discrete else -2 * a.real
        heard = torch.where(a.imag == 0, w.real, w) if self.real else w
        return heard.abs().square() * 2 * phi.real / damping

    def _with(self, a: Tensor, at: Half) -> tuple[Tensor, Tensor]:
        """Twice the products of E_n and t E_n with the response, (B, r) each, complex."""
        g, g1 = _series(a[..., :, None] + self.poles[..., None, :], self.discrete)
        two = torch.stack([self.weights, self.weights * self.at.one], -1)
        (y, yp), (y1, y1p) = ((x @ two).unbind(-1) for x in (g, g1))
        return at.one * y + yp, at.slope * y + at.one * y1 + y1p

    def with_impulse(self) -> Tensor:
        """Product of the response with an impulse, (B,)."""
        assert self.correlation is not None
        P = self.at.one + self.correlation[:, :1] / 2
        return (self.weights * P).sum(-1).real / 2

    def products(self, a: Tensor) -> Products:
        """With the basis of exponents a (B, r)."""
        at, n = half(a, self.correlation), a.shape[-1]
        y = torch.cat(self._with(a, at), -1)
        one, third_one = _own(a, at, a.conj(), at.conj(), self.discrete)
        two, third_two = torch.zeros_like(one), torch.zeros_like(third_one)
        if self.real:
            two, third_two = _own(a, at, a, at, self.discrete)
        rr, ri, ir, ii = _halves(one, two)
        G = torch.cat([torch.cat([rr, ri], -1), torch.cat([ir, ii], -1)], -2)
        y = torch.cat([y.real, y.imag], -1)[..., None] / 2
        order = torch.arange(4 * n, device=a.device).reshape(2, 2, n).transpose(0, 1).flatten()
        G, y, energy = G[..., order[:, None], order], y[..., order, :], self.energy[:, None, None]
        if self.correlation is not None:
            G, y = self._with_impulse(G, y, at)
        gram = torch.cat([torch.cat([G, y], -1), torch.cat([y.mT, energy], -1)], -2)
        return Products(gram, one, two, third_one, third_two)

    def _with_impulse(self, G: Tensor, y: Tensor, at: Half) -> tuple[Tensor, Tensor]:
        """The impulse between the basis and its derivatives: its products are the sums P."""
        assert self.correlation is not None
        first, m = self.correlation[:, :1], 2 * at.one.shape[-1]
        P = at.one + first / 2
        column = torch.cat([P.real, P.imag, at.slope.real, at.slope.imag], -1)[..., None]
        target = self.with_impulse()[:, None, None]
        G = torch.cat([G[..., :m], column, G[..., m:]], -1)
        row = torch.cat([column[..., :m, :], first[..., None], column[..., m:, :]], -2).mT
        return (
            torch.cat([G[..., :m, :], row, G[..., m:, :]], -2),
            torch.cat([y[..., :m, :], target, y[..., m:, :]], -2),
        )


def output_energy(system: DiagonalLTI, correlation: Tensor) -> Tensor:
    """Energy (B,) of the output of a flat batch for inputs with that autocorrelation (B, L)."""
    target, d = Target.of(system, correlation), system.feedthrough
    return target.energy + 2 * d * target.with_impulse() + d.square() * correlation[:, 0]
