"""`weighted` for several inputs and outputs: least expected output error on what a layer receives.

L       length of the sequences
S       (L + 1, m, m)  cross spectrum of the inputs, the mean of U U^H, U = rfft(u, 2L)
R[k]    (L, m, m)      their correlation, irfft(S): the mean over sequences of sum_t u[t + k] u[t]^T
a, b    (r,), (r, m)   exponents and input weights of modes
w_n     (m,)           sum_k R[k] b_n exp(a_n k) - R[0] b_n / 2

The outputs of two modes have the inner product, over all time,

    T_nm = (b_n . w_m + w_n . b_m) / (1 - exp(a_n + a_m)),

that of one input is `inner_products`. For given poles and input weights the output weights C are
linear least squares; poles and input weights follow the gradient of what is left (L-BFGS). The
feedthrough stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4bt.reduction.checks import not_negative, whole_number
from s4bt.reduction.diagonal import as_tensor
from s4bt.reduction.expected_error import DIGITS, FAINT, MEMORY
from s4bt.reduction.methods import PERTURBATION, WHITE
from s4bt.reduction.multi import multi_balanced_truncation
from s4bt.reduction.projection import check_rank
from s4bt.reduction.state_space import StateSpace

ITERATIONS = 60  # of L-BFGS
SLOWEST = 1e-3  # damping over the whole sequence


@dataclass(frozen=True)
class _Modes:
    """Modes with their input weights, and what the inputs make of them: a (n,), b, w, w1 (n, m)."""

    a: Tensor
    b: Tensor
    w: Tensor
    w1: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor, R: Tensor) -> _Modes:
        """w1: the derivative of w by a."""
        k = torch.arange(len(R), dtype=a.real.dtype, device=a.device)
        decay = torch.exp(a[:, None] * k)  # (n, L)
        both = torch.stack([decay, k * decay])
        sums = torch.einsum("xnk,kij,nj->xni", both, R.to(a.dtype), b)
        return cls(a, b, sums[0] - (b @ R[0].mT.to(b.dtype)) / 2, sums[1])

    def conj(self) -> _Modes:
        """Of the conjugate exponents and weights."""
        return _Modes(*(x.conj() for x in vars(self).values()))


def _products(x: _Modes, y: _Modes) -> Tensor:
    """T, (n, n')."""
    gap = -torch.expm1(x.a[:, None] + y.a)
    return (x.b @ y.w.mT + x.w @ y.b.mT) / gap


def _sizes(x: _Modes) -> tuple[Tensor, Tensor]:
    """T(a, conj a), and the same of t E_n, (n,) each, real."""
    g = -1 / torch.expm1(2 * x.a.real)
    g1 = (g - 1) * g
    both = 2 * (x.b * x.w.conj()).sum(-1).real
    slope = 2 * (x.w1 * x.b.conj()).sum(-1).real
    return both * g, slope * g1 + both * g1 * (2 * g - 1)


def cross_correlation(spectrum: Tensor, white: float) -> Tensor:
    """R (L, m, m), with a share of white input."""
    S = spectrum.to(torch.complex128)
    L = len(S) - 1
    R = torch.fft.irfft(S, 2 * L, dim=0)[:L]
    return torch.cat([R[:1] + white * torch.diag(R[0].diagonal()), R[1:]])


def _checked(system: StateSpace, spectrum: Tensor | None) -> Tensor:
    """The cross spectrum.  Raises ValueError if it does not fit."""
    if spectrum is None:
        raise ValueError(
            "weighted needs the cross spectrum of the layer's inputs, (L + 1, m, m), as the option "
            "`spectrum`"
        )
    S = as_tensor(spectrum).to(system.poles.device)
    m = system.inputs
    if S.dim() != 3 or S.shape[1:] != (m, m) or len(S) < 3:
        raise ValueError(
            f"the cross spectrum has shape (L + 1, m, m) with m = {m}, L >= 2; got {tuple(S.shape)}"
        )
    own = S.diagonal(dim1=1, dim2=2).real
    if not bool(torch.isfinite(torch.view_as_real(S.to(torch.complex128))).all()) or bool(
        (own < 0).any()
    ):
        raise ValueError("the cross spectrum holds negative or not finite energies")
    if not bool((own.sum(0) > 0).any()):
        raise ValueError("the cross spectrum is zero: the layer receives nothing")
    return S


class _Problem:
    """What is left when the output weights are eliminated."""

    def __init__(self, full: StateSpace, R: Tensor, perturbation: float, discount: float):
        self.real, self.eps, self.R, self.discount = full.real, perturbation, R, discount
        a = full.spectrum.logs - discount
        self.full, self.C = _Modes.of(a, full.B, R), full.C
        self.energy = self._energy()
        self.own = R.diagonal(dim1=1, dim2=2).real  # correlation of each input by itself, (L, m)

    def _pair(self, x: _Modes, y: _Modes) -> Tensor:
        """Real inner products of (Re E, -Im E) of x and y, or complex ones of complex systems."""
        one = _products(x, y.conj())
        if not self.real:
            return one
        two = _products(x, y)
        top = torch.cat([(one + two).real, (one - two).imag], -1)
        bottom = torch.cat([-(one + two).imag, (one - two).real], -1)
        return torch.cat([top, bottom]) / 2

    def _weights(self, C: Tensor) -> Tensor:
        """Of the basis of `_pair`, (2 n, p) or (n, p)."""
        return torch.cat([C.real.mT, C.imag.mT]) if self.real else C.mT

    def _energy(self) -> Tensor:
        v = self._weights(self.C)
        G = self._pair(self.full, self.full)
        return (
            (v.mH @ G.mT @ v).diagonal().sum().real
            if not self.real
            else ((v.mT @ G @ v).diagonal().sum())
        )

    def price(self, small: _Modes, exponents: Tensor) -> Tensor:
        """What a relative error of C, B and the exponents adds, per |C_n|^2, (n,)."""
        size, slopes = _sizes(small)
        k = torch.arange(len(self.R), dtype=self.own.dtype, device=self.own.device)
        alone = torch.exp(small.a[:, None] * k) @ self.own.to(small.a.dtype) - self.own[0] / 2
        alone = 2 * alone.real / -torch.expm1(2 * small.a.real)[:, None]  # (n, m)
        spread = (small.b.abs().square() * alone).sum(-1)
        found = size + spread + exponents.abs().square() * slopes
        return self.eps**2 * found / (2 if self.real else 1)

    def solve(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The expected error, relative, and the best C (p, r)."""
        small = _Modes.of(a - self.discount, b, self.R)
        G, y = self._pair(small, small), self._pair(small, self.full) @ self._weights(self.C)
        if not self.real:
            G, y = G.mT, (self._pair(self.full, small).mT @ self._weights(self.C))
        price = self.price(small, a)
        price = torch.cat([price, price]) if self.real else price
        N = G + torch.diag(price.to(G.dtype))
        # a real pole with real input weights has no imaginary part to fit
        size = N.diagonal().real
        whole = (size[: len(a)] + size[len(a) :]).repeat(2) if self.real else size
        out = size <= FAINT**2 * whole
        scale = torch.where(out, 0, torch.where(out, 1, size).rsqrt())
        ridge = torch.diag(torch.where(out, 1.0, DIGITS).to(N.dtype))
        scaled = scale[:, None] * N * scale + ridge
        x = scale[:, None] * torch.linalg.solve(scaled.detach(), (scale[:, None] * y).detach())
        x = x.detach()
        f = self.energy - 2 * (x.mH @ y).diagonal().sum().real
        f = f + (x.mH @ N @ x).diagonal().sum().real
        r = len(a)
        C = torch.complex(x[:r], x[r:]).mT if self.real else x.mT
        return f / self.energy, C


@torch.no_grad()
def multi_weighted(
    system: StateSpace,
    rank: int,
    spectrum: Tensor | None = None,
    iterations: int = ITERATIONS,
    perturbation: float = PERTURBATION,
    white: float = WHITE,
) -> StateSpace:
    """Least expected output error on inputs with that cross spectrum; starts from balancing.

    Options as of `s4bt.reduction.weighted.weighted`; the feedthrough stays as it is. Never worse
    than balanced truncation for inputs of equal energy, with its best output weights, in
    its own criterion.
    Raises ValueError for a continuous system, a cross spectrum that does not fit, or a rank out of
    range; UnstableSystem.
    """
    rank = check_rank(rank, system.modes)
    if system.dt is None:
        raise ValueError(
            "weighted fits a discrete layer, and this one is continuous: discretize it"
        )
    S = _checked(system, spectrum)
    iterations = whole_number(iterations, "iterations", 0)
    eps, mu = not_negative(perturbation, "perturbation"), not_negative(white, "white")
    full = system.to(torch.complex128).balanced_weights()
    full.spectrum.require_stable("balancing")
    if rank == system.modes:
        return full
    L = len(S) - 1
    discount = 1 / (MEMORY * L)
    # inputs of unit energy and input weights of unit length: units are not the optimiser's affair
    R = cross_correlation(S, mu)
    energy = R[0].diagonal()
    unit = torch.where(energy > 0, energy, 1).sqrt()
    full = replace(full, B=full.B * unit)
    start = multi_balanced_truncation(full, rank)[0]
    problem = _Problem(full, R / (unit[:, None] * unit), eps, discount)
    if not float(problem.energy) > 0:
        return replace(start, B=start.B / unit)  # nothing comes in, or nothing goes out
    least = SLOWEST / L
    a0, b0 = start.spectrum.logs, start.B
    size = b0.norm(dim=1, keepdim=True)
    b0 = b0 / torch.where(size > 0, size, 1)
    x = [torch.log(-a0.real), a0.imag, b0.real, b0.imag]
    x = [t.detach().clone().requires_grad_() for t in x]

    def at() -> tuple[Tensor, Tensor]:
        return torch.complex(-torch.exp(x[0]) - least, x[1]), torch.complex(x[2], x[3])

    optimiser = torch.optim.LBFGS(x, max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        with torch.enable_grad():
            f, _ = problem.solve(*at())
            f.backward()
        return f

    f, C = problem.solve(a0, b0)
    candidates = [(float(f), a0, b0, C)]
    if iterations:
        optimiser.step(closure)
        a, b = (t.detach() for t in at())
        f, C = problem.solve(a, b)
        candidates.append((float(f), a, b, C))
    good = [c for c in candidates if c[0] == c[0]]
    _, a, b, C = min(good, key=lambda c: c[0])
    return replace(full, poles=torch.exp(a), B=b / unit, C=C, log_poles=a)
