"""`weighted`: the small kernel with the least expected output error on what a layer receives.

L     length of the sequences
S     (H, L + 1)  spectrum of a layer's inputs, the mean of |rfft(u, 2L)|^2 over sequences
r[k]  (H, L)      their autocorrelation, irfft(S): sum_t u[t] u[t + k], the mean over sequences
K     kernels, for all time

    int S(f) |K(f) - K_r(f)|^2 df   the mean energy of (K - K_r) * u over all time, plus
    mu mean(S) ||K - K_r||^2        the same of white inputs with a share mu of the energy, plus
    what a relative error eps of every number of K_r adds to it in expectation

The first two are one sum with r[0] (1 + mu) for r[0], in closed form (`inner_products`). All three
are of kernels discounted by exp(-k / (4 L)) at lag k, so what lasts many sequences counts less.
Without mu nothing holds the kernel at frequencies that the sequences lack, such as those of longer
ones; without eps large terms cancel, and no number of the fit may change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from s4bt.reduction.balanced import bt_shared, require_discrete
from s4bt.reduction.checks import not_negative, whole_number
from s4bt.reduction.diagonal import as_tensor
from s4bt.reduction.expected_error import Problem
from s4bt.reduction.gramians import promoted
from s4bt.reduction.methods import PERTURBATION, SHARED_PERTURBATION, WHITE
from s4bt.reduction.projection import check_rank
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.variable_projection import (
    ITERATIONS,
    best_fit,
    fitted,
    system_at,
)

ROUNDING = 1e-12  # of a spectrum, relative
SAME = 1e-9  # relative difference of poles that are the same, or eight roundings, if that is more


def autocorrelation(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """r (H, L) with r[0] = 1, of the spectrum (H, L + 1), and the root of r[0] (H,); 0 of nothing.

    Between its samples the spectrum of sequences of length L is sum_k r[k] cos(k omega). Numbers
    that are no such spectrum can be negative there: they get as much white input as mends that.
    """
    L, largest = spectrum.shape[-1] - 1, spectrum.amax(-1, keepdim=True)
    r = torch.fft.irfft(spectrum / torch.where(largest > 0, largest, 1), 2 * L)[:, :L]
    lowest = torch.fft.hfft(r, 8 * L).amin(-1)
    r[:, 0] += torch.where(lowest < -ROUNDING * r[:, 0], -lowest, 0)
    first = torch.where(r[:, :1] > 0, r[:, :1], 1)
    return r / first, (r[:, 0].sqrt() * largest[:, 0].sqrt())


def checked_spectrum(system: DiagonalLTI, spectrum: Tensor | None) -> Tensor:
    """The spectrum in float64 on the system's device.

    Raises ValueError if it does not fit.
    """
    if spectrum is None:
        raise ValueError(
            "weighted needs the spectrum of the layer's inputs, (H, L + 1), as the option "
            "`spectrum`; `compress` measures it on the sequences of `calibration`"
        )
    S = as_tensor(spectrum).to(system.poles.device)
    if S.is_complex():
        raise ValueError("a spectrum holds squared moduli, which are real; this one is complex")
    one_batch = len(system.batch) == 1
    if (
        not system.real
        or not one_batch
        or S.dim() != 2
        or S.shape[-1] < 3
        or len(S) != len(system.poles)
    ):
        raise ValueError(
            "weighted takes real systems (H, N) and a spectrum (H, L + 1), L >= 2; got "
            f"{tuple(system.poles.shape)} and {tuple(S.shape)}"
        )
    bad = ~(torch.isfinite(S) & (S >= 0)).all(-1) | (S.amax(-1) == 0)
    if bad.any():
        raise ValueError(
            f"the spectrum of {int(bad.sum())} of {len(S)} channels is zero, negative or not "
            f"finite; the first is channel {int(bad.nonzero()[0, 0])}"
        )
    return S.to(torch.float64)


@dataclass(frozen=True)
class _Options:
    """The options of both methods: correlation (H, L) with the white share, loudness (H,)."""

    correlation: Tensor
    loudness: Tensor
    iterations: int
    perturbation: float

    @classmethod
    def of(
        cls, system: DiagonalLTI, spectrum: Any, iterations: Any, perturbation: Any, white: Any
    ) -> _Options:
        require_discrete(system, "this fits a discrete kernel")
        r, loudness = autocorrelation(checked_spectrum(system, spectrum))
        r[:, 0] += not_negative(white, "white")
        iterations = whole_number(iterations, "iterations", 0)
        return cls(r, loudness, iterations, not_negative(perturbation, "perturbation"))


def weighted(
    system: DiagonalLTI,
    rank: int,
    spectrum: Tensor | None = None,
    iterations: int = ITERATIONS,
    perturbation: float = PERTURBATION,
    white: float = WHITE,
) -> DiagonalLTI:
    """Least expected output error on the inputs whose spectrum is given.

    spectrum: (H, L + 1), mean of |rfft(u_h, 2 L)|^2 over sequences of a layer's inputs. white: mu,
    the energy of white inputs beside them, as a share of theirs. perturbation: eps, the relative
    error of every number that the fit allows for. iterations: at most so many steps of the best
    start, after a few of every start; they end when what is left of them hardly pays. The reduced
    system has a feedthrough. Starts from `bt_discrete` and `energy`, and keeps the best of each
    channel.
    Raises ValueError if the spectrum is missing, of the wrong shape, negative, not finite or zero
    in a channel; else as `bt_discrete`.
    """
    options = _Options.of(system, spectrum, iterations, perturbation, white)

    def fit(full: DiagonalLTI, start: DiagonalLTI) -> DiagonalLTI:
        r = options.correlation
        problem = Problem.of(full, options.perturbation, r.shape[-1], r)
        strongest = problem.target.mode_energies().topk(rank, -1).indices
        starts = [start.exponents, full.exponents.gather(-1, strongest)]
        point = best_fit(problem, starts, options.iterations)
        return system_at(full, point.a, point.x)

    return fitted(system, rank, fit)


def shared_poles(kernel: DiagonalLTI, digits: float = 0.0) -> tuple[Tensor, Tensor]:
    """The poles (1, N) of the continuous layer that a kernel (H, N) comes from, and its steps (H,).

    digits: relative rounding of the kernel's numbers.

    Raises ValueError if the channels do not share their poles.
    """
    steps = as_tensor(kernel.dt).to(kernel.poles.real).expand(len(kernel.poles))
    poles = kernel.logs / steps[:, None]
    same = max(SAME, 8 * digits)
    if bool(((poles - poles[:1]).abs() > same * poles.abs()).any()):
        raise ValueError(
            "the channels share no poles (logarithm of the discrete pole over the step); weighted "
            "gives every channel its own"
        )
    return poles[:1], steps


def weighted_shared(
    system: DiagonalLTI,
    rank: int,
    spectrum: Tensor | None = None,
    iterations: int = ITERATIONS,
    perturbation: float = SHARED_PERTURBATION,
    white: float = WHITE,
) -> DiagonalLTI:
    """As `weighted`, with the sum over the channels as the error and poles that they share.

    a_h = lambda dt_h: in the coordinates of the fit, log Re and relative Im, gradients and
    Gauss-Newton matrices of the channels add up. Starts from `bt_shared` and from the modes with
    the most energy.
    Raises as `weighted`, and ValueError if the channels do not share their poles.
    """
    options = _Options.of(system, spectrum, iterations, perturbation, white)
    rank = check_rank(rank, system.modes)
    full = promoted(system)
    poles, steps = shared_poles(full, torch.finfo(system.poles.dtype).eps)
    full.require_stable("balancing")
    if rank == full.modes:
        return full
    unit, r = full.unit(), options.correlation
    loud = unit * options.loudness
    share = (loud / loud.max()).square()  # of the channel's output in the sum
    flat = full.times(1 / unit)
    with torch.no_grad():
        received = r * share[:, None]
        problem = Problem.of(flat, options.perturbation, r.shape[-1], received, steps)
        strongest = problem.target.mode_energies().sum(0).topk(rank).indices
        layer = flat.times(share.sqrt()).to_continuous()
        layer = replace(layer, poles=poles.expand_as(layer.poles), feedthrough=None)
        starts = [bt_shared(layer, rank).poles[:1], poles[:, strongest]]
        point = best_fit(problem, starts, options.iterations)
    a = torch.complex(-torch.exp(point.alpha), point.omega) * steps[:, None]
    small = system_at(flat, a, point.x).times(unit)
    return replace(small, feedthrough=small.feedthrough + full.feedthrough)
