"""A batch of diagonal linear time-invariant systems.

poles      (..., N)  lambda: continuous eigenvalues in 1/time, or discrete ones per step
residues   (..., N)  w: output weight times input weight of each mode
d          (...)     feedthrough: G has it as a constant term; None for zero
dt         None for a continuous system, the step for a discrete one; a number or a tensor of the batch shape
omega      (M,)      angular frequency in radians per unit of time
h          (..., L)  impulse response

continuous  h(t) = sum_n w_n exp(lambda_n t),   G(i omega) = d + sum_n w_n / (i omega - lambda_n);  d is an impulse, not in h
discrete    h[k] = sum_n w_n lambda_n^k,        G(omega)   = d + sum_n w_n / (1 - lambda_n exp(-i omega dt));  h[0] has d, too
real        the output is Re(h): the system with poles {lambda, conj lambda} and residues {w/2, conj w/2}

The notation is that of Gupta et al. 2022 (arXiv 2203.14343) for the layer and of Antoulas 2005 for norms.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4bt.powers import expm1, power_sum


class UnstableSystem(ValueError):
    """The system has poles that are not strictly stable, and what was asked for needs them to be."""


def _places(bad: Tensor) -> str:
    """Where a mask over (..., N) holds: the first three as channel (batch index) and mode."""
    name = lambda *batch, n: f"{'channel ' + ', '.join(map(str, batch)) + ', ' if batch else ''}mode {n}"  # noqa: E731
    return "first at " + "; ".join(name(*i[:-1], n=i[-1]) for i in bad.nonzero()[:3].tolist())


def per_batch(x, like: Tensor) -> Tensor:
    """A step given as a number or as a tensor of the batch shape (...), made ready to multiply `like` (..., N)."""
    x = torch.as_tensor(x, dtype=like.real.dtype, device=like.device)
    return x if x.dim() == 0 else x.unsqueeze(-1)


@dataclass(frozen=True)
class DiagonalLTI:
    """A batch of diagonal single-input single-output systems; see the module's glossary.

    poles, residues: complex (..., N), broadcast against each other; batch dimensions lead. feedthrough: (...), real if `real`.
    log_poles: (..., N), optional for a discrete system: lambda dt of the continuous system it came from. It keeps the
    digits of 1 - |lambda| that exp rounds away when dt is tiny; `discretize` sets it.
    Raises ValueError if shapes do not fit, if there is no mode or no system, or if a value is not finite.
    """

    poles: Tensor
    residues: Tensor
    dt: object = None
    real: bool = True
    log_poles: Tensor | None = None
    feedthrough: Tensor | None = None

    def __post_init__(self):
        dtype = torch.promote_types(torch.promote_types(self.poles.dtype, self.residues.dtype), torch.complex64)
        try:
            poles, residues = torch.broadcast_tensors(self.poles.to(dtype), self.residues.to(dtype))
        except RuntimeError as error:
            raise ValueError(f"poles {tuple(self.poles.shape)} and residues {tuple(self.residues.shape)} do not fit "
                             "each other: both need shape (..., N)") from error
        if poles.dim() == 0 or poles.shape[-1] == 0:
            raise ValueError(f"a system needs at least one mode; poles have shape {tuple(poles.shape)}")
        if not poles.numel():
            raise ValueError(f"the batch is empty: poles have shape {tuple(poles.shape)}")
        for name, values in (("poles", poles), ("residues", residues)):
            bad = ~torch.isfinite(torch.view_as_real(values)).all(-1)
            if bad.any():
                raise ValueError(f"{int(bad.sum())} of {bad.numel()} {name} are not finite; {_places(bad)}")
        object.__setattr__(self, "poles", poles)
        object.__setattr__(self, "residues", residues)
        if self.log_poles is not None:
            object.__setattr__(self, "log_poles", self.log_poles.expand_as(poles))
        if self.feedthrough is not None:
            if not bool(torch.isfinite(self.feedthrough).all()):
                raise ValueError(f"{int((~torch.isfinite(self.feedthrough)).sum())} of {self.feedthrough.numel()} feedthroughs are not finite")
            object.__setattr__(self, "feedthrough", self.feedthrough.expand(poles.shape[:-1]))

    @property
    def order(self) -> int:
        """Number of complex modes N."""
        return self.poles.shape[-1]

    def to(self, *args, **kwargs) -> DiagonalLTI:
        """The same system in another dtype or on another device (arguments of torch.Tensor.to)."""
        move = lambda x: None if x is None else x.to(*args, **kwargs)  # noqa: E731
        direct = move(self.feedthrough)
        direct = direct.real if self.real and direct is not None and direct.is_complex() else direct
        return replace(self, poles=move(self.poles), residues=move(self.residues), log_poles=move(self.log_poles), feedthrough=direct)

    def select(self, index) -> DiagonalLTI:
        """The systems of the batch that `index` picks (anything that indexes the batch dimensions)."""
        pick = lambda x: x if x is None or not isinstance(x, Tensor) or x.dim() == 0 else x[index]  # noqa: E731
        return replace(self, poles=self.poles[index], residues=self.residues[index], dt=pick(self.dt),
                       log_poles=pick(self.log_poles), feedthrough=pick(self.feedthrough))

    def stable(self) -> Tensor:
        """Mask (..., N) of the poles that are strictly stable."""
        return self._excess()[0] < 0

    def with_conjugates(self) -> DiagonalLTI:
        """The complex system with the same output as this one: of order 2N, closed under conjugation, if it is real."""
        if not self.real:
            return self
        twin = lambda x: torch.cat([x, x.conj()], -1)  # noqa: E731
        log_poles = None if self.log_poles is None else twin(self.log_poles)
        return replace(self, poles=twin(self.poles), residues=twin(self.residues / 2), real=False, log_poles=log_poles)

    def __sub__(self, other: DiagonalLTI) -> DiagonalLTI:
        """The error system: poles of both, and the residues of the other with the opposite sign."""
        if (self.dt is None) != (other.dt is None) or self.real != other.real:
            raise ValueError("systems of different kinds (continuous or discrete, real or complex) have no difference")
        if self.dt is not None and not bool((torch.as_tensor(self.dt) == torch.as_tensor(other.dt)).all()):
            raise ValueError("discrete systems with different steps have no difference")
        logs, direct = [self.log_poles, other.log_poles], [self.feedthrough, other.feedthrough]
        gap = None if direct == [None, None] else (0 if direct[0] is None else direct[0]) - (0 if direct[1] is None else direct[1])
        return replace(self, poles=torch.cat([self.poles, other.poles], -1), feedthrough=gap,
                       residues=torch.cat([self.residues, -other.residues], -1),
                       log_poles=None if any(x is None for x in logs) else torch.cat(logs, -1))

    def _excess(self) -> tuple[Tensor, str]:
        """How far each pole is outside the stable region, (..., N), negative inside, and what that number is."""
        if self.dt is None:
            return self.poles.real, "real part"
        if self.log_poles is not None:
            return self.log_poles.real, "log modulus"
        return self.poles.abs() - 1, "modulus minus one"

    def require_stable(self, what: str) -> None:
        """Raise UnstableSystem, with numbers and places, unless every pole is strictly stable."""
        excess, name = self._excess()
        bad = excess >= 0
        if bad.any():
            raise UnstableSystem(
                f"{what} needs strictly stable poles, but {int(bad.sum())} of {bad.numel()} are not (largest {name} "
                f"{float(excess.max()):.3g}; {_places(bad)}). Train with the `exp` version of DSS, whose poles are stable by "
                "construction, or reduce with unstable='keep', which reduces the stable part and keeps the rest.")

    def impulse_response(self, length: int) -> Tensor:
        """h[k], k = 0 .. length - 1, shape (..., length); of a continuous system h(t) at t = 0, 1, 2, …

        No (..., N, length) array is made; see `power_sum`.
        """
        rows, w = self.poles.reshape(-1, self.order), self.residues.reshape(-1, self.order)
        if self.dt is None or self.log_poles is not None:
            a, zero = (self.poles if self.dt is None else self.log_poles).reshape(rows.shape), None
        else:
            zero = rows == 0                                         # heard in h[0] only: 0^0 = 1
            a, first = torch.log(torch.where(zero, 1, rows)), torch.where(zero, w, 0).sum(-1)
            w = torch.where(zero, 0, w)
        h = power_sum(a, w, length)
        if not self.real:
            h = torch.complex(h, power_sum(a, -1j * w, length))
        if zero is not None:
            h = torch.cat([h[:, :1] + (first.real if self.real else first)[:, None], h[:, 1:]], -1)
        h = h.reshape(*self.poles.shape[:-1], length)
        if self.dt is not None and self.feedthrough is not None:
            h = torch.cat([h[..., :1] + self.feedthrough[..., None], h[..., 1:]], -1)
        return h

    def frequency_response(self, omega) -> Tensor:
        """G at angular frequencies omega (M,) or (..., M), in radians per unit of time; returns complex (..., M)."""
        omega = torch.as_tensor(omega, dtype=self.poles.real.dtype, device=self.poles.device)
        full = self.with_conjugates()
        direct = 0 if self.feedthrough is None else self.feedthrough[..., None]
        return (full.residues[..., None, :] @ full._resolvents(omega))[..., 0, :] + direct

    def _resolvents(self, omega: Tensor) -> Tensor:
        """Frequency responses of the single modes with residue 1, (..., N, M)."""
        if self.dt is None:
            return 1 / (1j * omega[..., None, :] - self.poles[..., None])
        theta = omega * per_batch(self.dt, self.poles)
        return 1 / (1 - self.poles[..., None] * torch.exp(-1j * theta)[..., None, :])

    def h2_norm(self) -> Tensor:
        """(integral of |h|^2)^(1/2), or the root of the sum of |h[k]|^2 of a discrete system; shape (...).

        ||h||^2 = sum_ij w_i conj(w_j) / -(lambda_i + conj lambda_j), and with 1 - lambda_i conj lambda_j in the discrete
        case (Antoulas 2005).  Raises UnstableSystem, and ValueError for a continuous system with a feedthrough, whose norm is
        infinite.
        """
        self.require_stable("the H2 norm")
        if self.dt is None and self.feedthrough is not None and bool((self.feedthrough != 0).any()):
            raise ValueError("the H2 norm of a continuous system with a feedthrough is infinite; discretize it first")
        full = self.with_conjugates()
        p, w = full.poles, full.residues
        if self.dt is None:
            denominator = -(p[..., :, None] + p[..., None, :].conj())
        elif full.log_poles is not None:
            denominator = -expm1(full.log_poles[..., :, None] + full.log_poles[..., None, :].conj())
        else:
            denominator = 1 - p[..., :, None] * p[..., None, :].conj()
        energy = (w[..., :, None] * w[..., None, :].conj() / denominator).sum((-2, -1)).real
        if self.feedthrough is not None and self.dt is not None:
            first = w.sum(-1)
            energy = energy + (first + self.feedthrough).abs() ** 2 - first.abs() ** 2
        return energy.clamp(min=0).sqrt()

    def hinf_norm(self, joint: bool = False, points: int = 8, zooms: int = 7) -> Tensor:
        """max over omega of |G(i omega)|, shape (...); units of the gain.  Raises UnstableSystem.

        joint: a batch (H, N) holds the outputs of one system with shared poles, and |G| is their root of the sum of squares; the result is
        one number. Sampled at `points` distances, up to 30 times its damping, on both sides of every pole, then refined around the eight
        highest peaks; each zoom divides the bracket by eight.
        """
        self.require_stable("the H-infinity norm")
        if joint:
            return self._peak(points, zooms, joint=True)
        flat, M = self.poles.reshape(-1, self.order), (2 * points + 1) * self.order + 257
        parts = torch.arange(len(flat), device=flat.device).split(max(1, 2**18 // (M * self.order * (2 if self.real else 1))))
        spread = lambda x: x if x is None or not isinstance(x, Tensor) or x.dim() == 0 else x.expand(self.poles.shape[:-1]).reshape(-1)  # noqa: E731
        rows = replace(self, poles=flat, residues=self.residues.reshape(flat.shape), dt=spread(self.dt), feedthrough=spread(self.feedthrough),
                       log_poles=None if self.log_poles is None else self.log_poles.reshape(flat.shape))
        return torch.cat([rows.select(i)._peak(points, zooms) for i in parts]).reshape(self.poles.shape[:-1])

    def _peak(self, points: int, zooms: int, joint: bool = False) -> Tensor:
        """`hinf_norm` of a batch (B, N) that fits into memory."""
        one = self if self.dt is None else replace(self, dt=1.0)
        p = self.poles if self.dt is None else (torch.log(self.poles) if self.log_poles is None else self.log_poles)
        centre, width = (p.imag, -p.real) if self.dt is None else (torch.angle(torch.exp(1j * p.imag)), (-p.real).clamp(max=30))

        def gains(omega: Tensor) -> Tensor:                          # omega (B, …), or (1, …) if joint
            if not joint:
                return one.frequency_response(omega.flatten(1)).abs().reshape(omega.shape)
            full = one.with_conjugates()
            flat = omega.flatten(1)[0]
            unit = replace(full, poles=full.poles[0], residues=torch.ones_like(full.poles[0]), feedthrough=None, log_poles=None)
            basis = unit._resolvents(flat)                           # (N, M)
            direct = 0 if self.feedthrough is None else self.feedthrough[:, None]
            return (full.residues @ basis + direct).abs().square().sum(0).sqrt().reshape(omega.shape)

        if joint:
            centre, width = centre[:1], width[:1]
        offsets = torch.sinh(torch.linspace(-4.1, 4.1, 2 * points + 1, device=p.device, dtype=width.dtype))
        omega = (centre[..., None] + width[..., None] * offsets).flatten(1)
        omega = torch.cat([omega, torch.zeros_like(omega[:, :1])], -1)
        if self.dt is not None:
            even = torch.linspace(-torch.pi, torch.pi, 257, device=p.device, dtype=width.dtype).expand(len(omega), 257)
            omega = torch.cat([omega.clamp(-torch.pi, torch.pi), even], -1)
        omega = (omega.abs() if self.real else omega).sort(-1).values                    # the gain of a real system is even
        gain = gains(omega)
        padded = torch.nn.functional.pad(gain, (1, 1), value=-1.0)
        first = torch.nn.functional.pad(omega.diff(dim=-1) > 0, (1, 0), value=True)      # equal frequencies count once
        peaks = torch.where((gain >= padded[:, :-2]) & (gain >= padded[:, 2:]) & first, gain, -1.0)
        best = omega.gather(-1, peaks.topk(min(8, peaks.shape[-1]), -1).indices)         # the highest local maxima
        steps = torch.linspace(0, 1, 17, device=p.device, dtype=width.dtype)
        low = omega.gather(-1, (torch.searchsorted(omega, best) - 1).clamp(min=0))
        high = omega.gather(-1, torch.searchsorted(omega, best, right=True).clamp(max=omega.shape[-1] - 1))
        for _ in range(zooms):
            grid = low[..., None] + (high - low)[..., None] * steps                      # (B, peaks, 17)
            top, index = gains(grid).max(-1, keepdim=True)
            low = grid.gather(-1, (index - 1).clamp(min=0))[..., 0]
            high = grid.gather(-1, (index + 1).clamp(max=16))[..., 0]
        peak = torch.maximum(top[..., 0].amax(-1), gain.amax(-1))
        if self.dt is None and self.feedthrough is not None:                             # the gain at infinite frequency
            peak = torch.maximum(peak, self.feedthrough.abs().norm() if joint else self.feedthrough.abs())
        return peak[0] if joint else peak

    def discretize(self, dt) -> DiagonalLTI:
        """Zero-order hold: poles exp(lambda dt), residues w (exp(lambda dt) - 1) / lambda.  (Gupta et al. 2022, prop. 1)

        dt: positive number or tensor of the batch shape.  Raises ValueError for a discrete system or a step <= 0.
        """
        if self.dt is not None:
            raise ValueError(f"the system is discrete already, with step {self.dt}")
        step = per_batch(dt, self.poles)
        if not bool((step > 0).all()):
            raise ValueError(f"the step must be positive, got a smallest one of {float(step.min()):.3g}")
        a = self.poles * step
        ratio = torch.where(self.poles == 0, step.to(a.dtype),
                            expm1(a) / torch.where(self.poles == 0, 1, self.poles))
        return replace(self, poles=torch.exp(a), residues=self.residues * ratio, dt=dt, log_poles=a)

    def to_continuous(self) -> DiagonalLTI:
        """The continuous system that `discretize` turns into this one: lambda = log(p) / dt, residues w lambda / (p - 1).

        A pole at 0, of h[0] only, becomes part of the feedthrough. A real negative pole becomes a complex one, so a real system with
        such a pole agrees with the result only at the multiples of dt.  Raises ValueError for a continuous system.
        """
        if self.dt is None:
            raise ValueError("the system is continuous already")
        gone = self.poles == 0
        p, step = torch.where(gone, 0.5, self.poles), per_batch(self.dt, self.poles)
        a = torch.log(p) if self.log_poles is None else torch.where(gone, torch.log(p), self.log_poles)
        residues, direct = self.residues.masked_fill(gone, 0), self.feedthrough
        if gone.any():
            first = self.residues.masked_fill(~gone, 0).sum(-1)
            direct = (first.real if self.real else first) + (0 if direct is None else direct)
        ratio = torch.where(a == 0, 1, a / torch.where(a == 0, 1, expm1(a)))
        return replace(self, poles=a / step, residues=residues * ratio / step, dt=None, log_poles=None, feedthrough=direct)
