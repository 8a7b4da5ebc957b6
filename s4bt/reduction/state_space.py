"""One diagonal state-space system with several inputs and outputs.

poles      (N,)      lambda: continuous eigenvalues in 1/time, or discrete ones per step
B          (N, m)    input weights of each mode
C          (p, N)    output weights of each mode
D          (p, m)    feedthrough
dt         None for a continuous system, the step of a discrete one
omega      (M,)      angular frequency in radians per unit of time

continuous  x' = Lambda x + B u,  y = C x + D u
            G(i omega) = D + C (i omega - Lambda)^-1 B
discrete    x[k] = Lambda x[k-1] + B u[k],  y[k] = C x[k] + D u[k]
            G(omega) = D + C (1 - Lambda e^{-i omega dt})^-1 B
real        the output is Re(y): the system with poles {lambda, conj lambda}, of order 2 N

A textbook's discrete system has x[k+1] = Lambda x[k] + B u[k]: its output comes a step later, and
Hankel singular values, truncated poles, B and C are the same. One input and one output are the
`DiagonalLTI` of `systems`; one input and H outputs are a DSS layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from s4bt.reduction.checks import whole_number
from s4bt.reduction.diagonal import as_tensor, power_of_four
from s4bt.reduction.peaks import highest_peak
from s4bt.reduction.systems import DiagonalLTI

CHUNK = 2**20  # numbers of a frequency response that are worked on at a time
SHAPES = "poles (N,), B (N, m), C (p, N), D (p, m)"


def bilinear_logarithms(a: Tensor) -> Tensor:
    """log((1 + a/2) / (1 - a/2)); its real part keeps its digits, however small that of a is."""
    ahead = 1 - a / 2
    share = (2 * a.real / ahead.abs().square()).clamp_min(-1 + 1e-16)
    return torch.complex(torch.log1p(share) / 2, torch.angle((1 + a / 2) / ahead))


@dataclass(frozen=True)
class StateSpace:
    """See the module's glossary.

    Parameters
    ----------
    poles, B, C, D : tensors or arrays
        D is zero unless given.
    dt : None or a number
        None for a continuous system.
    real : bool
        Whether the output is the real part.
    log_poles : complex (N,), optional
        As in `DiagonalLTI`.

    Raises
    ------
    ValueError
        If shapes do not fit each other, or a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> system = StateSpace(np.array([-1.0, -2.0]), np.ones((2, 3)), np.ones((1, 2)))
    >>> system.modes, system.inputs, system.outputs
    (2, 3, 1)
    """

    poles: Tensor
    B: Tensor
    C: Tensor
    D: Any = None
    dt: Any = None
    real: bool = False
    log_poles: Tensor | None = None

    def __post_init__(self) -> None:
        given = {name: as_tensor(getattr(self, name)) for name in ("poles", "B", "C")}
        shapes = {name: tuple(x.shape) for name, x in given.items()}
        if self.D is not None:
            given["D"] = as_tensor(self.D)
            shapes["D"] = tuple(given["D"].shape)
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        N = shapes["poles"][0] if len(shapes["poles"]) == 1 else 0
        fits = N > 0 and len(shapes["B"]) == len(shapes["C"]) == 2
        fits = fits and shapes["B"][0] == N and shapes["C"][1] == N
        if fits and "D" in shapes:
            fits = shapes["D"] == (shapes["C"][0], shapes["B"][1])
        if not fits or 0 in shapes["B"] + shapes["C"]:
            raise ValueError(f"a system has {SHAPES}; got {said}")
        kind = torch.complex64
        for x in given.values():
            kind = torch.promote_types(kind, x.dtype)
        device = given["poles"].device
        given.setdefault("D", torch.zeros(shapes["C"][0], shapes["B"][1], device=device))
        for name, x in given.items():
            if not bool(torch.isfinite(torch.view_as_real(x.to(kind).resolve_conj())).all()):
                raise ValueError(f"{name} holds numbers that are not finite")
            object.__setattr__(self, name, x.to(device, kind).resolve_conj())
        if self.real and bool((self.D.imag != 0).any()):
            raise ValueError("the feedthrough D of a real system must be real")
        # checks poles, step and logarithms, and keeps the latter
        object.__setattr__(self, "log_poles", self.spectrum.log_poles)

    @cached_property
    def spectrum(self) -> DiagonalLTI:
        """The poles, as a system of one input and output with residues 1."""
        return DiagonalLTI(self.poles, torch.ones_like(self.poles), self.dt, False, self.log_poles)

    @property
    def modes(self) -> int:
        """N."""
        return len(self.poles)

    @property
    def inputs(self) -> int:
        """m."""
        return self.B.shape[1]

    @property
    def outputs(self) -> int:
        """p."""
        return self.C.shape[0]

    @property
    def order(self) -> int:
        """N, or 2 N of a real system."""
        return self.modes * (2 if self.real else 1)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same system in another dtype or on another device (arguments of torch.Tensor.to)."""
        logs = None if self.log_poles is None else self.log_poles.to(*args, **kwargs)
        new = {name: getattr(self, name).to(*args, **kwargs) for name in ("poles", "B", "C", "D")}
        return replace(self, **new, log_poles=logs)

    def take(self, index: Tensor) -> Self:
        """The modes numbered by index (k,)."""
        logs = None if self.log_poles is None else self.log_poles[index]
        return replace(
            self, poles=self.poles[index], B=self.B[index], C=self.C[:, index], log_poles=logs
        )

    def with_conjugates(self) -> Self:
        """The complex system with the same output; if real, of order 2 N."""
        if not self.real:
            return self
        logs = self.log_poles
        return replace(
            self,
            poles=torch.cat([self.poles, self.poles.conj()]),
            B=torch.cat([self.B, self.B.conj()]),
            C=torch.cat([self.C, self.C.conj()], -1) / 2,
            real=False,
            log_poles=None if logs is None else torch.cat([logs, logs.conj()]),
        )

    def balanced_weights(self) -> Self:
        """The same system with |B_n| = |C_n|, by powers of four: no square over- or underflows.

        Modes that nothing reaches, or that reach nothing, have weights near 1.
        """
        b, c = (power_of_four(x.abs().amax(dim)) for x, dim in ((self.B, 1), (self.C, 0)))
        silent_b, silent_c = (self.B == 0).all(1), (self.C == 0).all(0)
        gain = c.sqrt() / b.sqrt()
        gain = torch.where(silent_c, 1 / b, torch.where(silent_b, c, gain))
        return replace(self, B=self.B * gain[:, None], C=self.C / gain)

    def channels(self) -> DiagonalLTI:
        """Every output's response to every input, (p, m, N)."""
        residues = self.C[:, None] * self.B.mT
        direct = self.D.real if self.real else self.D
        logs = self.log_poles
        return DiagonalLTI(self.poles, residues, self.dt, self.real, logs, direct)

    def frequency_response(self, omega: Any) -> Tensor:
        """G (M, p, m) at angular frequencies omega (M,)."""
        full = self.with_conjugates()
        resolvents = full.spectrum._resolvents(as_tensor(omega).to(full.poles.real))  # (N, M)
        return (full.C * resolvents.mT[:, None]) @ full.B + full.D

    def impulse_response(self, length: int) -> Tensor:
        """h[k], k = 0 .. length - 1, (length, p, m); of a continuous system at t = 0, 1, 2, …"""
        return self.channels().impulse_response(length).movedim(-1, 0)

    def _of_unit_gain(self) -> tuple[Self, Tensor]:
        """The same system with gains near 1, and the power of four that they were over it."""
        even = self.balanced_weights()
        size = (even.B.abs().amax(1) * even.C.abs().amax(0)).max()
        unit = power_of_four(torch.maximum(size, even.D.abs().max()))
        return replace(even, C=even.C / unit, D=even.D / unit).balanced_weights(), unit

    def h2_norm(self) -> Tensor:
        """Root of the sum over outputs and inputs of the squared H2 norms of the channels.

        ||G||^2 = trace(C P C^H), P the controllability Gramian.
        Raises as `DiagonalLTI.h2_norm`.
        """
        self.spectrum.require_stable("the H2 norm")
        if self.dt is None and bool((self.D != 0).any()):
            raise ValueError(
                "the H2 norm of a continuous system with a feedthrough is infinite; discretize it "
                "first"
            )
        one, unit = self._of_unit_gain()
        full = one.with_conjugates()
        a = full.spectrum.exponents
        x = a[:, None] + a.conj()
        D = -x if self.dt is None else -torch.expm1(x)
        P = full.B @ full.B.mH / D
        energy = ((full.C @ P) * full.C.conj()).sum().real
        if self.dt is not None:
            first = full.C @ full.B
            energy = energy + ((first + full.D).abs().square() - first.abs().square()).sum()
        return energy.clamp(min=0).sqrt() * unit

    def hinf_norm(self, points: int = 8, zooms: int = 7) -> Tensor:
        """max over omega of the largest singular value of G(i omega).

        points, zooms: as in `DiagonalLTI.hinf_norm`.  Raises UnstableSystem.
        """
        self.spectrum.require_stable("the H-infinity norm")
        points, zooms = whole_number(points, "points", 1), whole_number(zooms, "zooms", 0)
        one, unit = self._of_unit_gain()
        full = (one if self.dt is None else replace(one, dt=1.0)).with_conjugates()
        size = max(full.modes, *full.D.shape) * min(full.D.shape)

        def gain(omega: Tensor) -> Tensor:
            found = []
            for some in omega.flatten().split(max(1, CHUNK // size)):
                G = full.frequency_response(some)
                square = G @ G.mH if self.outputs <= self.inputs else G.mH @ G
                found.append(torch.linalg.eigvalsh(square)[:, -1].clamp_min(0).sqrt())
            return torch.cat(found).reshape(omega.shape)

        first = full.spectrum.flatten()._first_samples(points, joint=False)
        peak = highest_peak(gain, first, zooms)[0]
        if self.dt is None:
            peak = torch.maximum(peak, torch.linalg.matrix_norm(full.D, 2))
        return peak * unit

    def __sub__(self, other: Self) -> Self:
        """The error system: the modes of both, the other's C with the opposite sign."""
        if (self.dt, self.real) != (other.dt, other.real):
            raise ValueError(
                "systems of different kinds (continuous or discrete, steps, real or complex) have "
                "no difference"
            )
        if (self.inputs, self.outputs) != (other.inputs, other.outputs):
            raise ValueError(
                f"systems with {self.inputs} and {other.inputs} inputs, {self.outputs} and "
                f"{other.outputs} outputs have no difference"
            )
        logs = None
        if self.log_poles is not None and other.log_poles is not None:
            logs = torch.cat([self.log_poles, other.log_poles])
        return replace(
            self,
            poles=torch.cat([self.poles, other.poles]),
            B=torch.cat([self.B, other.B]),
            C=torch.cat([self.C, -other.C], -1),
            D=self.D - other.D,
            log_poles=logs,
        )

    def discretize(self, dt: Any, rule: str = "zoh") -> Self:
        """The discrete system of a continuous one, at steps of dt: one number, or one a mode (N,).

        zoh: input held over a step, lambda -> exp(lambda dt), B -> B (exp(lambda dt) - 1) / lambda.
        bilinear: lambda -> (1 + lambda dt/2) / (1 - lambda dt/2), B -> B dt / (1 - lambda dt/2).
        Modes with steps of their own make a discrete system with step 1.
        Raises ValueError for a discrete system, another rule, or steps that are not positive.
        """
        if self.dt is not None:
            raise ValueError(f"the system is discrete already, with step {self.dt}")
        if rule not in ("zoh", "bilinear"):
            raise ValueError(f"the rule is 'zoh' or 'bilinear', not {rule!r}")
        step = as_tensor(dt).to(self.poles.real)
        good = step.dim() == 0 or step.shape == self.poles.shape
        if not good or not bool((torch.isfinite(step) & (step > 0)).all()):
            raise ValueError("dt must be a positive number, or one for each of the N modes")
        a, common = self.poles * step, float(step) if step.dim() == 0 else 1.0
        if rule == "zoh":
            ratio = torch.where(a == 0, 1, torch.expm1(a) / torch.where(a == 0, 1, a)) * step
            poles, logs = torch.exp(a), a
        else:
            ratio, poles = step / (1 - a / 2), (1 + a / 2) / (1 - a / 2)
            logs = bilinear_logarithms(a)
        return replace(self, poles=poles, log_poles=logs, B=self.B * ratio[:, None], dt=common)
