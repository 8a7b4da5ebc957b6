"""A batch of diagonal linear time-invariant systems.

poles        (..., N)  lambda: continuous eigenvalues in 1/time, or discrete ones per step
residues     (..., N)  w: output weight times input weight of each mode
feedthrough  (...)     d: a constant term of G
dt           None for a continuous system, the step of a discrete one; a number, or (...)
omega        (M,)      angular frequency in radians per unit of time
h            (..., L)  impulse response

continuous  h(t) = sum_n w_n exp(lambda_n t)    G(i omega) = d + sum_n w_n / (i omega - lambda_n)
            d is an impulse, and not in h
discrete    h[k] = sum_n w_n lambda_n^k    G(omega) = d + sum_n w_n / (1 - lambda_n e^{-i omega dt})
            d is a part of h[0]
real        the output is Re(h): the system with poles {lambda, conj lambda} and residues
            {w/2, conj w/2}, of order 2N

The notation is that of Gupta et al. 2022 (arXiv 2203.14343) for the layer, and of Antoulas 2005
(Approximation of Large-Scale Dynamical Systems) for norms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from s4bt.reduction.checks import UnstableSystem, whole_number
from s4bt.reduction.diagonal import DiagonalBatch, as_tensor, per_batch
from s4bt.reduction.peaks import highest_peak
from s4bt.reduction.powers import power_sum

# Where `hinf_norm` samples first: on both sides of every pole, out to 30 times its damping
# (sinh 4.1 = 30), and for a discrete system evenly over the circle, too.
REACH = 4.1
EVEN_SAMPLES = 257
LARGEST_DAMPING = 30.0  # per step: a discrete mode that decays faster is an impulse
SAMPLES_AT_ONCE = 2**21  # entries of the array (systems, frequencies, modes)

__all__ = ["DiagonalLTI", "UnstableSystem"]


@dataclass(frozen=True)
class DiagonalLTI(DiagonalBatch):
    """A batch of diagonal systems with one input and one output; see the module's glossary.

    Parameters
    ----------
    poles, residues : complex tensors or arrays (..., N)
        Broadcast against each other; batch dimensions lead.
    dt : None, a number, or a tensor (...)
        None for a continuous system, else the step.
    real : bool
        Whether the output is the real part.
    log_poles : complex (..., N), optional
        Of a discrete system: lambda dt of the continuous one it came from. It keeps the digits of
        1 - |lambda| that exp rounds away when dt is tiny; `discretize` sets it.
    feedthrough : (...), optional
        Zero unless given; real if the system is, in the precision of the poles.

    Raises
    ------
    ValueError
        If shapes do not fit, if there is no mode or no system, if a value is not finite, or if the
        feedthrough of a real system is not real.

    Examples
    --------
    >>> system = DiagonalLTI(torch.tensor([-1 + 2j, -3 + 0j]), torch.tensor([1.0, 0.5]), real=False)
    >>> system.modes, round(float(system.h2_norm()), 3)
    (2, 0.861)
    """

    def impulse_response(self, length: int) -> Tensor:
        """h[k], k = 0 .. length - 1, (..., length); of a continuous system h(t) at t = 0, 1, 2, …

        No (..., N, length) array is made; see `power_sum`.
        Raises ValueError unless the length is a whole number of 1 or more.
        """
        length = whole_number(length, "length", 1)
        a = self.exponents.reshape(-1, self.modes)
        w = self.residues.reshape(-1, self.modes)
        h = power_sum(a, w, length)
        if not self.real:
            h = torch.complex(h, power_sum(a, -1j * w, length))
        h = h.reshape(*self.batch, length)
        if self.dt is not None:
            h = torch.cat([h[..., :1] + self.feedthrough[..., None], h[..., 1:]], -1)
        return h

    def frequency_response(self, omega: Any) -> Tensor:
        """G (..., M) at angular frequencies omega (M,) or (..., M), radians per unit of time."""
        omega = as_tensor(omega).to(self.poles.real)
        full = self.with_conjugates()
        gain = (full.residues[..., None, :] @ full._resolvents(omega))[..., 0, :]
        return gain + self.feedthrough[..., None]

    def _resolvents(self, omega: Tensor) -> Tensor:
        """Frequency responses of the single modes with residue 1, (..., N, M), with all digits."""
        if self.dt is None:
            return 1 / (1j * omega[..., None, :] - self.poles[..., None])
        theta = omega * per_batch(self.dt, self.poles)
        return -1 / torch.expm1(self.logs[..., None] - 1j * theta[..., None, :])

    def _quick_resolvents(self, omega: Tensor) -> Tensor:
        """The same in real arithmetic, which is quicker.

        Near resonance the relative error is 1e-16 / damping.
        """
        if self.dt is None:
            return self._resolvents(omega)
        # 1 / (1 - exp(x)) = 1/2 - 1/(2 tanh(x/2)), x = log lambda - i theta, and the tangents' sum
        theta = omega * per_batch(self.dt, self.poles)
        cosine, sine = torch.cos(theta / 2)[..., None, :], torch.sin(theta / 2)[..., None, :]
        t = torch.tanh(self.logs / 2)[..., None]
        p, q = t.real, t.imag
        size = (p * cosine).square() + (q * cosine - sine).square()
        turn = q * (cosine.square() - sine.square()) + (p * p + q * q - 1) * (sine * cosine)
        return torch.complex(0.5 - 0.5 * p / size, 0.5 * turn / size)

    def h2_norm(self) -> Tensor:
        """(integral of |h|^2)^(1/2), or the root of the sum of |h[k]|^2 if discrete; shape (...).

        ||h||^2 = sum_ij w_i conj(w_j) / D_ij, where D_ij = -(lambda_i + conj lambda_j), or
        1 - lambda_i conj lambda_j if discrete.  (Antoulas 2005, ch. 5)

        Raises UnstableSystem, and ValueError for a continuous system with a feedthrough, whose norm
        is infinite.
        """
        self.require_stable("the H2 norm")
        if self.dt is None and bool((self.feedthrough != 0).any()):
            raise ValueError(
                "the H2 norm of a continuous system with a feedthrough is infinite; discretize it "
                "first"
            )
        full = self.with_conjugates()
        unit = self.unit()
        w, direct = full.residues / unit[..., None], self.feedthrough / unit
        a = full.exponents
        denominator = -(a[..., :, None] + a[..., None, :].conj())
        if self.dt is not None:
            denominator = -torch.expm1(-denominator)
        energy = (w[..., :, None] * w[..., None, :].conj() / denominator).sum((-2, -1)).real
        # without a feedthrough nothing is added, not even rounding
        if bool((direct != 0).any()):
            first = w.sum(-1)
            energy = energy + (first + direct).abs() ** 2 - first.abs() ** 2
        return energy.clamp(min=0).sqrt() * unit

    def hinf_norm(self, joint: bool = False, points: int = 8, zooms: int = 7) -> Tensor:
        """max over omega of |G(i omega)|, shape (...), in units of the gain.

        joint: a batch (H, N) holds the outputs of one system with shared poles, |G| is their root
        of the sum of squares, and the result is one number. points: samples on each side of a pole;
        zooms: refinements of the eight highest peaks, each divides the bracket by eight.
        Raises UnstableSystem, and ValueError if joint rows do not share their poles.
        """
        self.require_stable("the H-infinity norm")
        points, zooms = whole_number(points, "points", 1), whole_number(zooms, "zooms", 0)
        unit = self.unit()
        if joint:
            if not torch.equal(self.poles, self.poles[:1].expand_as(self.poles)):
                raise ValueError("joint=True is for rows that share their poles; these do not")
            unit = unit.max()
            return self.times(1 / unit)._peak(points, zooms, joint=True) * unit
        rows = self.times(1 / unit).flatten()
        samples = (2 * points + 1) * self.modes + EVEN_SAMPLES
        size = max(1, SAMPLES_AT_ONCE // (samples * self.order))
        parts = torch.arange(len(rows.poles), device=self.poles.device).split(size)
        peaks = torch.cat([rows.select(i)._peak(points, zooms) for i in parts])
        return peaks.reshape(self.batch) * unit

    def _first_samples(self, points: int, joint: bool) -> Tensor:
        """Frequencies (B, M), or (1, M) if joint, at which `hinf_norm` samples first."""
        if self.dt is None:
            centre, width = self.poles.imag, -self.poles.real
        else:
            a = self.logs
            centre = torch.angle(torch.exp(1j * a.imag))
            width = (-a.real).clamp(max=LARGEST_DAMPING)
        if joint:
            centre, width = centre[:1], width[:1]
        like: dict[str, Any] = {"device": width.device, "dtype": width.dtype}
        offsets = torch.sinh(torch.linspace(-REACH, REACH, 2 * points + 1, **like))
        omega = (centre[..., None] + width[..., None] * offsets).flatten(1)
        omega = torch.cat([omega, torch.zeros_like(omega[:, :1])], -1)
        if self.dt is not None:
            even = torch.linspace(-torch.pi, torch.pi, EVEN_SAMPLES, **like)
            even = even.expand(len(omega), EVEN_SAMPLES)
            omega = torch.cat([omega.clamp(-torch.pi, torch.pi), even], -1)
        # the gain of a real system is even
        return omega.abs() if self.real else omega

    def _peak(self, points: int, zooms: int, joint: bool = False) -> Tensor:
        """`hinf_norm` of a batch (B, N) that fits into memory."""
        full = (self if self.dt is None else replace(self, dt=1.0)).with_conjugates()
        first = full.select(0)

        def gain(omega: Tensor) -> Tensor:
            flat = omega.flatten(1)
            if not joint:
                G = (full.residues[..., None, :] @ full._quick_resolvents(flat))[..., 0, :]
                return (G + full.feedthrough[..., None]).abs().reshape(omega.shape)
            basis = first._quick_resolvents(flat[0])  # (N, M)
            G = full.residues @ basis + self.feedthrough[:, None]  # (H, M)
            return G.abs().square().sum(0).sqrt().reshape(omega.shape)

        peak = highest_peak(gain, self._first_samples(points, joint), zooms)
        if self.dt is None:  # the gain at infinite frequency
            direct = self.feedthrough.abs()
            peak = torch.maximum(peak, direct.norm() if joint else direct)
        return peak[0] if joint else peak

    def discretize(self, dt: Any) -> DiagonalLTI:
        """Zero-order hold: poles exp(lambda dt), residues w (exp(lambda dt) - 1) / lambda.

        (Gupta et al. 2022, prop. 1)  dt: positive number or tensor of the batch shape.
        Raises ValueError for a discrete system, and for steps that are not positive or do not fit.
        """
        if self.dt is not None:
            raise ValueError(f"the system is discrete already, with step {self.dt}")
        step = per_batch(dt, self.poles)
        a, constant = self.poles * step, self.poles == 0
        ratio = torch.where(
            constant, step.to(a.dtype), torch.expm1(a) / torch.where(constant, 1, self.poles)
        )
        return replace(self, poles=torch.exp(a), residues=self.residues * ratio, dt=dt, log_poles=a)

    def to_continuous(self) -> DiagonalLTI:
        """The continuous system that `discretize` turns into this one.

        lambda = log(p) / dt, residues w lambda / (p - 1).  A pole at 0, of h[0] only, becomes part
        of the feedthrough. A real negative pole becomes a complex one, so a real system with such a
        pole agrees with the result only at the multiples of dt.
        Raises ValueError for a continuous system.
        """
        if self.dt is None:
            raise ValueError("the system is continuous already")
        # one that underflowed to 0 still has its logarithm
        gone = (self.poles == 0) & (self.log_poles is None)
        step = per_batch(self.dt, self.poles)
        a = torch.where(gone, -1.0, self.logs)
        residues, direct = self.residues.masked_fill(gone, 0), self.feedthrough
        if gone.any():
            first = self.residues.masked_fill(~gone, 0).sum(-1)
            direct = (first.real if self.real else first) + direct
        constant = a == 0
        ratio = torch.where(constant, 1, a / torch.where(constant, 1, torch.expm1(a)))
        return replace(
            self,
            poles=a / step,
            residues=residues * ratio / step,
            dt=None,
            log_poles=None,
            feedthrough=direct,
        )
