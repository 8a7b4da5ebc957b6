"""Small systems by least squares in poles and residues: variable projection with Levenberg-Marquardt steps.

B, r     systems in a flat batch, modes
a        (B, r)     log poles of a discrete system, poles of a continuous one: a = -exp(alpha) + i omega, stable by construction
E_n      exp(a_n t), the basis; h = Re sum_n v_n E_n is linear in v, and its derivative with respect to a_n is v_n t E_n
S        (H, L + 1) spectrum of a layer's inputs, the mean of |rfft(u, 2L)|^2 over sequences

For fixed poles the best residues are a linear least-squares problem; eliminating them leaves a problem in the poles alone, whose
Jacobian is the derivative of the basis, projected off the basis. (Golub & Pereyra 1973; the simplified Jacobian: Kaufman 1975)
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from s4bt.lti import DiagonalLTI
from s4bt.powers import expm1

FAINT = 1e-6            # a real pole has no imaginary part to fit: what is shorter than this share of the whole is rounding
NEARLY_REAL = 1e-3      # |Im a / Re a| is kept above it: closer to the real axis residues cancel, and two real poles would be two modes
GRADIENT = 1e-10        # relative size of the gradient at which a system counts as optimal


def _project(M: Tensor, a: Tensor, extra: int, rounding: float, rtol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residues x (B, 2 r + extra), squared residual, gradient (B, 2 r) and Gauss-Newton matrix in (alpha, omega / |a|).

    M (B, m, 4 r + extra + 1): columns Re E, Im E, the extra ones, t Re E, t Im E and the target, in any orthonormal coordinates.
    rounding adds sum_n (rounding |v_n|)^2 (||E_n||^2 + |a_n|^2 ||t E_n||^2) to what is minimised: the expected squared error when
    residues and exponents are stored with that relative error. It keeps large terms that cancel out of the fit. Combinations of
    the basis that are shorter than rtol are taken for rounding.
    """
    r = a.shape[-1]
    if rounding:
        mean = lambda x: x.square().sum(-2).unflatten(-1, (2, r)).mean(-2)  # noqa: E731
        price = (mean(M[..., :2 * r]) + a.abs().square() * mean(M[..., 2 * r + extra:-1])).sqrt() * rounding
        rows = torch.zeros(*M.shape[:-2], 2 * r, M.shape[-1], dtype=M.dtype, device=M.device)
        rows.diagonal(dim1=-2, dim2=-1)[..., :] = torch.cat([price, price], -1)
        M = torch.cat([M, rows], -2)
    basis, slopes, y = M[..., :2 * r + extra], M[..., 2 * r + extra:-1], M[..., -1:]
    size = basis.norm(dim=-2, keepdim=True)
    faint = size[..., r:2 * r] < FAINT * size[..., :r]                # a real pole has no imaginary part to fit
    basis = torch.cat([basis[..., :r], basis[..., r:2 * r].masked_fill(faint, 0), basis[..., 2 * r:]], -1)
    size = torch.where(size > 0, size, 1)
    pinv = torch.linalg.pinv(basis / size, rtol=rtol)
    x = pinv @ y
    rest = y - basis / size @ x
    x = (x / size.mT)[..., 0]
    re, im = slopes[..., :r], slopes[..., r:]
    im = torch.where(faint, 0, im)                                   # and stays real: the symmetry is not left by rounding
    x_re, x_im = x[:, None, :r], x[:, None, r:2 * r]
    J = torch.cat([(x_re * re + x_im * im) * a.real[:, None], (x_im * re - x_re * im) * a.abs()[:, None]], -1)       # (B, m, 2 r)
    J = J - basis / size @ (pinv @ J)
    return x, rest.square().sum((-1, -2)), (J.mT @ rest)[..., 0], J.mT @ J


def variable_projection(table: Callable[[Tensor], Tensor], a: Tensor, extra: int, steps: int, rounding: float,
                        damping_range: tuple[float, float], rtol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Poles, residues and squared residuals after at most `steps` Levenberg-Marquardt steps from a; every step taken is downhill.

    table(a) -> the M of `_project`; extra: basis functions that do not depend on the poles; damping_range: of -Re a.
    Returns a (B, r), x (B, 2 r + extra) with v = x_re - i x_im, and f (B).
    """
    low, high = (math.log(x) for x in damping_range)
    alpha, omega = torch.log(-a.real).clamp(low, high), a.imag
    a = torch.complex(-torch.exp(alpha), omega)
    x, f, g, H = _project(table(a), a, extra, rounding, rtol)
    damping = torch.full_like(f, 1e-3)
    for _ in range(steps):
        g_alpha, g_omega = g.chunk(2, -1)                            # at a bound and pushed outwards: stay, let the others move
        stuck = torch.cat([(alpha <= low) & (g_alpha < 0) | (alpha >= high) & (g_alpha > 0),
                           (omega.abs() <= 1.001 * NEARLY_REAL * torch.exp(alpha)) & (omega * g_omega < 0)], -1)
        g, H = g.masked_fill(stuck, 0), H.masked_fill(stuck[:, :, None] | stuck[:, None, :], 0)
        diagonal = H.diagonal(dim1=-2, dim2=-1)
        largest = diagonal.amax(-1, keepdim=True)
        steepness = (g / torch.where(diagonal > 0, diagonal, 1).sqrt()).norm(dim=-1) / f.clamp_min(torch.finfo(f.dtype).tiny).sqrt()
        diagonal = torch.where(largest > 0, diagonal + 1e-12 * largest, 1)               # nothing to fit: no step
        step = torch.linalg.solve(H + torch.diag_embed(damping[:, None] * diagonal), g[..., None])[..., 0]
        step_alpha, step_omega = step.chunk(2, -1)
        step_alpha, step_omega = step_alpha.clamp(-2, 2), step_omega.clamp(-2, 2) * torch.hypot(torch.exp(alpha), omega)
        alpha_new = (alpha + step_alpha).clamp(low, high)
        omega_new, least = omega + step_omega, NEARLY_REAL * torch.exp(alpha_new)
        omega_new = torch.where((omega != 0) & (omega_new.abs() < least), torch.where(omega > 0, least, -least), omega_new)
        trial = torch.complex(-torch.exp(alpha_new), omega_new)
        x_new, f_new, g_new, H_new = _project(table(trial), trial, extra, rounding, rtol)
        better = f_new < f
        pick = lambda new, old: torch.where(better.reshape(-1, *[1] * (old.dim() - 1)), new, old)  # noqa: E731
        gain = ((f - f_new) / f.clamp_min(torch.finfo(f.dtype).tiny)).masked_fill(~better, 0)
        alpha, omega = pick(alpha_new, alpha), pick(omega_new, omega)
        x, f, g, H = pick(x_new, x), pick(f_new, f), pick(g_new, g), pick(H_new, H)
        damping = (damping * torch.where(better, 0.2, 4.0)).clamp(1e-12, 1e12)
        if bool(((steepness < GRADIENT) | ((damping > 1e8) & (gain == 0))).all()):
            break
    return torch.complex(-torch.exp(alpha), omega), x, f


def _system(like: DiagonalLTI, a: Tensor, x: Tensor, feedthrough: Tensor | None) -> DiagonalLTI:
    r = a.shape[-1]
    v = torch.complex(x[:, :r], -x[:, r:2 * r])
    discrete = like.dt is not None
    return replace(like, poles=torch.exp(a) if discrete else a, residues=v, log_poles=a if discrete else None, feedthrough=feedthrough)


def _logs(system: DiagonalLTI) -> Tensor:
    """The exponents a of a system, (B, r)."""
    if system.dt is None:
        return system.poles
    return torch.log(torch.where(system.poles == 0, 1e-17, system.poles)) if system.log_poles is None else system.log_poles


def _range(system: DiagonalLTI, length: int | None = None) -> tuple[float, float]:
    """Dampings beyond which a mode is a constant over `length` steps, or over twenty times the memory of the slowest one, or an impulse."""
    damping = -_logs(system).real
    slowest = float(damping.min()) / 20 if length is None else min(1e-3 / length, float(damping.min()))
    return slowest, float(damping.max()) * 20 if system.dt is None else 40.0


def fits(fit: Callable, starts: list[DiagonalLTI]) -> list[DiagonalLTI]:
    """The starts, and fit(index, start) from each of them; where the first has real poles, also with those opened into conjugate pairs.

    A fit keeps a real pole real, because to both sides of the real axis the error is the same.
    """
    found = [*starts, *(fit(torch.arange(len(start.poles), device=start.poles.device), start) for start in starts)]
    start = starts[0]
    real = (start.poles.imag == 0) & (start.residues != 0)
    index = real.any(-1).nonzero()[:, 0]
    if start.real and len(index):
        a = start.poles if start.dt is None else start.log_poles
        turned = torch.complex(a.real, torch.where(real, a.imag + torch.where(a.imag == 0, 0.5, -0.5) * a.real.abs().clamp(max=1), a.imag))
        some = replace(start, poles=turned if start.dt is None else torch.exp(turned), log_poles=None if start.dt is None else turned)
        opened, direct = fit(index, some.select(index)), start.feedthrough
        put = lambda x, y: None if x is None else x.index_copy(0, index, y)  # noqa: E731
        if opened.feedthrough is not None:
            direct = put(start.residues.real.new_zeros(len(real)) if direct is None else direct, opened.feedthrough)
        found.append(replace(start, poles=put(start.poles, opened.poles), residues=put(start.residues, opened.residues),
                             log_poles=put(start.log_poles, opened.log_poles), feedthrough=direct))
    return found


def best_of(candidates: list[DiagonalLTI], error: Callable) -> DiagonalLTI:
    """Of flat batches of one shape, the candidate with the least error for every member."""
    first = torch.stack([error(c) for c in candidates]).nan_to_num(nan=torch.inf).argmin(0)
    direct = [c.feedthrough for c in candidates]
    if any(d is not None for d in direct):
        direct = [c.residues.real.new_zeros(len(first)) if d is None else d for c, d in zip(candidates, direct)]
    pick = lambda xs: None if xs[0] is None else torch.stack(list(xs))[first, torch.arange(len(first), device=first.device)]  # noqa: E731
    return replace(candidates[0], poles=pick([c.poles for c in candidates]), residues=pick([c.residues for c in candidates]),
                   log_poles=pick([c.log_poles for c in candidates]), feedthrough=pick(direct))


# -- H2: inner products in closed form --------------------------------------------------------------------------------------------

def _moments(x: Tensor, discrete: bool) -> tuple[Tensor, Tensor, Tensor]:
    """sum (or integral) over t >= 0 of exp(x t), t exp(x t) and t^2 exp(x t)."""
    if not discrete:
        return -1 / x, 1 / x**2, -2 / x**3
    q, gap = torch.exp(x), -expm1(x)
    return 1 / gap, q / gap**2, q * (1 + q) / gap**3


def _gram(system: DiagonalLTI, a: Tensor) -> Tensor:
    """Real inner products (B, 4 r + 1, 4 r + 1) of Re E, Im E, t Re E, t Im E and the impulse response of `system`.

    Of a complex system, of E, -i E, t E, -i t E and h, as real vectors.
    """
    discrete, lam, w = system.dt is not None, _logs(system), system.residues

    def tables(b: Tensor, weights: Tensor | None) -> Tensor:
        e, te, tte = _moments(a[..., :, None] + b[..., None, :], discrete)
        if weights is not None:
            return torch.cat([e @ weights[..., None], te @ weights[..., None]], -2)
        return torch.cat([torch.cat([e, te], -1), torch.cat([te, tte], -1)], -2)

    def halves(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (one + two).real / 2, (two - one).imag / 2, (one + two).imag / 2, (one - two).real / 2

    one = tables(a.conj(), None)
    two = tables(a, None) if system.real else torch.zeros_like(one)
    rr, ri, ir, ii = halves(one, two)
    y_one = tables(lam.conj(), w.conj())
    y_two = tables(lam, w) if system.real else torch.zeros_like(y_one)
    r, i = (y_one + y_two).real / 2, (y_one + y_two).imag / 2
    energy = system.h2_norm().square()[:, None, None] / (1 if system.real else 2)
    n = a.shape[-1]
    order = torch.cat([torch.arange(n), torch.arange(n) + 2 * n, torch.arange(n) + n, torch.arange(n) + 3 * n]).to(a.device)
    G = torch.cat([torch.cat([rr, ri], -1), torch.cat([ir, ii], -1)], -2)[..., order[:, None], order[None]]
    y = torch.cat([r, i], -2)[..., order, :]
    return torch.cat([torch.cat([G, y], -1), torch.cat([y.mT, energy], -1)], -2)


def h2_fit(system: DiagonalLTI, start: DiagonalLTI, steps: int = 60, rounding: float = 0.0) -> DiagonalLTI:
    """A local minimum of ||G - G_r||_H2 near `start`, both flat batches of stable systems.

    There G_r(-conj mu) = G(-conj mu) and the derivatives agree, too, for every pole mu of G_r (Meier & Luenberger 1967; Gugercin,
    Antoulas & Beattie 2008); for a discrete system at 1 / conj mu.
    """
    def table(a: Tensor) -> Tensor:
        G, r = _gram(system, a), a.shape[-1]
        size = G.diagonal(dim1=-2, dim2=-1)
        whole = size[..., :r] + size[..., r:2 * r], size[..., 2 * r:3 * r] + size[..., 3 * r:4 * r]
        faint = size <= FAINT**2 * torch.cat([whole[0], whole[0], whole[1], whole[1], size[..., -1:]], -1)
        size = size.masked_fill(faint, 1).sqrt()
        G = (G / size[..., :, None] / size[..., None, :]).masked_fill(faint[..., :, None] | faint[..., None, :], 0)
        values, V = torch.linalg.eigh(G)
        return values.clamp(min=0).sqrt()[..., :, None] * V.mT * size[..., None, :]      # its Gram matrix is G

    a, x, _ = variable_projection(table, _logs(start), 0, steps, rounding, _range(system), 1e-6)
    return _system(system, a, x, None)


# -- weighted: the inputs that the layer really receives ------------------------------------------------------------------------------

def _weights(spectrum: Tensor) -> Tensor:
    """Roots of the weights (H, L + 1) of rfft coefficients, so that the sum over them is the mean energy of the output."""
    L = spectrum.shape[-1] - 1
    twice = torch.full((L + 1,), 2.0, dtype=spectrum.dtype, device=spectrum.device)
    twice[0] = twice[-1] = 1.0
    return (spectrum * twice / (2 * L)).sqrt()


def output_energy(kernel: Tensor, spectrum: Tensor) -> Tensor:
    """Mean energy (H) of kernel * u: sum_f S(f) |K(f)|^2, for kernels (H, L) and spectra (H, L + 1) of length-L inputs."""
    return (torch.fft.rfft(kernel, 2 * kernel.shape[-1]) * _weights(spectrum)).abs().square().sum(-1)


def weighted_fit(system: DiagonalLTI, start: DiagonalLTI, spectrum: Tensor, steps: int = 12,
                 rounding: float = 0.0) -> tuple[DiagonalLTI, Tensor]:
    """The discrete real system with start's number of modes, and a feedthrough, that has the least mean output error on the inputs.

    min over K_r of sum_f S(f) |K(f) - K_r(f)|^2, K and K_r the first L samples of the impulse responses, zero-padded to 2 L: the mean
    energy of (K - K_r) * u over the inputs u whose spectrum is S.  spectrum: (H, L + 1).
    What the kernel does after L steps does not count. Returns the system and its squared error (H).
    """
    L, r = spectrum.shape[-1] - 1, start.order
    t = torch.arange(L, dtype=spectrum.dtype, device=spectrum.device)
    columns, parts = 4 * r + 2, []
    for index in torch.arange(len(system.poles), device=spectrum.device).split(max(1, 2**22 // (2 * (L + 1) * columns))):
        part, root = system.select(index), _weights(spectrum[index])[:, None]
        target = part.impulse_response(L)[:, None]
        impulse = torch.zeros_like(target)
        impulse[..., 0] = 1.0

        def table(a: Tensor) -> Tensor:
            E = torch.exp(a[..., None] * t)                                              # (H, r, L)
            rows = torch.cat([E.real, E.imag, impulse, t * E.real, t * E.imag, target], -2)
            M = torch.view_as_real(torch.fft.rfft(rows, 2 * L) * root).flatten(-2)       # (H, 4 r + 2, 2 (L + 1))
            return torch.linalg.qr(M.mT, mode="r").R

        a, x, f = variable_projection(table, _logs(start.select(index)), 1, steps, rounding, _range(part, L), 1e-12)
        parts.append((a, x, f))
    a, x, f = (torch.cat(column) for column in zip(*parts))
    return _system(system, a, x, x[:, -1]), f
